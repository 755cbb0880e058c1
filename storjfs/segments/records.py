"""A segment and a shard in memory: rows of meta.db, and of a segment what holds while it is there."""

from collections.abc import Callable
from typing import Any, Final

from storjfs.coding.frames import Algorithm, FrameCipher
from storjfs.coding.geometry import PIECE, segment_capacity
from storjfs.segments.values import NOBODY, ShardState, State

SegmentRow = tuple[int, bytes, int, int, int, int, int, int, int, int]
ShardRow = tuple[bytes, int, int, int, bytes, bytes, int, int]

SEGMENT_COLUMNS: Final = "seg, segment_id, state, algorithm, k, n, size, live, created, plain"
SHARD_COLUMNS: Final = "shard_id, seg, idx, contract, root, checksum, length, state"


_MOST_SHARDS: Final = 256
_LARGEST: Final = 32 << 20
LARGEST_SHARD: Final = 1 << 40
"""Bytes; what is longer is damage."""


def makes_sense(row: tuple[Any, ...]) -> bool:
    """Whether a row can be worked with. Only damaged metadata have others; their segment is not touched."""
    _, segment_id, state, algorithm, k, n, size, live, _, plain = row
    return (
        isinstance(segment_id, bytes)
        and len(segment_id) == 16
        and all(isinstance(value, int) for value in row[2:])
        and state in (0, 1, 2, 3)
        and algorithm in (1, 2)
        and 0 <= k <= n <= _MOST_SHARDS
        and (k > 0 or state != int(State.STORED))
        and 0 <= size <= _LARGEST
        # Wrong sums alone are no reason not to read it, unless nothing could be added to them.
        and max(abs(plain), abs(live)) < 1 << 50
    )


def shard_pieces(segment: "Segment") -> int:
    """Pieces in each shard of a segment whose code is set."""
    return max(1, -(-segment.size // (segment.k * PIECE)))


class Shard:
    """One row of the shard table. `counted`: whether it is among what its farmer holds, for Holdings only."""

    __slots__ = ("checksum", "contract", "counted", "idx", "length", "root", "seg", "shard_id", "state")

    def __init__(self, row: ShardRow) -> None:
        self.shard_id, self.seg, self.idx, self.contract, self.root, self.checksum, self.length, state = row
        self.state = ShardState(state)
        self.counted = self.counts

    def row(self) -> ShardRow:
        return (
            self.shard_id,
            self.seg,
            self.idx,
            self.contract,
            self.root,
            self.checksum,
            self.length,
            int(self.state),
        )

    @property
    def held(self) -> bool:
        return self.state is ShardState.HELD or self.state is ShardState.SUSPECT

    @property
    def counts(self) -> bool:
        """Whether a row like this one is among what its farmer holds; see Holdings."""
        length: object = self.length
        # Damaged metadata may have anything for a length.
        sound = isinstance(length, int) and 0 < length <= LARGEST_SHARD
        return sound and self.held and self.contract != NOBODY


class Segment:
    """One segment. `plain`: its plaintext bytes; `live`: those of them that extents point to; `size`: sealed.

    `pins` keeps its data from being deleted while somebody reads; change it only through `Catalogue.pinned`.
    `busy`: its shards are being put, so rows in state UPLOADING belong to somebody.
    """

    __slots__ = (
        "_cipher",
        "_key",
        "algorithm",
        "busy",
        "created",
        "dirty",
        "flying",
        "k",
        "live",
        "n",
        "pins",
        "plain",
        "seg",
        "segment_id",
        "shards",
        "size",
        "state",
    )

    def __init__(self, row: SegmentRow, key: Callable[[bytes, int], bytes]) -> None:
        (
            self.seg,
            self.segment_id,
            state,
            algorithm,
            self.k,
            self.n,
            self.size,
            self.live,
            self.created,
            self.plain,
        ) = row
        self.state = State(state)
        self.algorithm = Algorithm(algorithm)
        self._key = key
        self._cipher: FrameCipher | None = None
        self.shards: list[Shard] | None = None
        self.dirty = False
        self.flying = False
        self.pins = 0
        self.busy = False

    @property
    def cipher(self) -> FrameCipher:
        if self._cipher is None:
            key = self._key(self.segment_id, int(self.algorithm))
            self._cipher = FrameCipher(key, self.segment_id, self.algorithm)
        return self._cipher

    @property
    def unsent(self) -> bool:
        return self.state is State.OPEN or self.state is State.CLOSED

    @property
    def small(self) -> bool:
        """Closed early, under a quarter full: to be merged with others where there are many."""
        return 4 * self.size < segment_capacity(max(1, self.k))

    @property
    def needed(self) -> int:
        """Receipts from which on the segment survives the loss of this machine: k + ceil((n - k) / 2)."""
        return self.k + (self.n - self.k + 1) // 2

    def row(self) -> SegmentRow:
        return (
            self.seg,
            self.segment_id,
            int(self.state),
            int(self.algorithm),
            self.k,
            self.n,
            self.size,
            self.live,
            self.created,
            self.plain,
        )
