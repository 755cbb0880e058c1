"""The local files: unsent segments in the journal folder, copies of stored ones in the cache, one limit.

Together they never take more than the limit. Unsent files are never given up; cached ones are, in the order
that `storjfs.segments.order` says, by punched holes or as a whole. What a crash leaves in either folder is
sorted at start-up.
"""

import logging
import os
from functools import partial
from pathlib import Path
from typing import Final

import trio

from storjfs.coding.geometry import PIECE
from storjfs.segments.cached import FILE_COST, CachedFiles
from storjfs.segments.descriptors import Descriptors
from storjfs.segments.eviction import Eviction
from storjfs.segments.files import LocalFile, piece_count, pieces_mask
from storjfs.segments.folders import Folders, OtherDisk, remove
from storjfs.segments.order import Order
from storjfs.segments.records import Segment
from storjfs.segments.space import DiskSpace

_LOG = logging.getLogger(__name__)

MOST_FILES: Final = 32768
"""Cached files, however small: bounds the memory of this room."""
SMALLEST_NEW: Final = 64 << 20
"""Bytes of new segments that eviction leaves alone while there are older ones: twice what is fetched ahead of
readers."""
LONGEST_GAP: Final = (128 << 20) // PIECE
"""Pieces of other traffic after which another reference to a segment counts, at most."""


class Cache:
    """All local files of one volume. Methods belong to the loop's thread; sizes in bytes.

    `unsent` counts what no eviction can free, `used` what eviction can; `limit` is for both together.
    """

    def __init__(self, journal_dir: Path, cache_dir: Path, limit: int, space: DiskSpace) -> None:
        self.limit = limit
        self._space = space
        self.unsent = 0
        self._folders = Folders(journal_dir, cache_dir)
        self._descriptors = Descriptors()
        self._by_seg: dict[int, LocalFile] = {}
        new = min(max(limit // 10, SMALLEST_NEW), limit // 2)
        order = Order(new, min(new // PIECE // 2, LONGEST_GAP))
        self._cached = CachedFiles(self._folders, order, self._descriptors, self._forgotten)
        self._eviction = Eviction(self._cached, self.opened)
        self._leaving = 0

    @property
    def used(self) -> int:
        return self._cached.used

    @property
    def taken(self) -> int:
        """What the disk may spend on all of it now; what was given up counts until it is off the disk."""
        return self.unsent + self._cached.used + self._eviction.leaving + self._leaving

    @property
    def journal_dir(self) -> Path:
        """Where unsent data lies."""
        return self._folders.journal

    # --- start-up and end ---

    def load(self) -> None:
        """Note what lies in the cache folder. Raises OSError without folders to work in."""
        self._folders.make()
        self._cached.found(self._folders.found_cached())

    def adopt_unsent(self, segment: Segment) -> int | None:
        """Take up the journal file of a segment found unsent, brought to its committed length.

        Returns how many of the committed bytes it has; None where there is no file. What is missing at its
        end becomes a hole, whose frames do not prove themselves: the others are still good.
        """
        file = self._unsent_file(segment)
        try:
            fd = file.open(create=segment.size == 0)
            found = min(os.fstat(fd).st_size, segment.size)
            os.ftruncate(fd, segment.size)
            os.fdatasync(fd)
        except FileNotFoundError:
            return None
        file.written = segment.size
        file.unproven = segment.size > 0
        self.unsent += segment.size + FILE_COST
        self._by_seg[segment.seg] = file
        self._descriptors.note(file)
        return found

    def strays(self) -> list[bytes]:
        """Segment ids of files in the journal folder that belong to no unsent segment."""
        known = {file.segment_id for file in self._by_seg.values()}
        return [segment_id for segment_id in self._folders.found_unsent() if segment_id not in known]

    def settle_stray(self, segment_id: bytes, *, stored: bool) -> None:
        """A crash came before the file was moved (`stored`) or removed."""
        path = self._folders.unsent(segment_id)
        if stored and segment_id not in self._cached:
            try:
                size = path.stat().st_blocks * 512
                self._folders.move_to_cache(segment_id)
            except OSError as error:
                _LOG.info("a stored segment is not kept in the cache: %s", error)
            else:
                self._cached.found_late(segment_id, size)
                return
        remove(path)

    def cached(self) -> list[bytes]:
        """Segment ids of the cached files."""
        return list(self._cached)

    def give_up(self, segment_id: bytes) -> int:
        """Remove a cached file that nobody uses; returns the bytes it counted for."""
        file = self._cached.get(segment_id)
        if file is None or file.users or self._eviction.works_on(segment_id):
            return 0
        size = file.entry.size
        self._cached.forget(file)
        remove(file.path)
        return size

    async def settle(self) -> None:
        """Give up what was found at start-up and exceeds the limit, which may have been larger."""
        await self.make_room(0)
        if not len(self._cached):
            self._keep_order()

    def close(self) -> None:
        """Keep the order for the next run; close all descriptors but those that the last commit needs."""
        self._keep_order()
        self._descriptors.close()

    def _keep_order(self) -> None:
        packed = self._cached.order.pack() if len(self._cached) else b""
        try:
            self._folders.write_order(packed)
        except OSError as error:
            _LOG.info("the cache's order is not kept: %s", error)

    # --- finding ---

    def find(self, segment: Segment) -> LocalFile | None:
        """The file of `segment`, if there is one, with what it has known; not necessarily open."""
        file = self._by_seg.get(segment.seg)
        if file is None:
            file = self._cached.get(segment.segment_id)
            if file is None:
                return None
            self._attach(segment, file)
        if file.present is None and not file.unsent and not self._cached.looked(file, segment.size):
            return None
        return file

    def _attach(self, segment: Segment, file: LocalFile) -> None:
        file.base = segment.seg << 25
        self._by_seg[segment.seg] = file

    def _forgotten(self, file: LocalFile) -> None:
        if self._by_seg.get(file.base >> 25) is file:
            del self._by_seg[file.base >> 25]

    def opened(self, file: LocalFile) -> bool:
        """Make sure that `file` has a descriptor; if it cannot, False, and it is given up if cached."""
        return file.fd >= 0 or self._cached.opened(file)

    def complete(self, segment: Segment) -> LocalFile | None:
        """The file of `segment` if it has all of it."""
        file = self.find(segment)
        if file is not None and file.has(0, piece_count(segment.size)) and self.opened(file):
            return file
        return None

    def referenced(self, file: LocalFile, first: int, count: int) -> None:
        """A program has read these pieces."""
        self._cached.order.reference(file.entry, first, count)

    # --- unsent files ---

    def _unsent_file(self, segment: Segment) -> LocalFile:
        path = self._folders.unsent(segment.segment_id)
        return LocalFile(segment.seg, segment.segment_id, path, unsent=True)

    def _cached_file(self, segment: Segment) -> LocalFile:
        path = self._folders.cached(segment.segment_id)
        return LocalFile(segment.seg, segment.segment_id, path, unsent=False)

    def new_unsent(self, segment: Segment) -> LocalFile:
        """The (not yet existing) journal file of a new segment. The sealer creates it."""
        file = self._unsent_file(segment)
        self.unsent += FILE_COST
        self._by_seg[segment.seg] = file
        self._descriptors.note(file)
        return file

    async def release(self, segment: Segment) -> None:
        """The segment is stored and that is committed: from now on its file is cache.

        Cancelled or failing it leaves the file in the journal folder, from where the next start-up moves it.
        """
        file = self._by_seg.get(segment.seg)
        if file is None or not file.unsent:
            return
        try:
            self._folders.move_to_cache(segment.segment_id)
        except OtherDisk:
            await self._carry_over(segment, file)
            return
        except OSError as error:
            self._drop_unsent(segment, file)
            _LOG.warning("the local copy of a stored segment could not be kept: %s", error)
            return
        file.path = self._folders.cached(segment.segment_id)
        file.unsent = False
        self.unsent -= segment.size + FILE_COST
        self._cached.begin(file, pieces_mask(0, piece_count(segment.size)))

    async def _carry_over(self, segment: Segment, file: LocalFile) -> None:
        """The cache folder is on another disk: copy the file, or just let go of it."""
        size = piece_count(segment.size) * PIECE + FILE_COST
        kept = await self.make_room(size)
        if kept:
            self._cached.used += size
            try:
                await trio.to_thread.run_sync(self._folders.copy_to_cache, segment.segment_id)
            except OSError as error:
                _LOG.info("a stored segment is not kept in the cache: %s", error)
                kept = False
            finally:
                self._cached.used -= size
        self._drop_unsent(segment, file)
        if kept:
            copy = self._cached_file(segment)
            self._attach(segment, copy)
            self._cached.begin(copy, pieces_mask(0, piece_count(segment.size)))

    def _drop_unsent(self, segment: Segment, file: LocalFile) -> None:
        self._forget_unsent(segment, file)
        remove(file.path)

    def _forget_unsent(self, segment: Segment, file: LocalFile) -> None:
        self.unsent -= segment.size + FILE_COST
        self._by_seg.pop(segment.seg, None)
        self._descriptors.retire(file)

    async def discard(self, segment: Segment) -> None:
        """The segment is gone: so is its file, in the end also where this is cancelled. The sealer is done
        with it, and nobody finds it any more."""
        file = self._by_seg.get(segment.seg) or self._cached.get(segment.segment_id)
        if file is None:
            return
        size = segment.size + FILE_COST if file.unsent else file.entry.size
        if file.unsent:
            self._forget_unsent(segment, file)
        else:
            self._cached.forget(file)
        # To free what it takes is work for the disk, and counts until it is done.
        self._leaving += size
        try:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(remove, file.path)
        finally:
            self._leaving -= size

    # --- cached pieces ---

    async def writable(self, segment: Segment, bytes_needed: int) -> LocalFile | None:
        """An open file that takes so many more bytes of fetched pieces, or None where there is no room.

        The file's descriptor stays open until `filled` is called, which has to follow in any case.
        """
        if self._crowds_disk():
            return None
        if self._eviction.works_on(segment.segment_id) or not await self.make_room(bytes_needed + FILE_COST):
            return None
        if self._eviction.works_on(segment.segment_id):
            return None
        file = self.find(segment)
        if file is None and len(self._cached) < MOST_FILES:
            file = self._cached_file(segment)
            try:
                self._folders.with_cache(partial(file.open, create=True))
            except OSError as error:
                _LOG.info("nothing is cached: %s", error)
                remove(file.path)
                return None
            self._descriptors.note(file)
            self._attach(segment, file)
            self._cached.begin(file, 0)
        if file is None or file.unsent or not self.opened(file):
            return None
        self._cached.reserve(file, bytes_needed)
        self._space.taken(bytes_needed)
        return file

    def _crowds_disk(self) -> bool:
        """Whether the disk that holds unsent data has no room for copies."""
        return not self._space.takes_new and self._space.shares_disk(self._folders.cache)

    def filled(self, file: LocalFile, first: int, count: int, reserved: int, *, written: bool) -> None:
        """`count` pieces were written (or not) after `writable` had reserved so many bytes for them."""
        self._cached.filled(file, first, count, reserved, written=written)

    def spoiled(self, file: LocalFile, first: int, count: int) -> None:
        """Cached pieces did not prove themselves: have them fetched again."""
        self._cached.spoiled(file, first, count)

    # --- the limit ---

    async def make_room(self, size: int) -> bool:
        """Have `size` bytes below the limit, evicting if need be. False where unsent data takes the place."""
        if not self._fits(size):
            await self._eviction.give_up(lambda: self.unsent + self.used + size - self.limit)
        return self._fits(size)

    def _fits(self, size: int) -> bool:
        return self.taken + size <= self.limit

    async def evict(self, size: int) -> int:
        """The disk that holds unsent data lacks `size` bytes: give up as many of cached pieces that lie on
        it, or all; returns how many were."""
        if not self._space.shares_disk(self._folders.cache):
            return 0
        until = self.used - size
        return await self._eviction.give_up(lambda: self.used - max(until, 0))


__all__ = ["Cache"]
