"""The shelf: sealed shards as files, each with the leaf hashes that its proofs are made from.

A shard on its way in is a file in `arriving/`, named by its id. Once its content is on the disk and its
folder is synced, the index row is committed; only then is the file renamed to its place. So, at start, what
lies in `arriving/` is finished where the index knows it, and removed where it does not: after a crash at
any step the whole shard is there, or nothing of it. On the way out the row moves to the list of doomed
shards, the file is removed and its folder synced, then the list is shortened. Nothing here looks at all
shards, ever.

Blocking; `Arrival.write`, `Arrival.finish`, `read` and `prove` may run in any thread, the accounting belongs
to the loop's.
"""

import contextlib
import errno
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from storjfs.coding import merkle
from storjfs.errors import StorjfsError
from storjfs.farmer.disk import ALIGNMENT, Args, Disk, T, disk_error
from storjfs.farmer.own import on_disk
from storjfs.farmer.patience import NOT_ANSWERING, Silent
from storjfs.farmer.settings import KEEP_FREE
from storjfs.farmer.shardfile import (
    BATCH,
    FOOTER,
    MAGIC,
    Arrival,
    Held,
    NotAnswering,
    ShardDamaged,
    ShardUnreadable,
    footprint,
    reserve_for,
    space_of,
)
from storjfs.protocol.ids import ShardId, short
from storjfs.store import FULL
from storjfs.volume.files import make_private

log = logging.getLogger(__name__)

__all__ = [
    "BATCH",
    "FOLDERS",
    "FOOTER",
    "MAGIC",
    "PER_ARRIVAL",
    "Arrival",
    "Held",
    "NoRoom",
    "NotAnswering",
    "ShardDamaged",
    "ShardUnreadable",
    "Shelf",
    "footprint",
    "read_token",
    "reserve_for",
    "space_of",
    "token_file",
]

PER_ARRIVAL: Final = 4
"""Blocks by which the folders and farmer.db may grow for one more shard."""
FOLDERS: Final = 258
"""The folders of a shelf."""


class NoRoom(StorjfsError):
    """The limit or the disk has no room for this shard."""


class Shelf:
    """The shard files under `folder` and the room they take: with what the farmer has beside them at most
    `limit` bytes, arrivals included, and `keep_free` bytes of the disk stay free.

    The index itself is the owner's: it tells `stored` at start, and what it committed. `own()` is how many
    bytes the farmer's other files on this disk may come to take. On a disk that is not the farmer's own the
    file `disk` beside the shelf says `token`: where it does not, another disk is mounted there, or none.
    """

    def __init__(
        self,
        folder: Path,
        limit: int,
        stored: int = 0,
        disk: Disk | None = None,
        *,
        keep_free: int = KEEP_FREE,
        own: Callable[[], int] = lambda: 0,
        number: int = 1,
        token: bytes = b"",
        block: int = ALIGNMENT,
    ) -> None:
        self.folder = folder
        self.limit = limit
        self.keep_free = keep_free
        self.full = False
        """Set by the owner while nothing is taken in, however much seems to be free."""
        self.read_only = ""
        """Why the disk takes nothing at the moment, empty while it does: set by `failed`."""
        self.stored = stored
        self.disk = disk or Disk()
        self.arrivals: dict[ShardId, Arrival] = {}
        self._arriving_bytes = 0
        self._arriving = folder / "arriving"
        self._unplaced: set[ShardId] = set()
        # Files that a failing disk did not let go, and their bytes at most.
        self._left_over: dict[Path, int] = {}
        self._own = own
        self.number = number
        self.token = token
        self.leaving = False
        """Whether its shards are moved to other disks, and none is taken in."""
        self.lost = False
        """Whether renters are told that its shards are gone."""
        self.elsewhere = 0
        """Of what is the farmer's own here, bytes kept for the records of shards on other disks."""
        self.block = block
        self._folders: dict[Path, int] = {}
        self.recovered = not token
        """Whether what a crash interrupted is finished or undone: not before the disk is there."""
        if not token:
            make_private(self._arriving)
        if not self.present:
            self.read_only = "the disk is not there"
            return
        try:
            self.block = self.disk.block(folder)
            self._measure()
        except OSError as error:
            if not token:
                raise
            self.stop(error)

    def _measure(self) -> None:
        self._folders = self.disk.ask(_sizes_in, self.folder)

    @property
    def taken(self) -> int:
        """Bytes of the files of shards, and promised to arrivals."""
        return self.stored + self._arriving_bytes + sum(list(self._left_over.values()))

    @property
    def folders(self) -> int:
        """Bytes of the folders themselves, which grow with the names in them, and of `pulse`."""
        return sum(list(self._folders.values())) + self.block

    @property
    def beside(self) -> int:
        """Bytes of the limit that shards may never have: for the folders, and what is the farmer's own."""
        return max(self.folders, FOLDERS * self.block) + self._own() + self.elsewhere

    def free(self) -> int:
        """Bytes of the disk that may be used; none where it does not say. It fails then."""
        try:
            return self.disk.free(self.folder) - self.keep_free
        except OSError as error:
            self.failed(error)
            return 0

    @property
    def room(self) -> int:
        """Bytes that shards may still take here, more or less: to choose among disks."""
        if self.read_only or self.full or self.leaving or not self.recovered:
            return 0
        return min(self.limit - self.taken - self.beside, self.free() - self._arriving_bytes)

    def room_for_records(self, arrivals: int) -> int:
        """Bytes of the limit that are left if so many shards arrive elsewhere; negative: none are."""
        growth = (arrivals + len(self.arrivals)) * PER_ARRIVAL * self.block
        return self.limit - self.taken - self.folders - growth - self._own()

    def space_of(self, length: int) -> int:
        """Bytes that a shard of this length takes here."""
        return space_of(length, self.block)

    def path(self, shard_id: ShardId) -> Path:
        """Where the shard lies."""
        return self.arriving_path(shard_id) if shard_id in self._unplaced else self._place_of(shard_id)

    def _place_of(self, shard_id: ShardId) -> Path:
        name = shard_id.hex()
        return self.folder / name[:2] / name

    def arriving_path(self, shard_id: ShardId) -> Path:
        """Where the shard lies until its row is committed."""
        return self._arriving / shard_id.hex()

    # --- in ---

    def begin(self, shard_id: ShardId, length: int) -> Arrival:
        """Reserve room for a shard. Raises NoRoom. The id must be neither held nor arriving."""
        if shard_id in self.arrivals:
            raise ValueError("this shard is arriving already")
        if self.read_only:
            raise NoRoom(f"the farmer's disk takes nothing: {self.read_only}")
        if self.leaving:
            raise NoRoom("the farmer's disk is being emptied")
        if not self.recovered:
            raise NoRoom("the farmer's disk has just come back")
        needed = self.space_of(length)
        growth = (len(self.arrivals) + 1) * PER_ARRIVAL * self.block
        if self.taken + needed + self.folders + growth + self._own() + self.elsewhere > self.limit:
            raise NoRoom("the farmer's limit is reached")
        if self.full or self.disk.free(self._arriving) - self._arriving_bytes < needed + self.keep_free:
            raise NoRoom("the farmer's disk is full")
        arrival = self.arrivals[shard_id] = Arrival(self, shard_id, length)
        self._arriving_bytes += needed
        return arrival

    def abandon(self, arrival: Arrival) -> None:
        """Give the room of an arrival back; its file is gone (`discard`) or never was. Idempotent."""
        if self.arrivals.pop(arrival.shard_id, None) is not None:
            self._arriving_bytes -= self.space_of(arrival.length)

    def settled(self, arrival: Arrival) -> None:
        """The row of an arrival is committed and its file in its place."""
        self.abandon(arrival)
        self.stored += self.space_of(arrival.length)

    def sync_arriving(self) -> None:
        """The names of finished arrivals survive power loss: before the commit of their rows. Blocking."""
        self.disk.sync_folder(self._arriving)
        self._look_at(self._arriving)

    def place(self, shard_id: ShardId) -> None:
        """Move an arrival to its place: after the commit of its row. Blocking.

        On a disk that fails or has no room for the name it is used where it is, and moved by the next start.
        """
        target = self._place_of(shard_id)
        try:
            self.disk.rename(self.arriving_path(shard_id), target)
            self._look_at(target.parent)
        except OSError as error:
            if error.errno not in FULL and not self.failed(error):
                raise
            self._unplaced.add(shard_id)

    def _look_at(self, *folders: Path) -> None:
        for one in folders or tuple(self._folders):
            self._folders[one] = self.disk.ask(on_disk, one)

    def recover(self, known: Callable[[ShardId], bool]) -> None:
        """At start: finish the arrivals whose rows were committed, remove the others. Blocking."""
        self.recovered = True
        for name in self.disk.ask(os.listdir, self._arriving):
            shard_id = _id_of(name)
            if shard_id is not None and known(shard_id):
                self.place(shard_id)
            else:
                self.disk.remove(self._arriving / name)

    # --- out ---

    def remove(self, shard_ids: Iterable[ShardId]) -> None:
        """Remove the files of shards whose rows are doomed, for good: these rows may go then.

        Idempotent, blocking. Raises OSError, also where the disk is not there.
        """
        ids = list(shard_ids)
        if ids and not self.present:
            raise OSError(errno.ENODEV, "the disk is not there")
        paths = [self.path(shard_id) for shard_id in ids]
        for path in paths:
            self.disk.remove(path)
        self._unplaced.difference_update(ids)
        for folder in {path.parent for path in paths}:
            if self.disk.ask(folder.exists):
                self.disk.sync_folder(folder)
                self._look_at(folder)

    def removed(self, lengths: Iterable[int]) -> None:
        """Shards of these lengths are gone: their room is free."""
        self.stored -= sum(map(self.space_of, lengths))

    # --- a disk that fails ---

    def failed(self, error: BaseException) -> bool:
        """Take nothing in from now on, if `error` is that of a failing disk; whether it is."""
        reason = disk_error(error)
        if reason and not self.read_only:
            log.error("the disk of %s fails, so nothing is taken in: %s", self.folder, reason)
        self.read_only = self.read_only or reason
        return bool(reason)

    def stop(self, error: OSError) -> None:
        """Take nothing in from now on, whatever the error means, until `try_again`."""
        if not self.failed(error):
            self.read_only = error.strerror or str(error)

    def remount(self, folder: Path) -> None:
        """Its disk is mounted elsewhere now. Nothing may be arriving; it is as at start, before `recover`."""
        self.folder = folder
        self._arriving = folder / "arriving"
        self._unplaced.clear()
        self._left_over.clear()
        self._folders = {}
        self.recovered = False
        self.read_only = "the disk has just come back"

    def left_over(self, path: Path, length: int) -> None:
        """The file of a shard that no index knows any more could not be removed: its room stays taken."""
        self._left_over[path] = self.space_of(length)

    def try_again(self) -> bool:
        """Whether the disk works again: then what was left over goes, and shards are taken. Blocking."""
        if self.disk.given_up and not self._answers_again():
            return False
        try:
            if not self.present or not self.disk.probe(self.folder / "pulse"):
                return False
            self._measure()
            for path in list(self._left_over):
                self.disk.remove(path)
                self.disk.sync_folder(path.parent)
                del self._left_over[path]
        except OSError as error:
            self.failed(error)
            return False
        if self.read_only:
            log.warning("the disk of %s works again", self.folder)
        self.read_only = ""
        return True

    def _answers_again(self) -> bool:
        """As that of the disk. What was given up may have happened, so it is as if it had been taken away."""
        self.failed(Silent())
        if self.arrivals:
            return False  # which end at their next write
        self.remount(self.folder)
        if self.disk.answers_again():
            return True
        self.read_only = NOT_ANSWERING
        return False

    # --- reading ---

    def read(self, held: Held, offset: int, length: int) -> bytes:
        """`length` bytes from `offset`. Raises ShardDamaged for a file that is missing or too short.

        This and what follows raises ShardUnreadable where the disk fails.
        """
        return self._patiently(self._read, held, offset, length)

    def _read(self, held: Held, offset: int, length: int) -> bytes:
        with self._opened(held) as file:
            data = self.disk.read(file, length, offset)
        if len(data) != length or offset + length > held.length:
            raise ShardDamaged(f"shard {short(held.shard_id)} is shorter than it must be")
        return data

    def prove(self, held: Held, indices: Sequence[int]) -> list[tuple[bytes, bytes]]:
        """`(leaf, path)` for each index: one small read per leaf, and the stored leaf hashes.

        Raises ShardDamaged where the result would not convince: a farmer should learn that first.
        """
        return self._patiently(self._prove, held, indices)

    def _prove(self, held: Held, indices: Sequence[int]) -> list[tuple[bytes, bytes]]:
        with self._opened(held) as file:
            hashes = self.disk.read(file, merkle.leaf_count(held.length) * merkle.HASH, held.length)
            leaves = [
                self.disk.read(file, min(merkle.LEAF, held.length - index * merkle.LEAF), index * merkle.LEAF)
                for index in indices
            ]
        paths = merkle.prove(hashes, indices)
        for index, leaf, path in zip(indices, leaves, paths, strict=True):
            if not merkle.verify(held.root, held.length, index, leaf, path):
                raise ShardDamaged(f"leaf {index} of shard {short(held.shard_id)} has rotted")
        return list(zip(leaves, paths, strict=True))

    def hashes(self, held: Held, offset: int) -> bytes:
        """The leaf hashes of the BATCH bytes from `offset`, as the disk has them now: nothing from memory."""
        return self._patiently(self._hashes, held, offset)

    def _hashes(self, held: Held, offset: int) -> bytes:
        length = min(BATCH, held.length - offset)
        with self._opened(held) as file:
            self.disk.forget(file, length, offset)
            data = self.disk.read(file, length, offset)
            self.disk.forget(file, length, offset)  # nobody is likely to want it
        return merkle.leaf_hashes(data)

    def compare(self, held: Held, leaves: bytes) -> None:
        """Raise ShardDamaged unless these leaf hashes are those of the root, and stand behind the shard."""
        self._patiently(self._compare, held, leaves)

    def _compare(self, held: Held, leaves: bytes) -> None:
        if len(leaves) != merkle.leaf_count(held.length) * merkle.HASH:
            raise ShardDamaged(f"shard {short(held.shard_id)} is shorter than it must be")
        if merkle.tree_root(leaves, held.length) != held.root:
            raise ShardDamaged(f"shard {short(held.shard_id)} has rotted")
        end = leaves + FOOTER.pack(MAGIC, held.length, held.root, merkle.LEAF, 0)
        with self._opened(held) as file:
            self.disk.forget(file, len(end), held.length)
            if self.disk.read(file, len(end), held.length) != end:
                raise ShardDamaged(f"the leaf hashes of shard {short(held.shard_id)} have rotted")

    def _patiently(self, work: Callable[[*Args], T], *args: *Args) -> T:
        try:
            return self.disk.ask(work, *args)
        except Silent as error:
            raise NotAnswering(f"the disk with {self.folder} does not answer") from error

    @property
    def present(self) -> bool:
        """Whether the shelf is where it was: its disk may have been taken away."""
        try:
            return self.disk.ask(self._is_there)
        except OSError:
            return False

    def _is_there(self) -> bool:
        return os.path.isdir(self._arriving) and (not self.token or read_token(self.folder) == self.token)

    def _open(self, shard_id: ShardId) -> int:
        """Its file, which comes to its place only after the commit of its row."""
        for path in (self.path(shard_id), self.arriving_path(shard_id)):
            with contextlib.suppress(FileNotFoundError):
                return self.disk.open(path)
        return self.disk.open(self.path(shard_id))

    @contextmanager
    def _opened(self, held: Held) -> Iterator[int]:
        try:
            file = self._open(held.shard_id)
            try:
                if os.fstat(file).st_size != footprint(held.length):
                    raise ShardDamaged(f"shard {short(held.shard_id)} is shorter than it must be")
                yield file
            finally:
                self.disk.close(file)
        except FileNotFoundError as error:
            if self.recovered and self.present:
                raise ShardDamaged(f"the file of shard {short(held.shard_id)} is missing") from error
            raise ShardUnreadable(f"the disk with {self.folder} is not there") from error
        except OSError as error:
            reason = error.strerror or error
            raise ShardUnreadable(f"shard {short(held.shard_id)} cannot be read: {reason}") from error


def _sizes_in(folder: Path) -> dict[Path, int]:
    """Bytes of a folder, and of each in it."""
    with os.scandir(folder) as entries:
        found = {Path(entry.path): on_disk(Path(entry.path)) for entry in entries}
    return {**found, folder: on_disk(folder)}


def token_file(shelf: Path) -> Path:
    """What says which disk this is, beside its shelf."""
    return shelf.parent / "disk"


def read_token(shelf: Path) -> bytes:
    """What it says; nothing where there is none, or it cannot be read."""
    try:
        return token_file(shelf).read_bytes()[:256]
    except OSError:
        return b""


def _id_of(name: str) -> ShardId | None:
    try:
        data = bytes.fromhex(name)
    except ValueError:
        return None
    return ShardId(data) if len(data) == 32 else None
