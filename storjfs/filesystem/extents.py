"""The extent table: which bytes of which segment a file consists of, window by window."""

from collections.abc import Collection, Iterator, Sequence

from storjfs.filesystem.generations import Generations
from storjfs.filesystem.inodes import Inode
from storjfs.filesystem.seam import SegmentRoom
from storjfs.filesystem.windows import WINDOW, WINDOW_BITS, Extent, covering, place, splice, touching
from storjfs.segments import Part, Run
from storjfs.store import MetaStore, Statement

CACHED = 128_000  # extents of one generation, about 30 MB: those of half a GiB of scattered pages
WINDOW_WEIGHT = 6  # what an empty window weighs, in extents
FRAGMENTED = 64  # extents in a window from which it is worth defragmenting
MOST_CUT = 1000  # extents that one cut drops, about 2 ms
INDEX_BITS = 63 - WINDOW_BITS  # all that off_t reaches

_WINDOW = (
    "SELECT off, len, seg, pos, run, skip FROM extent WHERE ino = ? AND off BETWEEN ? AND ? ORDER BY off"
)
_RANGE = _WINDOW + " LIMIT ?"
_NEXT = "SELECT off FROM extent WHERE ino = ? AND off >= ? ORDER BY off LIMIT 1"
_REPLACE = "REPLACE INTO extent (ino, off, len, seg, pos, run, skip) VALUES (?, ?, ?, ?, ?, ?, ?)"
_DELETE = "DELETE FROM extent WHERE (ino, off) IN (VALUES (?, ?))"


class Window:
    """The extents of 1 MiB of a file. `changes`: by offset, what to write since the last freeze, None for a
    row to delete. `group`: the newest group that changed it, 0 once that is committed."""

    __slots__ = ("changes", "extents", "group", "pins")

    def __init__(self, extents: list[Extent]) -> None:
        self.extents = extents
        self.changes: dict[int, Extent | None] = {}
        self.group = 0
        self.pins = 0

    @property
    def weight(self) -> int:
        return len(self.extents) + WINDOW_WEIGHT


class ExtentTable:
    """Extents of all files. Tells the segments room how many bytes of each segment are live.

    `fragmented` collects (ino, index) of windows that writes left in many pieces; the compactor empties it.
    """

    def __init__(self, store: MetaStore, segments: SegmentRoom) -> None:
        self._store = store
        self._segments = segments
        self._cache: Generations[Window] = Generations(CACHED)
        self._dirty: dict[int, Window] = {}
        self._frozen: list[tuple[int, dict[int, Window]]] = []
        self.fragmented: dict[tuple[int, int], None] = {}

    def window(self, inode: Inode, index: int) -> Window:
        """Window `index` of a file. What starts beyond the file's size needs no query."""
        key = inode.ino << INDEX_BITS | index
        window = self._cache.young.get(key) or self._cache.get(key)
        if window is None:
            start = index << WINDOW_BITS
            if start < inode.size:
                extents: list[Extent] = self._store.read(_WINDOW, (inode.ino, start, start + WINDOW - 1))
            else:
                extents = []
            window = Window(extents)
            self._cache.put(key, window)
        return window

    def missing(self, inode: Inode, start: int, end: int) -> tuple[str, tuple[int, ...]] | None:
        """A query for what `parts` would ask for, None where the first window is here."""
        key = inode.ino << INDEX_BITS | start >> WINDOW_BITS
        if self._cache.peek(key) is not None:
            return None
        first = start >> WINDOW_BITS << WINDOW_BITS
        return _RANGE, (inode.ino, first, end - 1, MOST_CUT)

    # --- changing; callers mark the inode, whose `stored` changes ---

    def put(self, inode: Inode, off: int, runs: Sequence[Run]) -> None:
        """The file's bytes from `off` are those of `runs` now."""
        for index, several in place(off, runs):
            last = several[-1]
            self._splice(inode, index, several[0][0], last[0] + last[1], several)

    def cut(self, inode: Inode, start: int, end: int) -> int:
        """Make a hole from `start` on, up to `end` or as far as a bounded number of extents reaches.

        Returns the end of the hole. Looks at every window in the range: keep that bounded as well.
        """
        first, last = start >> WINDOW_BITS, (end - 1) >> WINDOW_BITS
        loaded, last, used = self._load_range(inode, first, last)
        base = inode.ino << INDEX_BITS
        left, reached = MOST_CUT, start
        for index in range(first, last + 1):
            if left <= 0:
                break
            reached = min(end, (index + 1) << WINDOW_BITS)
            # One that was there may have left the cache since; what is not committed does not leave.
            window = self.window(inode, index) if index in used else self._cache.peek(base | index)
            if window is not None and window.extents:
                doomed = touching(window.extents, start, reached)
                if len(doomed) > left:
                    reached = doomed[left][0]
                self._splice(inode, index, start, reached, ())
                left -= len(doomed)
        self._cache.grow(loaded)
        return reached

    def matches(self, inode: Inode, expected: Sequence[Extent]) -> bool:
        """Whether `expected`, adjacent extents of one window, are still what the file consists of there."""
        start, end = expected[0][0], expected[-1][0] + expected[-1][1]
        if end > inode.size:
            return False
        return touching(self.window(inode, start >> WINDOW_BITS).extents, start, end) == list(expected)

    def _splice(self, inode: Inode, index: int, start: int, end: int, new: Sequence[Extent]) -> None:
        window = self.window(inode, index)
        removed, added = splice(window.extents, start, end, new)
        if not removed and not added:
            return
        changes = window.changes
        live = self._segments.live
        stored = 0
        for extent in removed:
            changes[extent[0]] = None
            stored -= extent[1]
        for extent in added:
            changes[extent[0]] = extent
            stored += extent[1]
            live(extent[2], extent[1])
        for extent in removed:  # last, lest a segment seems empty in between
            live(extent[2], -extent[1])
        inode.stored += stored
        growth = len(added) - len(removed)
        if growth > 0:
            self._cache.grow(growth)
            if len(window.extents) > FRAGMENTED:
                self.fragmented[inode.ino, index] = None
        group = self._store.group
        if window.group != group:
            if not window.group:
                window.pins += 1
            window.group = group
            self._dirty[inode.ino << INDEX_BITS | index] = window
        self._store.changed(max(len(removed), len(added)))

    def _load_range(self, inode: Inode, first: int, last: int) -> tuple[int, int, Collection[int]]:
        """Bring the windows that have extents into the cache with one query, as far as it reaches.

        Returns the cache's new weight, which the caller adds when it is done, lest what was just loaded is
        dropped again; the last window that was looked at; and those up to it that have committed extents.
        """
        base = inode.ino << INDEX_BITS
        bounds = (inode.ino, first << WINDOW_BITS, ((last + 1) << WINDOW_BITS) - 1)
        rows: list[Extent] = self._store.read(_RANGE, (*bounds, MOST_CUT))
        if len(rows) == MOST_CUT:
            # Of the last window perhaps not all was read: leave it out, or read it if there is no other.
            partly = rows[-1][0] >> WINDOW_BITS
            whole = [row for row in rows if row[0] >> WINDOW_BITS < partly]
            if whole:
                rows, last = whole, partly - 1
            else:
                start, last = partly << WINDOW_BITS, partly
                rows = self._store.read(_WINDOW, (inode.ino, start, start + WINDOW - 1))
        several: dict[int, list[Extent]] = {}
        for row in rows:
            several.setdefault(row[0] >> WINDOW_BITS, []).append(row)
        for index, extents in several.items():
            if self._cache.peek(base | index) is None:
                self._cache.young[base | index] = Window(extents)
        return len(rows) + WINDOW_WEIGHT * len(several), last, several.keys()

    def next_used(self, inode: Inode, start: int) -> int | None:
        """An offset at or after `start` (a window's start) up to which there is only hole; None: all hole."""
        base = inode.ino << INDEX_BITS
        first, beyond = base | start >> WINDOW_BITS, base + (1 << INDEX_BITS)
        dirty = [self._dirty, *(windows for _, windows in self._frozen)]
        changed = [key for windows in dirty for key in windows if first <= key < beyond]
        rows = self._store.read(_NEXT, (inode.ino, start))
        offsets = [(key - base) << WINDOW_BITS for key in changed if self._uncommitted(key)]
        if rows:
            offsets.append(rows[0][0])
        return max(min(offsets), start) if offsets else None

    def _uncommitted(self, key: int) -> bool:
        window = self._cache.peek(key)
        return window is not None and bool(window.extents)

    # --- reading ---

    def parts(self, inode: Inode, start: int, end: int) -> Iterator[tuple[int, Part]]:
        """(offset, part) of what is not a hole in [start, end), ascending."""
        while start < end:
            index = start >> WINDOW_BITS
            until = min(end, (index + 1) << WINDOW_BITS)
            yield from covering(self.window(inode, index).extents, start, until)
            start = until

    def pointing(self, inode: Inode, seg: int, pos: int, start: int, end: int) -> Iterator[list[Extent]]:
        """The extents of [start, end) that point at the run (seg, pos), one list per group of neighbours."""
        while start < end:
            index = start >> WINDOW_BITS
            until = min(end, (index + 1) << WINDOW_BITS)
            together: list[Extent] = []
            for extent in touching(self.window(inode, index).extents, start, until):
                if extent[2] == seg and extent[3] == pos:
                    if together and together[-1][0] + together[-1][1] != extent[0]:
                        yield together
                        together = []
                    together.append(extent)
            if together:
                yield together
            start = until

    # --- commit ---

    def freeze(self) -> Sequence[Statement]:
        if not self._dirty:
            return ()
        replaced: list[tuple[int, int, int, int, int, int, int]] = []
        deleted: list[tuple[int, int]] = []
        for key, window in self._dirty.items():
            ino = key >> INDEX_BITS
            for off, extent in window.changes.items():
                if extent is None:
                    deleted.append((ino, off))
                else:
                    replaced.append((ino, *extent))
            window.changes = {}
        self._frozen.append((self._store.group, self._dirty))
        self._dirty = {}
        statements: list[Statement] = []
        if deleted:
            statements.append((_DELETE, deleted))
        if replaced:
            statements.append((_REPLACE, replaced))
        return statements

    def committed(self, group: int) -> None:
        while self._frozen and self._frozen[0][0] <= group:
            for key, window in self._frozen.pop(0)[1].items():
                if 0 < window.group <= group:
                    window.group = 0
                    window.pins -= 1
                    if not window.extents:
                        self._cache.drop(key)
