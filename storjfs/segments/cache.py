"""The local files: unsent segments in the journal folder, copies of stored ones in the cache, one limit.

Together they never take more than the limit. Unsent files are never given up; cached ones are, least
recently used first, by punched holes or as a whole. The cache folder may be deleted at any time. What a
crash leaves in either folder is sorted at start-up: the name of a file is the hex segment id, the catalogue
knows the rest.
"""

import errno
import logging
import os
import shutil
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final

import trio

from storjfs.coding.geometry import PIECE
from storjfs.segments.catalogue import Segment
from storjfs.segments.files import LocalFile, piece_count, pieces_mask, punch
from storjfs.volume.files import make_private

_LOG = logging.getLogger(__name__)

MOST_DESCRIPTORS: Final = 128
MOST_FILES: Final = 32768
"""Cached files, however small: bounds the memory of this room."""
EVICT_AT_LEAST: Final = 1 << 20
"""Bytes given up at once, so that a full cache does not evict for each piece."""
FILE_COST: Final = 16 << 10
"""What a file counts for beside its content: the last block, the disk's own bookkeeping of extents."""
LOOKED_AT: Final = 512
"""Cached files that one eviction considers."""
_NAME: Final = 32


class Cache:
    """All local files of one volume. Methods belong to the loop's thread; sizes in bytes.

    `unsent` counts what no eviction can free, `used` what eviction can; `limit` is for both together.
    """

    def __init__(self, journal_dir: Path, cache_dir: Path, limit: int) -> None:
        self.journal_dir = journal_dir
        self.cache_dir = cache_dir
        self.limit = limit
        self.unsent = 0
        self.used = 0
        self._by_seg: dict[int, LocalFile] = {}
        self._cached: OrderedDict[bytes, LocalFile] = OrderedDict()
        self._seg_of: dict[bytes, int] = {}
        self._open: OrderedDict[LocalFile, None] = OrderedDict()
        self._closing: list[LocalFile] = []
        self._leaving: set[bytes] = set()
        self._leaving_bytes = 0
        """Given up, but perhaps not yet off the disk."""
        self._evicting = trio.Lock()

    # --- start-up ---

    def load(self) -> None:
        """Note what lies in the cache folder, oldest first. Raises OSError without folders to work in."""
        make_private(self.journal_dir)
        make_private(self.cache_dir)
        found = []
        with os.scandir(self.cache_dir) as entries:
            for entry in entries:
                segment_id = _id_of(entry.name)
                if segment_id is None:
                    if entry.name.endswith(".part"):
                        os.unlink(entry.path)
                    continue
                status = entry.stat()
                found.append((status.st_mtime_ns, segment_id, status.st_blocks * 512))
        for _, segment_id, size in sorted(found):
            file = LocalFile(0, segment_id, self.cache_dir / segment_id.hex(), unsent=False)
            file.size = size + FILE_COST
            self.used += file.size
            self._cached[segment_id] = file

    def adopt_unsent(self, segment: Segment) -> int | None:
        """Take up the journal file of a segment found unsent, brought to its committed length.

        Returns how many of the committed bytes it has; None where there is no file. What is missing at its
        end becomes a hole, whose frames do not prove themselves: the others are still good.
        """
        file = LocalFile(segment.seg, segment.segment_id, self._journal_path(segment), unsent=True)
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
        self._open[file] = None
        self._close_some()
        return found

    def strays(self) -> list[bytes]:
        """Segment ids of files in the journal folder that belong to no unsent segment."""
        known = {file.segment_id for file in self._by_seg.values()}
        ids = (_id_of(name) for name in os.listdir(self.journal_dir))
        return [segment_id for segment_id in ids if segment_id is not None and segment_id not in known]

    def settle_stray(self, segment_id: bytes, *, stored: bool) -> None:
        """A crash came before the file was moved (`stored`) or removed."""
        path = self.journal_dir / segment_id.hex()
        if stored and segment_id not in self._cached:
            try:
                os.rename(path, self.cache_dir / segment_id.hex())
            except OSError:
                pass
            else:
                file = LocalFile(0, segment_id, self.cache_dir / segment_id.hex(), unsent=False)
                file.size = os.stat(file.path).st_blocks * 512 + FILE_COST
                self.used += file.size
                self._cached[segment_id] = file
                return
        path.unlink(missing_ok=True)

    def cached(self) -> list[bytes]:
        """Segment ids of the cached files."""
        return list(self._cached)

    def give_up(self, segment_id: bytes) -> int:
        """Remove a cached file that nobody uses; returns the bytes it counted for."""
        file = self._cached.get(segment_id)
        if file is None or file.users or segment_id in self._leaving:
            return 0
        size = file.size
        self._forget(file)
        file.path.unlink(missing_ok=True)
        return size

    # --- finding ---

    def find(self, segment: Segment) -> LocalFile | None:
        """The file of `segment`, if there is one, with what it has known; not necessarily open."""
        file = self._by_seg.get(segment.seg)
        if file is None:
            file = self._cached.get(segment.segment_id)
            if file is None:
                return None
            self._attach(segment, file)
        if not file.unsent:
            self._cached.move_to_end(file.segment_id)
            if file.present is None and not self._looked(segment, file):
                return None
        return file

    def opened(self, file: LocalFile) -> bool:
        """Make sure that `file` has a descriptor; if it cannot, False, and it is forgotten if cached."""
        if file.fd >= 0:
            return True
        try:
            file.open()
        except OSError:
            if not file.unsent:
                self._forget(file)
            return False
        self._open[file] = None
        self._close_some()
        return True

    def complete(self, segment: Segment) -> LocalFile | None:
        """The file of `segment` if it has all of it."""
        file = self.find(segment)
        if file is not None and file.has(0, piece_count(segment.size)) and self.opened(file):
            return file
        return None

    def _attach(self, segment: Segment, file: LocalFile) -> None:
        file.base = segment.seg << 25
        self._by_seg[segment.seg] = file
        self._seg_of[segment.segment_id] = segment.seg

    def _looked(self, segment: Segment, file: LocalFile) -> bool:
        if not self.opened(file):
            return False
        try:
            present = file.look(segment.size)
        except OSError:
            self._forget(file)
            return False
        self.used -= file.size
        self._count(file, present)
        return True

    def _count(self, file: LocalFile, present: int) -> None:
        """Begin to count a cached file that has the pieces `present`."""
        file.size, file.present = FILE_COST, 0
        self.used += FILE_COST
        self._set_present(file, present)

    def _set_present(self, file: LocalFile, present: int) -> None:
        grown = (present.bit_count() - (file.present or 0).bit_count()) * PIECE
        file.present = present
        file.size += grown
        self.used += grown

    # --- unsent files ---

    def new_unsent(self, segment: Segment) -> LocalFile:
        """The (not yet existing) journal file of a new segment. The sealer creates it."""
        file = LocalFile(segment.seg, segment.segment_id, self._journal_path(segment), unsent=True)
        self.unsent += FILE_COST
        self._by_seg[segment.seg] = file
        self._open[file] = None
        self._close_some()
        return file

    async def release(self, segment: Segment) -> None:
        """The segment is stored and that is committed: from now on its file is cache.

        Cancelled or failing it leaves the file in the journal folder, from where the next start-up moves it.
        """
        file = self._by_seg.get(segment.seg)
        if file is None or not file.unsent:
            return
        target = self.cache_dir / segment.segment_id.hex()
        try:
            self._with_folder(partial(os.rename, file.path, target))
        except OSError as error:
            if error.errno == errno.EXDEV:
                await self._copy(segment, file, target)
                return
            self._drop_unsent(segment, file)
            _LOG.warning("the local copy of a stored segment could not be kept: %s", error)
            return
        file.path = target
        file.unsent = False
        self.unsent -= segment.size + FILE_COST
        self._count(file, pieces_mask(0, piece_count(segment.size)))
        self._cached[segment.segment_id] = file
        self._seg_of[segment.segment_id] = segment.seg

    async def _copy(self, segment: Segment, file: LocalFile, target: Path) -> None:
        """The cache folder is on another disk: carry the file over, or just let go of it."""
        part = target.with_suffix(".part")
        size = piece_count(segment.size) * PIECE + FILE_COST
        kept = await self.make_room(size)
        if kept:
            self.used += size
            try:
                await trio.to_thread.run_sync(shutil.copyfile, file.path, part)
                os.rename(part, target)
            except OSError as error:
                _LOG.info("a stored segment is not kept in the cache: %s", error)
                _remove(part)
                kept = False
            self.used -= size
        self._drop_unsent(segment, file)
        if kept:
            copy = LocalFile(segment.seg, segment.segment_id, target, unsent=False)
            self._cached[segment.segment_id] = copy
            self._attach(segment, copy)
            self._count(copy, pieces_mask(0, piece_count(segment.size)))

    def _drop_unsent(self, segment: Segment, file: LocalFile) -> None:
        self.unsent -= segment.size + FILE_COST
        self._by_seg.pop(segment.seg, None)
        _remove(file.path)
        self._retire(file)

    def discard(self, segment: Segment) -> None:
        """The segment is gone: so is its file. The sealer is done with it."""
        file = self.find(segment)
        if file is None:
            return
        if file.unsent:
            self._drop_unsent(segment, file)
        else:
            self._forget(file)
            _remove(file.path)

    # --- cached pieces ---

    async def writable(self, segment: Segment, bytes_needed: int) -> LocalFile | None:
        """An open file that takes so many more bytes of fetched pieces, or None where there is no room.

        The file's descriptor stays open until `filled` is called, which has to follow in any case.
        """
        if segment.segment_id in self._leaving or not await self.make_room(bytes_needed + FILE_COST):
            return None
        file = self.find(segment)
        if file is None and segment.segment_id not in self._leaving and len(self._cached) < MOST_FILES:
            file = LocalFile(
                segment.seg, segment.segment_id, self.cache_dir / segment.segment_id.hex(), unsent=False
            )
            try:
                self._with_folder(partial(file.open, create=True))
            except OSError as error:
                _LOG.info("nothing is cached: %s", error)
                return None
            self._open[file] = None
            self._close_some()
            self._cached[segment.segment_id] = file
            self._attach(segment, file)
            self._count(file, 0)
        if file is None or file.unsent or not self.opened(file):
            return None
        file.users += 1
        file.size += bytes_needed
        self.used += bytes_needed
        return file

    def _with_folder(self, action: Callable[[], object]) -> None:
        """Do what needs the cache folder, made anew where somebody deleted it. Raises OSError."""
        try:
            action()
        except FileNotFoundError:
            self.cache_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
            action()

    def filled(self, file: LocalFile, first: int, count: int, reserved: int, *, written: bool) -> None:
        """`count` pieces were written (or not) after `writable` had reserved so many bytes for them."""
        file.users -= 1
        if self._cached.get(file.segment_id) is not file or file.present is None:
            return  # given up meanwhile
        file.size -= reserved
        self.used -= reserved
        if written:
            self._set_present(file, file.present | pieces_mask(first, count))

    def spoiled(self, file: LocalFile, first: int, count: int) -> None:
        """Cached pieces did not prove themselves: have them fetched again."""
        if file.unsent or file.present is None:
            return
        self._set_present(file, file.present & ~pieces_mask(first, count))

    # --- eviction ---

    async def make_room(self, size: int) -> bool:
        """Have `size` bytes below the limit, evicting if need be. False where unsent data takes the place."""
        if self._fits(size):
            return True
        async with self._evicting:
            over = self.unsent + self.used + size - self.limit
            if over > 0:
                await self.evict(max(over, EVICT_AT_LEAST))
        return self._fits(size)

    def _fits(self, size: int) -> bool:
        return self.unsent + self.used + self._leaving_bytes + size <= self.limit

    async def evict(self, size: int) -> int:
        """Give up at least `size` bytes of cached pieces, if there are so many; returns how many were."""
        freed, actions, touched = 0, list[Callable[[], None]](), list[LocalFile]()
        leaving = []
        for segment_id, file in list(islice(self._cached.items(), LOOKED_AT)):
            if freed >= size:
                break
            if file.users or segment_id in self._leaving:
                continue
            wanted = -(-(size - freed) // EVICT_AT_LEAST) * EVICT_AT_LEAST
            if file.present is None or file.size <= wanted or not self.opened(file):
                freed += file.size
                self._forget(file)
                actions.append(partial(file.path.unlink, missing_ok=True))
            else:
                before = file.size
                ranges = self._give_up(file, wanted // PIECE)
                freed += before - file.size
                file.users += 1
                touched.append(file)
                actions += [partial(_punched, file, start, length) for start, length in ranges]
            leaving.append(segment_id)
        if not actions:
            return 0
        self._leaving.update(leaving)
        self._leaving_bytes += freed
        try:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(_do_all, actions)
        finally:
            self._leaving.difference_update(leaving)
            self._leaving_bytes -= freed
            for file in touched:
                file.users -= 1
        return freed

    def _give_up(self, file: LocalFile, pieces: int) -> list[tuple[int, int]]:
        """Clear the bits of the last `pieces` present pieces; returns the byte ranges to be punched."""
        present = file.present or 0
        ranges: list[tuple[int, int]] = []
        for _ in range(pieces):
            last = present.bit_length() - 1
            if last < 0:
                break
            present &= ~(1 << last)
            if ranges and ranges[-1][0] == (last + 1) * PIECE:
                ranges[-1] = (last * PIECE, ranges[-1][1] + PIECE)
            else:
                ranges.append((last * PIECE, PIECE))
        self._set_present(file, present)
        return ranges

    def _forget(self, file: LocalFile) -> None:
        if self._cached.pop(file.segment_id, None) is not None:
            self.used -= file.size
        file.size = 0
        file.present = 0
        seg = self._seg_of.pop(file.segment_id, None)
        if seg is not None:
            self._by_seg.pop(seg, None)
        self._retire(file)

    # --- descriptors ---

    def _retire(self, file: LocalFile) -> None:
        self._open.pop(file, None)
        self._closing.append(file)
        self._close_some()

    def _close_some(self) -> None:
        if self._closing:
            for file in self._closing:
                if not file.users:
                    file.close()
            self._closing = [file for file in self._closing if file.users]
        for _ in range(min(len(self._open) - MOST_DESCRIPTORS, 16)):
            file, _none = self._open.popitem(last=False)
            if file.users or file.touched:
                self._open[file] = None
            else:
                file.close()

    def close(self) -> None:
        """Close every descriptor but those that the last commit may need."""
        for file in [*self._open, *self._closing]:
            if not file.users and not file.touched:
                file.close()

    def _journal_path(self, segment: Segment) -> Path:
        return self.journal_dir / segment.segment_id.hex()


def _id_of(name: str) -> bytes | None:
    if len(name) != _NAME:
        return None
    try:
        return bytes.fromhex(name)
    except ValueError:
        return None


def _remove(path: Path) -> None:
    """Remove a file that nothing needs. What cannot be removed stays, until the next start sorts it out."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        _LOG.warning("a file that is no longer needed could not be removed: %s", error)


def _punched(file: LocalFile, start: int, length: int) -> None:
    try:
        punch(file.fd, start, length)
    except OSError as error:
        # Without holes on this disk the whole file would keep its blocks: cut off from here on instead,
        # which frees at least as much. The pieces lost with it fail their proof and are fetched again.
        _LOG.debug("no holes here: %s", error)
        os.ftruncate(file.fd, start)


def _do_all(actions: list[Callable[[], None]]) -> None:
    for action in actions:
        try:
            action()
        except OSError as error:
            _LOG.warning("a cached file could not be given up: %s", error)


__all__ = ["Cache"]
