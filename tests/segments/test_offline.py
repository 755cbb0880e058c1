"""Without farmers, and with slow ones: what still works, what fails when, and that it goes on by itself."""

import errno
import math
from collections.abc import Callable

import pytest
import trio
import trio.testing

from storjfs.segments import NoRoom, Run, SegmentUnreadable
from storjfs.segments.uploader import LAST_RETRY
from tests.idle_clock import idle_clock
from tests.segments.conftest import Volume, until

MIB = 1 << 20
SLACK = 1.0
"""Seconds on the clock, which may go on a little while the threads of the sealer and the store are busy."""


Clock = trio.testing.MockClock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return idle_clock(monkeypatch)


async def stored(volume: Volume, *sizes: int) -> list[Run]:
    """Runs that farmers have and this machine has not."""
    async with volume.running() as segments:
        runs = [volume.append_random(size)[0] for size in sizes]
        await segments.flush()
        await until(lambda: segments.report().full == len({run.seg for run in runs}))
    volume.drop_cache()
    return runs


async def seconds(action: Callable[[], object]) -> float:
    """How long `await action()` takes."""
    before = trio.current_time()
    await action()  # type: ignore[misc]
    return trio.current_time() - before


async def failing(volume: Volume, run: Run) -> None:
    with pytest.raises(SegmentUnreadable) as caught:
        await volume.read(run)
    assert caught.value.errno == errno.EIO


async def test_a_read_fails_after_the_stated_time_and_the_next_at_once(volume: Volume, clock: Clock) -> None:
    (run,) = await stored(volume, 5000)
    volume.outage = 40.0
    async with volume.running():
        volume.farm.go(online=False)
        assert 40 <= await seconds(lambda: failing(volume, run)) <= 40 + SLACK
        # The kernel asks a second time before it tells a program of the error.
        assert await seconds(lambda: failing(volume, run)) <= SLACK
        volume.farm.go(online=True)
        await volume.check_all()
        # The next outage is another one.
        volume.drop_cache()
        await volume.segments._cache.discard(volume.segments._catalogue.get(run.seg))
        volume.segments._pieces._kept.clear()
        volume.farm.go(online=False)
        assert 40 <= await seconds(lambda: failing(volume, run)) <= 40 + SLACK


async def test_farmers_that_never_answer_are_no_better(volume: Volume, clock: Clock) -> None:
    (run,) = await stored(volume, 5000)
    async with volume.running():
        hold = trio.Event()
        for farmer in volume.farm.farmers.values():
            farmer.stuck = hold
        assert 30 <= await seconds(lambda: failing(volume, run)) <= 32
        assert await seconds(lambda: failing(volume, run)) <= 7
        for farmer in volume.farm.farmers.values():
            farmer.stuck = None
        await volume.check_all()


async def test_a_farmer_that_serves_one_after_the_other_is_waited_for(volume: Volume, clock: Clock) -> None:
    """All together take longer than the outage, but it answers all the time."""
    volume.farm.scheme = (1, 2)
    volume.outage = 8.0
    runs = await stored(volume, *[60_000] * 12)
    async with volume.running():
        for farmer in volume.farm.farmers.values():
            farmer.get_delay, farmer.turn = 3.0, trio.Lock()
        before = trio.current_time()
        async with trio.open_nursery() as nursery:
            for run in runs:
                nursery.start_soon(volume.read, run)
        # How many pieces each farmer is asked for depends on the order of things: three times at least.
        assert trio.current_time() - before > volume.outage


async def test_with_offline_wait_a_read_returns_when_farmers_are_back(volume: Volume, clock: Clock) -> None:
    (run,) = await stored(volume, 5000)
    volume.outage = float("inf")
    async with volume.running():
        volume.farm.go(online=False)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(volume.read, run)
            await trio.sleep(120)
            assert nursery.child_tasks
            volume.farm.go(online=True)
        assert volume.segments.report().unreadable == ()


async def test_a_read_that_waits_can_be_cancelled_and_leaves_nothing(volume: Volume, clock: Clock) -> None:
    (run,) = await stored(volume, 5000)
    volume.outage = float("inf")
    async with volume.running() as segments:
        volume.farm.go(online=False)
        with trio.move_on_after(100) as scope:
            await volume.read(run)
        assert scope.cancelled_caught
        await trio.testing.wait_all_tasks_blocked()
        assert not segments._pieces._flying
        volume.farm.go(online=True)
        await volume.check_all()


async def test_cached_data_is_read_at_once_whatever_farmers_do(volume: Volume, clock: Clock) -> None:
    async with volume.running() as segments:
        here = [volume.append_random(MIB)[0] for _ in range(4)]
        await segments.flush()
        await until(lambda: not segments._cache.unsent, volume.store)
    kept = dict(volume.written)
    (away,) = await stored_elsewhere(volume)
    async with volume.running():
        hold = trio.Event()
        for farmer in volume.farm.farmers.values():
            farmer.stuck = hold
        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(failing, volume, away)
            await trio.sleep(1)
            before = trio.current_time()
            for run in here:
                assert await volume.read(run) == kept[run]
            assert trio.current_time() - before <= SLACK


async def stored_elsewhere(volume: Volume) -> list[Run]:
    """One more run, of which only farmers have a copy."""
    async with volume.running() as segments:
        runs = volume.append_random(200_000)
        await segments.flush()
        await until(lambda: not segments._cache.unsent, volume.store)
        await segments._cache.discard(segments._catalogue.get(runs[0].seg))
    return runs


async def test_a_farmer_that_hangs_costs_no_more_than_the_hedge(volume: Volume, clock: Clock) -> None:
    runs = await stored(volume, *[60_000] * 30)
    async with volume.running() as segments:
        volume.farm.farmers[2].stuck = trio.Event()
        for run in runs:
            # 30 ms at least, three times what such ranges take of late, twice the farmer's usual latency.
            assert await seconds(lambda run=run: volume.read(run)) <= SLACK  # type: ignore[misc]
        assert segments.report().problems == ()


async def test_a_stop_while_the_last_shard_is_on_its_way_leaves_a_row_for_each(volume: Volume) -> None:
    del volume.farm.farmers[6]
    volume.farm.farmers[1].put_delay = math.inf
    async with volume.running() as segments:
        (run,) = volume.append_random(60_000)
        segments._journal.close_open()
        segment = segments._catalogue.get(run.seg)
        await until(lambda: len(segments._catalogue.held(segment)) == 4, volume.store)
        assert segments._nursery is not None
        segments._nursery.cancel_scope.cancel()
        rows = "SELECT COUNT(DISTINCT idx) FROM shard WHERE seg = ? AND state <> 0"
        await until(lambda: volume.store.read(rows, (run.seg,)) == [(5,)], volume.store)


async def test_writes_go_on_up_to_the_limit_and_then_fail_without_delay(volume: Volume, clock: Clock) -> None:
    volume.limit = 40 * MIB
    volume.farm.go(online=False)
    async with volume.running() as segments:
        await segments.room()
        volume.append_random(MIB)
        segments._journal.close_open()
        await trio.sleep(60)
        written = 1

        async def fill() -> None:
            nonlocal written
            while True:
                await segments.room()
                volume.append_random(MIB)
                written += 1

        before = trio.current_time()
        with pytest.raises(NoRoom) as caught:
            await fill()
        assert caught.value.errno == errno.ENOSPC
        # What is new is refused earlier than what is written to open files.
        assert trio.current_time() - before <= 5
        assert written >= 30
        await volume.store.sync()
        await volume.check_all()
        volume.farm.go(online=True)
        segments.farmers_changed()
        await segments.flush()
        await segments.room(new=True)
        volume.append_random(MIB)
        await segments.flush()
        assert segments.report().waiting_bytes == 0


async def test_what_is_new_is_refused_before_writes_to_open_files_are(volume: Volume, clock: Clock) -> None:
    volume.limit = 40 * MIB
    volume.farm.go(online=False)
    async with volume.running() as segments:
        volume.append_random(MIB)
        segments._journal.close_open()
        await trio.sleep(60)
        with pytest.raises(NoRoom):
            while True:
                await segments.room(new=True)
                volume.append_random(MIB)
        for _ in range(4):
            await segments.room()
            volume.append_random(MIB)


async def test_the_room_for_open_files_is_kept_though_the_outage_is_not_known_yet(
    volume: Volume, clock: Clock
) -> None:
    volume.limit = 40 * MIB
    volume.farm.go(online=False)
    async with volume.running() as segments:
        with pytest.raises(NoRoom):
            for _ in range(40):
                await segments.room(new=True)
                volume.append_random(MIB)
        for _ in range(4):
            await segments.room()
            volume.append_random(MIB)


async def test_files_are_made_beside_somebody_who_writes_all_the_time(volume: Volume, clock: Clock) -> None:
    """Slow farmers, so that local space is always scarce."""
    volume.limit = 24 * MIB
    for farmer in volume.farm.farmers.values():
        farmer.put_delay = 10.0
    async with volume.running() as segments, trio.open_nursery() as nursery:

        async def write() -> None:
            while True:
                await segments.room()
                volume.append_random(MIB)

        nursery.start_soon(write)
        await until(lambda: segments._journal._scarce)
        with trio.fail_after(600):
            for _ in range(5):
                await segments.room(new=True)
                await trio.sleep(1)
        nursery.cancel_scope.cancel()


async def test_a_short_outage_only_delays_a_writer(volume: Volume, clock: Clock) -> None:
    volume.limit = 20 * MIB
    volume.farm.go(online=False)

    async def return_later() -> None:
        await trio.sleep(20)
        volume.farm.go(online=True)

    async with volume.running() as segments, trio.open_nursery() as nursery:
        nursery.start_soon(return_later)
        for _ in range(60):
            await segments.room()
            volume.append_random(MIB)
        await segments.flush()


async def test_slow_farmers_slow_writers_down_and_nothing_fails(volume: Volume, clock: Clock) -> None:
    """Each shard takes longer than the outage; what is in memory and on disk stays bounded."""
    volume.limit = 24 * MIB
    for farmer in volume.farm.farmers.values():
        farmer.put_delay = 40.0
    async with volume.running() as segments:
        before = trio.current_time()
        for _ in range(50):
            await segments.room()
            volume.append_random(MIB)
            assert segments._cache.unsent + segments._cache.used <= volume.limit
            assert segments._sealer.unsealed <= 33 * MIB
        assert trio.current_time() - before > 40
        await segments.flush()
        await volume.check_all()


async def test_offline_for_hours_costs_few_attempts(volume: Volume, clock: Clock) -> None:
    """Each attempt is worth the work of an upload."""
    volume.farm.go(online=False)
    volume.farm.scheme = (1, 2)
    for farmer in volume.farm.farmers.values():
        farmer.online = True
        farmer.full = True
    async with volume.running() as segments:
        for _ in range(60):
            volume.append_random(MIB)
        segments._journal.close_open()
        attempts = 0
        place = volume.farm.choose

        def counting(count: int, size: int, exclude: object = ()) -> list[int]:
            nonlocal attempts
            attempts += 1
            return place(count, size, ())

        volume.farm.choose = counting  # type: ignore[method-assign]
        await trio.sleep(600)
        assert 8 < attempts < 20
        for farmer in volume.farm.farmers.values():
            farmer.full = False
        segments.farmers_changed()
        await segments.flush()


async def test_a_farmer_that_returns_during_an_attempt_is_not_waited_for_afterwards(volume: Volume) -> None:
    """Nobody listens then for what changes; the next attempt has to be soon all the same."""
    farmers, arrived = volume.farm.farmers.values(), trio.Event()
    for farmer in farmers:
        farmer.stuck_puts = arrived
    async with volume.running() as segments, trio.open_nursery() as nursery:
        (run,) = volume.append_random(4096)
        nursery.start_soon(segments.flush)
        await until(lambda: volume.farm._at_once > 0)
        delays = segments._uploader._delays
        delays[run.seg] = LAST_RETRY
        segments.farmers_changed()
        for farmer in farmers:
            farmer.full = True
        arrived.set()
        await until(lambda: delays[run.seg] < LAST_RETRY)
        for farmer in farmers:
            farmer.full = False
        segments.farmers_changed()
