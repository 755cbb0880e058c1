"""Limits that hold: the cache, unsent data, memory, deletion, and what the compactor is given."""

import errno
import gc
import os
import threading
import tracemalloc
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

from storjfs.coding.geometry import PIECE, segment_capacity
from storjfs.segments import NoRoom, Part, SegmentUnreadable, State, deletion
from storjfs.segments.catalogue import REMEMBERED
from storjfs.segments.files import LocalFile
from storjfs.segments.journal import LONGEST_WRITE
from storjfs.store import StoreError
from storjfs.volume.settings import SMALLEST_CACHE
from tests.segments.conftest import Volume, until
from tests.segments.farm import Farm

MIB = 1 << 20


def on_disk(*folders: Path) -> int:
    total = 0
    for folder in folders:
        for path in folder.iterdir():
            with suppress(FileNotFoundError):  # given up, or moved, at this moment
                total += path.stat().st_blocks * 512
    return total


async def test_local_files_never_exceed_the_limit_while_writing_and_reading(volume: Volume) -> None:
    volume.limit = 24 * MIB
    most = 0
    async with volume.running() as segments:
        for _ in range(60):
            await segments.room()
            volume.append_random(MIB)
            most = max(most, on_disk(volume.journal, volume.cache))
        await segments.flush()
        for run, data in volume.written.items():
            assert await volume.read(run) == data
            most = max(most, on_disk(volume.journal, volume.cache))
        assert segments.report().cached_bytes <= volume.limit
    assert 12 * MIB < most <= volume.limit


async def test_a_smaller_limit_is_kept_from_the_start(volume: Volume) -> None:
    async with volume.running() as segments:
        for _ in range(30):
            volume.append_random(MIB)
        await segments.flush()
        await until(lambda: not list(volume.journal.iterdir()))
    volume.limit = 8 * MIB
    async with volume.running():
        assert on_disk(volume.cache) <= volume.limit
        await volume.check_all()
        assert on_disk(volume.cache) <= volume.limit


async def test_the_smallest_limit_has_room_for_a_segment_on_its_way(volume: Volume) -> None:
    """And keeps what it keeps for writes besides, for the code of the embedded farmers."""
    volume.limit = SMALLEST_CACHE
    async with volume.running() as segments:
        journal = segments._journal
        assert journal._slack >= LONGEST_WRITE
        assert segment_capacity(3) + journal._slack + journal._early <= volume.limit


@pytest.mark.parametrize("limit", [3 * MIB, 5 * MIB])
async def test_even_limits_that_no_setting_allows_are_kept(volume: Volume, limit: int) -> None:
    """The slack is never less than what one write may take."""
    volume.limit = limit
    async with volume.running() as segments:
        for _ in range(12):
            with trio.fail_after(60):
                await segments.room()
            volume.append_random(MIB)
            assert on_disk(volume.journal, volume.cache) <= volume.limit
        await segments.flush()
        await volume.check_all()


async def test_reads_work_with_no_cache_at_all(volume: Volume) -> None:
    async with volume.running() as segments:
        volume.append_random(3 * MIB)
        await segments.flush()
    volume.limit = 0
    async with volume.running():
        await volume.check_all()
        assert not list(volume.cache.iterdir())


async def test_unsent_data_is_never_evicted_and_writers_wait_for_farmers(volume: Volume) -> None:
    volume.limit = 20 * MIB
    for farmer in volume.farm.farmers.values():
        farmer.online = False
    async with volume.running() as segments:
        with trio.move_on_after(0.5) as waited:
            for _ in range(40):
                await segments.room()
                volume.append_random(MIB)
        assert waited.cancelled_caught
        assert 14 <= len(volume.written) <= 20
        await volume.store.sync()
        await volume.check_all()
        for farmer in volume.farm.farmers.values():
            farmer.online = True
        segments.farmers_changed()
        with trio.fail_after(10):
            await segments.room()


async def test_writers_are_told_when_nothing_gets_through(
    volume: Volume, autojump_clock: trio.testing.MockClock
) -> None:
    autojump_clock.autojump_threshold = 0.05  # threads at work are not idleness
    volume.limit = 4 * MIB
    for farmer in volume.farm.farmers.values():
        farmer.online = False
    async with volume.running() as segments:
        with pytest.raises(NoRoom) as caught:
            for _ in range(10):
                await segments.room()
                volume.append_random(MIB)
        assert caught.value.errno == errno.ENOSPC


async def test_a_full_disk_refuses_new_data_early(volume: Volume) -> None:
    async with volume.running() as segments:
        segments.space.reserve = 1 << 62
        with pytest.raises(NoRoom):
            await segments.room()
        segments.space.reserve = 0
        await segments.room()


async def test_on_a_full_disk_copies_are_given_up_and_reading_makes_none(volume: Volume) -> None:
    async with volume.running() as segments:
        for _ in range(12):
            volume.append_random(MIB)
        await segments.flush()
        await until(lambda: not list(volume.journal.iterdir()))
        assert segments.report().cached_bytes
        segments.space.reserve = 1 << 62
        with pytest.raises(NoRoom):
            await segments.room(new=True)
        assert not segments.report().cached_bytes
        await volume.check_all()
        assert not list(volume.cache.iterdir())
        segments.space.reserve = 0
        segments.space.left(look=True)
        await volume.check_all()
        assert segments.report().cached_bytes


async def test_what_is_open_is_written_to_when_nothing_new_is_taken(volume: Volume) -> None:
    async with volume.running() as segments:
        segments.space.reserve = segments.space.left(look=True) * 4 // 3
        with pytest.raises(NoRoom):
            await segments.room(new=True)
        await segments.room()
        segments.space.reserve *= 4
        with pytest.raises(NoRoom):
            await segments.room(new=True)
        segments._journal._check_disk_at = 0
        with pytest.raises(NoRoom):
            await segments.room()
        await segments.room(moving=True)


async def test_a_failing_write_keeps_the_data_and_is_tried_again(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    from storjfs.segments import sealer
    from storjfs.store import StoreError

    async with volume.running():

        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, "full")

        monkeypatch.setattr(sealer, "write_all", full)
        volume.append_random(100_000)
        with pytest.raises(StoreError):
            await volume.store.sync()
        await volume.check_all()
        monkeypatch.undo()
        await volume.store.sync()
        await volume.check_all()
    async with volume.running():
        await volume.check_all()


async def test_a_segment_without_live_bytes_vanishes_everywhere(volume: Volume) -> None:
    async with volume.running() as segments:
        (run,) = volume.append_random(MIB)
        await segments.flush()
        await until(lambda: volume.farm.shard_count() == 5)
        segments.live(run.seg, -run.length)
        await until(lambda: not volume.farm.shard_count(), volume.store)
        await volume.store.sync()
        for table in ("segment", "shard", "run", "doomed"):
            assert volume.store.read(f"SELECT COUNT(*) FROM {table}") == [(0,)]
        assert not list(volume.cache.iterdir())
        assert segments.report().stored_bytes == 0
        assert sum((segments.report().full, segments.report().degraded, segments.report().at_risk)) == 0


async def test_unsent_segments_that_died_young_are_never_sent(volume: Volume) -> None:
    for farmer in volume.farm.farmers.values():
        farmer.online = False
    async with volume.running() as segments:
        (run,) = volume.append_random(MIB)
        segments._journal.close_open()
        segments.live(run.seg, -run.length)
        await until(lambda: not list(volume.journal.iterdir()) and not segments._cache.unsent, volume.store)
        for farmer in volume.farm.farmers.values():
            farmer.online = True
        await segments.flush()
        assert volume.farm.shard_count() == 0


async def test_deletion_waits_for_farmers_that_are_away_across_restarts(volume: Volume) -> None:
    async with volume.running() as segments:
        (run,) = volume.append_random(MIB)
        await segments.flush()
        await until(lambda: volume.farm.shard_count() == 5)
        for farmer in volume.farm.farmers.values():
            farmer.online = False
        segments.live(run.seg, -run.length)
        await until(lambda: segments.report().to_delete == 5, volume.store)
    async with volume.running() as segments:
        assert segments.report().to_delete == 5
        for farmer in volume.farm.farmers.values():
            farmer.online = True
        segments.farmers_changed()
        await until(lambda: not segments.report().to_delete, volume.store)
        assert volume.farm.shard_count() == 0


async def test_a_reader_keeps_a_doomed_segment_until_it_has_read(volume: Volume) -> None:
    async with volume.running() as segments:
        (run,) = volume.append_random(5000)
        await segments.flush()
        await until(lambda: volume.farm.shard_count() == 5)
    volume.drop_cache()
    async with volume.running() as segments:
        hold = trio.Event()
        for farmer in volume.farm.farmers.values():
            farmer.stuck = hold
        async with trio.open_nursery() as nursery:
            nursery.start_soon(volume.check_all)
            await until(lambda: volume.farm.gets() > 0)
            segments.live(run.seg, -run.length)
            await until(lambda: segments._catalogue.get(run.seg).state is State.DOOMED, volume.store)
            await volume.store.sync()
            assert volume.farm.shard_count() == 5
            hold.set()
        await until(lambda: not volume.farm.shard_count(), volume.store)


async def test_garbage_and_small_segments_are_offered_to_the_compactor(volume: Volume) -> None:
    async with volume.running() as segments:
        runs = [volume.append_random(MIB)[0] for _ in range(12)]
        await segments.flush()
        assert segments.victims() == []
        for run in runs[:8]:
            segments.live(run.seg, -run.length)
        assert segments.victims() == [runs[0].seg]
        assert [pos for pos, *_ in segments.runs(runs[0].seg)] == [
            run.pos for run in runs if run.seg == runs[0].seg
        ]
    async with volume.running() as segments:
        segments._catalogue.small = 65
        for size in (1000, 2000):
            volume.append_random(size)
            await segments.flush()
        assert len(segments.victims()) >= 2


async def test_memory_does_not_grow_with_the_number_of_segments(volume: Volume) -> None:
    async with volume.running() as segments:
        volume.append_random(100)
        await segments.flush()
        await until(lambda: segments.report().full == 1)
        await volume.store.sync()
        columns = "segment_id, state, algorithm, k, n, size, live, created"
        volume.store.write(
            f"INSERT INTO segment (seg, {columns}) WITH RECURSIVE c(x) AS "
            "(SELECT 1000 UNION ALL SELECT x + 1 FROM c WHERE x < 60000) "
            "SELECT x, randomblob(16), 2, 1, 3, 5, 12000000, 12000000, 0 FROM c",
            [()],
        )
        await volume.store.sync()
        for seg in range(1000, 1000 + 2 * REMEMBERED):
            segments.live(seg, 0)
        await volume.store.sync()
        gc.collect()
        tracemalloc.start()
        for seg in range(5000, 60000, 5):
            segments.live(seg, 0)
            if not seg % 1000:
                await volume.store.sync()
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert grown < 3 * MIB
        assert len(segments._catalogue._loaded) < 3 * REMEMBERED


async def test_prefetch_brings_data_and_keeps_to_its_budget(volume: Volume) -> None:
    async with volume.running() as segments:
        volume.append_random(12 * MIB)
        await segments.flush()
        await until(lambda: segments.report().full == len({run.seg for run in volume.written}))
    volume.drop_cache()
    async with volume.running() as segments:
        runs = list(volume.written)
        segments.prefetch([Part(run.seg, run.pos, run.length, 0, run.length) for run in runs[:6]])
        assert segments._reader._prefetch_bytes <= 32 * MIB
        await until(lambda: not segments._reader._flying)
        asked = volume.farm.gets()
        for run in runs[:6]:
            assert segments.read_now(run.seg, run.pos, run.length, 0, run.length) == volume.written[run]
        assert volume.farm.gets() == asked
        assert segments._reader._prefetch_bytes == 0


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
    rename = os.rename

    def across(source: Path, target: Path) -> None:
        if Path(source).parent != Path(target).parent:
            raise OSError(errno.EXDEV, "another disk")
        rename(source, target)

    monkeypatch.setattr(os, "rename", across)
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
    rename = os.rename
    elsewhere = volume.path.parent / "elsewhere"
    elsewhere.write_bytes(b"precious")

    def across(source: Path, target: Path) -> None:
        if Path(source).parent != Path(target).parent:
            Path(target).with_suffix(".part").symlink_to(elsewhere)
            raise OSError(errno.EXDEV, "another disk")
        rename(source, target)

    monkeypatch.setattr(os, "rename", across)
    async with volume.running() as segments:
        volume.append_random(MIB)
        await segments.flush()
        await until(lambda: not os.listdir(volume.journal), volume.store)
        await volume.check_all()
        assert volume.farm.gets() == 0
    assert elsewhere.read_bytes() == b"precious"


async def test_problems_are_forgotten_once_they_are_over(volume: Volume) -> None:
    for number in (1, 2, 3):
        volume.farm.farmers[number].online = False
    async with volume.running() as segments:
        volume.append_random(5000)
        segments._journal.close_open()
        await until(lambda: bool(segments.report().problems))
        volume.farm.farmers[1].online = True
        segments.farmers_changed()
        await segments.flush()
        await until(lambda: not any("not stored" in text for text in segments.report().problems))
        volume.farm.farmers[2].online = True
        segments.farmers_changed()
        await until(lambda: segments.report().full == 1)
        assert segments.report().problems == ()


async def test_a_segment_that_somebody_works_with_is_the_only_one_of_its_number(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a change to the one would be lost with the other."""
    monkeypatch.setattr("storjfs.segments.catalogue.REMEMBERED", 2)
    async with volume.running() as segments:
        runs = []
        for _ in range(8):
            runs += volume.append_random(100)
            await segments.flush()
    volume.drop_cache()
    async with volume.running() as segments:
        get = segments._catalogue.get

        def is_kept(seg: int) -> bool:
            before = get(seg)
            for other in (*runs, *runs):
                get(other.seg)
            return get(seg) is before

        assert not is_kept(runs[0].seg)
        fetched = runs[1]
        segments.prefetch([Part(*fetched, 0, fetched.length)])
        assert is_kept(fetched.seg)
        await until(lambda: not segments._reader._flying)

        async with segments._repair._turn, trio.open_nursery() as nursery:
            nursery.start_soon(segments.rebuild, runs[2].seg)
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert is_kept(runs[2].seg)
            nursery.cancel_scope.cancel()

        async def nothing() -> None:
            """Leave all as it is."""

        monkeypatch.setattr(segments._deleter, "sweep", nothing)
        segments.live(runs[3].seg, -runs[3].length)
        await volume.store.sync()
        assert is_kept(runs[3].seg)


async def test_metadata_that_cannot_be_read_for_a_while_end_no_background_task(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storjfs.store.background.PAUSE", 0.01)
    failed: list[str] = []

    def once(owner: object, name: str) -> None:
        right = getattr(owner, name)

        def fail(*arguments: object) -> object:
            monkeypatch.setattr(owner, name, right)
            failed.append(name)
            raise StoreError("the database cannot be read", permanent=False)

        monkeypatch.setattr(owner, name, fail)

    async with volume.running() as segments:
        catalogue = segments._catalogue
        once(catalogue, "held")
        (run,) = volume.append_random(5000)
        await segments.flush()
        await until(lambda: segments.report().full == 1)
        once(catalogue, "doomed_contracts")
        once(catalogue, "unwell")
        shard = catalogue.held(catalogue.get(run.seg))[0]
        segments.mark_lost(run.seg, 0, shard.shard_id)
        await until(lambda: segments.report().full == 1, volume.store)
        await until(lambda: len(failed) == 3, volume.store)
        await until(lambda: not volume.segments.report().to_delete, volume.store)
        assert sorted(failed) == ["doomed_contracts", "held", "unwell"]


async def test_a_fetch_that_fails_unexpectedly_is_told_to_whoever_reads(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with volume.running() as segments:
        (run,) = volume.append_random(5000)
        await segments.flush()
    volume.drop_cache()
    async with volume.running() as segments:

        async def broken(*arguments: object, **options: object) -> bytes:
            raise RuntimeError("nobody thought of this")

        with monkeypatch.context() as patch:
            patch.setattr(segments._fetcher, "rows", broken)
            with pytest.raises(SegmentUnreadable, match="nobody thought of this"):
                await volume.read(run)
        await volume.check_all()


async def test_doomed_segments_are_looked_at_once_each(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at: list[Any] = []
    ready = deletion._ready

    def counted(segment: Any) -> bool:
        looked_at.append(segment)
        return ready(segment)

    monkeypatch.setattr(deletion, "_ready", counted)
    gone: list[Any] = []

    async def pointed_to(segs: Any) -> set[int]:
        return set()

    catalogue: Any = SimpleNamespace(
        doomed_segments=lambda: [
            SimpleNamespace(seg=seg, state=State.DOOMED, pins=seg % 2, dirty=False, flying=False)
            for seg in range(10_000)
        ],
        pointed_to=pointed_to,
        drop=lambda segment: None,
        when_committed=lambda call: None,
    )
    cache: Any = SimpleNamespace(discard=lambda segment: None)
    deleter = deletion.Deleter(catalogue, cache, Farm(), small=lambda segment: False, gone=gone.append)
    deleter.load()
    await deleter.sweep()
    assert [segment.seg for segment in gone] == list(range(0, 10_000, 2))
    assert len(looked_at) <= 15_000  # once more just before it goes


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
