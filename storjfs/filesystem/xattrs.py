"""Extended attributes: loaded per inode as a whole, kept with the inode while it is in memory."""

from collections.abc import Callable, Sequence

from storjfs.filesystem.inodes import HAS_XATTRS, XATTR_BYTES, Inode
from storjfs.store import MetaStore, Statement

_LOAD = "SELECT name, value FROM xattr WHERE ino = ?"
_REPLACE = "REPLACE INTO xattr (ino, name, value) VALUES (?, ?, ?)"
_DELETE = "DELETE FROM xattr WHERE (ino, name) IN (VALUES (?, ?))"


class XattrTable:
    """Callers mark the inode after `set` and `remove`: that keeps it, and its xattrs with it, in memory until
    the change is committed, so that the database is asked only when it knows everything."""

    def __init__(self, store: MetaStore, grow: Callable[[int], None]) -> None:
        """`grow` is told how much heavier an inode in memory became."""
        self._store = store
        self._grow = grow
        self._dirty: dict[tuple[int, bytes], bytes | None] = {}

    def all(self, inode: Inode) -> dict[bytes, bytes]:
        if inode.xattrs is None:
            rows = self._store.read(_LOAD, (inode.ino,)) if inode.flags & HAS_XATTRS else ()
            inode.xattrs = dict(rows)
            if inode.xattrs:
                self._grow(inode.xattr_weight)
        return inode.xattrs

    def set(self, inode: Inode, name: bytes, value: bytes) -> None:
        self.all(inode)[name] = value
        self._grow(len(value) // XATTR_BYTES)
        inode.flags |= HAS_XATTRS
        self._dirty[inode.ino, name] = value
        self._store.changed()

    def remove(self, inode: Inode, name: bytes) -> None:
        xattrs = self.all(inode)
        del xattrs[name]
        if not xattrs:
            inode.flags &= ~HAS_XATTRS
        self._dirty[inode.ino, name] = None
        self._store.changed()

    def freeze(self) -> Sequence[Statement]:
        if not self._dirty:
            return ()
        replaced = [(ino, name, value) for (ino, name), value in self._dirty.items() if value is not None]
        deleted = [key for key, value in self._dirty.items() if value is None]
        self._dirty = {}
        return [(_DELETE, deleted), (_REPLACE, replaced)]
