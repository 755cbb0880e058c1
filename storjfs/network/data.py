"""Data connections: one shard, or a range of one, at a time, as a header frame and raw bytes."""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Protocol, TypeVar

import trio

from storjfs.network.failures import PeerUnreachable, RequestTimeout
from storjfs.network.frames import Buffer, FrameStream
from storjfs.network.guests import Guest
from storjfs.network.turns import Turns
from storjfs.network.width import FIRST, Width
from storjfs.protocol.failures import ErrorCode, ProtocolViolation, RequestFailed
from storjfs.protocol.framing import (
    MAX_DATA_FRAME,
    encode_answer,
    encode_failure,
    encode_request,
    open_answer,
    open_request,
)
from storjfs.protocol.ids import NodeId
from storjfs.protocol.messages import Get, GetAnswer, Put, PutAnswer, Request
from storjfs.protocol.priorities import Priority

log = logging.getLogger(__name__)

T = TypeVar("T")

_FATAL = (ProtocolViolation, trio.BrokenResourceError, trio.ClosedResourceError)
"""What a broken transfer raises: nothing can be answered any more."""

_SKIP = 64 << 10
_TOGETHER = 16 << 10
"""Bytes up to which a header and what follows it are copied to be sent as one."""
STUCK = 1.0
"""Seconds after which a transfer that is given up was stuck, and not just no longer wanted."""
_AT_ONCE = 0.02
"""Seconds until a farmer looks whether a peer still waits for its answer."""


class ShardSource:
    """The bytes that follow a put: `length` of them, to be read once."""

    __slots__ = ("_frames", "_left", "_patience", "length")

    def __init__(self, frames: FrameStream, length: int) -> None:
        self.length = length
        self._frames, self._left = frames, length
        self._patience = frames.patience.for_shard(length)

    async def receive_into(self, view: memoryview) -> int:
        """Some bytes into `view` (not empty): at least one, 0 after the last.

        Raises ProtocolViolation where the connection ends or stands still before, or is too slow in all.
        """
        wanted = min(len(view), self._left)
        if not wanted:
            return 0
        # Only waiting for the other side counts, not what this one does with the bytes.
        began = trio.current_time()
        with trio.move_on_after(min(self._frames.patience.stall, self._patience)):
            count = await self._frames.receive_some_into(view[:wanted])
            if not count:
                raise ProtocolViolation("the stream ended within a shard")
            self._left -= count
            self._patience -= trio.current_time() - began
            return count
        raise ProtocolViolation("nothing came within a shard, or all too slowly")

    async def receive_exactly(self, view: memoryview) -> None:
        """Fill `view`, at most as long as what is left. Raises as `receive_into`, and ValueError."""
        if len(view) > self._left:
            raise ValueError("more wanted than the shard has left")
        done = 0
        while done < len(view):
            done += await self.receive_into(view[done:])

    async def skip(self) -> None:
        """Read what is left and drop it."""
        scratch = memoryview(bytearray(min(_SKIP, max(self._left, 1))))
        while await self.receive_into(scratch):
            pass


class ShardService(Protocol):
    """The part of `service.Service` that data connections need."""

    async def put(self, peer: NodeId, header: Put, source: ShardSource, /) -> PutAnswer: ...

    async def get(self, peer: NodeId, header: Get, /) -> Buffer: ...


async def serve_shards(
    frames: FrameStream, peer: NodeId, service: ShardService, guest: Guest | None = None
) -> None:
    """Serve puts and gets until the other side closes or falls idle; `guest` is what the peer may take.

    Raises ProtocolViolation, trio.BrokenResourceError, and RequestFailed for a request of another version:
    who knows what follows it.
    """
    ended: Exception | None = None
    async with trio.open_nursery() as nursery:
        try:
            await _Transfers(frames, peer, service, guest or Guest(), nursery).serve()
        except (*_FATAL, RequestFailed) as error:
            ended = error
        nursery.cancel_scope.cancel()
    if ended is not None:
        try:
            raise ended
        finally:
            del ended  # which leads here, and would stay, with all on the way, until garbage is looked for


class _Transfers:
    """One data connection at its farmer. `nursery`: where somebody looks whether the peer has left."""

    def __init__(
        self, frames: FrameStream, peer: NodeId, service: ShardService, guest: Guest, nursery: trio.Nursery
    ) -> None:
        self._frames, self._peer, self._service = frames, peer, service
        self._guest, self._nursery = guest, nursery

    async def serve(self) -> None:
        frames = self._frames
        while True:
            more = False
            with trio.move_on_after(frames.patience.idle):
                more = await frames.wait_for_more()
            frame = await frames.receive_frame(MAX_DATA_FRAME) if more else None
            if frame is None:
                return
            await self._guest.transfers.spend()
            header = open_request(frame)
            if isinstance(header, Put):
                await self._put(frame.id, header)
            elif isinstance(header, Get):
                await self._get(frame.id, header)
            else:
                raise ProtocolViolation(f"{type(header).__name__} on a data connection")

    async def _put(self, number: int, header: Put) -> None:
        source = ShardSource(self._frames, header.length)
        try:
            answer = encode_answer(number, await self._service.put(self._peer, header, source))
        except _FATAL:
            raise
        except Exception as error:
            answer = _refusal(number, error)
        await source.skip()
        await _send_in_time(self._frames, answer)

    async def _get(self, number: int, header: Get) -> None:
        guest, length = self._guest, header.length
        if not guest.try_to_take_room(length):
            await self._unless_left(guest.take_room(length))
        try:
            try:
                data = await self._unless_left(self._service.get(self._peer, header))
                if len(data) != length:
                    raise ValueError(f"{len(data)} bytes to send where {length} were asked for")
            except _FATAL:
                raise
            except Exception as error:
                await _send_in_time(self._frames, _refusal(number, error))
                return
            await _send_in_time(self._frames, encode_answer(number, GetAnswer(length)), data)
        finally:
            guest.give_room_back(length)

    async def _unless_left(self, work: Awaitable[T]) -> T:
        """What `work` returns or raises. Where the other side leaves before, it is cancelled.

        Raises trio.BrokenResourceError then.
        """
        watch = _Watch(self._frames)
        self._nursery.start_soon(watch.run)
        try:
            with watch.work:
                return await work
        finally:
            await watch.end()
        raise trio.BrokenResourceError("the peer left before its answer was ready")


class _Watch:
    """Cancels `work` when the other side leaves; looks after a while only, when most work is done."""

    __slots__ = ("_ended", "_frames", "_receiving", "_scope", "work")

    def __init__(self, frames: FrameStream) -> None:
        self.work = trio.CancelScope()
        self._frames = frames
        self._scope = trio.CancelScope()
        self._receiving = False
        self._ended = trio.Event()

    async def run(self) -> None:
        try:
            with self._scope, suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await trio.sleep(_AT_ONCE)
                self._receiving = True
                if await self._frames.wait_for_more():
                    return  # the next request, which will wait
            if not self._scope.cancel_called:
                self.work.cancel()
        finally:
            self._ended.set()

    async def end(self) -> None:
        """Stop watching; when this returns somebody else may receive."""
        self._scope.cancel()
        if self._receiving:
            with trio.CancelScope(shield=True):
                await self._ended.wait()


async def _send_in_time(frames: FrameStream, *parts: Buffer) -> None:
    """Send these one after the other. Raises ProtocolViolation where the other side reads too slowly."""
    length = sum(map(len, parts))
    if length <= _TOGETHER:
        parts = (b"".join(parts),)
    with trio.move_on_after(frames.patience.for_shard(length)):
        for part in parts:
            await frames.send(part)
        return
    raise ProtocolViolation("the peer reads too slowly")


def _refusal(number: int, error: Exception) -> bytes:
    if isinstance(error, RequestFailed):
        return encode_failure(number, error.code, error.detail)
    log.error("serving a shard failed", exc_info=error)
    return encode_failure(number, ErrorCode.INTERNAL)


class DataPool:
    """A few data connections to one farmer, made by `connect` when needed and kept while they work; how many
    of them there may be follows from what they bring (`Width`), beginning with `size`.

    Transfers that wait for one go by their priority, and uploads leave one to the others. A connection on
    which a transfer was cancelled, timed out or failed is dropped, which tells the farmer to stop; a refusal
    keeps it.
    """

    def __init__(self, connect: Callable[[], Awaitable[FrameStream]], size: int = FIRST) -> None:
        self._connect = connect
        self.width = Width(size)
        self._turns = Turns(self.width.count, _shares(self.width.count))
        self._idle: list[FrameStream] = []
        self._busy: set[FrameStream] = set()
        self._open = 0
        self._closed = False

    async def put(self, header: Put, data: Buffer, timeout: float) -> PutAnswer:  # noqa: ASYNC109
        """Send the shard `data` (`header.length` bytes, not copied) and return the farmer's answer.

        Raises RequestFailed, RequestTimeout, PeerUnreachable, ProtocolViolation. Unless it returns, the
        farmer may or may not hold the shard.
        """
        if len(data) != header.length:
            raise ValueError("the header has another length than the shard")

        async def transfer(frames: FrameStream) -> PutAnswer:
            request = encode_request(0, header)
            if len(data) <= _TOGETHER:
                await frames.send(b"".join((request, data)))
            else:
                await frames.send(request)
                await frames.send(data)
            return await _answer(frames, header)

        return await self._attempt(transfer, header.length, timeout, Priority.UPLOAD)

    async def get_into(
        self,
        header: Get,
        buffer: memoryview,
        timeout: float,  # noqa: ASYNC109
        priority: Priority = Priority.READ,
        asked: Callable[[], None] = lambda: None,
    ) -> None:
        """Fill `buffer` (`header.length` bytes) with the range that `header` asks for.

        `asked` is called before the farmer is: from then on it may send. Raises as `put`; then and when
        cancelled the buffer's content is undefined.
        """
        if len(buffer) != header.length:
            raise ValueError("the header has another length than the buffer")

        async def transfer(frames: FrameStream) -> None:
            asked()
            await frames.send(encode_request(0, header))
            answer = await _answer(frames, header)
            if answer.length != header.length:
                raise ProtocolViolation("the farmer sends another length than was asked for")
            await frames.receive_exactly(buffer)

        await self._attempt(transfer, header.length, timeout, priority)

    async def aclose(self) -> None:
        """Close the idle connections at once; those in use are closed when their transfer ends."""
        self._closed = True
        while self._idle:
            await trio.aclose_forcefully(self._idle.pop())

    async def break_off(self) -> None:
        """Close all connections, for what they lead through is gone: transfers on those that were used before
        begin again on new ones, others fail with PeerUnreachable."""
        broken = [*self._idle, *self._busy]
        self._open -= len(self._idle)
        self._idle.clear()
        for frames in broken:
            await trio.aclose_forcefully(frames)

    async def _attempt(
        self,
        transfer: Callable[[FrameStream], Awaitable[T]],
        length: int,
        timeout: float,  # noqa: ASYNC109
        priority: Priority,
    ) -> T:
        with trio.move_on_after(timeout):
            async with self._turns.turn(priority):
                began, done = trio.current_time(), False
                try:
                    answer = await self._transfer(transfer)
                    done = True
                finally:
                    self._judge(began, length, done=done)
                return answer
        raise RequestTimeout(f"the transfer took longer than {timeout:g} s")

    async def _transfer(self, transfer: Callable[[FrameStream], Awaitable[T]]) -> T:
        while self._idle:
            try:
                async with self._lent(self._idle.pop()) as frames:
                    return await transfer(frames)
            except PeerUnreachable:
                continue  # it broke while nobody used it
        frames = await self._connect()
        self._open += 1
        async with self._lent(frames):
            return await transfer(frames)

    def _judge(self, began: float, length: int, *, done: bool) -> None:
        """How many connections there may be after a transfer that is `done`, or was given up."""
        now, width = trio.current_time(), self.width
        before = width.count
        if done:
            width.done(now, length, waiting=self._turns.waiting > 0)
        elif now - began >= STUCK:
            width.stalled()
        if width.count != before:
            self._turns.resize(width.count, _shares(width.count))

    @asynccontextmanager
    async def _lent(self, frames: FrameStream) -> AsyncIterator[FrameStream]:
        sound = False
        self._busy.add(frames)
        try:
            yield frames
            sound = True
        except RequestFailed:
            sound = True
            raise
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise PeerUnreachable(f"the data connection broke: {error}") from error
        finally:
            self._busy.discard(frames)
            if sound and not self._closed and self._open <= self.width.count:
                self._idle.append(frames)
            else:
                self._open -= 1
                await trio.aclose_forcefully(frames)


def _shares(count: int) -> dict[Priority, int]:
    """Uploads leave one connection to the others."""
    return {Priority.UPLOAD: max(1, count - 1)}


async def _answer(frames: FrameStream, header: Request[T]) -> T:
    frame = await frames.receive_frame(MAX_DATA_FRAME)
    if frame is None:
        raise PeerUnreachable("the data connection was closed before the answer came")
    if frame.id != 0:
        raise ProtocolViolation("an answer to another request")
    return open_answer(frame, header)
