"""Control connections: many requests at once both ways, and neither side can exhaust the other."""

import logging
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct

from storjfs.network.control import ControlConnection, ControlLimits
from storjfs.network.failures import PeerUnreachable, RequestTimeout
from storjfs.network.frames import FrameStream
from storjfs.protocol.failures import BadSignature, ErrorCode, ProtocolViolation, RequestFailed
from storjfs.protocol.framing import MAX_FRAME, encode_answer, encode_request, open_request
from storjfs.protocol.ids import ContractId
from storjfs.protocol.messages import (
    Done,
    End,
    GetContract,
    GetOffer,
    Hello,
    OfferAnswer,
    Ping,
    Purpose,
    Request,
    Role,
)
from tests.network.farm import SOMETHING, MiB
from tests.network.lines import connected, facing_raw_bytes, give_offer

CONTRACT = ContractId(bytes(32))


async def test_requests_are_answered_both_ways() -> None:
    async with connected(give_offer, give_offer) as (one, other):
        assert await one.request(GetOffer()) == OfferAnswer(SOMETHING)
        assert await other.request(GetOffer()) == OfferAnswer(SOMETHING)
        assert await one.request(Ping()) == Done()


async def test_a_slow_answer_holds_up_no_other(autojump_clock: trio.testing.MockClock) -> None:
    order: list[str] = []
    delays = iter([10.0, 1.0])

    async def answer(request: Request[Any]) -> Struct:
        await trio.sleep(next(delays))
        return OfferAnswer(SOMETHING)

    async with connected(theirs=answer) as (one, _), trio.open_nursery() as nursery:

        async def ask(name: str) -> None:
            await one.request(GetOffer())
            order.append(name)

        nursery.start_soon(ask, "slow")
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(ask, "fast")
    assert order == ["fast", "slow"]


async def test_a_hundred_requests_go_out_in_few_sends() -> None:
    a, b = trio.testing.memory_stream_pair()
    sends = 0
    deliver: Any = a.send_stream.send_all_hook

    async def count_sends() -> None:
        nonlocal sends
        sends += 1
        await deliver()

    a.send_stream.send_all_hook = count_sends
    one, other = ControlConnection(FrameStream(a)), ControlConnection(FrameStream(b), give_offer)
    async with trio.open_nursery() as nursery:
        await nursery.start(one.run)
        await nursery.start(other.run)
        async with trio.open_nursery() as requests:
            for _ in range(100):
                requests.start_soon(one.request, GetOffer())
        nursery.cancel_scope.cancel()
    assert sends < 20


async def test_a_late_answer_is_a_timeout_and_then_dropped(autojump_clock: trio.testing.MockClock) -> None:
    async def late(request: Request[Any]) -> Struct:
        if isinstance(request, GetOffer):
            await trio.sleep(5)
            return OfferAnswer(SOMETHING)
        return Done()

    async with connected(theirs=late) as (one, _):
        with pytest.raises(RequestTimeout, match="GetOffer"):
            await one.request(GetOffer(), timeout=1)
        await trio.sleep(10)
        assert await one.request(GetOffer(), timeout=6) == OfferAnswer(SOMETHING)


async def test_cancelling_frees_the_place_of_a_request(autojump_clock: trio.testing.MockClock) -> None:
    async def never(request: Request[Any]) -> Struct:
        await trio.sleep_forever()
        raise AssertionError

    async with connected(theirs=never, our_limits=ControlLimits(requests_out=1)) as (one, _):
        for _ in range(3):
            with trio.move_on_after(1) as scope:
                await one.request(GetOffer())
            assert scope.cancelled_caught
        assert await one.request(Ping(), timeout=1) == Done()


async def test_own_requests_beyond_the_limit_wait(autojump_clock: trio.testing.MockClock) -> None:
    at_once = most = 0

    async def count(request: Request[Any]) -> Struct:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await trio.sleep(1)
        at_once -= 1
        return OfferAnswer(SOMETHING)

    async with connected(theirs=count, our_limits=ControlLimits(requests_out=4)) as (one, _):
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(one.request, GetOffer())
    assert most == 4


async def test_the_other_sides_requests_beyond_the_limit_are_told_busy() -> None:
    gate = trio.Event()

    async def wait(request: Request[Any]) -> Struct:
        await gate.wait()
        return OfferAnswer(SOMETHING)

    async with connected(theirs=wait, their_limits=ControlLimits(requests_in=2)) as (one, _):
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(one.request, GetOffer())
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(RequestFailed) as caught:
                await one.request(GetOffer())
            assert caught.value.code is ErrorCode.BUSY
            gate.set()
        assert await one.request(GetOffer()) == OfferAnswer(SOMETHING)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RequestFailed(ErrorCode.NO_SPACE, "full"), ErrorCode.NO_SPACE),
        (BadSignature("forged"), ErrorCode.BAD_REQUEST),
        (ZeroDivisionError("a bug"), ErrorCode.INTERNAL),
    ],
    ids=["refusal", "violation", "bug"],
)
async def test_what_a_handler_raises_reaches_the_asker_as_a_code(
    error: Exception, code: ErrorCode, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(request: Request[Any]) -> Struct:
        raise error

    with caplog.at_level(logging.ERROR):
        async with connected(theirs=fail) as (one, _):
            with pytest.raises(RequestFailed) as caught:
                await one.request(GetOffer())
            assert caught.value.code is code
            assert await one.request(Ping()) == Done()
    assert ("a bug" in caplog.text) == (code is ErrorCode.INTERNAL)


async def test_an_answer_of_another_shape_ends_the_connection() -> None:
    async def wrong(request: Request[Any]) -> Struct:
        return Done()

    async with connected(theirs=wrong) as (one, _):
        with pytest.raises(ProtocolViolation):
            await one.request(GetContract(CONTRACT))
        await trio.testing.wait_all_tasks_blocked()
        assert one.closed
        with pytest.raises(PeerUnreachable):
            await one.request(Ping())


async def test_requests_fail_when_the_line_is_lost() -> None:
    async with facing_raw_bytes() as (connection, raw, ended):
        async with trio.open_nursery() as nursery:

            async def ask() -> None:
                with pytest.raises(PeerUnreachable):
                    await connection.request(GetOffer())

            nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            await raw.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert ended == [None]
        with pytest.raises(PeerUnreachable):
            await connection.request(GetOffer())


async def test_handlers_are_cancelled_when_the_line_is_lost() -> None:
    cancelled = trio.Event()

    async def wait(request: Request[Any]) -> Struct:
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()
        raise AssertionError

    async with facing_raw_bytes(wait) as (_, raw, _ended):
        await raw.send(encode_request(0, GetOffer()))
        await trio.testing.wait_all_tasks_blocked()
        await raw.aclose()
        await cancelled.wait()


async def test_a_silent_peer_is_given_up(autojump_clock: trio.testing.MockClock) -> None:
    async with facing_raw_bytes(limits=ControlLimits(quiet=30)) as (connection, _raw, ended):
        await trio.sleep(59)
        assert not connection.closed
        await trio.sleep(2)
        assert ended == [None]


async def test_a_peer_that_only_answers_pings_is_kept(autojump_clock: trio.testing.MockClock) -> None:
    async with connected() as (one, other):
        await trio.sleep(1000)
        assert not one.closed
        assert not other.closed
        assert trio.current_time() - one.last_heard <= 30


async def test_signs_of_life_do_not_wait_behind_slow_requests(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def slow(request: Request[Any]) -> Struct:
        await trio.sleep(200)
        return OfferAnswer(SOMETHING)

    async with connected(theirs=slow, our_limits=ControlLimits(requests_out=1)) as (one, _):
        assert await one.request(GetOffer(), timeout=300) == OfferAnswer(SOMETHING)


async def test_who_floods_and_does_not_read_is_not_listened_to() -> None:
    limits = ControlLimits(waiting_bytes=1000)
    a, b = trio.testing.lockstep_stream_pair()
    connection = ControlConnection(FrameStream(a), give_offer, limits)
    sent = 0
    async with trio.open_nursery() as nursery:

        async def flood() -> None:
            nonlocal sent
            ping = encode_request(0, Ping())
            while True:
                await b.send_all(ping * 1000)
                sent += 1000

        await nursery.start(connection.run)
        nursery.start_soon(flood)
        await trio.testing.wait_all_tasks_blocked()
        assert sent < 30_000
        assert connection._outgoing_bytes < 2000
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xff\xff\xff",
        b"\0\0\0\0",
        (MAX_FRAME + 1).to_bytes(4, "big"),
        encode_answer(5, Done()),
        encode_request(0, Hello(Purpose.CONTROL, Role.RENTER)),
        encode_request(0, End(CONTRACT))[:-1] + b"\xc1",
        encode_request(0, GetOffer())[:-1],
    ],
    ids=["huge", "empty", "too large", "unasked answer", "second hello", "malformed", "cut short"],
)
async def test_breaches_end_the_connection(data: bytes) -> None:
    async with facing_raw_bytes() as (connection, raw, ended):
        await raw.send(data)
        await raw.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert connection.closed
        assert isinstance(ended[0], ProtocolViolation)


@given(st.lists(st.binary(max_size=60), max_size=5))
def test_whatever_comes_ends_in_order_or_as_a_violation(parts: list[bytes]) -> None:
    async def main() -> None:
        with trio.fail_after(5):
            async with facing_raw_bytes() as (_, raw, ended):
                await raw.send(b"".join(len(part).to_bytes(4, "big") + part for part in parts))
                await raw.aclose()
            assert len(ended) == 1

    trio.run(main)


async def test_a_large_frame_arrives_whole_and_a_claim_alone_costs_little() -> None:
    body = SOMETHING.__class__(bytes(3 * MiB), SOMETHING.signature)

    async def large(request: Request[Any]) -> Struct:
        return OfferAnswer(body)

    async with connected(theirs=large) as (one, _):
        assert await one.request(GetOffer()) == OfferAnswer(body)

    a, b = trio.testing.memory_stream_pair()
    frames = FrameStream(a)
    await b.send_all(MAX_FRAME.to_bytes(4, "big") + b"x")
    await b.send_stream.aclose()
    with pytest.raises(ProtocolViolation):
        await frames.receive_frame()


@given(st.data())
def test_frames_are_found_however_the_bytes_are_cut(data: st.DataObject) -> None:
    requests: list[Request[Any]] = [Ping(), GetOffer(), End(CONTRACT, "x" * 200), GetContract(CONTRACT)]
    chosen = data.draw(st.lists(st.sampled_from(requests), max_size=8))
    wire = b"".join(encode_request(number, request) for number, request in enumerate(chosen))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=6)))
    buffer_size = data.draw(st.integers(4, 300))

    async def main() -> None:
        a, b = trio.testing.memory_stream_pair()
        frames = FrameStream(a, buffer_size)
        found = []

        async def send() -> None:
            for start, stop in zip([0, *cuts], [*cuts, len(wire)], strict=True):
                await b.send_all(wire[start:stop])
                await trio.testing.wait_all_tasks_blocked()
            await b.aclose()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            while (frame := await frames.receive_frame()) is not None:
                found.append((frame.id, open_request(frame)))
        assert found == list(enumerate(chosen))

    trio.run(main)
