"""The cached copies of stored segments: which pieces each has, and what that takes of the disk."""

import logging
from collections.abc import Callable, Iterable, Iterator

from storjfs.coding.geometry import PIECE
from storjfs.segments.descriptors import Descriptors
from storjfs.segments.files import LocalFile, byte_ranges, free_blocks, pieces_mask
from storjfs.segments.folders import Folders, remove
from storjfs.segments.order import Order

_LOG = logging.getLogger(__name__)

FILE_COST = 16 << 10
"""What a file counts for beside its content: the last block, the disk's own bookkeeping of extents, its name,
its record in the order kept for the next run."""


class CachedFiles:
    """Methods belong to the loop's thread. `used` is what all of them count for, in bytes.

    What a file counts for is never less than what it takes of the disk: pieces are counted before they are
    written, and until their blocks are freed. `forgotten` is called with a file that is no longer one of
    them.
    """

    def __init__(
        self,
        folders: Folders,
        order: Order,
        descriptors: Descriptors,
        forgotten: Callable[[LocalFile], None] = lambda file: None,
    ) -> None:
        self.used = 0
        self.order = order
        self._folders = folders
        self._descriptors = descriptors
        self._forgotten = forgotten
        self._files: dict[bytes, LocalFile] = {}

    def __len__(self) -> int:
        return len(self._files)

    def __iter__(self) -> Iterator[bytes]:
        """Segment ids."""
        return iter(self._files)

    def __contains__(self, segment_id: bytes) -> bool:
        return segment_id in self._files

    def get(self, segment_id: bytes) -> LocalFile | None:
        """The file, if there is one."""
        return self._files.get(segment_id)

    # --- coming and going ---

    def found(self, segments: Iterable[tuple[bytes, int]]) -> None:
        """Take in what lies in the cache folder at start-up: (segment id, bytes on disk), oldest first."""
        files = [self._noted(segment_id, size) for segment_id, size in segments]
        self.order.restore(self._folders.read_order(), [file.entry for file in files])

    def found_late(self, segment_id: bytes, size: int) -> None:
        """The same with a file that came into the folder after that."""
        self.order.add(self._noted(segment_id, size).entry)

    def _noted(self, segment_id: bytes, size: int) -> LocalFile:
        file = LocalFile(0, segment_id, self._folders.cached(segment_id), unsent=False)
        file.entry.size = size + FILE_COST
        # Which of its pieces were read is not known; that none was would be the worse guess.
        file.entry.read = -1
        self.used += file.entry.size
        self._files[segment_id] = file
        return file

    def begin(self, file: LocalFile, present: int) -> None:
        """The file is cached from now on, with these pieces."""
        self._files[file.segment_id] = file
        self.order.add(file.entry)
        self.set_present(file, present)

    def forget(self, file: LocalFile, *, remembered: bool = False) -> None:
        """It is not (or no longer) to be read from; its path is left to the caller.

        `remembered`: the order knows it again if it comes back soon.
        """
        if self._files.get(file.segment_id) is file:
            del self._files[file.segment_id]
            self.used -= file.entry.size
            if remembered:
                self.order.give_up(file.entry)
            else:
                self.order.remove(file.entry)
        file.present = 0
        self._forgotten(file)
        self._descriptors.retire(file)

    def opened(self, file: LocalFile) -> bool:
        """Make sure that `file` has a descriptor; if it cannot, False, and it is given up if cached."""
        if file.fd >= 0:
            return True
        try:
            file.open()
        except OSError as error:
            if not file.unsent:
                self._given_up(file, error)
            return False
        self._descriptors.note(file)
        return True

    def _given_up(self, file: LocalFile, error: OSError) -> None:
        _LOG.info("a cached file cannot be used: %s", error)
        self.forget(file)
        remove(file.path)

    # --- pieces ---

    def looked(self, file: LocalFile, size: int) -> bool:
        """Find out which pieces of its segment, of `size` bytes, it has. False if it cannot be read."""
        if not self.opened(file):
            return False
        try:
            present = file.look(size)
        except OSError as error:
            self._given_up(file, error)
            return False
        self.set_present(file, present)
        return True

    def set_present(self, file: LocalFile, present: int) -> None:
        """It has these pieces, whatever it counted for before."""
        file.present = present
        self._resize(file, present.bit_count() * PIECE + FILE_COST)

    def _resize(self, file: LocalFile, size: int) -> None:
        self.used += size - file.entry.size
        self.order.resize(file.entry, size)

    def reserve(self, file: LocalFile, size: int) -> None:
        """So many bytes are about to be written to it; `filled` has to follow. Keeps it open until then."""
        file.users += 1
        self._resize(file, file.entry.size + size)

    def filled(self, file: LocalFile, first: int, count: int, reserved: int, *, written: bool) -> None:
        """`count` pieces were written (or not) after so many bytes had been reserved for them."""
        file.users -= 1
        if self._files.get(file.segment_id) is not file or file.present is None:
            return  # given up meanwhile
        before = file.present
        new = pieces_mask(first, count) & ~before
        if written:
            file.present = before | new
            self._resize(file, file.entry.size - reserved + new.bit_count() * PIECE)
        elif self._given_back(file, new):
            self._resize(file, file.entry.size - reserved)

    def let_go(self, file: LocalFile, pieces: int) -> int:
        """Stop counting these pieces, whose blocks the caller frees; returns their bytes."""
        size = pieces.bit_count() * PIECE
        file.present = (file.present or 0) & ~pieces
        self._resize(file, file.entry.size - size)
        return size

    def spoiled(self, file: LocalFile, first: int, count: int) -> None:
        """Cached pieces did not prove themselves: have them fetched again."""
        if file.unsent or not file.present:
            return
        bad = file.present & pieces_mask(first, count)
        file.present ^= bad
        if self._given_back(file, bad):
            self._resize(file, file.entry.size - bad.bit_count() * PIECE)

    def _given_back(self, file: LocalFile, pieces: int) -> bool:
        """Whether what lies on disk at these pieces, and is of no use, could be freed; else it counts on."""
        if not self.opened(file):
            return False
        try:
            free_blocks(file, byte_ranges(pieces))
        except OSError as error:
            _LOG.info("blocks of a cached file are not freed: %s", error)
            return False
        return True


__all__ = ["FILE_COST", "CachedFiles"]
