"""The write path's front: where an appended run goes, when a segment is full, when writers have to wait."""

import math
from collections.abc import Callable
from typing import Final

import trio

from storjfs.coding.buffers import Buffer
from storjfs.coding.frames import FrameCipher
from storjfs.coding.geometry import PIECE, place_run, run_end, segment_capacity
from storjfs.segments.cache import Cache
from storjfs.segments.catalogue import Catalogue
from storjfs.segments.files import LocalFile
from storjfs.segments.records import Segment
from storjfs.segments.sealer import LONGEST_RUN, Sealer
from storjfs.segments.space import LOOK_AFTER, DiskSpace, NoRoom
from storjfs.segments.values import Run

MOST_UNSEALED: Final = 32 << 20
"""Bytes of plaintext in memory from which on writers wait for the sealer; less with a small reserve, for what
is set aside for a full disk has to take them."""
LEAST_UNSEALED: Final = 2 << 20
LONGEST_WRITE: Final = LONGEST_RUN + (128 << 10)
"""Of the limit, what one append may take: its frames, the gap before them, a new file."""
MOST_EARLY: Final = 32 << 20
"""Kept for writes to what is open already when nothing new is let in any more."""
MOST_SLACK: Final = 8 << 20
"""Kept free below the limit for what those who already passed `room` append."""


class Journal:
    """Appends to the open segment. All methods belong to the loop's thread.

    `closed` is called with each segment that was closed. `code` gives (k, n) for the farmers at hand; only
    the size of the next segment depends on it here. `stalled` tells for how many seconds nothing has got
    through to any farmer although it was tried, `got_through` when something last did (trio.current_time),
    and `patience` after how many seconds without that writers that wait for it get ENOSPC.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        sealer: Sealer,
        cache: Cache,
        space: DiskSpace,
        *,
        code: Callable[[], tuple[int, int]],
        closed: Callable[[Segment], None],
        stalled: Callable[[], float] = lambda: 0.0,
        got_through: Callable[[], float] = lambda: math.inf,
        patience: float = math.inf,
    ) -> None:
        self._catalogue = catalogue
        self._sealer = sealer
        self._cache = cache
        self._code = code
        self._closed = closed
        self._stalled = stalled
        self._got_through = got_through
        self._patience = patience
        self._space = space
        self._segment: Segment | None = None
        self._file: LocalFile | None = None
        self._cipher: FrameCipher | None = None
        self._tail = 0
        self._capacity = 0
        self._seg = 0
        self._check_disk_at = 0
        self._slack = max(min(cache.limit // 8, MOST_SLACK), LONGEST_WRITE)
        self._early = min(cache.limit // 8, MOST_EARLY)
        self._most_unsealed = MOST_UNSEALED
        if space.reserve:
            self._most_unsealed = max(min(MOST_UNSEALED, space.reserve // 8), LEAST_UNSEALED)
        self.opened_at = -math.inf
        self._progress = trio.Event()
        self._writers_waiting = 0
        sealer.progressed = self.drained

    # --- appending ---

    def append(self, ino: int, off: int, data: Buffer) -> list[Run]:
        """Take `data`, the bytes of file `ino` from offset `off` on; returns the runs that hold it, in order.

        Uses memory only. `data` must not change afterwards. Whoever appends has awaited `room` before; the
        data is durable after the next commit.
        """
        length = len(data)
        pos, fits = place_run(self._tail, length, self._capacity)
        if fits != length or length > LONGEST_RUN:
            return self._append_split(ino, off, memoryview(data))
        segment = self._segment
        assert segment is not None
        assert self._file is not None
        assert self._cipher is not None
        self._sealer.put(self._file, self._cipher, pos, data)
        end = run_end(pos, length)
        self._cache.unsent += end - self._tail
        self._tail = segment.size = end
        segment.plain += length
        self._catalogue.runs.append((self._seg, pos, length, ino, off))
        if not segment.dirty:
            self._catalogue.changed(segment)
        return [Run(self._seg, pos, length)]

    def _append_split(self, ino: int, off: int, data: memoryview) -> list[Run]:
        runs: list[Run] = []
        while data:
            _, fits = place_run(self._tail, min(len(data), LONGEST_RUN), self._capacity)
            if not fits:
                self.close_open()
                self._open()
                continue
            runs += self.append(ino, off, bytes(data[:fits]))
            data = data[fits:]
            off += fits
        return runs

    def _open(self) -> None:
        segment = self._catalogue.create()
        self._segment = segment
        self._seg = segment.seg
        self._file = self._cache.new_unsent(segment)
        self._cipher = segment.cipher
        self._tail = 0
        self._capacity = segment_capacity(self._code()[0])
        self.opened_at = trio.current_time()

    @property
    def open_segment(self) -> Segment | None:
        return self._segment

    def close_open(self) -> None:
        """Close the open segment, if there is one; the next run opens another."""
        segment = self._segment
        if segment is None:
            return
        self._segment = self._file = self._cipher = None
        self._tail = self._capacity = 0
        self._catalogue.close(segment)
        self._closed(segment)

    # --- room ---

    async def room(self, *, new: bool = False, moving: bool = False) -> None:
        """Return when more may be appended: at once, or when the sealer or the uploads have caught up.

        Raises NoRoom (ENOSPC, EDQUOT) where waiting would not help: the disk is nearly full, or all allowed
        local space holds unsent data and nothing gets through to the farmers for `patience` seconds. What is
        `new`, not open yet, waits and is refused a little earlier, so that what programs have handed to the
        kernel for files that are open still fits; and `moving`, which frees more than it takes, goes on a
        little longer.
        """
        cache, sealer, space = self._cache, self._sealer, self._space
        if new:
            if self._scarce:
                await self._room_for_new()
            if not space.takes_new:
                await self._look_at_disk(new=True)
        if (
            cache.taken + self._slack > cache.limit
            or sealer.appended >= self._check_disk_at
            or sealer.appended - sealer.sealed >= self._most_unsealed
            or space.used_up()
        ):
            await self._room(moving=moving)

    async def _room(self, *, moving: bool) -> None:
        sealer, cache = self._sealer, self._cache
        while True:
            if sealer.appended >= self._check_disk_at or self._space.used_up():
                await self._look_at_disk(moving=moving)
            over = not await cache.make_room(self._slack)
            if not over and sealer.unsealed < self._most_unsealed:
                return
            if sealer.error is not None and sealer.unsealed >= self._most_unsealed:
                raise NoRoom(
                    f"unsent data cannot be written to {cache.journal_dir}: {sealer.error.strerror}",
                    "Free some space on the disk that holds the volume.",
                )
            if over:
                # What is open could never drain, and it may be all there is.
                self.close_open()
                if self._stalled() > self._patience:
                    raise _taken()
            await self._wait_for_progress()

    @property
    def _scarce(self) -> bool:
        return self._cache.unsent + self._slack + self._early > self._cache.limit

    async def _room_for_new(self) -> None:
        """Wait for more room than others need, or until farmers are seen to take something: as long as they
        do, nobody is kept from making files by those who write."""
        since = trio.current_time()
        while self._scarce and self._got_through() < since:
            if len(self._catalogue.unsent) <= 1:
                self.close_open()  # else nothing would be tried
            if self._stalled() > self._patience:
                raise _taken()
            await self._wait_for_progress()

    async def _wait_for_progress(self) -> None:
        self._sealer.notify = True
        self._sealer.kick()
        self._writers_waiting += 1
        try:
            with trio.move_on_after(1):
                await self._progress.wait()
        finally:
            self._writers_waiting -= 1

    @property
    def left(self) -> int:
        """Bytes that may be appended while nothing is taken by farmers: what is cached gives way."""
        return max(self._cache.limit - self._cache.unsent - self._slack, 0)

    @property
    def writers_wait(self) -> bool:
        """Whether somebody waits in `room`."""
        return self._writers_waiting > 0

    def drained(self) -> None:
        """Something was sealed or stored: let waiting writers look again."""
        self._progress.set()
        self._progress = trio.Event()

    async def _look_at_disk(self, *, new: bool = False, moving: bool = False) -> None:
        """Raises NoRoom where too little is left of the disk, even without what is cached on it."""
        space = self._space
        short = space.reserve - space.left(look=True)
        if short > 0 and await self._cache.evict(short):
            space.left(look=True)
        if not (space.takes_moves if moving else space.takes_more):
            # What was deleted of it is free only when it is closed.
            self.close_open()
            raise space.refusal()
        if new and not space.takes_new:
            raise space.refusal()
        if moving and not space.takes_more:
            return  # others are to look for themselves
        self._check_disk_at = self._sealer.appended + min(LOOK_AFTER, max(space.reserve // 8, PIECE))


def _taken() -> NoRoom:
    return NoRoom(
        "all local space is taken by data that the farmers have not taken yet",
        "Check with storjfs status that enough farmers are online, or allow a larger cache.",
    )
