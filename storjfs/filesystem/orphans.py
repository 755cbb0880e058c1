"""The orphan table: what a crash must not leak.

A row stands for an inode without names, whose content, attributes and row must still go, or for a file that
was cut so much at once that extents beyond its size are left. Both are few at any time.
"""

from collections.abc import Sequence

from storjfs.store import MetaStore, Statement

_REPLACE = "REPLACE INTO orphan (ino) VALUES (?)"
_DELETE = "DELETE FROM orphan WHERE ino IN (VALUES (?))"


class OrphanTable:
    def __init__(self, store: MetaStore) -> None:
        self._store = store
        self.known: set[int] = {ino for (ino,) in store.read("SELECT ino FROM orphan")}
        self._dirty: dict[int, bool] = {}

    def add(self, ino: int) -> None:
        self.known.add(ino)
        self._dirty[ino] = True
        self._store.changed()

    def remove(self, ino: int) -> None:
        self.known.discard(ino)
        self._dirty[ino] = False
        self._store.changed()

    def freeze(self) -> Sequence[Statement]:
        if not self._dirty:
            return ()
        added = [(ino,) for ino, present in self._dirty.items() if present]
        removed = [(ino,) for ino, present in self._dirty.items() if not present]
        self._dirty = {}
        return [(_DELETE, removed), (_REPLACE, added)]
