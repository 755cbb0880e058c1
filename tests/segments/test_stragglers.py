"""Slow and silent farmers hold up neither uploads nor reads, and what they miss is placed in the end."""

import pytest
import trio

from storjfs.coding.geometry import PIECE
from storjfs.segments import Part, Run
from storjfs.segments.encoder import Encoder
from storjfs.segments.records import Segment
from tests.segments.conftest import Volume, until
from tests.segments.farm import Farmer

MIB = 1 << 20


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """What counts as late on a machine with nothing else to do; no result depends on it."""
    monkeypatch.setattr("storjfs.segments.placing.LATE_AT_LEAST", 0.2)
    monkeypatch.setattr("storjfs.segments.placing.STRAGGLES_AT_LEAST", 0.4)


def full(volume: Volume, segments: int) -> bool:
    report = volume.segments.report()
    return report.full == segments and not report.degraded and not report.at_risk


async def test_what_a_silent_farmer_does_not_take_another_one_gets(volume: Volume) -> None:
    volume.farm.farmers[2].put_delay = 1e9
    async with volume.running() as segments:
        for _ in range(4):
            volume.append_random(3 * MIB)
            segments._journal.close_open()
        with trio.fail_after(60):
            await segments.flush()
        await until(lambda: full(volume, 4), volume.store)
        assert volume.farm.farmers[2].puts == 0
        assert volume.farm.farmers[2].late > 0
        assert volume.farm.shard_count() == 20


async def test_a_segment_that_needs_a_silent_farmer_gets_others_at_once(volume: Volume) -> None:
    for number in (2, 5):
        volume.farm.farmers[number].put_delay = 1e9
    async with volume.running() as segments:
        volume.append_random(3 * MIB)
        with trio.fail_after(60):
            await segments.flush()
        assert len([one for one in volume.farm.farmers.values() if one.puts]) == 4


async def test_where_nobody_else_is_there_the_slow_one_gets_its_shard_later(volume: Volume) -> None:
    volume.farm.farmers.pop(6)
    slow = volume.farm.farmers[3]
    slow.stuck_puts = trio.Event()
    async with volume.running() as segments:
        for _ in range(3):
            volume.append_random(3 * MIB)
            segments._journal.close_open()
        with trio.fail_after(60):
            await segments.flush()
        assert segments.waiting_bytes() == 0
        assert volume.farm.shard_count() == 12
        slow.stuck_puts.set()
        slow.stuck_puts = None
        await until(lambda: full(volume, 3), volume.store, seconds=60)
        assert len(slow.shards) == 3


async def test_a_flush_ends_also_where_only_the_rest_of_a_segment_is_sent(volume: Volume) -> None:
    """As after a restart, when nothing is known yet of how long puts take."""
    for number in (4, 5, 6):
        volume.farm.farmers[number].online = False
    async with volume.running() as segments:
        volume.append_random(MIB)
        segments._journal.close_open()
        await until(lambda: volume.farm.shard_count() == 3, volume.store)
        await until(lambda: not segments._uploader.busy, volume.store)
        await volume.store.sync()
    volume.farm.farmers[4].online = volume.farm.farmers[5].online = True
    volume.farm.farmers[5].stuck_puts = trio.Event()
    async with volume.running() as segments:
        with trio.fail_after(60):
            await segments.flush()
        assert volume.farm.shard_count() == 4


async def test_a_flush_waits_for_more_than_it_promises_but_not_for_farmers_that_lag(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storjfs.segments.placing.STRAGGLES_AT_LEAST", 1e6)
    monkeypatch.setattr("storjfs.segments.flushing.STRAGGLERS", 1e6)
    volume.farm.farmers.pop(6)
    slow = volume.farm.farmers[2]
    async with volume.running() as segments:
        slow.put_delay = 0.15
        volume.append_random(3 * MIB)
        with trio.fail_after(60):
            await segments.flush()
        assert volume.farm.shard_count() == 5
        slow.stuck_puts = trio.Event()
        volume.append_random(3 * MIB)
        with trio.fail_after(60):
            await segments.flush()
        assert slow.lagging
        assert segments._uploader.busy
        assert volume.farm.shard_count() == 9


async def test_a_segment_is_stored_when_a_farmer_that_was_given_up_is_back_with_its_shard(
    volume: Volume,
) -> None:
    for number in (4, 5, 6):
        volume.farm.farmers[number].full = True
    async with volume.running() as segments:
        volume.append_random(MIB)
        segments._journal.close_open()
        await until(lambda: volume.farm.shard_count() == 3, volume.store)
        await until(lambda: not segments._uploader.busy, volume.store)
        (segment,) = segments._catalogue.unsent.values()
        row = segments._catalogue.add_shard(segment, 4, 6, 100)
        segments._catalogue.shard_held(segment, row, bytes(32), bytes(32))
        with trio.fail_after(60):
            await segments.flush()
        assert segments.waiting_bytes() == 0


async def test_the_next_segment_begins_while_stragglers_of_the_last_are_waited_for(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storjfs.segments.placing.LATE_AT_LEAST", 1e6)
    volume.farm.farmers.pop(6)
    slow = volume.farm.farmers[3]
    slow.put_delay = 1e9
    async with volume.running() as segments:
        for _ in range(3):
            volume.append_random(3 * MIB)
            segments._journal.close_open()
        segments._uploader.hurry()
        await until(lambda: segments.waiting_bytes() == 0, volume.store)
        uploader = segments._uploader
        await until(lambda: sorted(uploader.trailing) == [1, 2, 3], volume.store)
        # Their puts take no turns.
        await until(lambda: uploader._flying == 0)


async def test_no_more_trails_than_there_is_memory_for(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storjfs.segments.placing.LATE_AT_LEAST", 1e6)
    monkeypatch.setattr("storjfs.segments.uploader.TRAILING", 3 * MIB)
    volume.farm.farmers.pop(6)
    volume.farm.farmers[3].put_delay = 1e9
    async with volume.running() as segments:
        for _ in range(8):
            volume.append_random(3 * MIB)
            segments._journal.close_open()
        trailing = segments._uploader.trailing
        await until(lambda: len(trailing) >= 3, volume.store)
        with trio.move_on_after(0.5):
            await trio.sleep_forever()  # nothing is to happen: as long as it takes to see that it does not
        assert len(trailing) <= 4
        assert segments.waiting_bytes() >= 3 * 3 * MIB


async def test_the_memory_of_a_segment_is_free_while_only_stragglers_are_left(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storjfs.segments.placing.LATE_AT_LEAST", 1e6)
    volume.farm.farmers.pop(6)
    volume.farm.farmers[3].put_delay = 1e9
    async with volume.running() as segments:
        volume.append_random(3 * MIB)
        segments._journal.close_open()
        await until(lambda: bool(segments._uploader.trailing), volume.store)
        # Three shards of data and two of parity were in memory; one sealed shard is.
        buffers = segments._uploader.buffers
        await until(lambda: buffers._idle_bytes >= 5 * MIB)


async def test_a_repair_lets_go_of_its_memory(volume: Volume) -> None:
    async with volume.running() as segments:
        volume.append_random(3 * MIB)
        await segments.flush()
        await until(lambda: full(volume, 1), volume.store)
        await until(lambda: not segments._uploader.busy)
        (segment,) = segments._catalogue.stored_after(0, 2)
        segments._catalogue.shard_lost(segment, segments._catalogue.held(segment)[0])
        await volume.store.sync()
        await until(lambda: full(volume, 1), volume.store)
        # Whoever else looks whether there is something to repair ends soon, too.
        await until(lambda: segments._uploader.buffers._idle_bytes == 0)


async def test_segments_whose_straggler_leaves_come_to_memory_one_at_a_time(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storjfs.segments.placing.LATE_AT_LEAST", 1e6)
    another = volume.farm.farmers.pop(6)
    slow = volume.farm.farmers[3]
    slow.stuck_puts = hold = trio.Event()
    loaded, most = 0, 0
    load, close = Encoder.load, Encoder.close

    async def loading(encoder: Encoder, *, parity: bool) -> None:
        nonlocal loaded, most
        loaded += 1
        most = max(most, loaded)
        await load(encoder, parity=parity)

    def closing(encoder: Encoder) -> None:
        nonlocal loaded
        loaded -= 1
        close(encoder)

    async with volume.running() as segments:
        for _ in range(6):
            volume.append_random(3 * MIB)
            segments._journal.close_open()
        segments._uploader.hurry()
        await until(lambda: len(segments._uploader.trailing) == 6, volume.store)
        await until(lambda: segments._uploader._flying == 0)
        monkeypatch.setattr(Encoder, "load", loading)
        monkeypatch.setattr(Encoder, "close", closing)
        volume.farm.farmers[6], slow.online = another, False
        hold.set()
        await until(lambda: full(volume, 6), volume.store)
    assert len(another.shards) == 6
    assert (loaded, most) == (0, 1)


async def test_what_waits_for_a_slow_farmer_is_no_news_to_the_repair(volume: Volume) -> None:
    """News would have it survey anew after each segment that it repairs."""
    async with volume.running() as segments:
        volume.append_random(3 * MIB)
        await segments.flush()
        await until(lambda: full(volume, 1), volume.store)
        (segment,) = segments._catalogue.stored_after(0, 2)
        repair = segments._repair
        repair._slow[segment.seg] = None
        segments._catalogue.shard_lost(segment, segments._catalogue.held(segment)[0])
        await volume.store.sync()
        assert await repair.survey() == []
        assert segment.seg not in repair._hurt
        # Somebody turns up who can take it.
        repair._more_slow.set()
        await until(lambda: full(volume, 1), volume.store)


async def test_what_waits_for_a_slow_farmer_goes_to_another_one_that_comes(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storjfs.segments.repair.FIRST_RETRY", 1e6)
    async with volume.running() as segments:
        volume.append_random(3 * MIB)
        await segments.flush()
        await until(lambda: full(volume, 1), volume.store)
        (segment,) = segments._catalogue.stored_after(0, 2)
        for farmer in volume.farm.farmers.values():
            farmer.lagging = farmer.full = True
        segments._catalogue.shard_lost(segment, segments._catalogue.held(segment)[0])
        slow = next(one for one in volume.farm.farmers.values() if not one.shards)
        slow.full, slow.lose_receipt = False, True
        await until(lambda: slow.asked > 0, volume.store)
        await until(lambda: not segment.busy, volume.store)
        volume.farm.farmers[7] = another = Farmer()
        segments.farmers_changed()
        await until(lambda: full(volume, 1), volume.store)
        assert len(another.shards) == 1


# --- reads ---


async def stored(volume: Volume, size: int) -> tuple[list[Run], Segment]:
    """Runs of one segment with the farmers, and nothing of it here."""
    async with volume.running() as segments:
        runs = [run for _ in range(size // MIB) for run in volume.append_random(MIB)]
        await segments.flush()
        await until(lambda: full(volume, 1), volume.store)
        await until(lambda: not list(volume.journal.iterdir()), volume.store)
        segment = segments._catalogue.get(runs[0].seg)
        segments._catalogue.shards(segment)
    volume.drop_cache()
    return runs, segment


def holder(segment: Segment, idx: int) -> int:
    assert segment.shards is not None
    return next(one.contract for one in segment.shards if one.idx == idx)


async def read_all(volume: Volume, runs: list[Run]) -> None:
    """In order, with read-ahead."""
    volume.segments.prefetch([Part(*run, 0, run.length) for run in runs])
    for run in runs:
        assert await volume.read(run) == volume.written[run]


async def test_whoever_lags_is_not_asked_while_others_have_the_data(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storjfs.segments.race.SHORTEST_HEDGE", 1e6)  # nobody is late on a busy machine
    runs, segment = await stored(volume, 6 * MIB)
    lagging = volume.farm.farmers[holder(segment, 1)]
    lagging.lagging, lagging.stuck = True, trio.Event()
    async with volume.running():
        with trio.fail_after(20):
            await read_all(volume, runs)
    assert lagging.gets == 0


async def test_whoever_lags_is_asked_where_the_others_are_too_few(volume: Volume) -> None:
    runs, segment = await stored(volume, 6 * MIB)
    volume.farm.farmers[holder(segment, 1)].lagging = True
    for idx in (0, 3):
        volume.farm.farmers[holder(segment, idx)].online = False
    async with volume.running():
        with trio.fail_after(20):
            await read_all(volume, runs)


async def test_one_that_is_waited_for_in_vain_is_told_of(volume: Volume) -> None:
    runs, segment = await stored(volume, 6 * MIB)
    silent = volume.farm.farmers[holder(segment, 1)]
    silent.stuck = trio.Event()
    async with volume.running():
        with trio.fail_after(20):
            await read_all(volume, runs)
    assert silent.late > 0
    assert silent.lagging


async def test_what_is_on_its_way_from_one_that_begins_to_lag_is_had_from_the_others(volume: Volume) -> None:
    runs, segment = await stored(volume, 6 * MIB)
    slow = volume.farm.farmers[holder(segment, 1)]
    slow.stuck, slow.usual = trio.Event(), 1e6
    async with volume.running() as segments:
        segments.prefetch([Part(*run, 0, run.length) for run in runs])
        await until(lambda: slow.gets > 0)
        slow.lagging = True
        with trio.fail_after(20):
            for run in runs:
                assert await volume.read(run) == volume.written[run]


async def test_one_that_all_others_overtake_is_not_waited_for_as_long_as_usual(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When all are busy answers take long as a rule; one that gives none is seen by the others' answers."""
    monkeypatch.setattr("storjfs.segments.race.OVERTAKEN", 3)  # of 8 ranges that two others have
    runs, segment = await stored(volume, 11 * MIB)
    slow = volume.farm.farmers[holder(segment, 1)]
    slow.stuck, slow.usual = trio.Event(), 1e6
    async with volume.running() as segments:
        with trio.fail_after(20):
            await read_all(volume, runs)
        assert segments._fetcher.hedging.answers >= 3 * 2
    assert slow.late > 0


@pytest.mark.parametrize("ahead", [True, False])
@pytest.mark.parametrize("lagging", [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2)])
async def test_reading_around_farmers_moves_no_more_bytes(
    volume: Volume, lagging: tuple[int, ...], ahead: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read ahead: ranges that several want are shared. One after the other: what comes along is kept."""
    monkeypatch.setattr("storjfs.segments.race.SHORTEST_HEDGE", 1e6)
    runs, segment = await stored(volume, 11 * MIB)
    for idx in lagging:
        volume.farm.farmers[holder(segment, idx)].lagging = True
    async with volume.running():
        if ahead:
            await read_all(volume, runs)
        for run in runs:
            assert await volume.read(run) == volume.written[run]
    pieces = -(-segment.size // PIECE)
    assert volume.farm.sent <= (pieces + 3 * 16) * (PIECE + 64)


async def test_a_damaged_copy_of_another_row_does_no_harm_to_a_decode(volume: Volume) -> None:
    runs, segment = await stored(volume, 11 * MIB)
    first = [run for run in runs if run.pos + run.length <= 3 * MIB]
    async with volume.running():
        await read_all(volume, first)
    volume.farm.farmers[holder(segment, 1)].lagging = True
    copy = max(volume.cache.iterdir(), key=lambda path: path.stat().st_size)
    with copy.open("r+b") as file:
        for at in range(0, 3 * MIB, PIECE):
            file.seek(at + 100)
            file.write(b"rotten")
    async with volume.running() as segments:
        for run in runs[5:7]:
            assert await volume.read(run) == volume.written[run]
        assert not segments.report().damaged
    assert not volume.faults
