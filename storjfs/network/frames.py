"""Frames and raw bytes on one stream, in both directions."""

from dataclasses import dataclass
from typing import Any, Final

import trio

from storjfs.protocol.failures import ProtocolViolation
from storjfs.protocol.framing import HEADER, MAX_FRAME, Frame, frame_length, parse_frame

Buffer = bytes | bytearray | memoryview

CONTROL_BUFFER: Final = 8 << 10
"""Each idle connection has one; what is larger goes past it."""
DATA_BUFFER: Final = 4 << 10
"""Small: what is read beyond a header has to be copied."""
_GROWTH: Final = 256 << 10


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds that the other side gets. A byte now and then does not make them more."""

    hello: float = 10.0
    """From the end of the handshake to the end of the hello."""
    frame: float = 30.0
    """For the rest of a frame that has begun, and ..."""
    stall: float = 30.0
    """... within a shard without a byte; both plus ..."""
    slowest: int = 32 << 10
    """... the time that all of it takes at so many bytes per second."""
    idle: float = 300.0
    """On a data connection between two transfers."""

    def for_frame(self, length: int) -> float:
        return self.frame + length / self.slowest

    def for_shard(self, length: int) -> float:
        """For all of a shard or range."""
        return self.stall + length / self.slowest


PATIENCE: Final = Patience()


class FrameStream(trio.abc.AsyncResource):
    """Reads frames, and bytes that follow them, from any trio stream.

    At most one task may receive at a time, and one send. Cancelling a receive within a frame or within raw
    bytes leaves the stream at an unknown place: close it then.
    """

    __slots__ = ("_buffer", "_end", "_exact", "_receive_into", "_start", "patience", "stream")

    def __init__(
        self,
        stream: trio.abc.Stream,
        buffer_size: int = CONTROL_BUFFER,
        patience: Patience = PATIENCE,
        *,
        exact: bool = False,
    ) -> None:
        """`exact`: nothing behind a frame is taken from the stream, which is needed where TLS ends there."""
        self._exact = exact
        self.stream = stream
        self.patience = patience
        self._buffer = memoryview(bytearray(buffer_size))
        self._start = self._end = 0
        self._receive_into: Any = getattr(stream, "receive_into", None)

    def widen(self, buffer_size: int) -> None:
        """Read with a larger buffer from now on."""
        rest = bytes(self._buffer[self._start : self._end])
        self._buffer = memoryview(bytearray(max(buffer_size, len(rest))))
        self._buffer[: len(rest)] = rest
        self._start, self._end = 0, len(rest)

    async def send(self, data: Buffer) -> None:
        """Send frames or raw bytes as they are."""
        await self.stream.send_all(data)

    async def receive_frame(self, limit: int = MAX_FRAME) -> Frame | None:
        """The next frame, None at the end of the stream between two frames.

        Waits for ever for the first byte of it, `patience` for the rest. Raises ProtocolViolation where that
        does not come in time, before making room for more than `limit`, and for an end within a frame.
        """
        if self._start == self._end and not await self.wait_for_more():
            return None
        frame = self._whole_frame(limit)
        if frame is not None:
            return frame
        with trio.move_on_after(self.patience.frame) as scope:
            if not await self._gather(HEADER):
                raise ProtocolViolation("the stream ended within a frame")
            length = frame_length(self._buffer[self._start : self._start + HEADER], limit)
            scope.deadline += length / self.patience.slowest
            self._start += HEADER
            if length > len(self._buffer):
                return parse_frame(await self._receive_large(length))
            if not await self._gather(length):
                raise ProtocolViolation("the stream ended within a frame")
            return self._parse(length)
        raise ProtocolViolation("a frame came too slowly")

    async def wait_for_more(self) -> bool:
        """Wait until something has come that nobody has received, False at the end of the stream.

        Cancelling it loses nothing. Raises trio.BrokenResourceError.
        """
        if self._start < self._end:
            return True
        self._start, self._end = 0, await self._receive(self._buffer[: HEADER if self._exact else None])
        return self._end > 0

    def _whole_frame(self, limit: int) -> Frame | None:
        """The next frame if all of it is here."""
        ready = self._end - self._start - HEADER
        if ready < 0:
            return None
        length = frame_length(self._buffer[self._start : self._start + HEADER], limit)
        if ready < length:
            return None
        self._start += HEADER
        return self._parse(length)

    def _parse(self, length: int) -> Frame:
        data = bytes(self._buffer[self._start : self._start + length])
        self._start += length
        return parse_frame(data)

    async def receive_some_into(self, view: memoryview) -> int:
        """Raw bytes into `view` (not empty), what there is: at least one, 0 at the end of the stream."""
        ready = min(self._end - self._start, len(view))
        if ready:
            view[:ready] = self._buffer[self._start : self._start + ready]
            self._start += ready
            return ready
        return await self._receive(view)

    async def receive_exactly(self, view: memoryview) -> None:
        """Fill `view` with raw bytes. Raises ProtocolViolation where the stream ends before."""
        done = 0
        while done < len(view):
            count = await self.receive_some_into(view[done:])
            if not count:
                raise ProtocolViolation("the stream ended within a shard")
            done += count

    def detach(self) -> tuple[trio.SocketStream, bytes]:
        """End frames and TLS, and go on with TCP alone: see `TlsStream.detach`.

        Raises ProtocolViolation where the other side has sent more within TLS, or there is no TCP below.
        """
        detach = getattr(self.stream, "detach", None)
        if self._start < self._end or detach is None:
            raise ProtocolViolation("TLS cannot end here")
        transport, head = detach()
        if not isinstance(transport, trio.SocketStream):
            raise ProtocolViolation("there is no TCP connection below")
        return transport, head

    async def aclose(self) -> None:
        """Close the stream below."""
        await self.stream.aclose()

    async def _gather(self, wanted: int) -> bool:
        """Have `wanted` bytes (at most the buffer's size) in the buffer; False if the stream ends before."""
        while self._end - self._start < wanted:
            if self._start == self._end:
                self._start = self._end = 0
            elif len(self._buffer) - self._start < wanted:
                rest = bytes(self._buffer[self._start : self._end])
                self._start, self._end = 0, len(rest)
                self._buffer[: len(rest)] = rest
            until = self._start + wanted if self._exact else None
            count = await self._receive(self._buffer[self._end : until])
            if not count:
                return False
            self._end += count
        return True

    async def _receive_large(self, length: int) -> bytearray:
        """A body larger than the buffer; room is made as it arrives, so that a mere claim costs nothing."""
        data = bytearray()
        while len(data) < length:
            done = len(data)
            part = min(length - done, _GROWTH)
            data += bytes(part)
            with memoryview(data) as view:
                await self.receive_exactly(view[done:])
        return data

    async def _receive(self, view: memoryview) -> int:
        if self._receive_into is not None:
            return int(await self._receive_into(view))
        data = await self.stream.receive_some(len(view))
        view[: len(data)] = data
        return len(data)
