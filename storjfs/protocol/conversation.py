"""One side of a control connection after the hello: which requests are open, both ways. No I/O, no clock.

Every request is answered exactly once. One that its sender has cancelled is answered too, with what was
ready or with CANCELLED, so that both sides agree at every moment on which numbers are open. Whatever does not
fit is a ProtocolViolation: an answer to a number that is not open (a replayed one, say), a request with a
number that is, a large frame where no answer is due.
"""

from dataclasses import dataclass
from typing import Any, Final

from storjfs.protocol.failures import ErrorCode, ProtocolViolation, RequestFailed
from storjfs.protocol.framing import (
    MAX_FRAME,
    MAX_REQUEST,
    Frame,
    encode_cancel,
    encode_failure,
    encode_request,
    open_request,
)
from storjfs.protocol.messages import CANCEL, Hello, Request

MOST_FORGOTTEN: Final = 1024
"""Own requests given up without an answer so far; a side that leaves more unanswered is not talked to."""


@dataclass(frozen=True, slots=True)
class Asked:
    """The other side asks. Answer the number once, also when it is cancelled meanwhile."""

    number: int
    request: Request[Any]
    size: int


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer to an own request (`framing.open_answer`)."""

    number: int
    frame: Frame


@dataclass(frozen=True, slots=True)
class Unwanted:
    """An answer to an own request that was withdrawn: to be dropped."""

    number: int


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The other side withdraws an open request; it still has to be answered, in whatever way."""

    number: int


@dataclass(frozen=True, slots=True)
class Refused:
    """A request that this side does not know: `frame` is the refusal to be sent."""

    frame: bytes


@dataclass(frozen=True, slots=True)
class Nothing:
    """A cancel that crossed its answer on the way."""


Event = Asked | Answered | Unwanted | Cancelled | Refused | Nothing


class Conversation:
    """The numbers that are open. `cancels`: the other side understands cancels."""

    __slots__ = ("_asked", "_cancels", "_next", "_open", "_withdrawn")

    def __init__(self, *, cancels: bool = True) -> None:
        self._cancels = cancels
        self._next = 0
        self._asked: set[int] = set()
        self._withdrawn: set[int] = set()
        self._open: set[int] = set()

    @property
    def frame_limit(self) -> int:
        """Bytes that the next frame may have."""
        return MAX_FRAME if self._asked else MAX_REQUEST

    @property
    def asked(self) -> int:
        """Own requests without an answer, withdrawn ones included."""
        return len(self._asked)

    @property
    def open(self) -> int:
        """Requests of the other side without an answer."""
        return len(self._open)

    def ask(self, request: Request[Any]) -> tuple[int, bytes]:
        """Number a request; the frame is to be sent. Raises ValueError where it is too large."""
        frame = encode_request(self._next, request)
        number = self._next
        self._next += 1
        self._asked.add(number)
        return number, frame

    def withdraw(self, number: int) -> bytes:
        """Nobody waits for this answer any more; the frame to be sent, empty where there is nothing to say.

        Raises ProtocolViolation where too many of these are never answered.
        """
        if number not in self._asked or number in self._withdrawn:
            return b""
        self._withdrawn.add(number)
        if len(self._withdrawn) > MOST_FORGOTTEN:
            raise ProtocolViolation("the other side answers nothing")
        return encode_cancel(number) if self._cancels else b""

    def receive(self, frame: Frame) -> Event:
        """What a frame of the other side means. Raises ProtocolViolation."""
        if frame.is_request:
            return self._receive_request(frame)
        if frame.method == CANCEL:
            return Cancelled(frame.id) if frame.id in self._open else Nothing()
        if frame.id not in self._asked:
            raise ProtocolViolation("an answer came to a request that is not open")
        self._asked.remove(frame.id)
        if frame.id in self._withdrawn:
            self._withdrawn.remove(frame.id)
            return Unwanted(frame.id)
        return Answered(frame.id, frame)

    def answered(self, number: int) -> None:
        """The answer to a request of the other side goes out now. Raises ValueError if it is not open."""
        if number not in self._open:
            raise ValueError("a request is answered once")
        self._open.remove(number)

    def _receive_request(self, frame: Frame) -> Event:
        if frame.id in self._open:
            raise ProtocolViolation("two open requests have one number")
        if frame.size > MAX_REQUEST:
            raise ProtocolViolation("a request of this size is not allowed")
        try:
            request = open_request(frame)
        except RequestFailed as error:
            return Refused(encode_failure(frame.id, error.code, error.detail))
        if isinstance(request, Hello):
            raise ProtocolViolation("a second hello")
        self._open.add(frame.id)
        return Asked(frame.id, request, frame.size)


def cancelled(number: int) -> bytes:
    """The frame that answers a cancelled request."""
    return encode_failure(number, ErrorCode.CANCELLED)
