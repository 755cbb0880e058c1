"""What is withdrawn, what goes first, and how much one side bears of the other."""

from contextlib import suppress
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing
from msgspec import Struct

from storjfs.network.control import ControlConnection
from storjfs.network.failures import PeerUnreachable, RequestTimeout
from storjfs.network.frames import PATIENCE, FrameStream
from storjfs.network.guests import Guest, GuestLimits
from storjfs.protocol.failures import ErrorCode, ProtocolViolation, RequestFailed
from storjfs.protocol.framing import MAX_REQUEST, encode_answer, encode_request, open_request
from storjfs.protocol.ids import ContractId
from storjfs.protocol.messages import (
    Audit,
    Delete,
    Done,
    End,
    GetContract,
    GetOffer,
    OfferAnswer,
    Ping,
    Request,
)
from tests.network.farm import SOMETHING, every
from tests.network.lines import connected, facing_raw_bytes, give_offer

CONTRACT = ContractId(bytes(32))


async def test_a_cancelled_request_is_cancelled_on_the_other_side() -> None:
    working, cancelled = trio.Event(), trio.Event()

    async def work(request: Request[Any]) -> Struct:
        if isinstance(request, GetOffer):
            try:
                working.set()
                await trio.sleep_forever()
            finally:
                cancelled.set()
        return Done()

    async with connected(theirs=work) as (one, other):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(one.request, GetOffer())
                await working.wait()
                scope.cancel()
        await cancelled.wait()
        await trio.testing.wait_all_tasks_blocked()
        assert not other._serving
        assert one._conversation.asked == other._conversation.open == 0
        assert not one.closed
        assert not other.closed


async def test_a_late_request_is_cancelled_on_the_other_side(autojump_clock: trio.testing.MockClock) -> None:
    ended: list[float] = []

    async def late(request: Request[Any]) -> Struct:
        if isinstance(request, Ping):
            return Done()
        try:
            await trio.sleep(1000)
        finally:
            ended.append(trio.current_time())
        raise AssertionError

    async with connected(theirs=late) as (one, _):
        with pytest.raises(RequestTimeout):
            await one.request(GetOffer(), timeout=3)
        await trio.testing.wait_all_tasks_blocked()
        assert ended == [pytest.approx(3)]


async def test_a_request_that_waits_for_its_turn_is_cancelled_too() -> None:
    gate = trio.Event()
    served = 0

    async def wait(request: Request[Any]) -> Struct:
        nonlocal served
        served += 1
        await gate.wait()
        return OfferAnswer(SOMETHING)

    async with connected(theirs=wait, their_guest=Guest(GuestLimits(answering=1))) as (one, _):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.request, GetOffer())
            await trio.testing.wait_all_tasks_blocked()
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as inner:
                    inner.start_soon(one.request, GetOffer())
                    await trio.testing.wait_all_tasks_blocked()
                    scope.cancel()
            await trio.testing.wait_all_tasks_blocked()
            gate.set()
        assert one._conversation.asked == 0
    assert served == 1


async def test_an_older_side_is_sent_no_cancels() -> None:
    async with facing_raw_bytes(cancels=False) as (connection, raw, _):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(connection.request, GetOffer())
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
        frame = await raw.receive_frame()
        assert frame is not None
        assert open_request(frame) == GetOffer()
        await raw.send(encode_answer(frame.id, OfferAnswer(SOMETHING)))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.request, Ping())
            frame = await raw.receive_frame()
            assert frame is not None
            assert open_request(frame) == Ping()
            await raw.send(encode_answer(frame.id, Done()))


async def test_small_requests_are_served_before_audits_and_audits_before_deletions() -> None:
    gate, order = trio.Event(), list[str]()

    async def serve(request: Request[Any]) -> Struct:
        order.append(type(request).__name__)
        await gate.wait()
        raise RequestFailed(ErrorCode.UNKNOWN_CONTRACT)

    async def ask(connection: ControlConnection, request: Request[Any]) -> None:
        with pytest.raises(RequestFailed):
            await connection.request(request)

    async with connected(theirs=serve, their_guest=Guest(GuestLimits(answering=1))) as (one, _):
        async with trio.open_nursery() as nursery:
            for request in (Delete(SOMETHING), Delete(SOMETHING), Audit(SOMETHING), GetContract(CONTRACT)):
                nursery.start_soon(ask, one, request)
                await trio.testing.wait_all_tasks_blocked()
            gate.set()
    assert order == ["Delete", "GetContract", "Audit", "Delete"]


async def test_who_asks_too_often_is_answered_at_the_rate_it_has(
    autojump_clock: trio.testing.MockClock,
) -> None:
    guest = Guest(GuestLimits(requests=10, request_burst=20))
    async with connected(their_guest=guest) as (one, _):
        async with trio.open_nursery() as nursery:
            for _ in range(120):
                nursery.start_soon(partial(one.request, GetOffer(), timeout=60))
    assert trio.current_time() == pytest.approx(10, abs=0.5)


async def test_requests_of_one_peer_take_bounded_memory(autojump_clock: trio.testing.MockClock) -> None:
    guest = Guest(GuestLimits(request_bytes=3000))
    most = 0

    async def watch(request: Request[Any]) -> Struct:
        nonlocal most
        most = max(most, guest.request_bytes.used)
        await trio.sleep(1)
        return Done()

    order = Delete(SOMETHING.__class__(bytes(1000), SOMETHING.signature))
    async with connected(theirs=watch, their_guest=guest) as (one, _):
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(ignore_answer, one, order)
    assert 1000 < most <= 3000
    assert guest.request_bytes.used == 0


async def ignore_answer(connection: ControlConnection, request: Request[Any]) -> None:
    with suppress(ProtocolViolation, PeerUnreachable, RequestFailed):
        await connection.request(request, timeout=600)


async def test_who_reads_too_slowly_is_cut_off_though_it_keeps_talking(
    autojump_clock: trio.testing.MockClock,
) -> None:
    a, b = trio.testing.lockstep_stream_pair()
    connection = ControlConnection(FrameStream(a), give_offer)
    async with trio.open_nursery() as nursery:
        ended = trio.Event()

        async def run() -> None:
            await connection.run()
            ended.set()

        async def talk() -> None:
            with suppress(trio.BrokenResourceError):
                async for _ in every(9):
                    await b.send_all(encode_request(0, Ping()))

        async def read() -> None:
            async for _ in every(9):
                await b.receive_some(1)

        nursery.start_soon(run)
        nursery.start_soon(talk)
        nursery.start_soon(read)
        with trio.fail_after(PATIENCE.for_frame(100) + 20):
            await ended.wait()
        nursery.cancel_scope.cancel()


async def test_a_frame_that_comes_a_byte_at_a_time_is_cut_off(autojump_clock: trio.testing.MockClock) -> None:
    async with facing_raw_bytes() as (connection, raw, ended):
        with suppress(trio.BrokenResourceError):
            for byte in encode_request(0, End(CONTRACT, "x" * 200)):
                await raw.send(bytes([byte]))
                await trio.sleep(9)
        assert connection.closed
        assert isinstance(ended[0], ProtocolViolation)
        assert trio.current_time() <= PATIENCE.for_frame(300) + 9


async def test_a_large_frame_is_taken_in_only_where_it_answers_something() -> None:
    async with facing_raw_bytes() as (connection, raw, ended):
        await raw.send((MAX_REQUEST + 1).to_bytes(4, "big"))
        await trio.testing.wait_all_tasks_blocked()
        assert connection.closed
        assert isinstance(ended[0], ProtocolViolation)


async def test_a_flood_of_frames_lets_others_run() -> None:
    count = most = 0

    async def answer(request: Request[Any]) -> Struct:
        nonlocal count
        count += 1
        return OfferAnswer(SOMETHING)

    a, b = trio.testing.memory_stream_pair()
    guest = Guest(GuestLimits(answering=1000))
    connection = ControlConnection(FrameStream(a), answer, guest=guest)
    async with trio.open_nursery() as nursery:
        await nursery.start(connection.run)
        await b.send_all(b"".join(encode_request(number, GetOffer()) for number in range(200)))
        for _ in range(1000):
            before = count
            await trio.lowlevel.checkpoint()
            most = max(most, count - before)
        assert count == 200
        nursery.cancel_scope.cancel()
    assert most <= 64
