"""Unlinked and cut content goes, however large it is, whenever the process ends."""

import errno
import math
from pathlib import Path

import pytest
import trio
import trio.testing

from storjfs.filesystem.inodes import Inode
from storjfs.filesystem.windows import WINDOW
from storjfs.store import ROOT_INODE, StoreError
from tests.filesystem.volumes import Volume, check_accounts, fails, volume


@pytest.fixture(autouse=True)
def _small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storjfs.filesystem.reaper.AT_ONCE", 2 * WINDOW)
    # On a busy machine a read may take so long that small things, too, go in the background.
    monkeypatch.setattr("storjfs.store.reading.SLOW", math.inf)


async def sparse_file(v: Volume, name: bytes, windows: int) -> int:
    """A few bytes in every second window."""
    handle, attributes = await v.fs.create(ROOT_INODE, name, 0o644, 0, 0)
    ino = attributes.ino
    for index in range(0, windows, 2):
        await v.fs.write(handle, index * WINDOW + 5, b"content")
    await v.fs.setattr(ino, size=windows * WINDOW)
    await v.fs.release(handle)
    return ino


async def settled(v: Volume) -> None:
    while v.fs._orphans.known:
        await trio.lowlevel.checkpoint()
    await v.store.sync()
    check_accounts(v.store, v.segments)


async def test_an_unlinked_file_lives_until_its_last_handle_is_closed(tmp_path: Path) -> None:
    async with volume(tmp_path) as v:
        ino = await v.write_file(b"a", b"content")
        one, two = await v.fs.open(ino, 0), await v.fs.open(ino, 0)
        await v.remove(b"a")
        await v.store.sync()
        v.evict()
        await v.fs.release(one)
        assert await v.fs.read(two, 0, 10) == b"content"
        await v.fs.write(two, 7, b" more")
        assert (await v.fs.getattr(ino)).nlink == 0
        assert v.store.read("SELECT ino FROM orphan") == [(ino,)]
        with fails(errno.ENOENT):
            await v.fs.link(ino, ROOT_INODE, b"b")
        await v.fs.release(two)
        with fails(errno.ESTALE):
            await v.fs.getattr(ino)
        await v.store.sync()
        check_accounts(v.store, v.segments)


async def test_the_kernel_may_still_ask_about_what_it_has_not_forgotten(tmp_path: Path) -> None:
    async with volume(tmp_path) as v:
        ino = await v.write_file(b"a", b"content")
        await v.fs.unlink(ROOT_INODE, b"a")
        assert (await v.fs.getattr(ino)).nlink == 0
        v.fs.forget([(ino, 1)])
        with fails(errno.ESTALE):
            await v.fs.getattr(ino)


async def test_what_the_kernel_forgets_late_does_not_count_for_later_look_ups(
    tmp_path: Path,
) -> None:
    async with volume(tmp_path) as v:
        ino = await v.write_file(b"a", b"content")
        for _ in range(3):
            (await v.fs.lookup(ROOT_INODE, b"a")).lookups += 1  # as the adapter does it
        v.fs.forget([(ino, 1)])
        await v.fs.unlink(ROOT_INODE, b"a")
        v.fs.forget([(ino, 1)])
        assert (await v.fs.getattr(ino)).nlink == 0
        v.fs.forget([(ino, 1)])
        with fails(errno.ESTALE):
            await v.fs.getattr(ino)


async def test_a_large_file_goes_in_the_background(tmp_path: Path) -> None:
    async with volume(tmp_path, background=True) as v:
        await sparse_file(v, b"a", 50)
        await v.store.sync()
        await sparse_file(v, b"b", 50)
        await v.remove(b"a")
        await v.remove(b"b")
        assert v.store.read("SELECT count(*) FROM extent") == [(25,)]
        await settled(v)
        assert v.store.read("SELECT count(*) FROM extent") == [(0,)]


async def test_what_a_crash_left_unlinked_goes_at_the_next_start(tmp_path: Path) -> None:
    async with volume(tmp_path) as v:
        small = await v.write_file(b"small", b"content")
        await v.fs.setxattr(small, b"user.a", b"1")
        await sparse_file(v, b"large", 30)
        kept = await v.write_file(b"kept", b"content")
        directory = await v.fs.mkdir(ROOT_INODE, b"d", 0o755, 0, 0)
        for name in (b"small", b"large"):
            await v.fs.unlink(ROOT_INODE, name)
        await v.fs.opendir(directory.ino)
        await v.fs.rmdir(ROOT_INODE, b"d")
        await v.store.sync()
        segments = v.segments
    async with volume(tmp_path, segments=segments, background=True) as v:
        await settled(v)
        assert await v.read_file(kept) == b"content"
        assert v.store.read("SELECT count(*) FROM inode") == [(2,)]


@pytest.mark.parametrize("background", [True, False])
async def test_a_file_cut_short_never_shows_its_old_tail(tmp_path: Path, background: bool) -> None:
    async with volume(tmp_path, background=background) as v:
        ino = await sparse_file(v, b"a", 40)
        await v.store.sync()
        await v.fs.setattr(ino, size=30 * WINDOW)
        await v.fs.setattr(ino, size=3 * WINDOW)
        handle = await v.fs.open(ino, 0)
        await v.fs.write(handle, 35 * WINDOW, b"new")
        for index in range(35):
            expected = b"content" if index in (0, 2) else bytes(7)
            assert await v.fs.read(handle, index * WINDOW + 5, 7) == expected
        assert await v.fs.read(handle, 35 * WINDOW, 7) == b"new"
        await v.fs.setattr(ino, size=1)
        await v.fs.setattr(ino, size=40 * WINDOW)
        for index in range(40):
            assert await v.fs.read(handle, index * WINDOW + 5, 7) == bytes(7)
        await settled(v)


async def test_a_tail_left_by_a_crash_goes_at_the_next_start(tmp_path: Path) -> None:
    async with volume(tmp_path) as v:
        ino = await sparse_file(v, b"a", 40)
        await v.store.sync()
        await v.fs.setattr(ino, size=0)
        await v.store.sync()
        assert v.store.read("SELECT count(*) FROM extent")[0][0] > 0
        segments = v.segments
    async with volume(tmp_path, segments=segments) as v:
        await v.fs.setattr(ino, size=40 * WINDOW)
        handle = await v.fs.open(ino, 0)
        for index in range(40):
            assert await v.fs.read(handle, index * WINDOW + 5, 7) == bytes(7)
        await settled(v)


async def test_a_file_cut_and_then_unlinked_goes_whole(tmp_path: Path) -> None:
    async with volume(tmp_path, background=True) as v:
        ino = await sparse_file(v, b"a", 40)
        handle = await v.fs.open(ino, 0)
        await v.fs.setattr(ino, size=0)
        await v.remove(b"a")
        await v.fs.release(handle)
        await settled(v)
        assert v.store.read("SELECT count(*) FROM extent") == [(0,)]


async def test_a_file_that_a_write_made_longer_meanwhile_is_cut_down_with_its_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """truncate(2) to a larger size waits for the old tail to go, and so does the write."""
    async with volume(tmp_path) as v:
        ino = await sparse_file(v, b"a", 40)
        await v.fs.setattr(ino, size=0)
        handle = await v.fs.open(ino, 0)
        cut_tail = v.fs._cut_tail

        async def cut_tail_and_be_overtaken(inode: Inode) -> None:
            monkeypatch.setattr(v.fs, "_cut_tail", cut_tail)
            await cut_tail(inode)
            await v.fs.write(handle, 39 * WINDOW, b"new")

        monkeypatch.setattr(v.fs, "_cut_tail", cut_tail_and_be_overtaken)
        await v.fs.setattr(ino, size=20 * WINDOW)
        await v.fs.setattr(ino, size=40 * WINDOW)
        assert await v.fs.read(handle, 39 * WINDOW, 3) == bytes(3)
        await v.fs.release(handle)
        await settled(v)


async def test_what_the_kernel_still_knows_is_not_reaped_with_its_tail(tmp_path: Path) -> None:
    """Somebody has it by a path descriptor (O_PATH), and may open it by that."""
    async with volume(tmp_path, background=True) as v:
        ino = await sparse_file(v, b"a", 40)
        await v.fs.setattr(ino, size=5 * WINDOW)
        await v.fs.unlink(ROOT_INODE, b"a")
        while ino in v.fs._to_cut:
            await trio.lowlevel.checkpoint()
        await trio.testing.wait_all_tasks_blocked()
        handle = await v.fs.open(ino, 0)
        assert await v.fs.read(handle, 5, 7) == b"content"
        await v.fs.release(handle)
        v.fs.forget([(ino, 1)])
        await settled(v)


async def test_metadata_that_cannot_be_read_for_a_while_end_no_background_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storjfs.store.background.PAUSE", 0.0)
    monkeypatch.setattr("storjfs.filesystem.compactor.PERIOD", 0.0)
    async with volume(tmp_path, background=True) as v:
        failed: set[str] = set()
        went_on = trio.Event()

        def victims() -> list[int]:
            if "compactor" in failed:
                went_on.set()
            failed.add("compactor")
            raise StoreError("the database cannot be read", permanent=False)

        monkeypatch.setattr(v.segments, "victims", victims)
        await went_on.wait()

        get = v.fs._inodes.get

        def failing(ino: int) -> Inode:
            monkeypatch.setattr(v.fs._inodes, "get", get)
            raise StoreError("the database cannot be read", permanent=False)

        monkeypatch.setattr(v.fs._inodes, "get", failing)
        v.fs._reap_send.send_nowait(4711)
        while v.fs._inodes.get is failing:
            await trio.lowlevel.checkpoint()
        ino = await sparse_file(v, b"a", 40)
        await v.remove(b"a")
        await settled(v)
        with fails(errno.ESTALE):
            await v.fs.getattr(ino)
