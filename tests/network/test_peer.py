"""A peer connects when needed, again after losses, and not too often."""

import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import trio
import trio.testing
from msgspec import Struct

from storjfs.network.control import Handler, refuse_all
from storjfs.network.failures import PeerUnreachable
from storjfs.network.frames import PATIENCE, FrameStream
from storjfs.network.peer import LONGEST_ABSENCE, LONGEST_BACKOFF, Backoff, Peer
from storjfs.network.service import serve_peer
from storjfs.protocol.failures import ErrorCode, ProtocolViolation, RequestFailed
from storjfs.protocol.framing import encode_answer, encode_request, open_answer
from storjfs.protocol.greeting import HIGHEST
from storjfs.protocol.ids import ContractId, ShardId
from storjfs.protocol.messages import (
    CANCEL_CAPABILITY,
    End,
    GetOffer,
    Hello,
    HelloAnswer,
    OfferAnswer,
    Ping,
    Purpose,
    Request,
    Role,
)
from storjfs.protocol.signing import Signed
from storjfs.protocol.terms import Address
from tests.network.farm import FARMER, RENTER, SOMETHING, STRANGER, Farmer, MemoryLine, MiB, listening

CONTRACT = ContractId(bytes(32))
SHARD = ShardId(bytes(range(32)))


@asynccontextmanager
async def peering(
    farmer: Farmer,
    handler: Handler = refuse_all,
    vouchers: Callable[[], Sequence[Signed]] = tuple,
    greeted: Callable[[HelloAnswer], None] | None = None,
) -> AsyncIterator[tuple[Peer, MemoryLine]]:
    async with trio.open_nursery() as nursery:
        line = MemoryLine(nursery, farmer)
        peer = Peer(
            RENTER,
            FARMER.node_id,
            (),
            connector=line,
            handler=handler,
            vouchers=vouchers,
            greeted=greeted,
            source=random.Random(1),
        )
        await nursery.start(peer.run)
        yield peer, line
        nursery.cancel_scope.cancel()


async def test_it_connects_at_the_first_request_and_once() -> None:
    async with peering(Farmer()) as (peer, line):
        assert (line.dials, peer.connected) == (0, False)
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(peer.request, GetOffer())
        assert (line.dials, peer.connected) == (1, True)


async def test_the_hello_carries_the_newest_vouchers_and_the_answer_is_handed_on() -> None:
    farmer, answers = Farmer(), list[HelloAnswer]()
    async with peering(farmer, vouchers=lambda: [SOMETHING], greeted=answers.append) as (peer, _):
        await peer.request(GetOffer())
        await peer.put_shard(CONTRACT, SHARD, b"x")
    assert [(hello.purpose, hello.vouchers) for hello in farmer.hellos] == [
        (Purpose.CONTROL, (SOMETHING,)),
        (Purpose.DATA, ()),
    ]
    assert [answer.role for answer in answers] == [Role.FARMER]


async def test_a_farmer_can_ask_too() -> None:
    async def agree(request: Request[Any]) -> Struct:
        assert isinstance(request, End)
        raise RequestFailed(ErrorCode.CONFLICT, request.reason)

    farmer = Farmer()
    async with peering(farmer, agree) as (peer, _):
        await peer.request(GetOffer())
        with pytest.raises(RequestFailed, match="moving house"):
            await farmer.control[0].request(End(CONTRACT, "moving house"))
    assert not farmer.control


async def test_a_lost_connection_is_made_again_unnoticed() -> None:
    async with peering(Farmer()) as (peer, line):
        await peer.request(GetOffer())
        await line.cut()
        assert await peer.request(GetOffer()) == OfferAnswer(SOMETHING)
        peer.disconnect()
        assert await peer.request(GetOffer()) == OfferAnswer(SOMETHING)


async def test_a_request_whose_connection_dies_is_sent_once_more() -> None:
    asked = 0

    async def die_first(request: Request[Any]) -> Struct:
        nonlocal asked
        asked += 1
        if asked == 2:
            await line.cut()
            await trio.sleep_forever()
        return OfferAnswer(SOMETHING)

    async with peering(Farmer(answering=die_first)) as (peer, line):
        await peer.request(GetOffer())
        assert await peer.request(GetOffer()) == OfferAnswer(SOMETHING)
    assert asked == 3


async def test_after_a_failure_calls_fail_at_once_until_the_next_attempt(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with peering(Farmer()) as (peer, line):
        line.up = False
        with pytest.raises(PeerUnreachable):
            await peer.request(GetOffer())
        with pytest.raises(PeerUnreachable) as caught:
            await peer.put_shard(CONTRACT, SHARD, b"x")
        assert line.dials == 1
        assert 0.1 < caught.value.retry_after <= 0.25
        line.up = True
        await trio.sleep(caught.value.retry_after)
        assert await peer.request(GetOffer()) == OfferAnswer(SOMETHING)


async def test_new_addresses_are_tried_at_once(autojump_clock: trio.testing.MockClock) -> None:
    async with peering(Farmer()) as (peer, line):
        line.up = False
        with pytest.raises(PeerUnreachable):
            await peer.request(GetOffer())
        line.up = True
        peer.addresses = [Address("127.0.0.1", 4007)]
        assert await peer.request(GetOffer()) == OfferAnswer(SOMETHING)


async def test_an_answer_to_the_hello_that_is_not_accepted_ends_the_attempt() -> None:
    def reject(answer: HelloAnswer) -> None:
        raise ProtocolViolation("not what was agreed")

    farmer = Farmer()
    async with peering(farmer, greeted=reject) as (peer, _):
        with pytest.raises(ProtocolViolation):
            await peer.request(GetOffer())
        await trio.testing.wait_all_tasks_blocked()
        assert not farmer.control


def test_delays_double_vary_and_stay_bounded() -> None:
    backoff, delays = Backoff(random.Random(3)), []
    for _ in range(20):
        backoff.failed(100.0)
        delays.append(backoff.until - 100)
    assert delays[0] <= 0.25
    assert all(LONGEST_BACKOFF / 2 <= delay <= LONGEST_BACKOFF for delay in delays[9:])
    assert len(set(delays)) == 20
    backoff.reset()
    assert backoff.until == 0


async def test_a_farmer_that_is_back_is_noticed_in_a_few_seconds_however_long_it_was_away(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with peering(Farmer()) as (peer, line):
        line.up = False
        with trio.move_on_after(3600):
            while True:
                with pytest.raises(PeerUnreachable):
                    await peer.request(GetOffer())
                await trio.sleep(1)
        line.up = True
        with trio.fail_after(LONGEST_ABSENCE + 1):
            while True:
                try:
                    await peer.request(GetOffer())
                    break
                except PeerUnreachable as error:
                    await trio.sleep(error.retry_after)


async def test_a_farmer_that_greets_and_hangs_up_is_dialled_ever_more_seldom(
    autojump_clock: trio.testing.MockClock,
) -> None:
    farmer = Farmer()

    async def hang_up(request: Request[Any]) -> Struct:
        await line.cut()
        raise RequestFailed(ErrorCode.INTERNAL)

    async with peering(farmer) as (peer, line):
        farmer.answering = hang_up
        with trio.move_on_after(60):
            while True:
                with suppress(PeerUnreachable):
                    await peer.request(GetOffer())
                await trio.sleep(0.1)
        # After a quarter of a second, a half, one, two, ... less up to half of each.
        assert line.dials <= 12
        farmer.answering = None
        with trio.fail_after(2 * LONGEST_BACKOFF):
            while not peer.connected:
                with suppress(PeerUnreachable):
                    await peer.request(GetOffer())
                await trio.sleep(0.1)


async def test_a_peer_that_does_not_run_is_unreachable() -> None:
    async with trio.open_nursery() as nursery:
        peer = Peer(RENTER, FARMER.node_id, (), connector=MemoryLine(nursery, Farmer()))
        with pytest.raises(PeerUnreachable):
            await peer.request(GetOffer())


@pytest.mark.parametrize(("low", "high"), [(0, 0), (2, 9)])
async def test_another_version_is_refused_in_words(low: int, high: int) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    frames = FrameStream(ours)
    hello = Hello(Purpose.CONTROL, Role.RENTER, low, high)
    await frames.send(encode_request(0, hello))
    await serve_peer(theirs, RENTER.node_id, Farmer())
    frame = await frames.receive_frame()
    assert frame is not None
    with pytest.raises(RequestFailed, match="version 1") as caught:
        open_answer(frame, hello)
    assert caught.value.code is ErrorCode.UNSUPPORTED


@pytest.mark.parametrize(
    "answer",
    [
        HelloAnswer(0, Role.FARMER),
        HelloAnswer(2, Role.FARMER, version_max=2),
    ],
    ids=["lower", "higher"],
)
async def test_an_answer_with_a_version_that_was_not_offered_is_refused(answer: HelloAnswer) -> None:
    async def connect(*_: object) -> trio.abc.Stream:
        ours, theirs = trio.testing.memory_stream_pair()
        await theirs.send_all(encode_answer(0, answer))
        return ours

    async with trio.open_nursery() as nursery:
        peer = Peer(RENTER, FARMER.node_id, (), connector=connect)
        await nursery.start(peer.run)
        with pytest.raises(ProtocolViolation, match="version"):
            await peer.request(GetOffer())
        nursery.cancel_scope.cancel()


async def test_both_sides_learn_that_the_other_understands_cancels() -> None:
    farmer, answers = Farmer(), list[HelloAnswer]()
    async with peering(farmer, greeted=answers.append) as (peer, _):
        await peer.request(GetOffer())
    assert CANCEL_CAPABILITY in answers[0].capabilities
    assert answers[0].version == answers[0].version_max == HIGHEST
    assert CANCEL_CAPABILITY in farmer.hellos[0].capabilities


async def test_a_connection_begins_with_a_hello_or_ends() -> None:
    for data in (encode_request(0, Ping()), (1 << 20).to_bytes(4, "big")):
        ours, theirs = trio.testing.memory_stream_pair()
        await ours.send_all(data)
        with pytest.raises(ProtocolViolation):
            await serve_peer(theirs, RENTER.node_id, Farmer())


async def test_a_silent_caller_is_dropped(autojump_clock: trio.testing.MockClock) -> None:
    _ours, theirs = trio.testing.memory_stream_pair()
    await serve_peer(theirs, RENTER.node_id, Farmer())
    assert trio.current_time() == pytest.approx(PATIENCE.hello)


async def test_over_tls_requests_and_shards_of_two_renters() -> None:
    farmer, content = Farmer(), bytes(range(256)) * (4 * MiB // 256)
    async with listening(farmer) as address, trio.open_nursery() as nursery:
        for identity in (RENTER, STRANGER):
            peer = Peer(identity, FARMER.node_id, [address])
            await nursery.start(peer.run)
            shard_id = ShardId(identity.node_id)
            assert await peer.request(GetOffer()) == OfferAnswer(SOMETHING)
            async with trio.open_nursery() as puts:
                puts.start_soon(peer.put_shard, CONTRACT, shard_id, content)
                puts.start_soon(peer.put_shard, CONTRACT, SHARD, memoryview(content)[:100_001])
            buffer = bytearray(MiB)
            await peer.get_range(CONTRACT, shard_id, MiB + 7, buffer)
            assert buffer == content[MiB + 7 : 2 * MiB + 7]
        assert farmer.shards[SHARD] == content[:100_001]
        nursery.cancel_scope.cancel()


async def test_a_hundred_mebibytes_cross_the_loopback_in_reasonable_time() -> None:
    farmer, content = Farmer(), bytes(4 * MiB)
    async with listening(farmer) as address, trio.open_nursery() as nursery:
        peer = Peer(RENTER, FARMER.node_id, [address])
        await nursery.start(peer.run)
        with trio.fail_after(20):  # 5 MB/s: an order of magnitude under what a busy machine manages
            async with trio.open_nursery() as puts:
                for number in range(25):
                    puts.start_soon(peer.put_shard, CONTRACT, ShardId(number.to_bytes(32, "big")), content)
        assert len(farmer.shards) == 25
        nursery.cancel_scope.cancel()


async def test_the_address_that_worked_is_dialled_first_from_then_on() -> None:
    """A silent one would cost seconds of each dial."""
    farmer = Farmer()
    dialled: list[Address] = []

    async def hang_up(stream: trio.SocketStream) -> None:
        dialled.append(Address("dead", 1))
        await stream.aclose()

    async with listening(farmer) as address, trio.open_nursery() as nursery:
        (dead,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, hang_up, [dead])
        peer = Peer(RENTER, FARMER.node_id, [Address(*dead.socket.getsockname()[:2]), address])
        await nursery.start(peer.run)
        await peer.request(Ping())
        await peer.put_shard(CONTRACT, SHARD, b"x")
        assert len(dialled) == 1
        nursery.cancel_scope.cancel()
