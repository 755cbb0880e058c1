"""Arithmetic of extents within one window of a file. Pure functions on sorted lists.

An extent is a tuple (off, len, seg, pos, run, skip): the file bytes [off, off + len) are the bytes [skip,
skip + len) of the run of `run` bytes at position `pos` of segment `seg`. A window's extents do not overlap
and stand in order; bytes between them are a hole. No extent crosses a window's edge.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence

from storjfs.segments import Part, Run

WINDOW_BITS = 20
WINDOW = 1 << WINDOW_BITS

Extent = tuple[int, int, int, int, int, int]


def splice(
    extents: list[Extent], start: int, end: int, new: Sequence[Extent]
) -> tuple[list[Extent], list[Extent]]:
    """Put `new` (in order, within [start, end)) in the place of whatever covered [start, end).

    Changes `extents`; returns (removed, added), where what sticks out on either side of the range is removed
    whole and its rest added again.
    """
    first = bisect_left(extents, (start,))
    if first and (before := extents[first - 1])[0] + before[1] > start:
        first -= 1
    last = bisect_left(extents, (end,), first)
    removed = extents[first:last]
    added = list(new)
    if removed:
        off, length, seg, pos, run, skip = removed[0]
        if off < start:
            added.insert(0, (off, start - off, seg, pos, run, skip))
        off, length, seg, pos, run, skip = removed[-1]
        if off + length > end:
            cut = end - off
            added.append((end, length - cut, seg, pos, run, skip + cut))
    extents[first:last] = added
    return removed, added


def place(off: int, runs: Sequence[Run]) -> Iterator[tuple[int, list[Extent]]]:
    """The extents of runs that lie one after the other from `off`: (window index, its extents), ascending."""
    index, several = off >> WINDOW_BITS, list[Extent]()
    for seg, pos, length in runs:
        skip = 0
        while skip < length:
            if off >> WINDOW_BITS != index:
                yield index, several
                index, several = off >> WINDOW_BITS, []
            taken = min(length - skip, ((index + 1) << WINDOW_BITS) - off)
            several.append((off, taken, seg, pos, length, skip))
            off += taken
            skip += taken
    if several:
        yield index, several


def touching(extents: Sequence[Extent], start: int, end: int) -> Sequence[Extent]:
    """The extents of which a part lies in [start, end)."""
    first = bisect_left(extents, (start,))
    if first and (before := extents[first - 1])[0] + before[1] > start:
        first -= 1
    return extents[first : bisect_left(extents, (end,), first)]


def covering(extents: Sequence[Extent], start: int, end: int) -> Iterator[tuple[int, Part]]:
    """(offset in the file, part) of what is not a hole in [start, end), ascending."""
    for off, length, seg, pos, run, skip in touching(extents, start, end):
        from_, to = max(off, start), min(off + length, end)
        yield from_, Part(seg, pos, run, skip + from_ - off, to - from_)
