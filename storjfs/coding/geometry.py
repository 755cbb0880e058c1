"""Where frames lie in a segment and how long shards are: arithmetic on segment positions, nothing else.

A *run* `(pos, length)` is `length` bytes of plaintext appended at once. It is sealed as consecutive frames:
the first starts at segment position `pos` and fills at most the rest of its piece, each further one starts at
a piece boundary and all but the last fill their piece. So a run's frames follow from `(pos, length)` alone,
and no frame crosses a piece.

Positions and sizes are in bytes. A frame of `n` bytes of plaintext occupies `n + FRAME_OVERHEAD` bytes.
"""

from collections.abc import Iterator
from typing import Final

PIECE: Final = 65536
FRAME_OVERHEAD: Final = 28
"""A 12-byte nonce before and a 16-byte tag behind the ciphertext."""
PIECE_TAG: Final = 16
SEALED_PIECE: Final = PIECE + PIECE_TAG
MIN_FRAME_ROOM: Final = 4096
"""A run starts in the next piece where neither this much plaintext nor the whole run fits into this one."""
FULL_FRAME: Final = PIECE - FRAME_OVERHEAD
"""Plaintext bytes of a frame that fills its piece."""

_CAPACITY_PER_DATA_SHARD: Final = 4 << 20
_LARGEST_CAPACITY: Final = 32 << 20


def segment_capacity(k: int) -> int:
    """Bytes a segment of a code with `k` data shards may hold: a multiple of `k * PIECE`, at most 32 MiB."""
    stripe = k * PIECE
    return min(k * _CAPACITY_PER_DATA_SHARD, _LARGEST_CAPACITY) // stripe * stripe


def shard_length(segment_size: int, k: int) -> int:
    """Bytes of each unsealed shard of a segment of `segment_size` bytes: whole pieces, at least one."""
    return max(1, -(-segment_size // (k * PIECE))) * PIECE


def sealed_length(plain_length: int) -> int:
    """Bytes of a sealed shard whose unsealed length is `plain_length`, a multiple of `PIECE`."""
    return plain_length // PIECE * SEALED_PIECE


def run_frames(pos: int, length: int) -> Iterator[tuple[int, int]]:
    """The frames of a run in order, each as (position in the segment, plaintext length)."""
    if length <= 0:
        return
    room = PIECE - pos % PIECE
    fits = min(length, room - FRAME_OVERHEAD)
    yield pos, fits
    pos += room
    length -= fits
    while length > 0:
        fits = min(length, FULL_FRAME)
        yield pos, fits
        pos += PIECE
        length -= fits


def run_end(pos: int, length: int) -> int:
    """The segment position just after the last frame of a run; `pos` for an empty one."""
    if length <= 0:
        return pos
    room = PIECE - pos % PIECE
    rest = length - (room - FRAME_OVERHEAD)
    if rest <= 0:
        return pos + length + FRAME_OVERHEAD
    full, last = divmod(rest - 1, FULL_FRAME)
    return pos + room + full * PIECE + last + 1 + FRAME_OVERHEAD


def place_run(pos: int, length: int, capacity: int) -> tuple[int, int]:
    """Where a run of up to `length` bytes starts in a segment filled up to `pos`, and how many of them fit.

    `capacity` is a multiple of `PIECE`. The count is 0 where the segment is full (or `length` is 0).
    """
    room = PIECE - pos % PIECE
    if room < FRAME_OVERHEAD + MIN_FRAME_ROOM and room < FRAME_OVERHEAD + length:
        pos += room
        room = PIECE
    if pos >= capacity or length <= 0:
        return pos, 0
    fits = room - FRAME_OVERHEAD + ((capacity - pos - room) // PIECE) * FULL_FRAME
    return pos, min(fits, length)


def frames_covering(pos: int, length: int, skip: int, count: int) -> list[tuple[int, int, int, int]]:
    """The frames of the run `(pos, length)` that hold its plaintext bytes `[skip, skip + count)`, in order.

    Each is (position in the segment, plaintext length, from, to): the bytes `[from, to)` of the frame's
    plaintext are wanted. Costs time in the frames touched only. The range has to lie within the run.
    """
    if count <= 0:
        return []
    room = PIECE - pos % PIECE
    first = room - FRAME_OVERHEAD
    end = skip + count
    if end <= first:
        return [(pos, min(first, length), skip, end)]
    frames = []
    if skip < first:
        frames.append((pos, first, skip, first))
        number = 0
    else:
        number = (skip - first) // FULL_FRAME
    start = first + number * FULL_FRAME
    at = pos + room + number * PIECE
    while start < end:
        rest = length - start
        wanted = end - start
        frames.append(
            (
                at,
                min(FULL_FRAME, rest),
                skip - start if skip > start else 0,
                min(FULL_FRAME, wanted),
            )
        )
        start += FULL_FRAME
        at += PIECE
    return frames
