"""The file of a shard: its parts, its size, and how it is written. Specified in docs/formats/farmer.md."""

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from storjfs.coding import merkle
from storjfs.coding.buffers import Buffer
from storjfs.errors import StorjfsError
from storjfs.farmer.disk import ALIGNMENT, aligned_buffer
from storjfs.protocol.ids import Digest, ShardId

if TYPE_CHECKING:
    from storjfs.farmer.shelf import Shelf

BATCH: Final = 1 << 20
"""How much of a shard is received before it is hashed and written; a multiple of leaf and ALIGNMENT."""
FOOTER: Final = struct.Struct(">16sQ32sII")
MAGIC: Final = b"storjfs shard 1\0"


class ShardDamaged(StorjfsError):
    """The file of a shard is missing, shorter than it must be, or not what its root says."""


class ShardUnreadable(StorjfsError):
    """The disk does not give the shard now: it may be whole."""


class NotAnswering(ShardUnreadable):
    """Nor anything else, for its disk does not answer: nothing can be said of the shard."""


@dataclass(frozen=True, slots=True)
class Held:
    """What the index knows about a shard on the shelf; `length` in bytes without leaf hashes and footer."""

    shard_id: ShardId
    root: Digest
    length: int
    disk: int = 1
    """The number of the disk it lies on."""


def footprint(length: int) -> int:
    """Bytes of the file of a shard of `length` bytes: the shard, its leaf hashes, the footer."""
    return length + merkle.leaf_count(length) * merkle.HASH + FOOTER.size


def space_of(length: int, block: int) -> int:
    """Bytes that the file of such a shard takes on a disk that gives space in blocks.

    A large one may lie in so many pieces that the file system keeps a list of them, in a block of its own.
    """
    blocks = -(-footprint(length) // block)
    return (blocks + 1 if length > BATCH else blocks) * block


def reserve_for(capacity: int) -> int:
    """Bytes that shards of `capacity` bytes in all may take, if none is smaller than two leaves' worth."""
    return capacity + capacity // 64


class Arrival:
    """A shard on its way in. Its room is reserved until `finish` and a commit, or `abandon`.

    `write` and `finish` run in a worker thread, one at a time, and belong to one task.
    """

    __slots__ = ("_file", "_leaves", "_written", "cancelled", "length", "shard_id", "shelf")

    def __init__(self, shelf: "Shelf", shard_id: ShardId, length: int) -> None:
        self.shelf = shelf
        self.shard_id = shard_id
        self.length = length
        self._file = -1
        self._written = 0
        self._leaves: list[bytes] = []
        self.cancelled = False
        """Set where the renter deletes the shard before it has arrived."""

    def write(self, batch: Buffer) -> None:
        """The next bytes; all but the last batch are BATCH long. Raises OSError."""
        if self._file < 0:
            self._file = self.shelf.disk.create(self.shelf.arriving_path(self.shard_id))
        self._leaves.append(merkle.leaf_hashes(batch))
        self.shelf.disk.write(self._file, batch, self._written)
        self._written += len(batch)

    def finish(self, batch: Buffer) -> Digest:
        """The last bytes; returns the root once all is on the disk. Raises OSError."""
        view = memoryview(batch)
        whole = len(view) // ALIGNMENT * ALIGNMENT
        if self._written + len(view) != self.length:
            raise ValueError("a shard must be written whole")
        if whole:
            self.write(view[:whole])
        elif self._file < 0:
            self._file = self.shelf.disk.create(self.shelf.arriving_path(self.shard_id))
        rest = view[whole:]
        self._leaves.append(merkle.leaf_hashes(rest))
        leaves = b"".join(self._leaves)
        root = Digest(merkle.tree_root(leaves, self.length))
        self._write_end(rest, leaves, FOOTER.pack(MAGIC, self.length, root, merkle.LEAF, 0))
        self.shelf.disk.sync_data(self._file)
        self._close()
        return root

    def _write_end(self, *parts: Buffer) -> None:
        """What does not fill a block of the disk, padded to one, which is cut off again."""
        length = sum(map(len, parts))
        padded = aligned_buffer(-(-length // ALIGNMENT) * ALIGNMENT)
        at = 0
        for part in parts:
            padded[at : at + len(part)] = part
            at += len(part)
        self.shelf.disk.write(self._file, padded, self._written)
        self._written += length
        self.shelf.disk.cut(self._file, self._written)

    def discard(self) -> None:
        """Remove what was written. Runs anywhere; the reservation is not touched."""
        if self._written or self._file >= 0:
            self._close()
            self.shelf.disk.remove(self.shelf.arriving_path(self.shard_id))

    def _close(self) -> None:
        if self._file >= 0:
            file, self._file = self._file, -1
            self.shelf.disk.close(file)
