"""The serving side of a connection: hello, then requests or shards, for whatever implements `Service`."""

import math
from abc import ABC, abstractmethod
from typing import Any

import trio
from msgspec import Struct

from storjfs.network.control import CONTROL_LIMITS, ControlConnection, ControlLimits
from storjfs.network.data import ShardSource, serve_shards
from storjfs.network.frames import CONTROL_BUFFER, DATA_BUFFER, PATIENCE, Buffer, FrameStream, Patience
from storjfs.network.guests import Guest
from storjfs.network.origin import address_of
from storjfs.network.tls import TlsStream
from storjfs.protocol.failures import ErrorCode, ProtocolViolation, RequestFailed
from storjfs.protocol.framing import MAX_HELLO, encode_answer, encode_failure, open_request
from storjfs.protocol.greeting import HIGHEST, choose_version
from storjfs.protocol.ids import NodeId
from storjfs.protocol.messages import (
    CANCEL_CAPABILITY,
    Arrive,
    Attach,
    AttachAnswer,
    DialBack,
    DialBackAnswer,
    Get,
    Hello,
    HelloAnswer,
    Purpose,
    Put,
    PutAnswer,
    Request,
    Through,
)


class Service(ABC):
    """What a farmer does for its peers. Any method may raise RequestFailed to refuse.

    Calls run concurrently, also for one peer, and are cancelled when its connection ends.
    """

    @abstractmethod
    async def hello(self, peer: NodeId, hello: Hello) -> HelloAnswer:
        """Who we are; versions and what this room is capable of are set by the caller."""

    @abstractmethod
    async def request(self, peer: NodeId, request: Request[Any]) -> Struct:
        """The answer to a request on a control connection, of the type that belongs to it."""

    @abstractmethod
    async def put(self, peer: NodeId, header: Put, source: ShardSource) -> PutAnswer:
        """Store the shard that `source` holds. What it leaves unread is skipped."""

    @abstractmethod
    async def get(self, peer: NodeId, header: Get) -> Buffer:
        """Exactly `header.length` bytes of the shard. The buffer must not change until the next call."""

    async def reach(
        self, peer: NodeId, request: Attach | DialBack, connection: ControlConnection
    ) -> AttachAnswer | DialBackAnswer:
        """The answer to a request that has to do with how `peer` can be dialled."""
        raise RequestFailed(ErrorCode.UNSUPPORTED, type(request).__name__)

    async def join(self, frames: FrameStream, number: int, request: Through | Arrive) -> None:
        """Serve one half of a relayed connection to its end. Raises ProtocolViolation."""
        raise ProtocolViolation("a relay connection to somebody who relays nobody")

    @abstractmethod
    def attached(self, peer: NodeId, connection: ControlConnection) -> None:
        """A control connection of `peer` is up; requests may be sent to it until `detached`."""

    @abstractmethod
    def detached(self, peer: NodeId, connection: ControlConnection) -> None:
        """The control connection is gone."""


async def serve_peer(
    stream: trio.abc.Stream,
    peer: NodeId,
    service: Service,
    limits: ControlLimits = CONTROL_LIMITS,
    *,
    patience: Patience = PATIENCE,
    guest: Guest | None = None,
) -> None:
    """Serve one connection of `peer`, to its end. Does not close `stream`.

    `guest` is what the peer may take on all its connections together, None where it has only this one. Raises
    ProtocolViolation, trio.BrokenResourceError.
    """
    guest = guest or Guest()
    frames = FrameStream(stream, DATA_BUFFER, patience)
    hello: Hello | None = None
    with trio.move_on_after(patience.hello):
        hello = await _answer_hello(frames, peer, service)
    if hello is None:
        return
    if hello.purpose is Purpose.DATA:
        await serve_shards(frames, peer, service, guest)
        return
    if hello.purpose is Purpose.RELAY:
        await _serve_half(frames, service)
        return
    frames.widen(CONTROL_BUFFER)

    async def answer(request: Request[Any]) -> Struct:
        if isinstance(request, Attach | DialBack):
            return await service.reach(peer, request, connection)
        return await service.request(peer, request)

    connection = ControlConnection(
        frames,
        answer,
        limits,
        cancels=CANCEL_CAPABILITY in hello.capabilities,
        guest=guest,
        host=address_of(stream),
    )
    service.attached(peer, connection)
    try:
        await connection.run()
    finally:
        service.detached(peer, connection)


async def serve_tls(stream: TlsStream, service: Service, *, patience: Patience = PATIENCE) -> None:
    """`serve_peer` for streams of `streams.serve`: `partial(serve_tls, service=...)` is a handler for it."""
    await serve_peer(stream, stream.peer, service, patience=patience, guest=stream.guest)


async def _serve_half(frames: FrameStream, service: Service) -> None:
    with trio.move_on_after(frames.patience.hello) as scope:
        frame = await frames.receive_frame(MAX_HELLO)
        if frame is None:
            return
        scope.deadline = math.inf
        try:
            request = open_request(frame)
        except RequestFailed as error:
            await frames.send(encode_failure(frame.id, error.code, error.detail))
            return
        if not isinstance(request, Through | Arrive):
            raise ProtocolViolation(f"{type(request).__name__} on a relay connection")
        await service.join(frames, frame.id, request)


async def _answer_hello(frames: FrameStream, peer: NodeId, service: Service) -> Hello | None:
    """The hello of the other side, None where there is none or it speaks another version."""
    frame = await frames.receive_frame(MAX_HELLO)
    if frame is None:
        return None
    try:
        hello = open_request(frame)
        if not isinstance(hello, Hello):
            raise ProtocolViolation("the first request was no hello")
        version = choose_version(hello)
        said = await service.hello(peer, hello)
    except RequestFailed as error:
        await frames.send(encode_failure(frame.id, error.code, error.detail))
        return None
    capabilities = tuple(dict.fromkeys((*said.capabilities, CANCEL_CAPABILITY)))
    answer = HelloAnswer(version, said.role, capabilities, said.software, said.vouchers, HIGHEST)
    await frames.send(encode_answer(frame.id, answer))
    return hello
