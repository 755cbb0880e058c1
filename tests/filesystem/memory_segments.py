"""A segments room in memory: for tests of the filesystem alone."""

from collections.abc import Callable, Collection, Sequence

import trio

from storjfs.errors import FilesystemError
from storjfs.segments import Part, Run
from storjfs.store import MetaStore, Statement

_RUN = "REPLACE INTO run (seg, pos, length, ino, off) VALUES (?, ?, ?, ?, ?)"


class MemorySegments:
    """Segments of `capacity` bytes.

    `slow`: read_now finds nothing, so that reads must wait. `full`: the errno that room() raises, 0 for none.
    Segments without a live byte vanish when that is committed. `late` counts appends that waited for
    something after there had been room for them.
    """

    def __init__(self, store: MetaStore, capacity: int = 1 << 20, *, slow: bool = False) -> None:
        self.capacity = capacity
        self.slow = slow
        self.full = 0
        self.data: dict[int, bytearray] = {}
        self.lives: dict[int, int] = {}
        self.new_runs: list[tuple[int, int, int, int, int]] = []
        self.prefetched: list[Part] = []
        self.flushes = 0
        self.pressed = False
        self.late = 0
        self._promised = False
        self._empty: list[tuple[int, set[int]]] = []
        """Segments without a live byte when a group closed."""
        self.wait: Callable[[], None] | None = None
        self.while_reading: Callable[[], None] = lambda: None
        self._store = store
        self._open = 1 + max((row[0] for row in store.read("SELECT seg FROM run")), default=0)
        store.join(self)

    # --- SegmentRoom ---

    def append(self, ino: int, off: int, data: bytes) -> Sequence[Run]:
        runs = []
        at = 0
        self.late += not self._promised
        while at < len(data):
            segment = self.data.setdefault(self._open, bytearray())
            taken = min(len(data) - at, self.capacity - len(segment))
            if not taken:
                self._open += 1
                continue
            runs.append(Run(self._open, len(segment), taken))
            self.new_runs.append((self._open, len(segment), taken, ino, off + at))
            segment += data[at : at + taken]
            at += taken
        self._store.changed()
        return runs

    def moved(self, sources: Collection[int], runs: Sequence[Run]) -> None:
        pass

    async def room(self, *, new: bool = False, moving: bool = False) -> None:
        if self.full:
            raise FilesystemError(self.full)
        self._promised = True

    def read_now(self, seg: int, pos: int, run: int, skip: int, length: int) -> bytes | None:
        return None if self.slow else self._bytes(seg, pos, skip, length)

    async def read(self, seg: int, pos: int, run: int, skip: int, length: int) -> bytes:
        await trio.lowlevel.checkpoint()
        self._promised = False
        self.while_reading()
        return self._bytes(seg, pos, skip, length)

    def _bytes(self, seg: int, pos: int, skip: int, length: int) -> bytes:
        if seg not in self.data:
            raise FilesystemError(5, f"segment {seg} is gone")
        found = bytes(self.data[seg][pos + skip : pos + skip + length])
        assert len(found) == length
        return found

    def prefetch(self, parts: Sequence[Part]) -> None:
        self.prefetched += parts

    def live(self, seg: int, delta: int) -> None:
        self.lives[seg] = self.lives.get(seg, 0) + delta
        assert self.lives[seg] >= 0

    async def flush(self) -> None:
        self.flushes += 1

    def victims(self) -> Sequence[int]:
        closed = [seg for seg in self.data if seg != self._open]
        return [seg for seg in closed if 0 < self.lives.get(seg, 0) < len(self.data[seg]) // 2]

    def runs(self, seg: int, after: int, limit: int) -> list[tuple[int, int, int, int]]:
        return self._store.read(
            "SELECT pos, length, ino, off FROM run WHERE seg = ? AND pos > ? ORDER BY pos LIMIT ?",
            (seg, after, limit),
        )

    # --- participant ---

    def freeze(self) -> Sequence[Statement]:
        self._empty.append((self._store.group, {seg for seg, live in self.lives.items() if not live}))
        runs, self.new_runs = self.new_runs, []
        return [(_RUN, runs)] if runs else []

    def before_commit(self) -> Callable[[], None] | None:
        return self.wait

    def committed(self, group: int) -> None:
        while self._empty and self._empty[0][0] <= group:
            # Not what has become empty since: what is durable still points there.
            for seg in self._empty.pop(0)[1]:
                if not self.lives.get(seg, 1) and seg != self._open:
                    self.data.pop(seg, None)
                    self.lives.pop(seg)
