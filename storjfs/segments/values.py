"""What crosses this room's seams: runs, reports, errors, and what it asks of the renter."""

import errno
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NamedTuple, Protocol

from storjfs.coding.buffers import Buffer
from storjfs.errors import FilesystemError
from storjfs.protocol.priorities import Priority
from storjfs.renter.speed import Way


class State(IntEnum):
    """The life of a segment (decision record 1)."""

    OPEN = 0
    CLOSED = 1
    STORED = 2
    DOOMED = 3


class ShardState(IntEnum):
    """Of one row of the shard table. SUSPECT shards count as held: their farmer is silent, nothing more."""

    UPLOADING = 0
    HELD = 1
    SUSPECT = 2
    LOST = 3


class Run(NamedTuple):
    """`length` bytes of plaintext appended at once; the first frame starts at segment position `pos`."""

    seg: int
    pos: int
    length: int


class Part(NamedTuple):
    """The bytes `[skip, skip + length)` of the run `(seg, pos, run)`."""

    seg: int
    pos: int
    run: int
    skip: int
    length: int


@dataclass(frozen=True, slots=True)
class SegmentsReport:
    """What `status` tells about segments. Sizes in bytes of sealed segment data, before the erasure code."""

    stored_bytes: int
    """In segments with enough receipts to survive the loss of this machine."""
    waiting_bytes: int
    """Not yet there."""
    cached_bytes: int
    """Stored and also in the local cache."""
    full: int
    degraded: int
    at_risk: int
    lost: int
    """Stored segments by spare shards, as `storjfs.renter.repair_policy.health` judges them."""
    to_delete: int
    """Shards whose deletion a farmer has yet to confirm (an upper bound is not needed: 0 means none)."""
    problems: Sequence[str]
    """What a person has to know, newest last; bounded."""
    unreadable: Sequence[int]
    """Numbers of segments that a read lately found to be lost; bounded."""
    room_bytes: int = 0
    """What may still be written while farmers take nothing: then writers wait, or fail."""
    damaged: Sequence[int] = ()
    """Numbers of segments with frames that are lost for good, since this machine damaged them before the
    farmers had them; as far as it was noticed since the start, bounded."""


NOBODY: Final = 0
"""Stands for the contract of a shard that was never placed; contracts count from 1."""


class SegmentUnreadable(FilesystemError):
    """EIO: too few good shards of segment `seg` can be had, and there is no local copy."""

    def __init__(self, seg: int, reason: str) -> None:
        super().__init__(errno.EIO, f"segment {seg} cannot be read: {reason}")
        self.seg = seg
        self.reason = reason
        self.hint = (
            "storjfs status shows which farmers are missing; when enough of them are back, so is the data."
        )


class SegmentDamaged(SegmentUnreadable):
    """EIO: frames of segment `seg` were damaged here before the farmers had them."""

    def __init__(self, seg: int, reason: str) -> None:
        super().__init__(seg, reason)
        self.hint = "storjfs status names the file; its other parts are well. Restore it from a copy."


class Receipt(Protocol):
    """A farmer's signature for one shard, already verified by the renter against what was sent."""

    @property
    def root(self) -> bytes: ...


class Placement(Protocol):
    """What this room needs of the renter. Sizes and offsets in bytes of sealed shards.

    `lagging`: whether the farmer is to be worked around now; `late` tells that a transfer was waited for so
    long while others were faster. `put`, `get` and `delete` raise a StorjfsError or OSError when they fail,
    and may be cancelled.
    """

    def code(self) -> tuple[int, int]: ...

    def choose(self, count: int, size: int, exclude: Collection[int] = ()) -> list[int]: ...

    def usual_latency(self, contract: int) -> float: ...

    def contained(self, contract: int) -> bool: ...

    def lagging(self, contract: int, way: Way) -> bool: ...

    def late(self, contract: int, way: Way, length: int, seconds: float) -> None: ...

    async def put(
        self, contract: int, shard_id: bytes, sealed: Buffer, root: bytes | None = None
    ) -> Receipt: ...

    async def get(
        self,
        contract: int,
        shard_id: bytes,
        offset: int,
        length: int,
        priority: Priority = Priority.READ,
    ) -> Buffer: ...

    async def delete(self, contract: int, shard_ids: Sequence[bytes]) -> None: ...
