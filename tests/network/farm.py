"""A farmer for tests, and the ways to it: memory streams, or TLS on the loopback."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from typing import Any

import trio
import trio.testing
from msgspec import Struct

from storjfs.network.control import ControlConnection
from storjfs.network.data import ShardSource
from storjfs.network.failures import PeerUnreachable
from storjfs.network.frames import Buffer
from storjfs.network.identity import Identity
from storjfs.network.service import Service, serve_peer, serve_tls
from storjfs.network.streams import LIMITS, Limits, open_stream, serve
from storjfs.network.tls import TlsStream
from storjfs.protocol.failures import ErrorCode, RequestFailed
from storjfs.protocol.ids import NodeId, ShardId, Signature
from storjfs.protocol.messages import (
    Get,
    GetOffer,
    Hello,
    HelloAnswer,
    OfferAnswer,
    Put,
    PutAnswer,
    Request,
    Role,
)
from storjfs.protocol.signing import Signed
from storjfs.protocol.terms import Address

MiB = 1 << 20
FARMER = Identity(sha256(b"farmer").digest())
RENTER = Identity(sha256(b"renter").digest())
STRANGER = Identity(sha256(b"stranger").digest())
SOMETHING = Signed(b"something", Signature(bytes(64)))


@dataclass
class Farmer(Service):
    """Keeps shards in memory. `answering` may hold back or refuse requests."""

    shards: dict[ShardId, bytes] = field(default_factory=dict)
    room: int = 64 * MiB
    answering: Callable[[Request[Any]], Awaitable[Struct]] | None = None
    hellos: list[Hello] = field(default_factory=list)
    control: list[ControlConnection] = field(default_factory=list)
    serving_get: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint

    async def hello(self, peer: NodeId, hello: Hello) -> HelloAnswer:
        self.hellos.append(hello)
        return HelloAnswer(0, Role.FARMER, software="test")

    async def request(self, peer: NodeId, request: Request[Any]) -> Struct:
        if self.answering is not None:
            return await self.answering(request)
        if isinstance(request, GetOffer):
            return OfferAnswer(SOMETHING)
        raise RequestFailed(ErrorCode.UNKNOWN_CONTRACT, "none here")

    async def put(self, peer: NodeId, header: Put, source: ShardSource) -> PutAnswer:
        if header.length > self.room:
            raise RequestFailed(ErrorCode.NO_SPACE)
        data = bytearray(source.length)
        await source.receive_exactly(memoryview(data))
        self.shards[header.shard_id] = bytes(data)
        return PutAnswer(SOMETHING)

    async def get(self, peer: NodeId, header: Get) -> Buffer:
        await self.serving_get()
        try:
            data = self.shards[header.shard_id]
        except KeyError:
            raise RequestFailed(ErrorCode.UNKNOWN_SHARD) from None
        return memoryview(data)[header.offset : header.offset + header.length]

    def attached(self, peer: NodeId, connection: ControlConnection) -> None:
        self.control.append(connection)

    def detached(self, peer: NodeId, connection: ControlConnection) -> None:
        self.control.remove(connection)


@dataclass
class MemoryLine:
    """A connector to `farmer` on memory streams; `up` says whether it is reachable."""

    nursery: trio.Nursery
    farmer: Service
    up: bool = True
    dials: int = 0
    streams: list[trio.abc.Stream] = field(default_factory=list)

    async def __call__(
        self, identity: Identity, node_id: NodeId | None, addresses: Sequence[Address], patience: float
    ) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        self.dials += 1
        if not self.up:
            raise PeerUnreachable("the line is down")
        ours, theirs = trio.testing.memory_stream_pair()
        self.streams.append(theirs)
        self.nursery.start_soon(self._serve, theirs, identity.node_id)
        return ours

    async def _serve(self, stream: trio.abc.Stream, peer: NodeId) -> None:
        try:
            await serve_peer(stream, peer, self.farmer)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            await trio.aclose_forcefully(stream)

    async def cut(self) -> None:
        """Every connection breaks."""
        while self.streams:
            await trio.aclose_forcefully(self.streams.pop())


async def every(seconds: float) -> AsyncIterator[None]:
    """Again and again: a peer that does something now and then."""
    while True:
        yield
        await trio.sleep(seconds)


@asynccontextmanager
async def listening(
    service: Service, identity: Identity = FARMER, limits: Limits = LIMITS
) -> AsyncIterator[Address]:
    """A farmer on the loopback; its address."""
    async with trio.open_nursery() as nursery:
        handler = partial(serve_tls, service=service)
        addresses = await nursery.start(partial(serve, identity, "127.0.0.1", 0, handler, limits=limits))
        yield addresses[0]
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def idle_connection() -> AsyncIterator[tuple[TlsStream, TlsStream]]:
    """A connection over TCP on which nothing is sent: the renter's end and the farmer's."""
    served: list[TlsStream] = []

    async def keep(stream: TlsStream) -> None:
        served.append(stream)
        await stream.send_all(b"x")
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        addresses = await nursery.start(partial(serve, FARMER, "127.0.0.1", 0, keep))
        async with await open_stream(RENTER, FARMER.node_id, addresses) as stream:
            assert await stream.receive_some(1) == b"x"
            yield stream, served[0]
        nursery.cancel_scope.cancel()
