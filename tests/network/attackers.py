"""Peers that mean no good: how they get to each state of a connection, and what they do there."""

import random
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

import trio

from storjfs.network.control import ControlLimits
from storjfs.network.failures import PeerUnreachable
from storjfs.network.frames import FrameStream, Patience
from storjfs.network.identity import Identity
from storjfs.network.streams import Limits, open_stream
from storjfs.network.tls import TlsStream
from storjfs.protocol.framing import HEADER, encode_answer, encode_request
from storjfs.protocol.ids import ContractId, NodeId, ShardId
from storjfs.protocol.messages import (
    CANCEL_CAPABILITY,
    Done,
    End,
    Get,
    GetOffer,
    Hello,
    Ping,
    Purpose,
    Put,
    Role,
)
from storjfs.protocol.terms import Address

CONTRACT = ContractId(bytes(32))
MINE = ShardId(b"m" * 32)
"""A shard that an attacker puts."""
LARGE = ShardId(b"l" * 32)
"""A shard that a farmer under attack holds, larger than what sockets buffer."""
LARGE_LENGTH = 16 << 20
STUCK = ShardId(b"s" * 32)
"""A shard for which such a farmer looks until nobody wants it any more."""


SHORT = Patience(hello=1.5, frame=1.5, stall=1.5, slowest=1 << 40, idle=1.5)
CONTROL = ControlLimits(quiet=1.5)
LIMITS = Limits(handshake_timeout=1.5, per_peer=100)
"""Of those who are attacked: the tests should not last longer than they must."""
ATTEMPTS = 100


@dataclass
class Target:
    """A farmer to attack, and as whom."""

    identity: Identity
    farmer: NodeId
    address: Address
    kept: list[trio.abc.Stream] = field(default_factory=list)
    """Further connections that it needs until the end of an attack."""

    async def tcp(self) -> trio.SocketStream:
        return await trio.open_tcp_stream(self.address.host, self.address.port)

    async def tls(self) -> TlsStream:
        return await open_stream(self.identity, self.farmer, [self.address], 60)

    async def greeted(self, purpose: Purpose) -> TlsStream:
        stream = await self.tls()
        await stream.send_all(HELLO[purpose])
        await FrameStream(stream).receive_frame()
        return stream


HELLO = {
    purpose: encode_request(0, Hello(purpose, Role.RENTER, capabilities=(CANCEL_CAPABILITY,)))
    for purpose in Purpose
}
LONG = encode_request(9, End(CONTRACT, "x" * 200))

# --- states ---


async def before_tls(target: Target) -> trio.abc.Stream:
    return await target.tcp()


async def in_handshake(target: Target) -> trio.abc.Stream:
    stream = await target.tcp()
    outgoing = ssl.MemoryBIO()
    tls = target.identity.client.wrap_bio(ssl.MemoryBIO(), outgoing)
    with suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    hello = outgoing.read()
    await stream.send_all(hello[: len(hello) // 2])
    return stream


async def before_hello(target: Target) -> trio.abc.Stream:
    return await target.tls()


async def within_the_hello(target: Target) -> trio.abc.Stream:
    stream = await target.tls()
    await stream.send_all(HELLO[Purpose.CONTROL][:10])
    return stream


async def control_idle(target: Target) -> trio.abc.Stream:
    return await target.greeted(Purpose.CONTROL)


async def within_a_frame(target: Target) -> trio.abc.Stream:
    stream = await target.greeted(Purpose.CONTROL)
    await stream.send_all(LONG[:20])
    return stream


async def with_requests_open(target: Target) -> trio.abc.Stream:
    stream = await target.greeted(Purpose.CONTROL)
    await stream.send_all(b"".join(encode_request(number, GetOffer()) for number in range(40)))
    return stream


async def data_idle(target: Target) -> trio.abc.Stream:
    return await target.greeted(Purpose.DATA)


async def within_a_put(target: Target) -> trio.abc.Stream:
    stream = await target.greeted(Purpose.DATA)
    await stream.send_all(encode_request(0, Put(CONTRACT, MINE, 1 << 20)) + bytes(1000))
    return stream


async def before_a_get_is_answered(target: Target) -> trio.abc.Stream:
    stream = await target.greeted(Purpose.DATA)
    await stream.send_all(encode_request(0, Get(CONTRACT, STUCK, 0, 100)))
    return stream


async def within_a_get(target: Target) -> trio.abc.Stream:
    stream = await target.greeted(Purpose.DATA)
    await stream.send_all(encode_request(0, Get(CONTRACT, LARGE, 0, LARGE_LENGTH)))
    await stream.receive_some(1000)
    return stream


STATES: list[Callable[[Target], Awaitable[trio.abc.Stream]]] = [
    before_tls,
    in_handshake,
    before_hello,
    within_the_hello,
    control_idle,
    within_a_frame,
    with_requests_open,
    data_idle,
    within_a_put,
    before_a_get_is_answered,
    within_a_get,
]

# --- attacks: each returns with the connection still open on this side, or closed ---


async def garbage(stream: trio.abc.Stream) -> None:
    await stream.send_all(random.Random(1).randbytes(5000))


async def garbage_under_tls(stream: trio.abc.Stream) -> None:
    await _below(stream).send_all(random.Random(2).randbytes(5000))


async def half_a_record(stream: trio.abc.Stream) -> None:
    """The head of a TLS record, and that is all."""
    await _below(stream).send_all(b"\x17\x03\x03\x40\x00half")


async def silence(stream: trio.abc.Stream) -> None:
    await trio.lowlevel.checkpoint()


async def a_byte_now_and_then(stream: trio.abc.Stream) -> None:
    """Of frames that would be right, and of nothing else."""
    for byte in LONG * 20:
        await stream.send_all(bytes([byte]))
        await trio.sleep(0.05)


async def leave(stream: trio.abc.Stream) -> None:
    await stream.aclose()


async def cut_the_line(stream: trio.abc.Stream) -> None:
    below = _below(stream)
    below.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await below.aclose()


async def oversize(stream: trio.abc.Stream) -> None:
    await stream.send_all(b"\xff" * HEADER)
    await stream.send_all(bytes(1 << 20))


async def replay(stream: trio.abc.Stream) -> None:
    """What another connection said: its hello, requests, answers, a shard."""
    said = HELLO[Purpose.CONTROL] + encode_request(0, Ping()) + encode_answer(0, Done())
    said += HELLO[Purpose.DATA] + encode_request(0, Put(CONTRACT, MINE, 100)) + bytes(100)
    await stream.send_all(said)


async def a_flood(stream: trio.abc.Stream) -> None:
    """Requests without a pause and an end, and none of the answers is read."""
    requests = b"".join(encode_request(number, GetOffer()) for number in range(100, 1100))
    while True:
        await stream.send_all(requests)


ATTACKS: list[Callable[[trio.abc.Stream], Awaitable[None]]] = [
    garbage,
    garbage_under_tls,
    half_a_record,
    silence,
    a_byte_now_and_then,
    leave,
    cut_the_line,
    oversize,
    replay,
    a_flood,
]


def _below(stream: trio.abc.Stream) -> trio.SocketStream:
    below = stream.transport if isinstance(stream, TlsStream) else stream
    assert isinstance(below, trio.SocketStream)
    return below


async def wait_until_cut_off(stream: trio.abc.Stream) -> None:
    """Read nothing that TLS would have to make sense of, until the other side has closed."""
    below = _below(stream)
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        while await below.receive_some():
            pass


async def attack(
    reach: Callable[[Target], Awaitable[trio.abc.Stream]],
    strike: Callable[[trio.abc.Stream], Awaitable[None]],
    target: Target,
) -> None:
    """Reach a state, strike, and wait until the other side has had enough."""
    broken = (trio.BrokenResourceError, trio.ClosedResourceError, PeerUnreachable)
    with suppress(*broken):
        stream = await reach(target)
        try:
            with suppress(*broken):
                await strike(stream)
            await wait_until_cut_off(stream)
        finally:
            await trio.aclose_forcefully(stream)
            for other in target.kept:
                await trio.aclose_forcefully(other)


async def served(step: Callable[[], Awaitable[object]]) -> None:
    """An honest peer's step, tried again where limits as short as these hit it too on a busy machine."""
    for _ in range(ATTEMPTS):
        try:
            await step()
            return
        except PeerUnreachable as error:
            await trio.sleep(error.retry_after)
    raise AssertionError("an honest peer is not served")
