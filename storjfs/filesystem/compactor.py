"""Moving live bytes together: out of segments that are mostly garbage, and in files broken into small pieces.

Moved bytes are appended as if written again, without touching any time, and extents are re-pointed only if
they are still what they were; so this never competes with a program's writes. A segment left with no live
byte is the segments room's to delete.
"""

import contextlib
import errno
import math
from collections.abc import AsyncIterator, Iterator

import trio

from storjfs.errors import FilesystemError
from storjfs.filesystem.inodes import Inode
from storjfs.filesystem.paths import paths_of
from storjfs.filesystem.properties import Properties
from storjfs.filesystem.windows import WINDOW_BITS, Extent
from storjfs.store import outlasting

PERIOD = 5.0  # seconds between looks for something to do
SETTLING = 30.0  # seconds a window must not have been broken up further before it is defragmented
RATE = 48 << 20  # bytes moved per second at most
PAUSE = 0.0004  # seconds after each move at least, which leaves most of the loop's time to programs
QUIET = 0.25  # seconds without much writing of programs that count as a pause
MUCH = 256 << 10  # bytes written in these that are no pause
PATIENCE = 30.0  # seconds that a segment waits at most for such a pause
BUSY_PAUSE = 0.01  # seconds after each move while programs write
SCARCE = 0.25  # share of free contracted space under which nothing waits for programs any more
ALLOWANCE = 16 << 20  # bytes that may be defragmented beyond as many as programs wrote
REMEMBERED = 10_000  # fragmented windows; further ones are noted when they are written again
RUNS_AT_ONCE = 256
RESTING = 3600.0  # seconds until a segment that could not be read is tried again


class Compactor(Properties):
    def _prepare_compactor(self) -> None:
        self._working = trio.CancelScope()
        self._ended = trio.Event()
        self._ended.set()
        self._unreadable: dict[int, float] = {}
        self._kept_still = 0
        """How many want nothing to be moved."""
        self._may_move = trio.Event()
        self._writes_seen = 0
        self._looked = -math.inf
        self._busy = False
        self._fragmented: dict[tuple[int, int], float] = {}
        self.compacted = 0
        """Bytes moved out of wasteful and small segments since the start."""
        self.defragmented = 0
        """Bytes written anew to join fragments since the start."""

    async def _compact_forever(self) -> None:
        """The background task, until `rest`."""
        self._ended = trio.Event()
        try:
            with self._working:
                await outlasting(self._compact_now_and_then)
        finally:
            self._ended.set()

    async def _compact_now_and_then(self) -> None:
        while True:
            await trio.sleep(PERIOD)
            if self._store.failure is None:
                await self.compact()
                await self._defragment_settled()

    async def rest(self) -> None:
        """Return when nothing is moved in the background any more, for good: what is flushed then is all."""
        self._working.cancel()
        await self._ended.wait()

    @contextlib.asynccontextmanager
    async def still(self) -> AsyncIterator[None]:
        """Nothing is moved meanwhile: what is with the farmers and not written anew stays where it is."""
        self._kept_still += 1
        try:
            yield
        finally:
            self._kept_still -= 1
            if not self._kept_still:
                self._may_move.set()
                self._may_move = trio.Event()

    def _is_still(self) -> bool:
        return self._kept_still > 0

    async def compact(self) -> int:
        """Move what is live out of every segment that is worth it; returns the bytes moved.

        Cancelling leaves a prefix of the moves done.
        """
        moved = 0
        now = trio.current_time()
        for seg in self._segments.victims():
            if self._unreadable.get(seg, -RESTING) + RESTING > now:
                continue
            await self._give_way()
            try:
                moved += await self._move_out(seg)
            except FilesystemError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    break
                self._unreadable[seg] = now
        if moved:
            self._store.request_commit()
        return moved

    async def files_of(self, seg: int, limit: int = 20) -> list[bytes]:
        """Paths of files of which a part lies in segment `seg`, for the person to know what is at stake."""
        found: dict[int, None] = {}
        last = -1
        while len(found) < limit and (runs := self._segments.runs(seg, last, RUNS_AT_ONCE)):
            for pos, length, ino, off in runs:
                with contextlib.suppress(FilesystemError):
                    if ino not in found and self._live(self._inodes.get(ino), seg, pos, off, length):
                        found[ino] = None
            last = runs[-1][0]
            await trio.lowlevel.checkpoint()
        inos = list(found)[:limit]
        return await self._store.study(lambda connection: paths_of(connection, inos, 2 * limit))

    async def _give_way(self) -> None:
        """Return in a pause of the programs' writing, after PATIENCE, or at once where space is scarce here
        or with the farmers."""
        for _ in range(round(PATIENCE / QUIET)):
            if not self._programs_write():
                return
            await trio.sleep(QUIET)

    def _programs_write(self) -> bool:
        now = trio.current_time()
        if now >= self._looked + QUIET:
            capacity = self._space()
            scarce = self._segments.pressed or capacity.free <= capacity.total * SCARCE
            self._busy = self._written - self._writes_seen >= MUCH and not scarce
            self._writes_seen = self._written
            self._looked = now
        return self._busy

    async def move_out(self, seg: int) -> int:
        """Move what is live out of a segment now; returns the bytes moved. Raises FilesystemError.

        Cancelling leaves a prefix of the moves done.
        """
        moved = await self._move_out(seg)
        self._store.request_commit()
        return moved

    async def _move_out(self, seg: int) -> int:
        moved, counted, last = 0, 0, -1
        while True:
            # Runs not committed yet are not listed: the segment is a victim again another time.
            runs = self._segments.runs(seg, last, RUNS_AT_ONCE)
            for pos, length, ino, off in runs:
                try:
                    inode = self._inodes.get(ino)
                except FilesystemError:
                    continue  # deleted since
                with self._inodes.pinned(inode):
                    for together in self._live(inode, seg, pos, off, length):
                        moved += await self._move(inode, together)
            self.compacted += moved - counted
            counted = moved
            if len(runs) < RUNS_AT_ONCE:
                return moved
            last = runs[-1][0]
            await trio.lowlevel.checkpoint()

    def _live(self, inode: Inode, seg: int, pos: int, off: int, length: int) -> list[list[Extent]]:
        # A run's bytes are only ever found at the place in the file where they were written.
        return list(self._extents.pointing(inode, seg, pos, off, min(off + length, inode.size)))

    async def _move(self, inode: Inode, together: list[Extent]) -> int:
        """Append the bytes of adjacent extents of one window anew; 0 if they changed meanwhile, or nothing is
        to be moved any more. Waits where that is so from the start.

        The caller has pinned the inode.
        """
        while self._is_still():
            await self._may_move.wait()
        start = together[0][0]
        end = together[-1][0] + together[-1][1]
        data = await self._content(inode, start, end)
        await self._store.room()
        # Last: what there was room for before the read may be taken by now.
        await self._segments.room(moving=True)
        if self._is_still() or inode.gone or not self._extents.matches(inode, together):
            return 0
        runs = self._segments.append(inode.ino, start, bytes(data))
        self._segments.moved({seg for _, _, seg, *_ in together}, runs)
        self._extents.put(inode, start, runs)
        self._inodes.mark(inode)
        await trio.sleep(max((end - start) / RATE, BUSY_PAUSE if self._programs_write() else PAUSE))
        return end - start

    # --- defragmentation ---

    async def _defragment_settled(self) -> None:
        """Join the fragments of windows that were left alone for a while, as far as the budget goes: what is
        moved must not outgrow what programs write. Fragments cost metadata, which is bounded without this."""
        now = trio.current_time()
        fragmented, seen = self._extents.fragmented, self._fragmented
        for place in list(fragmented):
            if place in seen or len(seen) < REMEMBERED:
                seen[place] = now
        fragmented.clear()
        for (ino, index), since in list(seen.items()):
            if self.defragmented > self._written + ALLOWANCE:
                return
            if since + SETTLING <= now:
                del seen[ino, index]
                await self._give_way()
                await self.defragment(ino, index)

    async def defragment(self, ino: int, index: int) -> int:
        """Write a window in one piece per gapless stretch; returns the bytes moved."""
        try:
            inode = self._inodes.get(ino)
            moved = 0
            with self._inodes.pinned(inode):
                for together in self._stretches(inode, index):
                    if len(together) > 1:
                        moved += await self._move(inode, together)
            self.defragmented += moved
            return moved
        except FilesystemError:
            return 0  # deleted, unreadable or no room: nothing is worse than before

    def _stretches(self, inode: Inode, index: int) -> Iterator[list[Extent]]:
        start = index << WINDOW_BITS
        if start >= inode.size:
            return iter(())
        together: list[Extent] = []
        stretches = [together]
        for extent in list(self._extents.window(inode, index).extents):
            if together and together[-1][0] + together[-1][1] != extent[0]:
                together = []
                stretches.append(together)
            together.append(extent)
        return iter(stretches)
