"""The write path's front: where an appended run goes, when a segment is full, when writers have to wait."""

import errno
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import trio

from storjfs.coding.buffers import Buffer
from storjfs.coding.frames import FrameCipher
from storjfs.coding.geometry import place_run, run_end, segment_capacity
from storjfs.errors import FilesystemError
from storjfs.segments.cache import Cache
from storjfs.segments.catalogue import Catalogue
from storjfs.segments.files import LocalFile
from storjfs.segments.records import Segment
from storjfs.segments.sealer import LONGEST_RUN, Sealer
from storjfs.segments.values import Run

MOST_UNSEALED: Final = 32 << 20
"""Bytes of plaintext in memory from which on writers wait for the sealer."""
LONGEST_WRITE: Final = LONGEST_RUN + (128 << 10)
"""Of the limit, what one append may take: its frames, the gap before them, a new file."""
MOST_EARLY: Final = 32 << 20
"""Kept for writes to what is open already when nothing new is let in any more."""
DISK_RESERVE: Final = 256 << 20
"""Free bytes of the disk that holds the journal below which nothing new is taken."""
MOST_SLACK: Final = 8 << 20
"""Kept free below the limit for what those who already passed `room` append."""
DISK_CHECK_EVERY: Final = 32 << 20
"""Bytes appended between two looks at the free space."""


class NoRoom(FilesystemError):
    """ENOSPC: nothing more can be taken now. Nothing that was taken before is lost."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(errno.ENOSPC, message)
        self.hint = hint


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
        *,
        code: Callable[[], tuple[int, int]],
        closed: Callable[[Segment], None],
        stalled: Callable[[], float] = lambda: 0.0,
        got_through: Callable[[], float] = lambda: math.inf,
        patience: float = math.inf,
        disk_reserve: int = DISK_RESERVE,
    ) -> None:
        self._catalogue = catalogue
        self._sealer = sealer
        self._cache = cache
        self._code = code
        self._closed = closed
        self._stalled = stalled
        self._got_through = got_through
        self._patience = patience
        self._disk_reserve = disk_reserve
        self._segment: Segment | None = None
        self._file: LocalFile | None = None
        self._cipher: FrameCipher | None = None
        self._tail = 0
        self._capacity = 0
        self._seg = 0
        self._check_disk_at = 0
        self._slack = max(min(cache.limit // 8, MOST_SLACK), LONGEST_WRITE)
        self._early = min(cache.limit // 8, MOST_EARLY)
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

    async def room(self, *, new: bool = False) -> None:
        """Return when more may be appended: at once, or when the sealer or the uploads have caught up.

        Raises NoRoom (ENOSPC) where waiting would not help: the disk is nearly full, or all allowed local
        space holds unsent data and nothing gets through to the farmers for `patience` seconds. What is `new`,
        not open yet, waits and is refused a little earlier, so that what programs have handed to the kernel
        for files that are open still fits.
        """
        if new and self._scarce:
            await self._room_for_new()
        cache, sealer = self._cache, self._sealer
        if (
            cache.taken + self._slack > cache.limit
            or sealer.appended >= self._check_disk_at
            or sealer.appended - sealer.sealed >= MOST_UNSEALED
        ):
            await self._room()

    async def _room(self) -> None:
        sealer, cache = self._sealer, self._cache
        while True:
            if sealer.appended >= self._check_disk_at:
                await self._look_at_disk()
            over = not await cache.make_room(self._slack)
            if not over and sealer.unsealed < MOST_UNSEALED:
                return
            if sealer.error is not None and sealer.unsealed >= MOST_UNSEALED:
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

    async def _look_at_disk(self) -> None:
        folder, reserve = self._cache.journal_dir, self._disk_reserve
        free = free_bytes(folder)
        if free < reserve and await self._cache.evict(reserve - free):
            free = free_bytes(folder)
        if free < reserve:
            raise NoRoom(
                f"the disk that holds {folder} is nearly full",
                "Free some space on it; the drive takes writes again then.",
            )
        self._check_disk_at = self._sealer.appended + DISK_CHECK_EVERY


def _taken() -> NoRoom:
    return NoRoom(
        "all local space is taken by data that the farmers have not taken yet",
        "Check with storjfs status that enough farmers are online, or allow a larger cache.",
    )


def free_bytes(folder: Path) -> int:
    """What a program without privileges may still write to the filesystem of `folder`."""
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize
