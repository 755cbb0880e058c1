"""Segments that nothing points to go everywhere, when nobody needs them any more."""

import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

from storjfs.segments import Segments, State, deletion
from storjfs.segments.folders import remove
from storjfs.store import StoreError, background
from tests.segments.conftest import MIB, Volume, until
from tests.segments.farm import Farm


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


async def test_no_request_waits_while_the_disk_frees_what_a_file_took(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []

    def removed(path: Path) -> None:
        threads.append(threading.get_ident())
        remove(path)

    async with volume.running() as segments:
        (run,) = volume.append_random(MIB)
        await segments.flush()
        await until(lambda: volume.farm.shard_count() == 5 and not segments._cache.unsent)
        monkeypatch.setattr("storjfs.segments.cache.remove", removed)
        segments.live(run.seg, -run.length)
        await until(lambda: not volume.farm.shard_count(), volume.store)
    assert threads
    assert threading.get_ident() not in threads


async def test_unsent_segments_that_died_young_are_never_sent(volume: Volume) -> None:
    volume.farm.go(online=False)
    async with volume.running() as segments:
        (run,) = volume.append_random(MIB)
        segments._journal.close_open()
        segments.live(run.seg, -run.length)
        await until(lambda: not list(volume.journal.iterdir()) and not segments._cache.unsent, volume.store)
        volume.farm.go(online=True)
        await segments.flush()
        assert volume.farm.shard_count() == 0


async def five_to_delete_and_nobody_there(volume: Volume, segments: Segments) -> None:
    """A segment's shards are doomed while the farmers, who have them, are away."""
    (run,) = volume.append_random(MIB)
    await segments.flush()
    await until(lambda: volume.farm.shard_count() == 5)
    volume.farm.go(online=False)
    segments.live(run.seg, -run.length)
    await until(lambda: segments.report().to_delete == 5, volume.store)


async def test_deletion_waits_for_farmers_that_are_away_across_restarts(volume: Volume) -> None:
    async with volume.running() as segments:
        await five_to_delete_and_nobody_there(volume, segments)
    async with volume.running() as segments:
        assert segments.report().to_delete == 5
        volume.farm.go(online=True)
        segments.farmers_changed()
        await until(lambda: not segments.report().to_delete, volume.store)
        assert volume.farm.shard_count() == 0


async def test_what_was_withdrawn_from_a_farmer_that_is_away_is_not_tried_for_ever(volume: Volume) -> None:
    async with volume.running() as segments:
        await five_to_delete_and_nobody_there(volume, segments)
        asking = segments._deleter.asking
        await until(lambda: len(asking._retry) == 5)
        for (shard_id,) in volume.store.read("SELECT shard_id FROM doomed"):
            segments.amend.withdraw(shard_id)
        await volume.store.sync()
        segments.farmers_changed()
        await until(lambda: not asking._retry)
        assert asking.next_look() == float("inf")
        assert volume.farm.shard_count() == 5


async def test_a_silent_farmer_holds_up_neither_others_nor_what_is_done_here(volume: Volume) -> None:
    async with volume.running() as segments:
        (run,) = volume.append_random(MIB)
        await segments.flush()
        await until(lambda: volume.farm.shard_count() == 5)
        silent = [one for one in volume.farm.farmers.values() if one.shards][:2]
        hold = trio.Event()
        for one in silent:
            one.stuck_deletes = hold
        segments.live(run.seg, -run.length)
        await until(lambda: volume.farm.shard_count() == 2, volume.store)
        # What is doomed meanwhile goes too.
        for one in silent:
            one.full = True
        (run,) = volume.append_random(MIB)
        await segments.flush()
        segments.live(run.seg, -run.length)
        await until(lambda: volume.farm.shard_count() == 2 and not list(volume.cache.iterdir()), volume.store)
        hold.set()
        await until(lambda: not volume.farm.shard_count(), volume.store)


async def test_farmers_that_greet_and_do_not_delete_are_not_asked_again_because_of_each_other(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deletion, "FIRST_RETRY", 1e6)
    async with volume.running() as segments:
        volume.farm.greeted = segments.farmers_changed
        for farmer in volume.farm.farmers.values():
            farmer.greets = True
        await five_to_delete_and_nobody_there(volume, segments)
        await until(lambda: len(segments._deleter.asking._retry) == 5, volume.store)
        await trio.testing.wait_all_tasks_blocked(0.2)
        assert sorted(one.deletes for one in volume.farm.farmers.values()) == [0, 1, 1, 1, 1, 1]


async def test_whom_to_ask_cannot_be_read_for_once(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "PAUSE", 0.0)
    async with volume.running() as segments:
        (run,) = volume.append_random(MIB)
        await segments.flush()
        await until(lambda: volume.farm.shard_count() == 5)
        read, failed = segments._catalogue.doomed_contracts, 0

        def fail_once(after: int = -1) -> Iterator[int]:
            nonlocal failed
            failed += 1
            if failed == 1:
                raise StoreError("the disk does not give it")
            return read(after)

        monkeypatch.setattr(segments._catalogue, "doomed_contracts", fail_once)
        segments.live(run.seg, -run.length)
        await until(lambda: not volume.farm.shard_count(), volume.store)
        assert failed > 1


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
        segments._catalogue.tallies.small = 65
        for size in (1000, 2000):
            volume.append_random(size)
            await segments.flush()
        assert len(segments.victims()) >= 2


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

    async def discard(segment: Any) -> None:
        await trio.lowlevel.checkpoint()

    catalogue: Any = SimpleNamespace(
        doomed_segments=lambda: [
            SimpleNamespace(seg=seg, state=State.DOOMED, pins=seg % 2, dirty=False, flying=False)
            for seg in range(10_000)
        ],
        pointed_to=pointed_to,
        drop=lambda segment: None,
        when_committed=lambda call: None,
    )
    cache: Any = SimpleNamespace(discard=discard)
    deleter = deletion.Deleter(catalogue, cache, Farm(), gone=gone.append)
    deleter.load()
    await deleter.sweep()
    assert [segment.seg for segment in gone] == list(range(0, 10_000, 2))
    assert len(looked_at) <= 15_000  # once more just before it goes
