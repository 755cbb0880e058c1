"""Limits and fairness: by the mock clock where time matters, by ratios where sockets are real."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import trio
import trio.testing

from storjfs.farmer.line import SHARE, Direction, Meter
from storjfs.farmer.schedule import ALWAYS, Limit, Schedule
from storjfs.farmer.traffic import CHUNK, PATIENCE, Passage, Traffic
from storjfs.network.failures import PeerUnreachable
from storjfs.protocol.failures import ErrorCode, RequestFailed
from storjfs.protocol.framing import encode_request
from storjfs.protocol.ids import NodeId
from storjfs.protocol.messages import Get
from storjfs.settlement import Ledger
from tests.farmer.renter import MIB, Renter, Shard, farming, renting

ALICE, BOB = NodeId(b"a" * 32), NodeId(b"b" * 32)
MBIT = 125_000


@asynccontextmanager
async def direction(rate: int | None) -> AsyncIterator[Direction]:
    made = Direction()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.run)
        made.limit(rate)
        yield made
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def traffic(
    limit: str | None, schedule: str = "", *, start: datetime | None = None
) -> AsyncIterator[Traffic]:
    """One whose time of day goes with trio's clock."""
    begin = start or datetime(2026, 1, 1)
    zero = trio.current_time()
    made = Traffic(trio.current_time, lambda now: begin + timedelta(seconds=now - zero))
    made.configure(Limit.parse(limit) if limit else None, Schedule.parse(schedule) if schedule else ALWAYS)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.run)
        yield made
        nursery.cancel_scope.cancel()


class Sink(trio.abc.Stream):
    """Takes everything at once, and has endless bytes to give."""

    def __init__(self) -> None:
        self.taken = 0

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        self.taken += len(data)

    async def wait_send_all_might_not_block(self) -> None: ...

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        self.taken += max_bytes or 0
        return bytes(max_bytes or 0)

    async def aclose(self) -> None: ...


def passage(traffic: Traffic, peer: NodeId, *, shards: bool = True) -> tuple[Passage, Sink]:
    sink = Sink()
    made = Passage(traffic, sink, peer)
    made.shards = shards
    return made, sink


async def send_always(one: Passage) -> None:
    while True:
        await one.send_all(bytes(MIB))


async def receive_always(one: Passage) -> None:
    buffer = bytearray(MIB)
    while True:
        await one.receive_into(buffer)


Use = Callable[[Passage], object]


# --- the limit ---


@pytest.mark.parametrize("use", [send_always, receive_always])
async def test_limit_holds_over_time_in_both_directions(
    autojump_clock: trio.testing.MockClock, use: Use
) -> None:
    async with traffic("8Mbit") as line, trio.open_nursery() as nursery:
        ones = [passage(line, peer) for peer in (ALICE, ALICE, BOB)]
        for one, _ in ones:
            nursery.start_soon(use, one)  # type: ignore[arg-type]
        await trio.sleep(60)
        nursery.cancel_scope.cancel()
    total = sum(sink.taken for _, sink in ones)
    assert 0.98 < total / (60 * 8 * MBIT) < 1.02


@pytest.mark.parametrize("use", [send_always, receive_always])
async def test_renter_with_sixteen_connections_gets_no_more_than_one_with_one(
    autojump_clock: trio.testing.MockClock, use: Use
) -> None:
    async with traffic("8Mbit") as line, trio.open_nursery() as nursery:
        many = [passage(line, ALICE) for _ in range(16)]
        one = passage(line, BOB)
        for made, _ in [*many, one]:
            nursery.start_soon(use, made)  # type: ignore[arg-type]
        await trio.sleep(60)
        nursery.cancel_scope.cancel()
    ratio = sum(sink.taken for _, sink in many) / one[1].taken
    assert 0.9 < ratio < 1.1


async def test_who_is_alone_gets_the_whole_line(autojump_clock: trio.testing.MockClock) -> None:
    async with traffic("8Mbit") as line, trio.open_nursery() as nursery:
        made, sink = passage(line, ALICE)
        nursery.start_soon(send_always, made)
        await trio.sleep(60)
        nursery.cancel_scope.cancel()
    assert sink.taken > 0.98 * 60 * 8 * MBIT


async def test_requests_and_audits_never_wait(autojump_clock: trio.testing.MockClock) -> None:
    async with traffic("1Mbit") as line, trio.open_nursery() as nursery:
        for _ in range(16):
            nursery.start_soon(send_always, passage(line, ALICE)[0])
        await trio.sleep(1)
        control, _ = passage(line, ALICE, shards=False)
        before = trio.current_time()
        for _ in range(100):
            await control.send_all(bytes(MIB))
            await control.receive_into(bytearray(MIB))
        assert trio.current_time() == before
        nursery.cancel_scope.cancel()


async def test_limit_follows_the_schedule_and_a_new_one_holds_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with traffic("8Mbit/16Mbit", "08:00-23:00", start=datetime(2026, 1, 1, 7, 59, 50)) as line:
        assert (line.sent.rate, line.received.rate) == (None, None)
        await trio.sleep(11)
        assert (line.sent.rate, line.received.rate) == (8 * MBIT, 16 * MBIT)
        line.configure(Limit.parse("1Mbit"), line.schedule)
        assert line.sent.rate == MBIT
    async with traffic("8Mbit", "08:00-23:00", start=datetime(2026, 1, 1, 22, 59, 50)) as line:
        assert line.sent.rate == 8 * MBIT
        await trio.sleep(11)
        assert line.sent.rate is None
        line.configure(Limit.parse("1Mbit"), ALWAYS)
        assert line.sent.rate == MBIT
        line.configure(None, ALWAYS)
        assert line.sent.rate is None


async def test_what_waits_goes_on_when_the_limit_goes(autojump_clock: trio.testing.MockClock) -> None:
    async with direction(MBIT) as line, trio.open_nursery() as nursery:
        await line.let_through(ALICE, 1000 * MBIT)  # a debt of 1000 s
        before = trio.current_time()

        async def more() -> None:
            await line.let_through(ALICE, CHUNK)

        for _ in range(5):
            nursery.start_soon(more)
        await trio.testing.wait_all_tasks_blocked()
        line.limit(None)
        nursery.start_soon(more)
    assert trio.current_time() == before


async def test_cancelled_receive_loses_nothing(autojump_clock: trio.testing.MockClock) -> None:
    async with traffic("1Mbit") as line:
        made, sink = passage(line, ALICE)
        got, buffer = 0, bytearray(MIB)
        for _ in range(200):
            with trio.move_on_after(0.05):
                got += await made.receive_into(buffer)
        assert got == sink.taken > 0


# --- turns ---


async def test_more_transfers_than_the_line_bears_wait_and_the_waiting_take_turns(
    autojump_clock: trio.testing.MockClock,
) -> None:
    order: list[NodeId] = []

    async def transfer(line: Direction, peer: NodeId) -> None:
        await line.enter(peer, MIB)
        order.append(peer)
        await trio.sleep(1)
        line.leave(peer)

    async with direction(4 * SHARE) as line, trio.open_nursery() as nursery:
        for _ in range(12):
            nursery.start_soon(transfer, line, ALICE)
        await trio.testing.wait_all_tasks_blocked()
        assert (line.under_way, line.waiting) == (4, 8)
        for _ in range(3):
            nursery.start_soon(transfer, line, BOB)
        await trio.testing.wait_all_tasks_blocked()
        # His first does not wait for hers, however slow they are.
        assert (line.under_way, line.waiting) == (5, 10)
    assert (line.under_way, line.waiting) == (0, 0)
    # Nor did his others wait behind all of hers.
    assert [index for index, peer in enumerate(order) if peer == BOB][-1] <= 8


async def test_cancelled_while_waiting_no_turn_is_lost(autojump_clock: trio.testing.MockClock) -> None:
    async with direction(MBIT) as line:
        await line.enter(ALICE, 1)
        await line.enter(ALICE, 1)
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(line.enter, ALICE, 1)
            await trio.testing.wait_all_tasks_blocked()
            assert line.waiting == 3
            nursery.cancel_scope.cancel()
        assert (line.under_way, line.waiting) == (2, 0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(line.enter, ALICE, 1)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
            line.leave(ALICE)  # the turn goes to one that is cancelled and has not noticed yet
        assert line.under_way == 1


async def test_get_that_waits_too_long_is_told_to_read_elsewhere(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with traffic("1Mbit") as line:
        for _ in range(2):
            await passage(line, ALICE)[0].take_turn(MIB)
        before = trio.current_time()
        late, _ = passage(line, ALICE)
        with pytest.raises(RequestFailed) as refusal:
            await late.take_turn(MIB)
        assert refusal.value.code == ErrorCode.BUSY
        assert trio.current_time() - before == PATIENCE
        late.end_turn()
        assert (line.sent.under_way, line.sent.waiting) == (2, 0)


async def test_turn_lasts_until_all_is_sent_though_the_connection_is_read_from_meanwhile(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with traffic(None) as line:
        made, _ = passage(line, ALICE)
        await made.take_turn(MIB)
        await made.receive_into(bytearray(10))
        await made.send_all(bytes(20))
        await made.send_all(bytes(MIB // 2))
        assert line.sent.under_way == 1
        await made.send_all(bytes(MIB // 2))
        assert line.sent.under_way == 0
        await line.idle()


async def test_requests_sent_ahead_take_one_turn_at_a_time(tmp_path: Path, ledger: Ledger) -> None:
    """Without a wait for the answers between them, so that the farmer reads several at once."""
    async with (
        farming(tmp_path, limit=Limit.parse("100Mbit"), egress_price=0) as farmer,
        renting(ledger, farmer.node_id, farmer.listening[0]) as renter,
    ):
        await renter.agree()
        shard = await renter.put(8192)
        frames = renter.peer._data._idle[-1]
        header = Get(renter.contract_id, shard.shard_id, 0, 8192)
        await frames.send(b"".join(encode_request(number, header) for number in range(20)))
        for number in range(20):
            frame = await frames.receive_frame()
            assert frame is not None
            assert frame.id == number
            await frames.receive_exactly(memoryview(bytearray(8192)))
        assert farmer.traffic.sent.under_way <= 1
        await renter.get(shard)
        await farmer.drain(60)
        assert farmer.traffic.sent.under_way == 0


def test_meter_shows_what_was_lately() -> None:
    meter = Meter()
    for second in range(100):
        meter.add(600, second + 0.2)
        meter.add(400, second + 0.7)
    assert meter.total == 100_000
    assert 900 <= meter.rate(99.9) <= 1000
    assert meter.rate(200) == 0


# --- with real sockets ---


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    ledger = Ledger(tmp_path / "ledger.db")
    yield ledger
    ledger.close_file()


async def get_always(renter: Renter, shard: Shard, got: list[int]) -> None:
    while True:
        got.append(len(await renter.get(shard)))


async def test_real_renters_share_a_real_line_whatever_their_connections(
    tmp_path: Path, ledger: Ledger
) -> None:
    """One reads on fifteen connections at once, one on a single one: they get the same while both want."""
    limit = Limit.parse("40Mbit")
    async with farming(tmp_path, limit=limit, egress_price=0, connections_per_renter=30) as farmer:
        where = farmer.node_id, farmer.listening[0]
        async with AsyncExitStack() as stack:
            many = [await stack.enter_async_context(renting(ledger, *where, b"m" * 32)) for _ in range(5)]
            one = await stack.enter_async_context(renting(ledger, *where))
            shards = []
            for renter in (many[0], one):
                await renter.agree()
                shards.append(await renter.put(MIB // 2))
            for other in many:
                other.offer, other.contract = many[0].offer, many[0].contract
            from_many, from_one = list[int](), list[int]()
            began = trio.current_time()
            async with trio.open_nursery() as nursery:
                for number in range(15):
                    nursery.start_soon(get_always, many[number % 5], shards[0], from_many)
                while sum(from_one) < 10 * MIB:
                    from_one.append(len(await one.get(shards[1])))
                shares = sum(from_many), sum(from_one)
                took = trio.current_time() - began
                nursery.cancel_scope.cancel()
            assert 0.5 < shares[0] / shares[1] < 2.0, shares
            # What was got in part, and what the kernel takes at once, is little beside it.
            assert sum(shares) < 1.5 * limit.sent * took


async def test_without_a_limit_nothing_is_held_up(tmp_path: Path, ledger: Ledger) -> None:
    async with farming(tmp_path) as farmer, renting(ledger, farmer.node_id, farmer.listening[0]) as renter:
        await renter.agree()
        shard = await renter.put(4 * MIB)
        assert await renter.get(shard) == shard.data
        assert farmer.traffic.received.meter.total > 4 * MIB
        assert farmer.traffic.sent.meter.total > 4 * MIB
        assert farmer.traffic.received.under_way == 0
        assert {one.shards for one in farmer.traffic.passages} == {False, True}


async def test_farmer_that_drains_ends_what_is_under_way_and_begins_nothing(
    tmp_path: Path, ledger: Ledger
) -> None:
    limit = Limit.parse("8Mbit")
    async with (
        farming(tmp_path, limit=limit) as farmer,
        renting(ledger, farmer.node_id, farmer.listening[0]) as renter,
    ):
        await renter.agree()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(renter.put, 2 * MIB)
            while not farmer.shelf.arrivals:
                await trio.testing.wait_all_tasks_blocked(0.01)
            await farmer.drain(60)
            assert farmer.book.stored > 2 * MIB
        with pytest.raises(RequestFailed) as refusal:
            await renter.put(4096)
        assert refusal.value.code == ErrorCode.BUSY


async def test_connections_are_limited_in_all_and_for_each_renter(tmp_path: Path, ledger: Ledger) -> None:
    async with (
        farming(tmp_path, connections=4, connections_per_renter=3) as farmer,
        AsyncExitStack() as stack,
    ):
        where = farmer.node_id, farmer.listening[0]
        same = [await stack.enter_async_context(renting(ledger, *where, b"s" * 32)) for _ in range(4)]
        others = [await stack.enter_async_context(renting(ledger, *where)) for _ in range(2)]
        for one in (*same[:3], others[0]):
            await one.ask_offer()
            if one is same[2]:
                with pytest.raises(PeerUnreachable):
                    await same[3].ask_offer()
        with pytest.raises(PeerUnreachable):
            await others[1].ask_offer()
        assert len(farmer.traffic.passages) == 4
