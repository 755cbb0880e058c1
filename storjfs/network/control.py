"""One long-lived connection between two peers that carries many requests at once, both ways."""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import trio
from msgspec import Struct

from storjfs.network.failures import PeerUnreachable, RequestTimeout
from storjfs.network.frames import FrameStream
from storjfs.network.guests import Guest
from storjfs.network.turns import Turns
from storjfs.protocol.conversation import (
    Answered,
    Asked,
    Cancelled,
    Conversation,
    Event,
    Refused,
    Unwanted,
    cancelled,
)
from storjfs.protocol.failures import ErrorCode, ProtocolViolation, RequestFailed
from storjfs.protocol.framing import Frame, encode_answer, encode_failure, open_answer
from storjfs.protocol.messages import Done, Ping, Request
from storjfs.protocol.priorities import priority_of

log = logging.getLogger(__name__)

A = TypeVar("A")

Handler = Callable[[Request[Any]], Awaitable[Struct]]
"""Answers a request. RequestFailed refuses it; ProtocolViolation is answered as BAD_REQUEST; anything else
that it raises is logged and answered as INTERNAL. Cancelled when the connection ends, and when the other side
withdraws the request."""

REQUEST_TIMEOUT = 30.0
_IN_A_ROW = 32
"""Frames taken in until others get their turn."""


@dataclass(frozen=True, slots=True)
class ControlLimits:
    """What one connection bears."""

    requests_out: int = 64
    """Own requests without an answer; further ones wait, by their priority."""
    requests_in: int = 256
    """Requests of the other side being served; further ones are answered BUSY."""
    waiting_bytes: int = 4 << 20
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

    Works while `run` does. A request that is cancelled or late is withdrawn: its answer is dropped when it
    comes, and the other side stops working on it, if its hello said that it can (`cancels`). `guest` is what
    the other side may take of this one, here and on its other connections.
    """

    def __init__(
        self,
        frames: FrameStream,
        handler: Handler = refuse_all,
        limits: ControlLimits = CONTROL_LIMITS,
        *,
        cancels: bool = True,
        guest: Guest | None = None,
        host: str = "",
    ) -> None:
        self.closed = False
        self.lost = False
        """Whether it broke, or was given up, without a word of the other side."""
        self.answered = False
        """Whether the other side has answered a request, however."""
        self.host = host
        """The IP address that it comes from; empty where that is not known."""
        self.last_heard = 0.0
        """trio.current_time() of the last frame from the other side."""
        self._frames, self._handler, self._limits = frames, handler, limits
        self._guest = guest or Guest()
        self._conversation = Conversation(cancels=cancels)
        self._waiting: dict[int, _Waiting] = {}
        self._serving: dict[int, trio.CancelScope] = {}
        self._turns = Turns(limits.requests_out)
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
                        self.lost = True
                    nursery.cancel_scope.cancel()
        finally:
            self._end()
            with trio.CancelScope(shield=True):
                await self._frames.aclose()
        if violation is not None:
            try:
                raise violation
            finally:
                del violation  # which leads here, and would stay until garbage is looked for

    def close(self) -> None:
        """End `run`."""
        self._scope.cancel()

    def _lose(self) -> None:
        self.lost = True
        self.close()

    async def request(self, body: Request[A], timeout: float = REQUEST_TIMEOUT) -> A:  # noqa: ASYNC109
        """Send `body` and return its answer.

        Raises RequestFailed (refused), RequestTimeout after `timeout` seconds, PeerUnreachable (connection
        lost), ProtocolViolation (an answer that is none; the connection is closed then).
        """
        with trio.move_on_after(timeout):
            async with self._turns.turn(priority_of(body)):
                return await self._exchange(body)
        raise RequestTimeout(f"no answer to {type(body).__name__} within {timeout:g} s")

    async def _exchange(self, body: Request[A]) -> A:
        await self._room()
        number, request = self._conversation.ask(body)
        waiting = self._waiting[number] = _Waiting()
        try:
            self._enqueue(request)
            await waiting.event.wait()
        except BaseException:
            self._withdraw(number)
            raise
        finally:
            self._waiting.pop(number, None)
        if waiting.frame is None:
            raise PeerUnreachable("the connection was lost before the answer came")
        try:
            return open_answer(waiting.frame, body)
        except ProtocolViolation:
            self.close()
            raise

    def _withdraw(self, number: int) -> None:
        try:
            frame = self._conversation.withdraw(number)
        except ProtocolViolation as error:
            log.info("control connection given up: %s", error)
            self.close()
            return
        if frame and not self.closed:
            self._enqueue(frame)

    async def _read(self, nursery: trio.Nursery) -> None:
        """Take in frames until the other side closes."""
        in_a_row = 0
        # What the next frame may be like depends on what is open when it begins to come.
        while await self._frames.wait_for_more():
            frame = await self._frames.receive_frame(self._conversation.frame_limit)
            if frame is None:
                return
            self.last_heard = trio.current_time()
            event = self._conversation.receive(frame)
            if isinstance(event, Answered):
                waiting = self._waiting[event.number]
                waiting.frame = event.frame
                waiting.event.set()
                self.answered = True
            elif not isinstance(event, Unwanted):
                # Who asks but does not read the answers is not listened to, nor who asks too much.
                await self._guest.requests.spend()
                await self._room()
                await self._take(nursery, event)
            in_a_row += 1
            if in_a_row >= _IN_A_ROW:
                in_a_row = 0
                await trio.lowlevel.checkpoint()

    async def _take(self, nursery: trio.Nursery, event: Event) -> None:
        if isinstance(event, Refused):
            self._enqueue(event.frame)
        elif isinstance(event, Cancelled):
            scope = self._serving.get(event.number)
            if scope is not None:
                scope.cancel()
        elif isinstance(event, Asked):
            if isinstance(event.request, Ping):
                self._answer(event.number, encode_answer(event.number, Done()))
            elif len(self._serving) >= self._limits.requests_in:
                self._answer(event.number, encode_failure(event.number, ErrorCode.BUSY))
            else:
                await self._guest.request_bytes.take(event.size)
                self._serving[event.number] = trio.CancelScope()
                nursery.start_soon(self._serve, event)

    async def _serve(self, asked: Asked) -> None:
        """Answer a request when its turn comes; nothing, if it is cancelled, but that."""
        number = asked.number
        try:
            with self._serving[number]:
                async with self._guest.answering.turn(priority_of(asked.request)):
                    frame = await self._work_out(number, asked.request)
                    await self._room()
                    self._answer(number, frame)
                    return
            self._answer(number, cancelled(number))
        finally:
            del self._serving[number]
            self._guest.request_bytes.give_back(asked.size)

    async def _work_out(self, number: int, request: Request[Any]) -> bytes:
        try:
            return encode_answer(number, await self._handler(request))
        except RequestFailed as error:
            return encode_failure(number, error.code, error.detail)
        except ProtocolViolation as error:
            return encode_failure(number, ErrorCode.BAD_REQUEST, str(error))
        except Exception:
            log.exception("answering %s failed", type(request).__name__)
            return encode_failure(number, ErrorCode.INTERNAL)

    def _answer(self, number: int, frame: bytes) -> None:
        self._conversation.answered(number)
        self._enqueue(frame)

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
        """Send what has gathered, all in one go; close where the other side does not read it in time."""
        while True:
            await self._work.wait()
            self._work = trio.Event()
            frames, self._outgoing = self._outgoing, []
            data = frames[0] if len(frames) == 1 else b"".join(frames)
            try:
                with trio.move_on_after(self._frames.patience.for_frame(len(data))) as scope:
                    await self._frames.send(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return self._lose()
            if scope.cancelled_caught:
                log.info("control connection given up: the other side does not read")
                return self._lose()
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
                return self._lose()

    def _end(self) -> None:
        """Fail what still waits. Nothing can be asked any more."""
        self.closed = True
        for waiting in self._waiting.values():
            waiting.event.set()
        self._written.unpark_all()
