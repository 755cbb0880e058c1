"""Limits that hold: local files, unsent data, memory; and what they make of failures."""

import errno
import gc
import tracemalloc

import pytest
import trio
import trio.testing

from storjfs.coding.geometry import segment_capacity
from storjfs.segments import NoRoom, Part, SegmentUnreadable
from storjfs.segments.catalogue import REMEMBERED
from storjfs.segments.journal import LONGEST_WRITE
from storjfs.store import StoreError
from storjfs.volume.settings import SMALLEST_CACHE
from tests.segments.conftest import MIB, Volume, on_disk, until


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


async def test_unsent_data_is_never_evicted_and_writers_wait_for_farmers(volume: Volume) -> None:
    volume.limit = 20 * MIB
    volume.farm.go(online=False)
    async with volume.running() as segments:
        with trio.move_on_after(0.5) as waited:
            for _ in range(40):
                await segments.room()
                volume.append_random(MIB)
        assert waited.cancelled_caught
        assert 14 <= len(volume.written) <= 20
        await volume.store.sync()
        await volume.check_all()
        volume.farm.go(online=True)
        segments.farmers_changed()
        with trio.fail_after(10):
            await segments.room()


async def test_writers_are_told_when_nothing_gets_through(
    volume: Volume, autojump_clock: trio.testing.MockClock
) -> None:
    autojump_clock.autojump_threshold = 0.05  # threads at work are not idleness
    volume.limit = 4 * MIB
    volume.farm.go(online=False)
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
        await until(lambda: not segments._pieces._flying)

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
