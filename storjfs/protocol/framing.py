"""Frames: u32 big-endian length, then the tagged array `[id, method, body]`.

A request carries the caller's own number as `id` and its entry in `messages.METHODS` as `method`. Its answer
has the same `id` and the method `ANSWER` or `FAILURE`. Both sides number their requests independently. A
frame with the method `CANCEL` has the `id` of a request that its sender no longer wants answered.
"""

from typing import Annotated, Any, Final, TypeVar

from msgspec import Meta, Raw, Struct

from storjfs.protocol.encoding import decode, encode
from storjfs.protocol.failures import ErrorCode, ProtocolViolation, RequestFailed
from storjfs.protocol.ids import Unsigned
from storjfs.protocol.messages import ANSWER, CANCEL, FAILURE, METHODS, REQUESTS, Done, Failure, Request

A = TypeVar("A")

HEADER: Final = 4
MAX_FRAME: Final = 4 << 20
"""Bytes after the length; a larger claim ends the connection before anything is allocated."""
MAX_HELLO: Final = 64 << 10
"""The same for the first frame of a connection, when nobody knows who is there."""
MAX_REQUEST: Final = 256 << 10
"""The same for a request: only answers may be larger, and only somebody who asked has to take one in."""
MAX_DATA_FRAME: Final = 4 << 10
"""The same for every frame on a data connection."""


class Frame(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One frame with its body still encoded."""

    id: Unsigned
    method: Annotated[int, Meta(ge=0, le=255)]
    body: Raw

    @property
    def is_request(self) -> bool:
        return self.method not in (ANSWER, FAILURE, CANCEL)

    @property
    def size(self) -> int:
        """Bytes of its body."""
        return len(memoryview(self.body))


def frame_length(header: bytes | bytearray | memoryview, limit: int = MAX_FRAME) -> int:
    """How many bytes follow the four of `header`. Raises ProtocolViolation for none or more than `limit`."""
    length = int.from_bytes(header, "big")
    if not 0 < length <= limit:
        raise ProtocolViolation(f"a frame of {length} bytes, allowed are 1 to {limit}")
    return length


def parse_frame(data: bytes | bytearray | memoryview) -> Frame:
    """The frame in the bytes after its length. Raises ProtocolViolation."""
    return decode(data, Frame)


def encode_request(number: int, request: Request[Any]) -> bytes:
    """The frame of a request. Raises ValueError where it is too large."""
    return _framed(number, METHODS[type(request)][0], request, MAX_REQUEST)


def encode_cancel(number: int) -> bytes:
    """The frame that withdraws the request of this number. Only for who has said CANCEL_CAPABILITY."""
    return _framed(number, CANCEL, Done())


def encode_answer(number: int, answer: Struct) -> bytes:
    """The frame of an answer. Raises ValueError where it is too large."""
    return _framed(number, ANSWER, answer)


def encode_failure(number: int, code: ErrorCode | int, detail: str = "") -> bytes:
    """The frame of a refusal. `detail` is cut to what the format allows."""
    words = detail.encode("utf-8", "replace").decode()[:256]
    return _framed(number, FAILURE, Failure(int(code), words))


def open_request(frame: Frame) -> Request[Any]:
    """The request in a frame. Raises RequestFailed(UNSUPPORTED), ProtocolViolation."""
    try:
        wanted = REQUESTS[frame.method]
    except KeyError:
        raise RequestFailed(ErrorCode.UNSUPPORTED, f"method {frame.method}") from None
    return decode(frame.body, wanted)


def open_answer(frame: Frame, request: Request[A]) -> A:
    """The answer to `request` in a frame. Raises RequestFailed for a refusal, else ProtocolViolation."""
    if frame.method == FAILURE:
        failure = decode(frame.body, Failure)
        raise RequestFailed(failure.code, failure.detail)
    if frame.method != ANSWER:
        raise ProtocolViolation("a request came where an answer was due")
    answer: Any = METHODS[type(request)][1]
    return decode(frame.body, answer)  # type: ignore[no-any-return]


def _framed(number: int, method: int, body: Struct, most: int = MAX_FRAME) -> bytes:
    data = encode((number, method, body))
    if len(data) > most:
        raise ValueError(f"a frame of {len(data)} bytes is too large")
    return len(data).to_bytes(HEADER, "big") + data
