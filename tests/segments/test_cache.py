"""The cache: where its files lie, what they take, and who opens them."""

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from storjfs.coding.geometry import PIECE
from storjfs.segments import Part
from storjfs.segments.files import LocalFile
from tests.segments.conftest import MIB, Volume, on_disk, until


def no_rename_across_folders(monkeypatch: pytest.MonkeyPatch, first: Callable[[Path], None]) -> None:
    """Each folder is as if on a disk of its own; `first` is called with the target of a rename refused."""
    rename = os.rename

    def across(source: Path, target: Path) -> None:
        if Path(source).parent != Path(target).parent:
            first(Path(target))
            raise OSError(errno.EXDEV, "another disk")
        rename(source, target)

    monkeypatch.setattr(os, "rename", across)


async def test_reads_work_with_no_cache_at_all(volume: Volume) -> None:
    async with volume.running() as segments:
        volume.append_random(3 * MIB)
        await segments.flush()
    volume.limit = 0
    async with volume.running():
        await volume.check_all()
        assert not list(volume.cache.iterdir())


async def test_prefetch_brings_data_and_keeps_to_its_budget(volume: Volume) -> None:
    async with volume.running() as segments:
        volume.append_random(12 * MIB)
        await segments.flush()
        await until(lambda: segments.report().full == len({run.seg for run in volume.written}))
    volume.drop_cache()
    async with volume.running() as segments:
        runs = list(volume.written)
        segments.prefetch([Part(run.seg, run.pos, run.length, 0, run.length) for run in runs[:6]])
        assert segments._pieces._prefetch_bytes <= 32 * MIB
        await until(lambda: not segments._pieces._flying)
        asked = volume.farm.gets()
        for run in runs[:6]:
            assert segments.read_now(run.seg, run.pos, run.length, 0, run.length) == volume.written[run]
        assert volume.farm.gets() == asked
        assert segments._pieces._prefetch_bytes == 0


async def test_descriptors_are_bounded(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    from storjfs.segments import descriptors

    monkeypatch.setattr(descriptors, "MOST_DESCRIPTORS", 4)
    async with volume.running() as segments:
        for _ in range(20):
            volume.append_random(PIECE)
            await segments.flush()
        await until(lambda: not segments._cache.unsent, volume.store)
        await volume.check_all()
        assert len(segments._cache._descriptors) <= 5


async def test_a_cache_folder_on_another_disk_is_filled_by_copying(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_rename_across_folders(monkeypatch, lambda target: None)
    async with volume.running() as segments:
        volume.append_random(MIB)
        await segments.flush()
        await until(lambda: not os.listdir(volume.journal), volume.store)
        assert len(os.listdir(volume.cache)) == 1
        await volume.check_all()
        assert volume.farm.gets() == 0


@pytest.mark.parametrize("holes", [True, False])
async def test_spoiled_pieces_count_as_long_as_their_blocks_are_taken(
    volume: Volume, monkeypatch: pytest.MonkeyPatch, holes: bool
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EIO, "no")

    async with volume.running() as segments:
        (run,) = volume.append_random(MIB - 1000)
        await segments.flush()
        await until(lambda: not segments._cache.unsent, volume.store)
        cache = segments._cache
        file = cache.find(segments._catalogue.get(run.seg))
        assert file is not None
        used, there = cache.used, on_disk(volume.cache)
        if not holes:
            monkeypatch.setattr("storjfs.segments.cached.free_blocks", refuse)
        for _ in range(2):  # the second time there is nothing left to spoil
            cache.spoiled(file, 2, 3)
            freed = 3 * PIECE if holes else 0
            assert cache.used == used - freed
            assert on_disk(volume.cache) == there - freed
        assert not file.has(2, 1)
        monkeypatch.undo()
        await volume.check_all()
        assert volume.farm.gets() > 0
        assert cache.used >= on_disk(volume.cache)


async def test_a_copy_to_another_disk_follows_no_link(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = volume.path.parent / "elsewhere"
    elsewhere.write_bytes(b"precious")
    no_rename_across_folders(monkeypatch, lambda target: target.with_suffix(".part").symlink_to(elsewhere))
    async with volume.running() as segments:
        volume.append_random(MIB)
        await segments.flush()
        await until(lambda: not os.listdir(volume.journal), volume.store)
        await volume.check_all()
        assert volume.farm.gets() == 0
    assert elsewhere.read_bytes() == b"precious"


def test_a_file_that_two_open_at_once_takes_one_descriptor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sealer's thread and the loop may both find that the open segment's file was closed."""
    path = tmp_path / "file"
    path.touch()
    file = LocalFile(1, bytes(16), path, unsent=True)
    opened: list[int] = []
    real_open = os.open
    other = threading.Thread(target=file.open)

    def slow_open(*arguments: Any) -> int:
        opened.append(real_open(*arguments))
        if threading.current_thread() is not other:
            other.start()
            other.join(0.2)  # what it opens until then is too much; else it waits for us
        return opened[0]

    monkeypatch.setattr(os, "open", slow_open)
    file.open()
    other.join()
    assert opened == [file.fd]
    file.close()
