"""What passes between a farmer and its renters: counted, held to the limit, shared fairly.

Every connection is a `Passage`: the stream that storjfs.network serves, and the service it serves there.
Connections for requests (audits, vouchers, contracts) never wait. Shards wait where a limit holds, by renters
and not by connections. Decision: docs/decisions/0010-farm-daemon.md.
"""

import time
from collections.abc import Callable
from datetime import datetime
from ipaddress import ip_address
from typing import Any, Final

import trio
from msgspec import Struct

from storjfs.farmer.line import Direction
from storjfs.farmer.schedule import ALWAYS, Limit, Schedule, WallClock
from storjfs.network.control import ControlConnection
from storjfs.network.data import ShardSource
from storjfs.network.frames import Buffer, FrameStream
from storjfs.network.guests import Guest
from storjfs.network.origin import address_of
from storjfs.network.service import Service, serve_peer
from storjfs.network.tls import TlsStream
from storjfs.protocol.failures import ErrorCode, ProtocolViolation, RequestFailed
from storjfs.protocol.ids import NodeId
from storjfs.protocol.messages import (
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

CHUNK: Final = 64 << 10
"""Bytes of one turn where a limit holds."""
STEP: Final = 256 << 10
"""Bytes after which a send is counted where none does: the size in which TLS sends anyway."""
FREE: Final = 1 << 10
"""What goes out and is this short is an answer and no shard."""
PATIENCE: Final = 15.0
"""Seconds that a get waits for its turn: the renter does better to read elsewhere then."""
LOOK_EVERY: Final = 1.0
"""Seconds between two looks at the schedule."""


class Traffic:
    """All connections of a farmer. `now` is the time of day, for the schedule."""

    def __init__(
        self, now: Callable[[], float] = time.time, local: WallClock = datetime.fromtimestamp
    ) -> None:
        self.sent = Direction()
        self.received = Direction()
        self.passages: set[Passage] = set()
        self.closing = False
        """Nothing new is begun."""
        self.limit: Limit | None = None
        self.schedule = ALWAYS
        self.last_contact: float | None = None
        """When a renter on another machine connected last, seconds since 1970."""
        self._now = now
        self._local = local
        self._busy = 0
        self._idle = trio.Event()
        self._changed = trio.Event()

    def configure(self, limit: Limit | None, schedule: Schedule) -> None:
        """Hold to `limit` while `schedule` says so, from now on; transfers under way go on."""
        self.limit, self.schedule = limit, schedule
        self._changed.set()
        self._look()

    async def run(self) -> None:
        """Keep the limit, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.sent.run)
            nursery.start_soon(self.received.run)
            while True:
                self._changed = trio.Event()
                self._look()
                if self.limit is None or not self.schedule.spans:
                    await self._changed.wait()
                else:
                    with trio.move_on_after(LOOK_EVERY):
                        await self._changed.wait()

    async def serve(self, stream: TlsStream, service: Service) -> None:
        """Serve one connection to its end, as storjfs.network.serve_tls does."""
        if _from_afar(stream.transport):
            self.last_contact = self._now()
        await self.serve_peer(stream, stream.peer, service, stream.guest)

    async def serve_peer(
        self, stream: trio.abc.Stream, peer: NodeId, service: Service, guest: Guest | None = None
    ) -> None:
        """The same for any stream; see storjfs.network.serve_peer."""
        if self.closing:
            return
        passage = Passage(self, stream, peer)
        self.passages.add(passage)
        try:
            await serve_peer(passage, peer, _PassageService(passage, service), guest=guest)
        finally:
            self.passages.discard(passage)
            passage.end_turn()

    async def idle(self) -> None:
        """Return when no transfer and no request is under way."""
        while self._busy:
            if self._idle.is_set():
                self._idle = trio.Event()
            await self._idle.wait()

    def begin(self) -> None:
        """A transfer or request begins. Raises RequestFailed (BUSY) where the farmer is stopping."""
        if self.closing:
            raise RequestFailed(ErrorCode.BUSY, "the farmer is stopping")
        self._busy += 1

    def end(self) -> None:
        """It has ended."""
        self._busy -= 1
        if not self._busy:
            self._idle.set()

    def _look(self) -> None:
        limit = self.limit
        if limit is not None and not self.schedule.holds(self._local(self._now())):
            limit = None
        self.sent.limit(limit.sent if limit is not None else None)
        self.received.limit(limit.received if limit is not None else None)


def _from_afar(transport: trio.abc.Stream) -> bool:
    """Whether the other side is on another machine, as far as its address tells."""
    address = address_of(transport)
    return bool(address) and not ip_address(address).is_loopback


class Passage(trio.abc.Stream):
    """One connection: the stream below it, counted, and held up by the limit if it carries shards."""

    def __init__(self, traffic: Traffic, stream: trio.abc.Stream, peer: NodeId) -> None:
        self.traffic = traffic
        self.peer = peer
        self.shards = False
        """Whether it carries shards: known from the hello."""
        self.since = trio.current_time()
        self.transport = stream
        """What it counts."""
        self.relayed = False
        """Whether it is half of a connection that is relayed for somebody else."""
        self._stream = stream
        self._into: Any = getattr(stream, "receive_into", None)
        self._owed = 0
        self._has_turn = False
        self._unsent = 0
        """Bytes of the range whose turn it is that have not gone out yet."""

    async def send_all(self, data: Buffer) -> None:
        """As trio.abc.SendStream."""
        direction = self.traffic.sent
        if not self.shards or len(data) <= FREE:
            await self._stream.send_all(data)
            self._gone(len(data))
            return
        view, start = memoryview(data), 0
        while start < len(view):
            part = view[start : start + (STEP if direction.rate is None else CHUNK)]
            await direction.let_through(self.peer, len(part))
            await self._stream.send_all(part)
            self._gone(len(part))
            start += len(part)

    async def receive_into(self, buffer: bytearray | memoryview) -> int:
        """As TlsStream.receive_into: a cancelled one loses nothing."""
        direction = self.traffic.received
        if self._owed:
            await direction.let_through(self.peer, self._owed)
            self._owed = 0
        limited = self.shards and direction.rate is not None
        view = memoryview(buffer)[:CHUNK] if limited else buffer
        if self._into is not None:
            count = int(await self._into(view))
        else:
            data = await self._stream.receive_some(len(view))
            count = len(data)
            view[:count] = data
        direction.meter.add(count, trio.current_time())
        if limited:
            self._owed = count
        return count

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """As trio.abc.ReceiveStream."""
        buffer = bytearray(max_bytes or CHUNK)
        count = await self.receive_into(buffer)
        return bytes(memoryview(buffer)[:count])

    async def wait_send_all_might_not_block(self) -> None:
        """As trio.abc.SendStream."""
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        """Close the stream below."""
        await self._stream.aclose()

    def detach(self) -> tuple[trio.abc.Stream, bytes]:
        """As TlsStream.detach: what passes from now on is not counted here."""
        detach = getattr(self._stream, "detach", None)
        if detach is None:
            raise ProtocolViolation("TLS cannot end here")
        self.relayed = True
        found: tuple[trio.abc.Stream, bytes] = detach()
        return found

    async def take_turn(self, size: int) -> None:
        """Wait for the turn to send `size` bytes; it lasts until these are sent, or `end_turn`.

        Raises RequestFailed (BUSY) after PATIENCE seconds, or where the farmer is stopping.
        """
        self.end_turn()
        self._unsent = size
        self.traffic.begin()
        try:
            self._has_turn = self.traffic.sent.enter_at_once(self.peer)
            if not self._has_turn:
                with trio.move_on_after(PATIENCE):
                    await self.traffic.sent.enter(self.peer, size)
                    self._has_turn = True
        finally:
            if not self._has_turn:
                self.traffic.end()
        if not self._has_turn:
            raise RequestFailed(ErrorCode.BUSY, "the farmer's line is busy")

    def _gone(self, count: int) -> None:
        self.traffic.sent.meter.add(count, trio.current_time())
        if self._has_turn:
            # The header of the answer counts too: it is a few bytes, and the range goes out in one call.
            self._unsent -= count
            if self._unsent <= 0:
                self.end_turn()

    def end_turn(self) -> None:
        """Nothing is being sent any more. Idempotent."""
        if self._has_turn:
            self._has_turn = False
            self.traffic.sent.leave(self.peer)
            self.traffic.end()


class _PassageService(Service):
    """A farmer's service as one connection sees it."""

    def __init__(self, passage: Passage, service: Service) -> None:
        self._passage = passage
        self._service = service

    async def hello(self, peer: NodeId, hello: Hello) -> HelloAnswer:
        answer = await self._service.hello(peer, hello)
        self._passage.shards = hello.purpose is Purpose.DATA
        return answer

    async def request(self, peer: NodeId, request: Request[Any]) -> Struct:
        with self._begun():
            return await self._service.request(peer, request)

    async def put(self, peer: NodeId, header: Put, source: ShardSource) -> PutAnswer:
        received = self._passage.traffic.received
        with self._begun():
            await received.enter(peer, header.length)
            try:
                return await self._service.put(peer, header, source)
            finally:
                received.leave(peer)

    async def get(self, peer: NodeId, header: Get) -> Buffer:
        await self._passage.take_turn(header.length)
        try:
            return await self._service.get(peer, header)
        except BaseException:
            self._passage.end_turn()
            raise

    async def reach(
        self, peer: NodeId, request: Attach | DialBack, connection: ControlConnection
    ) -> AttachAnswer | DialBackAnswer:
        return await self._service.reach(peer, request, connection)

    async def join(self, frames: FrameStream, number: int, request: Through | Arrive) -> None:
        await self._service.join(frames, number, request)

    def attached(self, peer: NodeId, connection: ControlConnection) -> None:
        self._service.attached(peer, connection)

    def detached(self, peer: NodeId, connection: ControlConnection) -> None:
        self._service.detached(peer, connection)

    def _begun(self) -> "_Begun":
        return _Begun(self._passage.traffic)


class _Begun:
    """Something is under way in this block."""

    def __init__(self, traffic: Traffic) -> None:
        self._traffic = traffic

    def __enter__(self) -> None:
        self._traffic.begin()

    def __exit__(self, *_: object) -> None:
        self._traffic.end()
