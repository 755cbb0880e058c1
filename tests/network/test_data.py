"""Data connections: shards and ranges arrive whole or fail; broken connections are not used again."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from storjfs.network.data import ShardSource, serve_shards
from storjfs.network.failures import PeerUnreachable, RequestTimeout
from storjfs.network.frames import DATA_BUFFER, PATIENCE, Buffer, FrameStream
from storjfs.network.guests import Budget, Guest, GuestLimits
from storjfs.network.peer import Peer
from storjfs.protocol.failures import ErrorCode, ProtocolViolation, RequestFailed
from storjfs.protocol.framing import MAX_DATA_FRAME, encode_answer, encode_request
from storjfs.protocol.ids import ContractId, NodeId, ShardId
from storjfs.protocol.messages import Get, GetAnswer, GetOffer, HelloAnswer, Ping, Put, PutAnswer, Role
from storjfs.protocol.priorities import Priority
from tests.network.farm import FARMER, RENTER, SOMETHING, Farmer, MemoryLine, every

CONTRACT = ContractId(bytes(32))
SHARD = ShardId(bytes(range(32)))
CONTENT = bytes(range(256)) * 1024


@asynccontextmanager
async def peering(farmer: Farmer, data_connections: int = 2) -> AsyncIterator[tuple[Peer, MemoryLine]]:
    async with trio.open_nursery() as nursery:
        line = MemoryLine(nursery, farmer)
        peer = Peer(RENTER, FARMER.node_id, (), connector=line, data_connections=data_connections)
        await nursery.start(peer.run)
        yield peer, line
        nursery.cancel_scope.cancel()


@given(st.binary(min_size=1, max_size=3 * DATA_BUFFER), st.data())
def test_what_was_put_is_got_in_any_range(content: bytes, data: st.DataObject) -> None:
    offset = data.draw(st.integers(0, len(content) - 1))
    length = data.draw(st.integers(1, len(content) - offset))

    async def main() -> None:
        async with peering(Farmer()) as (peer, line):
            assert await peer.put_shard(CONTRACT, SHARD, content) == SOMETHING
            buffer = bytearray(length)
            await peer.get_range(CONTRACT, SHARD, offset, buffer)
            assert buffer == content[offset : offset + length]
            assert line.dials == 1

    trio.run(main)


async def test_a_refused_shard_is_skipped_and_the_connection_kept() -> None:
    async with peering(Farmer(room=1000)) as (peer, line):
        with pytest.raises(RequestFailed) as caught:
            await peer.put_shard(CONTRACT, SHARD, CONTENT)
        assert caught.value.code is ErrorCode.NO_SPACE
        await peer.put_shard(CONTRACT, SHARD, CONTENT[:1000])
        with pytest.raises(RequestFailed):
            await peer.get_range(CONTRACT, ShardId(bytes(32)), 0, bytearray(1))
        assert line.dials == 1


async def test_transfers_beyond_the_pool_wait_their_turn() -> None:
    gate = trio.Event()
    farmer = Farmer({SHARD: CONTENT}, serving_get=gate.wait)
    async with peering(farmer) as (peer, line):
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(peer.get_range, CONTRACT, SHARD, 0, bytearray(100))
            await trio.testing.wait_all_tasks_blocked()
            assert line.dials == 2
            gate.set()
        assert line.dials == 2


async def test_a_cancelled_transfer_takes_its_connection_with_it() -> None:
    gate = trio.Event()
    farmer = Farmer({SHARD: CONTENT}, serving_get=gate.wait)
    async with peering(farmer, data_connections=1) as (peer, line):
        with trio.move_on_after(0.01) as scope:
            await peer.get_range(CONTRACT, SHARD, 0, bytearray(100))
        assert scope.cancelled_caught
        gate.set()
        buffer = bytearray(100)
        await peer.get_range(CONTRACT, SHARD, 50, buffer)
        assert buffer == CONTENT[50:150]
        assert line.dials == 2


async def test_a_farmer_that_does_not_move_is_a_timeout(autojump_clock: trio.testing.MockClock) -> None:
    farmer = Farmer({SHARD: CONTENT}, serving_get=trio.sleep_forever)
    async with peering(farmer) as (peer, _):
        with pytest.raises(RequestTimeout):
            await peer.get_range(CONTRACT, SHARD, 0, bytearray(100), timeout=3)
        assert trio.current_time() == pytest.approx(3)


async def test_connections_that_broke_unused_are_replaced_without_a_word() -> None:
    farmer = Farmer({SHARD: CONTENT})
    async with peering(farmer) as (peer, line):
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(peer.get_range, CONTRACT, SHARD, 0, bytearray(100))
        await line.cut()
        await peer.put_shard(CONTRACT, SHARD, CONTENT)
        assert line.dials == 3


async def test_a_line_cut_during_a_transfer_is_unreachable() -> None:
    farmer = Farmer({SHARD: CONTENT}, serving_get=trio.sleep_forever)
    async with peering(farmer) as (peer, line):
        async with trio.open_nursery() as nursery:

            async def fetch() -> None:
                with pytest.raises(PeerUnreachable):
                    await peer.get_range(CONTRACT, SHARD, 0, bytearray(100))

            nursery.start_soon(fetch)
            await trio.testing.wait_all_tasks_blocked()
            await line.cut()


async def test_a_bug_in_the_service_is_logged_and_told_as_internal(caplog: pytest.LogCaptureFixture) -> None:
    async def fail() -> None:
        raise ZeroDivisionError("a bug")

    with caplog.at_level(logging.ERROR):
        async with peering(Farmer({SHARD: CONTENT}, serving_get=fail)) as (peer, line):
            with pytest.raises(RequestFailed) as caught:
                await peer.get_range(CONTRACT, SHARD, 0, bytearray(100))
            assert caught.value.code is ErrorCode.INTERNAL
            with pytest.raises(RequestFailed):  # fewer bytes than were asked for
                await peer.get_range(CONTRACT, SHARD, len(CONTENT) - 1, bytearray(2))
            assert line.dials == 1
    assert "a bug" in caplog.text


async def serve_raw(data: bytes, then_close: bool = True) -> BaseException | None:
    """How `serve_shards` ends on these bytes."""
    ours, theirs = trio.testing.memory_stream_pair()
    await ours.send_all(data)
    if then_close:
        await ours.aclose()
    try:
        await serve_shards(FrameStream(theirs, DATA_BUFFER), RENTER.node_id, Farmer())
    except (ProtocolViolation, RequestFailed, trio.BrokenResourceError) as error:
        return error
    return None


PUT = encode_request(0, Put(CONTRACT, SHARD, 1000))


@pytest.mark.parametrize(
    "data",
    [PUT, PUT + bytes(999), encode_request(0, Ping()), encode_request(0, GetOffer()), PUT[:-1], b"\xff" * 4],
    ids=["nothing follows", "too little follows", "ping", "offer", "cut header", "huge"],
)
async def test_nonsense_ends_the_connection(data: bytes) -> None:
    assert isinstance(await serve_raw(data), ProtocolViolation)


async def test_an_upload_that_stalls_is_cut_off(autojump_clock: trio.testing.MockClock) -> None:
    assert isinstance(await serve_raw(PUT + bytes(10), then_close=False), ProtocolViolation)
    assert trio.current_time() == pytest.approx(PATIENCE.stall)


async def test_an_upload_a_byte_at_a_time_is_cut_off(autojump_clock: trio.testing.MockClock) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:

        async def dribble() -> None:
            with suppress(trio.BrokenResourceError):
                await ours.send_all(PUT)
                async for _ in every(9):
                    await ours.send_all(b"x")

        nursery.start_soon(dribble)
        with pytest.raises(ProtocolViolation, match="slowly"):
            await serve_shards(FrameStream(theirs, DATA_BUFFER), RENTER.node_id, Farmer())
        assert trio.current_time() <= PATIENCE.for_shard(1000) + 1
        nursery.cancel_scope.cancel()


async def test_a_farmer_that_takes_its_time_is_not_the_uploads_fault(
    autojump_clock: trio.testing.MockClock,
) -> None:
    class SlowFarmer(Farmer):
        async def put(self, peer: NodeId, header: Put, source: ShardSource) -> PutAnswer:
            for _ in range(10):
                await source.receive_exactly(memoryview(bytearray(100)))
                await trio.sleep(20)
            return PutAnswer(SOMETHING)

    async with peering(SlowFarmer()) as (peer, _):
        assert await peer.put_shard(CONTRACT, SHARD, CONTENT[:1000], timeout=1000) == SOMETHING
    assert trio.current_time() > PATIENCE.for_shard(1000)


async def test_a_header_a_byte_at_a_time_is_cut_off(autojump_clock: trio.testing.MockClock) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:

        async def dribble() -> None:
            with suppress(trio.BrokenResourceError):
                for byte in PUT:
                    await ours.send_all(bytes([byte]))
                    await trio.sleep(9)

        nursery.start_soon(dribble)
        with pytest.raises(ProtocolViolation, match="slowly"):
            await serve_shards(FrameStream(theirs, DATA_BUFFER), RENTER.node_id, Farmer())
        nursery.cancel_scope.cancel()
    assert trio.current_time() <= PATIENCE.for_frame(1000) + 9


async def test_who_reads_a_range_too_slowly_is_cut_off(autojump_clock: trio.testing.MockClock) -> None:
    ours, theirs = trio.testing.lockstep_stream_pair()
    guest = Guest()
    async with trio.open_nursery() as nursery:

        async def sip() -> None:
            await ours.send_all(encode_request(0, Get(CONTRACT, SHARD, 0, len(CONTENT))))
            async for _ in every(9):
                await ours.receive_some(1)

        nursery.start_soon(sip)
        with pytest.raises(ProtocolViolation, match="reads too slowly"):
            await serve_shards(
                FrameStream(theirs, DATA_BUFFER), RENTER.node_id, Farmer({SHARD: CONTENT}), guest
            )
        nursery.cancel_scope.cancel()
    assert trio.current_time() <= PATIENCE.for_shard(2 * len(CONTENT))
    assert guest.sending_bytes == 0


async def test_a_large_header_is_refused_by_its_length() -> None:
    assert isinstance(await serve_raw((MAX_DATA_FRAME + 1).to_bytes(4, "big")), ProtocolViolation)


async def test_a_cancelled_get_is_cancelled_at_the_farmer() -> None:
    working, cancelled = trio.Event(), trio.Event()

    async def work() -> None:
        try:
            working.set()
            await trio.sleep_forever()
        finally:
            cancelled.set()

    async with peering(Farmer({SHARD: CONTENT}, serving_get=work)) as (peer, _):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(peer.get_range, CONTRACT, SHARD, 0, bytearray(100))
                await working.wait()
                scope.cancel()
        await cancelled.wait()


async def test_reads_find_a_connection_free_of_uploads() -> None:
    gate = trio.Event()

    class BusyFarmer(Farmer):
        async def put(self, peer: NodeId, header: Put, source: ShardSource) -> PutAnswer:
            await gate.wait()
            return await super().put(peer, header, source)

    async with peering(BusyFarmer({SHARD: CONTENT}), data_connections=3) as (peer, line):
        async with trio.open_nursery() as nursery:
            for number in range(6):
                nursery.start_soon(peer.put_shard, CONTRACT, ShardId(bytes([number] * 32)), CONTENT)
            await trio.testing.wait_all_tasks_blocked()
            buffer = bytearray(100)
            await peer.get_range(CONTRACT, SHARD, 0, buffer)
            assert buffer == CONTENT[:100]
            assert line.dials == 3
            gate.set()


async def test_reads_go_before_audits_before_uploads() -> None:
    gate, order = trio.Event(), list[str]()

    class NotingFarmer(Farmer):
        async def put(self, peer: NodeId, header: Put, source: ShardSource) -> PutAnswer:
            order.append("upload")
            return await super().put(peer, header, source)

        async def get(self, peer: NodeId, header: Get) -> Buffer:
            order.append("read" if header.length == 1 else "audit" if header.length == 2 else "first")
            await gate.wait()
            return await super().get(peer, header)

    async def get(peer: Peer, length: int, priority: Priority) -> None:
        await peer.get_range(CONTRACT, SHARD, 0, bytearray(length), priority=priority)

    async with peering(NotingFarmer({SHARD: CONTENT}), data_connections=1) as (peer, _):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(get, peer, 3, Priority.READ)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(peer.put_shard, CONTRACT, ShardId(bytes(32)), b"x")
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(get, peer, 2, Priority.AUDIT)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(get, peer, 1, Priority.READ)
            await trio.testing.wait_all_tasks_blocked()
            gate.set()
    assert order == ["first", "read", "audit", "upload"]


async def test_what_is_read_and_not_sent_yet_is_bounded_per_peer_and_in_all() -> None:
    held: list[Budget] = []
    most = {"guest": 0, "all": 0}

    class WatchedFarmer(Farmer):
        async def get(self, peer: NodeId, header: Get) -> Buffer:
            most["guest"] = max(most["guest"], *(guest.sending_bytes for guest in guests))
            most["all"] = max(most["all"], held[0].used)
            await trio.lowlevel.checkpoint()
            return await super().get(peer, header)

    held.append(Budget(500))
    guests = [Guest(GuestLimits(sending_bytes=300), held[0]) for _ in range(3)]
    farmer = WatchedFarmer({SHARD: CONTENT})
    async with trio.open_nursery() as nursery:

        async def fetch(guest: Guest) -> None:
            ours, theirs = trio.testing.memory_stream_pair()
            frames = FrameStream(ours, DATA_BUFFER)

            async def serve() -> None:
                await serve_shards(FrameStream(theirs, DATA_BUFFER), RENTER.node_id, farmer, guest)

            nursery.start_soon(serve)
            for _ in range(5):
                await frames.send(encode_request(0, Get(CONTRACT, SHARD, 0, 100)))
                assert await frames.receive_frame()
                await frames.receive_exactly(memoryview(bytearray(100)))
            await frames.aclose()

        for guest in guests:
            for _ in range(5):
                nursery.start_soon(fetch, guest)
    assert 100 < most["guest"] <= 300
    assert 300 < most["all"] <= 500
    assert held[0].used == 0


async def test_a_range_larger_than_all_that_may_be_sent_at_once_is_sent_alone() -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    frames, guest = FrameStream(ours, DATA_BUFFER), Guest(GuestLimits(sending_bytes=10), Budget(20))
    await frames.send(encode_request(0, Get(CONTRACT, SHARD, 0, 100)))
    async with trio.open_nursery() as nursery:

        async def serve() -> None:
            await serve_shards(
                FrameStream(theirs, DATA_BUFFER), RENTER.node_id, Farmer({SHARD: CONTENT}), guest
            )

        nursery.start_soon(serve)
        assert await frames.receive_frame()
        await frames.receive_exactly(memoryview(bytearray(100)))
        await frames.aclose()


async def test_transfers_have_a_rate(autojump_clock: trio.testing.MockClock) -> None:
    guest = Guest(GuestLimits(transfers=10, transfer_burst=10))
    ours, theirs = trio.testing.memory_stream_pair()
    await ours.send_all(encode_request(0, Get(CONTRACT, SHARD, 0, 1)) * 30)
    await ours.send_stream.aclose()
    await serve_shards(FrameStream(theirs, DATA_BUFFER), RENTER.node_id, Farmer(), guest)
    assert trio.current_time() == pytest.approx(2, abs=0.2)


async def test_an_idle_connection_is_closed_in_the_end(autojump_clock: trio.testing.MockClock) -> None:
    assert await serve_raw(b"", then_close=False) is None


@given(st.binary(max_size=200))
def test_whatever_comes_ends_the_connection_in_order(data: bytes) -> None:
    async def main() -> None:
        await serve_raw(len(data).to_bytes(4, "big") + data)

    trio.run(main)


@pytest.mark.parametrize("claimed", [99, 101])
async def test_a_farmer_that_sends_another_length_breaks_the_protocol(claimed: int) -> None:
    ours, theirs = trio.testing.memory_stream_pair()

    async def connect(*_: object) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        return ours

    async with trio.open_nursery() as nursery:
        peer = Peer(RENTER, FARMER.node_id, (), connector=connect)
        await nursery.start(peer.run)

        async def lie() -> None:
            frames = FrameStream(theirs)
            assert await frames.receive_frame()
            await frames.send(encode_answer(0, HelloAnswer(1, Role.FARMER)))
            assert await frames.receive_frame()
            await frames.send(encode_answer(0, GetAnswer(claimed)) + bytes(claimed))

        nursery.start_soon(lie)
        with pytest.raises(ProtocolViolation):
            await peer.get_range(CONTRACT, SHARD, 0, bytearray(100))
        nursery.cancel_scope.cancel()
