"""One long-lived connection between two peers that carries many requests at once, both ways."""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import trio
from msgspec import Struct

from storjfs.network.failures import PeerUnreachable, RequestTimeout
from storjfs.network.frames import FrameStream
from storjfs.protocol.failures import ErrorCode, ProtocolViolation, RequestFailed
from storjfs.protocol.framing import (
    Frame,
    encode_answer,
    encode_failure,
    encode_request,
    open_answer,
    open_request,
)
from storjfs.protocol.messages import Done, Hello, Ping, Request

log = logging.getLogger(__name__)

A = TypeVar("A")

Handler = Callable[[Request[Any]], Awaitable[Struct]]
"""Answers a request. RequestFailed refuses it; ProtocolViolation is answered as BAD_REQUEST; anything else
that it raises is logged and answered as INTERNAL. Cancelled when the connection ends."""

REQUEST_TIMEOUT = 30.0


@dataclass(frozen=True, slots=True)
class ControlLimits:
    """What one connection bears."""

    requests_out: int = 64
    """Own requests without an answer; further ones wait."""
    requests_in: int = 256
    """Requests of the other side being served; further ones are answered BUSY."""
    waiting_bytes: int = 8 << 20
    """Bytes waiting to be sent; beyond, nothing new is taken in until the other side reads."""
    quiet: float = 30.0
    """Seconds without a word until a sign of life is asked for, and again until the peer is given up."""


CONTROL_LIMITS = ControlLimits()


async def refuse_all(request: Request[Any]) -> Struct:
    """The handler of a side that serves nothing."""
    raise RequestFailed(ErrorCode.UNSUPPORTED, type(request).__name__)


class _Waiting:
    __slots__ = ("event", "frame")

    def __init__(self) -> None:
        self.event = trio.Event()
        self.frame: Frame | None = None


class ControlConnection:
    """Requests both ways over `frames`, on which the hello has been exchanged already.

    Works while `run` does. Cancelling a request is free at any time: its answer is dropped when it comes.
    """

    def __init__(
        self, frames: FrameStream, handler: Handler = refuse_all, limits: ControlLimits = CONTROL_LIMITS
    ) -> None:
        self.closed = False
        self.last_heard = 0.0
        """trio.current_time() of the last frame from the other side."""
        self._frames, self._handler, self._limits = frames, handler, limits
        self._waiting: dict[int, _Waiting] = {}
        self._next = 0
        self._slots = trio.Semaphore(limits.requests_out)
        self._serving = 0
        self._outgoing: list[bytes] = []
        self._outgoing_bytes = 0
        self._written = trio.lowlevel.ParkingLot()
        self._work = trio.Event()
        self._scope = trio.CancelScope()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Carry requests until either side closes; then the stream is closed and open requests fail.

        Raises ProtocolViolation if the other side breaks the protocol.
        """
        violation: ProtocolViolation | None = None
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    self.last_heard = trio.current_time()
                    nursery.start_soon(self._write)
                    nursery.start_soon(self._watch)
                    task_status.started()
                    try:
                        await self._read(nursery)
                    except ProtocolViolation as error:
                        violation = error
                    except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                        log.debug("control connection lost: %s", error)
                    nursery.cancel_scope.cancel()
        finally:
            self._end()
            with trio.CancelScope(shield=True):
                await self._frames.aclose()
        if violation is not None:
            raise violation

    def close(self) -> None:
        """End `run`."""
        self._scope.cancel()

    async def request(self, body: Request[A], timeout: float = REQUEST_TIMEOUT) -> A:  # noqa: ASYNC109
        """Send `body` and return its answer.

        Raises RequestFailed (refused), RequestTimeout after `timeout` seconds, PeerUnreachable (connection
        lost), ProtocolViolation (an answer that is none; the connection is closed then).
        """
        with trio.move_on_after(timeout):
            async with self._slots:
                return await self._exchange(body)
        raise RequestTimeout(f"no answer to {type(body).__name__} within {timeout:g} s")

    async def _exchange(self, body: Request[A]) -> A:
        await self._room()
        number = self._next
        self._next += 1
        waiting = self._waiting[number] = _Waiting()
        try:
            self._enqueue(encode_request(number, body))
            await waiting.event.wait()
        finally:
            self._waiting.pop(number, None)
        if waiting.frame is None:
            raise PeerUnreachable("the connection was lost before the answer came")
        try:
            return open_answer(waiting.frame, body)
        except ProtocolViolation:
            self.close()
            raise

    async def _read(self, nursery: trio.Nursery) -> None:
        """Take in frames until the other side closes."""
        while (frame := await self._frames.receive_frame()) is not None:
            self.last_heard = trio.current_time()
            if frame.is_request:
                await self._take_request(nursery, frame)
            elif (waiting := self._waiting.get(frame.id)) is not None:
                waiting.frame = frame
                waiting.event.set()
            elif frame.id >= self._next:
                raise ProtocolViolation("an answer came to a request that was never made")

    async def _take_request(self, nursery: trio.Nursery, frame: Frame) -> None:
        await self._room()  # a side that asks but does not read its answers is not listened to
        try:
            request = open_request(frame)
        except RequestFailed as error:
            self._enqueue(encode_failure(frame.id, error.code, error.detail))
            return
        if isinstance(request, Hello):
            raise ProtocolViolation("a second hello")
        if isinstance(request, Ping):
            self._enqueue(encode_answer(frame.id, Done()))
        elif self._serving >= self._limits.requests_in:
            self._enqueue(encode_failure(frame.id, ErrorCode.BUSY))
        else:
            self._serving += 1
            nursery.start_soon(self._serve, frame.id, request)

    async def _serve(self, number: int, request: Request[Any]) -> None:
        try:
            try:
                frame = encode_answer(number, await self._handler(request))
            except RequestFailed as error:
                frame = encode_failure(number, error.code, error.detail)
            except ProtocolViolation as error:
                frame = encode_failure(number, ErrorCode.BAD_REQUEST, str(error))
            except Exception:
                log.exception("answering %s failed", type(request).__name__)
                frame = encode_failure(number, ErrorCode.INTERNAL)
            await self._room()
            self._enqueue(frame)
        finally:
            self._serving -= 1

    async def _room(self) -> None:
        """Wait until the other side has read enough of what waits for it."""
        while self._outgoing_bytes > self._limits.waiting_bytes and not self.closed:
            await self._written.park()
        if self.closed:
            raise PeerUnreachable("the connection is closed")

    def _enqueue(self, frame: bytes) -> None:
        self._outgoing.append(frame)
        self._outgoing_bytes += len(frame)
        self._work.set()

    async def _write(self) -> None:
        """Send what has gathered, all in one go."""
        while True:
            await self._work.wait()
            self._work = trio.Event()
            frames, self._outgoing = self._outgoing, []
            data = frames[0] if len(frames) == 1 else b"".join(frames)
            try:
                await self._frames.send(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return self.close()
            self._outgoing_bytes -= len(data)
            self._written.unpark_all()

    async def _watch(self) -> None:
        """Close a connection whose other side is gone without a word."""
        quiet = self._limits.quiet
        while True:
            await trio.sleep_until(self.last_heard + quiet)
            if trio.current_time() < self.last_heard + quiet:
                continue
            try:
                with trio.move_on_after(quiet):
                    await self._exchange(Ping())  # not behind requests that wait for their answers
            except (RequestFailed, PeerUnreachable, ProtocolViolation):
                return self.close()
            if trio.current_time() >= self.last_heard + quiet:
                return self.close()

    def _end(self) -> None:
        """Fail what still waits. Nothing can be asked any more."""
        self.closed = True
        for waiting in self._waiting.values():
            waiting.event.set()
        self._written.unpark_all()
