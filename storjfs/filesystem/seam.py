"""What the filesystem asks of the segments room."""

from collections.abc import Sequence
from typing import Protocol

from storjfs.segments import Part, Run

Bytes = bytes | bytearray | memoryview


class SegmentRoom(Protocol):
    """See storjfs.segments.Segments, whose methods these are; tests put a memory in its place."""

    def append(self, ino: int, off: int, data: bytes) -> Sequence[Run]: ...

    async def room(self) -> None: ...

    def read_now(self, seg: int, pos: int, run: int, skip: int, length: int) -> Bytes | None: ...

    async def read(self, seg: int, pos: int, run: int, skip: int, length: int) -> Bytes: ...

    def prefetch(self, parts: Sequence[Part]) -> None: ...

    def live(self, seg: int, delta: int) -> None: ...

    async def flush(self) -> None: ...

    def victims(self) -> Sequence[int]: ...

    def runs(self, seg: int, after: int, limit: int) -> list[tuple[int, int, int, int]]: ...
