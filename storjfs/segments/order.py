"""In which order cached segments are given up: those read once go before those read again. Pure.

S3-FIFO (Yang, Zhang, Qiu, Yue, Rashmi: FIFO queues are all you need for cache eviction, SOSP 2023), with
segments as its objects: what is new enters a small queue; what was referenced again by the time it reaches
the queue's end moves to the main one, the rest is given up; the main queue gives another round to what was
referenced since the last; the names of what was given up are remembered for a while, and what comes back then
enters the main queue at once. So one pass over any amount of data only ever takes the place of the small
queue.

Two things are ours. A segment is referenced piece by piece and many times by a single pass; as in LRU-K
(O'Neil, O'Neil, Weikum, SIGMOD 1993) references that follow each other closely count as one: between two that
count, `gap` pieces of other traffic have passed. And a segment that gets another round keeps only those
pieces that were read since the last.
"""

import struct
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

MOST_COUNTED: Final = 3
"""References that count beyond which more do not."""
FEWEST_GHOSTS: Final = 64

_MAGIC: Final = b"storjfs order 1\n"
_RECORD: Final = struct.Struct("16sB")
_MAIN, _GHOST = 0x80, 0x40


class Entry:
    """What the order knows of one cached segment. `size` in bytes, kept right by `Order.resize`."""

    __slots__ = ("again", "counted", "main", "read", "segment_id", "size")

    def __init__(self, segment_id: bytes) -> None:
        self.segment_id = segment_id
        self.size = 0
        self.read = 0
        """A bit for each piece read since the last round; -1, all of them, where that is not known."""
        self.again = 0
        """References that count since the last round."""
        self.counted = 0
        """The clock at the last reference that counted."""
        self.main = False


class Visit(NamedTuple):
    """What to do with a segment at the end of its queue: `keep` it (but for pieces nobody read), or not."""

    entry: Entry
    keep: bool


class Order:
    """The two queues. `small` is the size in bytes up to which the small one is left alone; `gap` in pieces.

    Memory is bounded by the number of segments in it; a reference costs a few operations on integers.
    """

    def __init__(self, small: int, gap: int) -> None:
        self._small_wanted = small
        self._gap = gap
        self._clock = 0
        self._small: OrderedDict[bytes, Entry] = OrderedDict()
        self._main: OrderedDict[bytes, Entry] = OrderedDict()
        self._ghosts: OrderedDict[bytes, None] = OrderedDict()
        self._small_bytes = 0

    def __len__(self) -> int:
        return len(self._small) + len(self._main)

    def add(self, entry: Entry) -> None:
        """A segment that is not in the order begins to be cached."""
        entry.main = entry.segment_id in self._ghosts
        entry.again = 0
        entry.counted = self._clock
        if entry.main:
            del self._ghosts[entry.segment_id]
        self._put(entry)

    def _put(self, entry: Entry) -> None:
        if entry.main:
            self._main[entry.segment_id] = entry
        else:
            self._small[entry.segment_id] = entry
            self._small_bytes += entry.size

    def remove(self, entry: Entry) -> bool:
        """Forget it; whether it was there."""
        queue = self._main if entry.main else self._small
        if queue.get(entry.segment_id) is not entry:
            return False
        del queue[entry.segment_id]
        if not entry.main:
            self._small_bytes -= entry.size
        return True

    def give_up(self, entry: Entry) -> None:
        """Remove it, but know it again if it comes back soon."""
        if self.remove(entry):
            self._ghosts[entry.segment_id] = None
            while len(self._ghosts) > max(len(self), FEWEST_GHOSTS):
                self._ghosts.popitem(last=False)

    def resize(self, entry: Entry, size: int) -> None:
        """The cached part of a segment in the order has grown or shrunk."""
        if not entry.main:
            self._small_bytes += size - entry.size
        entry.size = size

    def reference(self, entry: Entry, first: int, count: int) -> None:
        """Pieces `[first, first + count)` are read."""
        entry.read |= ((1 << count) - 1) << first
        clock = self._clock = self._clock + count
        if clock - entry.counted > self._gap and entry.again < MOST_COUNTED:
            entry.again += 1
            entry.counted = clock

    def visit(self, *, other: bool = False) -> Visit | None:
        """Look at the segment whose turn it is; None where there is none. `other`: of the other queue.

        One to be kept has moved to the end of the main queue, and so goes round at most MOST_COUNTED times
        without being referenced. One that is not stays first in its queue: give it up, or a part of it, or
        `skip` it.
        """
        from_small = bool(self._small) and (self._small_bytes > self._small_wanted or not self._main)
        if other and self._small and self._main:
            from_small = not from_small
        queue = self._small if from_small else self._main
        if not queue:
            return None
        entry = next(iter(queue.values()))
        if not entry.again:
            return Visit(entry, keep=False)
        self.remove(entry)
        entry.again = 0 if from_small else entry.again - 1
        entry.counted = self._clock
        entry.main = True
        self._put(entry)
        return Visit(entry, keep=True)

    def skip(self, entry: Entry) -> None:
        """It cannot be given up just now: let others come first."""
        (self._main if entry.main else self._small).move_to_end(entry.segment_id)

    # --- across restarts ---

    def pack(self) -> bytes:
        """The order as bytes for `restore`; a few per segment, and nothing in them but ids."""
        records = [_RECORD.pack(one, _GHOST) for one in self._ghosts]
        for queue, flag in ((self._main, _MAIN), (self._small, 0)):
            records += [_RECORD.pack(entry.segment_id, flag | entry.again) for entry in queue.values()]
        return _MAGIC + b"".join(records)

    def restore(self, packed: bytes, entries: Iterable[Entry]) -> None:
        """Take in segments found in the cache, oldest first; in the order of `packed` those that it knows.

        Bytes that are not of this form are ignored: the order is advice.
        """
        found = {entry.segment_id: entry for entry in entries}
        for segment_id, flags in _records(packed):
            if flags & _GHOST:
                self._ghosts[segment_id] = None
                continue
            entry = found.pop(segment_id, None)
            if entry is not None:
                entry.main = bool(flags & _MAIN)
                entry.again = min(flags & ~_MAIN, MOST_COUNTED)
                self._put(entry)
        for entry in found.values():
            self._put(entry)


def _records(packed: bytes) -> Iterator[tuple[bytes, int]]:
    body = packed[len(_MAGIC) :]
    if not packed.startswith(_MAGIC) or len(body) % _RECORD.size:
        return iter(())
    return _RECORD.iter_unpack(body)


__all__ = ["Entry", "Order", "Visit"]
