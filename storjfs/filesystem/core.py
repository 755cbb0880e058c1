"""What every part of the filesystem works on: the tables, the clock, and the rules for changing anything."""

import errno
import math
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import trio

from storjfs.errors import FilesystemError
from storjfs.filesystem.clock import FileClock
from storjfs.filesystem.dentries import DentryTable
from storjfs.filesystem.extents import ExtentTable
from storjfs.filesystem.inodes import HAS_XATTRS, Inode, InodeTable
from storjfs.filesystem.orphans import OrphanTable
from storjfs.filesystem.seam import SegmentRoom
from storjfs.filesystem.xattrs import XattrTable
from storjfs.store import ROOT_INODE, MetaStore, Statement, StoreError, Values

NAME_MAX = 255
SIZE_MAX = (1 << 63) - 1  # what off_t holds, and so what the kernel lets a program reach
LINK_MAX = 65_000
RESERVE = 128 << 20  # bytes of contracted space below which nothing new is made, or a 16th of all
SPACE_PERIOD = 1.0  # seconds between looks at it
CAPABILITY = b"security.capability"  # what a program may do in addition when started: capabilities(7)


@dataclass(frozen=True, slots=True)
class Policy:
    """How a volume is mounted.

    `read_only`: every change fails with EROFS, and nothing is reaped. `atime`: "noatime", or "relatime" (an
    access time is renewed when it is not newer than mtime and ctime, or a day old). `sync_network`: fsync
    returns only when the data is with farmers.
    """

    read_only: bool = False
    atime: str = "relatime"
    sync_network: bool = False


@dataclass(frozen=True, slots=True)
class Capacity:
    """For statfs: contracted space in bytes, and inodes."""

    total: int
    free: int
    files: int = 0
    free_files: int = 1 << 32
    room: int | None = None
    """What there is disk for at the moment, where that is known: statfs shows no more. It is no reason to
    refuse anything, for what is cached makes way, and a disk that is full says so itself."""

    block_size: ClassVar[int] = 4096
    name_max: ClassVar[int] = NAME_MAX

    @property
    def reserve(self) -> int:
        """The part of `free` that is kept for what the kernel has accepted: nothing new is made of it."""
        return min(RESERVE, self.total >> 4)

    @property
    def available(self) -> int:
        return max(self.free - self.reserve, 0)

    @property
    def blocks(self) -> int:
        return (self.total - self.free + self._shown) // self.block_size

    @property
    def free_blocks(self) -> int:
        return self._shown // self.block_size

    @property
    def available_blocks(self) -> int:
        return max(self._shown - self.reserve, 0) // self.block_size

    @property
    def _shown(self) -> int:
        return self.free if self.room is None else min(self.free, self.room)


class Core:
    """Tables and checks. `space` is asked for the contracted capacity whenever a program wants to know it.

    Changes are made without an await between the first and the last of an operation, so that each group
    commit, which freezes all tables at once on the loop, holds whole operations only.
    """

    def __init__(
        self,
        store: MetaStore,
        segments: SegmentRoom,
        space: Callable[[], Capacity],
        policy: Policy,
        owner: tuple[int, int] = (0, 0),
        clock: Callable[[], int] | None = None,
    ) -> None:
        self._store = store
        self._segments = segments
        self._space = space
        self._policy = policy
        self._clock = clock or FileClock()
        self._inodes = InodeTable(store)
        self._dentries = DentryTable(store, self._inodes)
        self._extents = ExtentTable(store, segments)
        self._xattrs = XattrTable(store, self._inodes.cache.grow)
        self._orphans = OrphanTable(store)
        self._spacious = True
        self._space_checked = -math.inf
        store.join(self)
        if not store.read("SELECT 1 FROM inode WHERE ino = ?", (ROOT_INODE,)):
            uid, gid = owner
            self._inodes.insert(
                ROOT_INODE,
                stat.S_IFDIR | 0o755,
                uid,
                gid,
                self._clock(),
                parent=ROOT_INODE,
                rdev=0,
                target=None,
            )

    @property
    def read_only(self) -> bool:
        """Whether nothing may be changed."""
        return self._policy.read_only

    # --- participant of the group commit ---

    def freeze(self) -> Sequence[Statement]:
        return [
            *self._inodes.freeze(),
            *self._dentries.freeze(),
            *self._xattrs.freeze(),
            *self._orphans.freeze(),
            *self._extents.freeze(),
        ]

    def before_commit(self) -> None:
        return None

    def committed(self, group: int) -> None:
        self._inodes.committed(group)
        self._dentries.committed(group)
        self._extents.committed(group)

    # --- checks ---

    async def _fetched(self, query: tuple[str, Values] | None) -> None:
        """Return when a query that the loop is about to make finds its pages in a cache, as far as that is
        known; what a table misses, None for nothing. Asked only while `store.aside.distant`."""
        if query is not None:
            await self._store.aside.fetch(*query)

    def _check_writable(self) -> None:
        """Raise EROFS or ENOSPC where nothing may be added."""
        if self._store.failure is not None or self._policy.read_only:
            self._refuse()

    def _check_removable(self) -> None:
        """As `_check_writable`, but lets through what frees space on a full disk."""
        failure = self._store.failure
        if self._policy.read_only or (failure is not None and failure.permanent):
            raise FilesystemError(errno.EROFS)

    def _refuse(self) -> None:
        failure = self._store.failure
        if failure is not None and not failure.permanent and not self._policy.read_only:
            raise FilesystemError(failure.errno, str(failure))
        raise FilesystemError(errno.EROFS)

    async def _take_in(self) -> None:
        """Return when there is room for something new.

        Raises ENOSPC early: nothing more is made or opened for writing while the contracted space still takes
        what the kernel accepted from programs and has not written back.
        """
        self._check_writable()
        now = trio.current_time()
        if now >= self._space_checked + SPACE_PERIOD:
            self._space_checked = now
            capacity = self._space()
            self._spacious = capacity.available > 0
        if not self._spacious:
            raise FilesystemError(errno.ENOSPC, "the contracted space is used up")
        await self._store.room()
        await self._segments.room(new=True)

    def _directory(self, ino: int) -> Inode:
        """The directory `ino`, which must exist and not be removed."""
        inode = self._inodes.get(ino)
        if inode.mode & 0o170000 != 0o040000:
            raise FilesystemError(errno.ENOTDIR)
        return inode

    def _parent(self, ino: int, name: bytes) -> Inode:
        """The directory in which `name` is about to be made: ENOENT where it was removed itself."""
        inode = self._directory(ino)
        if not inode.nlink:
            raise FilesystemError(errno.ENOENT)
        if len(name) > NAME_MAX:
            raise FilesystemError(errno.ENAMETOOLONG)
        if not name or b"/" in name or b"\0" in name:
            raise FilesystemError(errno.EINVAL)
        if name in (b".", b".."):
            raise FilesystemError(errno.EEXIST)
        return inode

    def _child(self, parent: int, name: bytes) -> Inode:
        """The inode of an existing name."""
        ino = self._dentries.find(parent, name)[0]
        if not ino:
            if len(name) > NAME_MAX:
                raise FilesystemError(errno.ENAMETOOLONG)
            self._directory(parent)
            raise FilesystemError(errno.ENOENT)
        return self._inodes.get(ino)

    def _touch_directory(self, directory: Inode, now: int) -> None:
        """Its entries changed."""
        directory.mtime = directory.ctime = now
        self._inodes.mark(directory)

    def _accessed(self, inode: Inode) -> None:
        """Its content, entries or target was read: relatime, as mount(8) describes it."""
        if self._policy.atime == "noatime":
            return
        atime = inode.atime
        if atime > inode.mtime and atime > inode.ctime and self._clock() - atime < 86_400 * 10**9:
            return
        if self._policy.read_only or self._store.failure is not None:
            return
        now = self._clock()
        if now > atime:
            inode.atime = now
            self._inodes.mark(inode)

    def _drop_capability(self, inode: Inode) -> None:
        """The file's content or owner changes, whoever does it: it may no longer do more than its caller.

        The mount promises that to the kernel (FUSE_HANDLE_KILLPRIV_V2), though Linux 6.18 still removes the
        attribute itself."""
        if inode.flags & HAS_XATTRS and CAPABILITY in self._xattrs.all(inode):
            self._xattrs.remove(inode, CAPABILITY)

    async def _sync(self) -> None:
        """What fsync promises (promise 1, and 2 for `sync_network`)."""
        try:
            await self._store.sync()
            if self._policy.sync_network:
                await self._segments.flush()
        except StoreError as error:
            raise FilesystemError(error.errno, str(error)) from error
