"""Data connections: shards and ranges arrive whole or fail; broken connections are not used again."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from storjfs.network.data import serve_shards
from storjfs.network.failures import PeerUnreachable, RequestTimeout
from storjfs.network.frames import DATA_BUFFER, PATIENCE, FrameStream
from storjfs.network.peer import Peer
from storjfs.protocol.failures import ErrorCode, ProtocolViolation, RequestFailed
from storjfs.protocol.framing import encode_answer, encode_request
from storjfs.protocol.ids import ContractId, ShardId
from storjfs.protocol.messages import GetAnswer, GetOffer, HelloAnswer, Ping, Put, Role
from tests.network.farm import FARMER, RENTER, SOMETHING, Farmer, MemoryLine

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
