"""What is fuzzed: each target takes one input, and raises where something is wrong.

`TARGETS` has them with the strategies of their inputs and their share of a run.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import trio
import trio.testing
from msgspec import Struct

from storjfs.network.failures import PeerUnreachable, RequestTimeout
from storjfs.network.frames import FrameStream
from storjfs.network.guests import Guest
from storjfs.network.peer import Peer
from storjfs.network.service import serve_peer
from storjfs.protocol.conversation import Answered, Asked, Cancelled, Conversation, cancelled
from storjfs.protocol.encoding import decode, encode
from storjfs.protocol.failures import ErrorCode, ProtocolViolation, RequestFailed
from storjfs.protocol.framing import (
    HEADER,
    MAX_FRAME,
    MAX_REQUEST,
    Frame,
    encode_answer,
    encode_failure,
    encode_request,
    frame_length,
    open_answer,
    open_request,
    parse_frame,
)
from storjfs.protocol.ids import ContractId
from storjfs.protocol.messages import (
    CANCEL_CAPABILITY,
    METHODS,
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
from storjfs.protocol.terms import Contract
from tests.fuzz import samples
from tests.fuzz.samples import CHANGES, EITHER, NUMBER, Input, lists_of_numbers, numbers, some_bytes, spoil
from tests.network.farm import FARMER, RENTER, SOMETHING, Farmer


@dataclass(frozen=True, slots=True)
class Target:
    """`share`: of a run's inputs, in percent."""

    run: Callable[..., None]
    inputs: tuple[Input[Any], ...]
    share: int


# --- values and frames ---


def value(which: int, other: int, how: bytes) -> None:
    """The bytes of any value, spoilt, read as that or another type: a value of that type, or a violation."""
    sample = samples.VALUES[which % len(samples.VALUES)]
    wanted = type(sample if other % 3 else samples.VALUES[other % len(samples.VALUES)])
    try:
        found = decode(spoil(encode(sample), how), wanted)
    except ProtocolViolation:
        return
    assert isinstance(found, wanted)
    assert decode(encode(found), wanted) == found


def anything(which: int, data: bytes) -> None:
    """Any bytes at all, as a value and as a frame."""
    wanted = type(samples.VALUES[which % len(samples.VALUES)])
    with suppress(ProtocolViolation):
        assert isinstance(decode(data, wanted), wanted)
    _open(data, GetOffer())


def frame(which: int, other: int, how: bytes) -> None:
    """A frame, spoilt: a request, an answer to any request, a refusal, or a violation."""
    data = spoil(samples.FRAMES[which % len(samples.FRAMES)], how)
    if len(data) < HEADER:
        return
    try:
        length = frame_length(data[:HEADER])
        assert 0 < length <= MAX_FRAME
    except ProtocolViolation:
        return
    _open(data[HEADER : HEADER + length], samples.REQUESTS[other % len(samples.REQUESTS)])


def _open(data: bytes, request: Request[Any]) -> None:
    try:
        found = parse_frame(data)
        if found.is_request:
            assert type(open_request(found)) in METHODS
        else:
            answer: Any = METHODS[type(request)][1]
            assert isinstance(open_answer(found, request), answer)
    except (ProtocolViolation, RequestFailed):
        pass


def signed(which: int, how: bytes) -> None:
    """A signed value, spoilt: a violation, or the very bytes that were signed."""
    names = list(samples.SIGNED)
    original, signer, kind, wanted = samples.SIGNED[names[which % len(names)]]
    try:
        found = Signed.from_bytes(spoil(original.to_bytes(), how))
        content: Struct = found.open(signer, kind, wanted)
    except ProtocolViolation:
        return
    assert found.body == original.body
    assert content == original.peek(wanted)


def contract(how: bytes) -> None:
    """A contract, spoilt: a violation, or the same contract."""
    try:
        found = Contract.from_bytes(spoil(samples.CONTRACT.to_bytes(), how))
        terms = found.open()
    except ProtocolViolation:
        return
    assert found == samples.CONTRACT
    assert terms == samples.CONTRACT.terms()


# --- framing ---


def framing(which: list[int], how: bytes, cuts: list[int], buffer_size: int) -> None:
    """Frames, spoilt and cut anywhere: what the stream gives is what a plain reading of all bytes gives."""
    wire = spoil(b"".join(samples.FRAMES[one % len(samples.FRAMES)] for one in which), how)
    expected = _read_plainly(wire)
    assert expected == trio.run(_read_from_stream, wire, cuts, buffer_size, clock=_clock())


def _read_plainly(wire: bytes) -> list[Any]:
    found: list[Any] = []
    while wire:
        length = int.from_bytes(wire[:HEADER], "big")
        if len(wire) < HEADER or not 0 < length <= MAX_REQUEST or len(wire) < HEADER + length:
            return [*found, "broken"]
        try:
            one = parse_frame(wire[HEADER : HEADER + length])
        except ProtocolViolation:
            return [*found, "broken"]
        found.append(_plain(one))
        wire = wire[HEADER + length :]
    return found


def _plain(one: Frame) -> tuple[int, int, bytes]:
    return one.id, one.method, bytes(one.body)


async def _read_from_stream(wire: bytes, cuts: list[int], buffer_size: int) -> list[Any]:
    ours, theirs = trio.testing.memory_stream_pair()
    frames, found = FrameStream(theirs, buffer_size), list[Any]()

    async def send() -> None:
        places = sorted({cut % (len(wire) + 1) for cut in cuts} | {len(wire)})
        for start, stop in zip([0, *places], places, strict=False):
            if start < stop:
                await ours.send_all(wire[start:stop])
                await trio.testing.wait_all_tasks_blocked()
        await ours.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        try:
            while (one := await frames.receive_frame(MAX_REQUEST)) is not None:
                found.append(_plain(one))
        except ProtocolViolation:
            found.append("broken")
            nursery.cancel_scope.cancel()
    return found


# --- the conversation ---


def conversation(program: bytes) -> None:
    """Two sides that ask, withdraw and answer in any order, on lines of any delay: nothing is a violation,
    every request is answered once, and in the end neither thinks that anything is open."""
    sides = [Conversation(), Conversation()]
    lines: list[list[bytes]] = [[], []]
    asked: list[list[int]] = [[], []]
    due: list[list[int]] = [[], []]
    answers = [0, 0]

    def deliver(to: int) -> None:
        if not lines[to]:
            return
        data = lines[to].pop(0)
        assert len(data) - HEADER <= sides[to].frame_limit
        event = sides[to].receive(parse_frame(data[HEADER:]))
        if isinstance(event, Asked):
            due[to].append(event.number)
        elif isinstance(event, Answered):
            asked[to].remove(event.number)
        elif isinstance(event, Cancelled) and event.number in due[to]:
            due[to].remove(event.number)
            answer(to, event.number, cancelled(event.number))

    def answer(side: int, number: int, data: bytes) -> None:
        sides[side].answered(number)
        answers[1 - side] += 1
        lines[1 - side].append(data)

    for step in program:
        side, what, value = step & 1, step >> 1 & 3, step >> 3
        if what == 0 and len(asked[side]) < 20:
            number, data = sides[side].ask(GetOffer())
            asked[side].append(number)
            lines[1 - side].append(data)
        elif what == 1 and asked[side]:
            number = asked[side].pop(value % len(asked[side]))
            lines[1 - side].append(sides[side].withdraw(number))
        elif what == 2 and due[side]:
            number = due[side].pop(value % len(due[side]))
            answer(side, number, encode_answer(number, OfferAnswer(SOMETHING)))
        else:
            deliver(side)
    for _ in range(3):  # requests, answers and cancels, answers to these
        for side in (0, 1):
            while lines[side]:
                deliver(side)
            while due[side]:
                number = due[side].pop()
                answer(side, number, encode_failure(number, 1))
    assert not any(asked[side] or sides[side].asked or sides[side].open for side in (0, 1))
    for side in (0, 1):
        assert answers[side] == sides[side].ask(Ping())[0]


def hostile_conversation(which: list[int], how: bytes) -> None:
    """Whatever frames come: an event or a violation, and never more open than was asked."""
    side = Conversation()
    for _ in range(3):
        side.ask(GetOffer())
    side.withdraw(1)
    for position, one in enumerate(which):
        data = samples.FRAMES[one % len(samples.FRAMES)]
        try:
            found = parse_frame(spoil(data, how if position == len(which) - 1 else b"")[HEADER:])
            event = side.receive(found)
        except ProtocolViolation:
            return
        assert side.asked <= 3
        assert side.open <= position + 1
        if isinstance(event, Asked) and one % 2:
            side.answered(event.number)


# --- connections ---

CONTENT = bytes(range(200))


def _clock() -> trio.testing.MockClock:
    return trio.testing.MockClock(autojump_threshold=0)


async def _answer_slowly(request: Request[Any]) -> Struct:
    """So that some are withdrawn before they are answered."""
    await trio.sleep(2)
    if isinstance(request, GetOffer):
        return OfferAnswer(SOMETHING)
    raise RequestFailed(ErrorCode.UNKNOWN_CONTRACT)


async def _feed(stream: Any, wire: bytes, cuts: list[int], close: bool) -> None:
    """Send `wire` in pieces, with a pause between some, then close or fall silent."""
    places = sorted({cut % (len(wire) + 1) for cut in cuts} | {len(wire)})
    try:
        for start, stop in zip([0, *places], places, strict=False):
            if start < stop:
                await stream.send_all(wire[start:stop])
                await trio.sleep(stop % 5)
        if close:
            await stream.send_stream.aclose()
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass


async def _drain(stream: trio.abc.ReceiveStream) -> None:
    try:
        while await stream.receive_some():
            pass
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass


def serving(data_connection: bool, which: list[int], how: bytes, cuts: list[int], close: bool) -> None:
    """A caller that sends frames and shards, spoilt and cut anywhere, then closes or falls silent.

    The farmer's side ends, in order or with a violation; nothing is held afterwards for this caller.
    """
    trio.run(_serve, data_connection, which, how, cuts, close, clock=_clock())


async def _serve(data_connection: bool, which: list[int], how: bytes, cuts: list[int], close: bool) -> None:
    purpose = Purpose.DATA if data_connection else Purpose.CONTROL
    wire = encode_request(0, Hello(purpose, Role.RENTER, capabilities=(CANCEL_CAPABILITY,)))
    for one in which:
        wire += samples.FRAMES[one % len(samples.FRAMES)]
        if samples.FRAMES[one % len(samples.FRAMES)] == PUT_FRAME:
            wire += CONTENT
    sent = spoil(wire, how)
    farmer, guest = Farmer({samples.SHARD: CONTENT}, answering=_answer_slowly), Guest()
    ours, theirs = trio.testing.memory_stream_pair()
    try:
        with trio.fail_after(3600):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_feed, ours, sent, cuts, close)
                nursery.start_soon(_drain, ours)
                with suppress(ProtocolViolation, RequestFailed, trio.BrokenResourceError):
                    await serve_peer(theirs, RENTER.node_id, farmer, guest=guest)
                await theirs.aclose()
                nursery.cancel_scope.cancel()
    finally:
        await ours.aclose()
    assert not farmer.control
    assert guest.request_bytes.used == guest.sending_bytes == guest.answering.taken == 0
    assert all(shard == CONTENT or len(shard) <= len(sent) for shard in farmer.shards.values())


PUT_FRAME = next(
    encode_request(number, request)
    for number, request in enumerate(samples.REQUESTS)
    if request.__class__.__name__ == "Put"
)


def dialling(ask: int, answers: list[int], how: bytes, cuts: list[int], close: bool) -> None:
    """A farmer that answers with frames, spoilt and cut anywhere: a renter gets an answer of the right type,
    or one of the errors it reckons with, in time."""
    trio.run(_dial, ask, answers, how, cuts, close, clock=_clock())


async def _dial(ask: int, answers: list[int], how: bytes, cuts: list[int], close: bool) -> None:
    wire = encode_answer(0, HelloAnswer(1, Role.FARMER, (CANCEL_CAPABILITY,), version_max=1))
    wire += b"".join(samples.FRAMES[one % len(samples.FRAMES)] for one in answers) + CONTENT[:100]
    wire = spoil(wire, how)
    theirs: list[Any] = []

    async with trio.open_nursery() as nursery:

        async def connect(*_: object) -> trio.abc.Stream:
            await trio.lowlevel.checkpoint()
            one, other = trio.testing.memory_stream_pair()
            theirs.append(other)
            nursery.start_soon(_drain, other)
            nursery.start_soon(_feed, other, wire, cuts, close)
            return one

        peer = Peer(RENTER, FARMER.node_id, (), connector=connect)
        await nursery.start(peer.run)
        with trio.fail_after(3600):
            with suppress(RequestFailed, RequestTimeout, PeerUnreachable, ProtocolViolation):
                await _use(peer, ask)
        for stream in theirs:
            await stream.aclose()
        nursery.cancel_scope.cancel()


async def _use(peer: Peer, ask: int) -> None:
    contract_id = ContractId(bytes(32))
    if ask % 4 == 0:
        await peer.get_range(contract_id, samples.SHARD, 0, bytearray(100), timeout=60)
    elif ask % 4 == 1:
        assert isinstance(await peer.put_shard(contract_id, samples.SHARD, CONTENT, timeout=60), Signed)
    else:
        requests = [one for one in samples.REQUESTS if type(one).__name__ not in ("Hello", "Put", "Get")]
        request = requests[ask // 4 % len(requests)]
        answer: Any = METHODS[type(request)][1]
        assert isinstance(await peer.request(request, timeout=60), answer)


FRAMES_CHOSEN = lists_of_numbers(5)
CUTS = lists_of_numbers(3)

TARGETS: dict[str, Target] = {
    "value": Target(value, (NUMBER, NUMBER, CHANGES), 22),
    "anything": Target(anything, (NUMBER, some_bytes(200)), 8),
    "frame": Target(frame, (NUMBER, NUMBER, CHANGES), 16),
    "signed": Target(signed, (NUMBER, CHANGES), 12),
    "contract": Target(contract, (CHANGES,), 5),
    "framing": Target(framing, (FRAMES_CHOSEN, CHANGES, CUTS, numbers(4, 300)), 7),
    "conversation": Target(conversation, (some_bytes(120),), 7),
    "hostile conversation": Target(hostile_conversation, (FRAMES_CHOSEN, CHANGES), 8),
    "serving": Target(serving, (EITHER, FRAMES_CHOSEN, CHANGES, CUTS, EITHER), 8),
    "dialling": Target(dialling, (NUMBER, FRAMES_CHOSEN, CHANGES, CUTS, EITHER), 7),
}
assert sum(target.share for target in TARGETS.values()) == 100
