"""The inode table: a bounded cache over meta.db that also holds what is not committed yet."""

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from storjfs.errors import FilesystemError
from storjfs.filesystem.attributes import Attributes
from storjfs.filesystem.generations import Generations
from storjfs.store import MetaStore, Statement

CACHED = 16_384  # inodes of one generation, about 10 MB
XATTR_BYTES = 600  # of extended attributes in memory that weigh as much as an inode
HAS_XATTRS = 1  # bit of Inode.flags

COLUMNS = "ino, mode, uid, gid, nlink, size, atime, mtime, ctime, rdev, parent, flags, stored, target"
_SELECT = f"SELECT {COLUMNS} FROM inode WHERE ino = ?"
_REPLACE = f"REPLACE INTO inode ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_DELETE = "DELETE FROM inode WHERE ino IN (VALUES (?))"
_COUNTER = "REPLACE INTO counters (key, value) VALUES (?, ?)"

Row = tuple[int, int, int, int, int, int, int, int, int, int, int, int, int, bytes | None]


class Inode(Attributes):
    """One inode in memory.

    `parent`: of a directory, else 0. `group`: the newest group that changed it, 0 once that is committed.
    `gone`: the row is deleted. `forgotten`: unlinked, and the kernel dropped it as well.
    `xattrs`: all of them, or None where they were not needed yet.
    """

    __slots__ = ("flags", "forgotten", "gone", "group", "parent", "pins", "target", "xattrs")

    parent: int
    flags: int
    target: bytes | None
    pins: int
    group: int
    gone: bool
    forgotten: bool
    xattrs: dict[bytes, bytes] | None

    def __init__(self, row: Row) -> None:
        (
            self.ino,
            self.mode,
            self.uid,
            self.gid,
            self.nlink,
            self.size,
            self.atime,
            self.mtime,
            self.ctime,
            self.rdev,
            self.parent,
            self.flags,
            self.stored,
            self.target,
        ) = row
        self.pins = 0
        self.group = 0
        self.opens = 0
        self.lookups = 0
        self.gone = False
        self.forgotten = False
        self.xattrs = None

    @property
    def weight(self) -> int:
        return 1 + self.xattr_weight

    @property
    def xattr_weight(self) -> int:
        """What its extended attributes take of memory, in inodes."""
        if not self.xattrs:
            return 0
        return sum(len(name) + len(value) for name, value in self.xattrs.items()) // XATTR_BYTES

    def row(self) -> Row:
        return (
            self.ino,
            self.mode,
            self.uid,
            self.gid,
            self.nlink,
            self.size,
            self.atime,
            self.mtime,
            self.ctime,
            self.rdev,
            self.parent,
            self.flags,
            self.stored,
            self.target,
        )


class InodeTable:
    """Every inode is at most once in memory, so that a change is seen by all who hold it."""

    def __init__(self, store: MetaStore) -> None:
        self._store = store
        self.cache: Generations[Inode] = Generations(CACHED)
        self._dirty: dict[int, Inode] = {}
        self._frozen: list[tuple[int, dict[int, Inode]]] = []
        self._next_saved = _counter(store, "next_ino")
        # A number given out twice would replace a file by another, so damage to the counter must not matter.
        self._next = max(self._next_saved, _highest(store) + 1)
        self.count = self._count_saved = _count(store)
        """Of all inodes, also of those that were unlinked and not yet reaped."""

    def get(self, ino: int) -> Inode:
        """Raises ESTALE where there is no such inode (any more)."""
        inode = self.cache.young.get(ino)
        if inode is None:
            inode = self.cache.get(ino)
            if inode is None:
                rows = self._store.read(_SELECT, (ino,))
                if not rows:
                    raise FilesystemError(errno.ESTALE)
                inode = Inode(rows[0])
                self.cache.put(ino, inode)
        if inode.gone:
            raise FilesystemError(errno.ESTALE)
        return inode

    def missing(self, ino: int) -> tuple[str, tuple[int]] | None:
        """The query that `get` would make, None where it needs none."""
        return None if self.cache.peek(ino) is not None else (_SELECT, (ino,))

    def adopt(self, row: Row) -> Inode:
        """The inode of a row that was just read: the one in memory, where there is one, is newer."""
        ino = row[0]
        inode = self.cache.get(ino)
        if inode is None:
            inode = Inode(row)
            self.cache.put(ino, inode)
        return inode

    @contextmanager
    def pinned(self, inode: Inode) -> Iterator[None]:
        """Keep it in memory; needed by whoever waits with it at hand. Else memory could drop it, others would
        change another object of the same inode, and whoever waited would write its old row over theirs."""
        inode.pins += 1
        try:
            yield
        finally:
            inode.pins -= 1

    def new(
        self,
        mode: int,
        uid: int,
        gid: int,
        now: int,
        *,
        parent: int = 0,
        rdev: int = 0,
        target: bytes | None = None,
    ) -> Inode:
        """A new inode with one link, or two if it is a directory (`parent` is set)."""
        ino = self._next
        self._next = ino + 1
        return self.insert(ino, mode, uid, gid, now, parent=parent, rdev=rdev, target=target)

    def insert(
        self,
        ino: int,
        mode: int,
        uid: int,
        gid: int,
        now: int,
        *,
        parent: int,
        rdev: int,
        target: bytes | None,
    ) -> Inode:
        nlink = 2 if parent else 1
        size = len(target) if target is not None else 0
        inode = Inode((ino, mode, uid, gid, nlink, size, now, now, now, rdev, parent, 0, 0, target))
        inode.xattrs = {}
        self.cache.put(ino, inode)
        self.mark(inode)
        self.count += 1
        return inode

    def skip_to(self, number: int) -> None:
        """Give out no number below `number` any more."""
        self._next = max(self._next, number)
        self._next_saved = 0

    def mark(self, inode: Inode) -> None:
        """`inode` was changed in the current group."""
        group = self._store.group
        if inode.group != group:
            if not inode.group:
                inode.pins += 1
            inode.group = group
            self._dirty[inode.ino] = inode
            self._store.changed()

    def delete(self, inode: Inode) -> None:
        inode.gone = True
        self.mark(inode)
        self.count -= 1

    def freeze(self) -> Sequence[Statement]:
        statements: list[Statement] = []
        if self._dirty:
            rows = [inode.row() for inode in self._dirty.values() if not inode.gone]
            gone = [(inode.ino,) for inode in self._dirty.values() if inode.gone]
            if rows:
                statements.append((_REPLACE, rows))
            if gone:
                statements.append((_DELETE, gone))
            self._frozen.append((self._store.group, self._dirty))
            self._dirty = {}
        if self._next != self._next_saved or self.count != self._count_saved:
            self._next_saved, self._count_saved = self._next, self.count
            statements.append((_COUNTER, [("next_ino", self._next), ("inodes", self.count)]))
        return statements

    def committed(self, group: int) -> None:
        while self._frozen and self._frozen[0][0] <= group:
            for inode in self._frozen.pop(0)[1].values():
                if 0 < inode.group <= group:
                    inode.group = 0
                    inode.pins -= 1
                    if inode.gone:
                        self.cache.drop(inode.ino)


def _counter(store: MetaStore, key: str) -> int:
    value = store.read("SELECT value FROM counters WHERE key = ?", (key,))[0][0]
    assert isinstance(value, int)
    return value


def _highest(store: MetaStore) -> int:
    rows = store.read("SELECT MAX(ino) FROM inode UNION ALL SELECT MAX(ino) FROM extent")
    return max(int(ino or 0) for (ino,) in rows)


def _count(store: MetaStore) -> int:
    """The number of inodes; counted once in a volume that did not keep it."""
    kept = store.read("SELECT value FROM counters WHERE key = 'inodes'")
    return int((kept or store.read("SELECT COUNT(*) FROM inode"))[0][0])
