"""Segments: where file data goes and comes from.

Appended runs are sealed into the open segment's local file (the journal), closed segments are erasure-coded
and put on farmers, what is stored stays as cache until evicted; reads take the nearest copy and survive
slow, corrupt and missing shards. `Segments` is the room's face.
"""

from storjfs.segments.holdings import Holdings
from storjfs.segments.rebuild import RebuildFailed
from storjfs.segments.segments import Segments
from storjfs.segments.space import DISK_RESERVE, DiskSpace, NoRoom
from storjfs.segments.values import (
    Part,
    Placement,
    Run,
    SegmentsReport,
    SegmentUnreadable,
    ShardState,
    State,
)

__all__ = [
    "DISK_RESERVE",
    "DiskSpace",
    "Holdings",
    "NoRoom",
    "Part",
    "Placement",
    "RebuildFailed",
    "Run",
    "SegmentUnreadable",
    "Segments",
    "SegmentsReport",
    "ShardState",
    "State",
]
