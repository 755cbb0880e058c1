"""The directory table: names, with an overlay for what is not committed yet.

Every entry has an id that grows over the life of the volume: the readdir cookie. An entry that replaces
another of its name takes over the id, so a listing under way shows each name at most once.
"""

import bisect
from collections.abc import Sequence

import trio

from storjfs.filesystem.generations import leave
from storjfs.filesystem.inodes import COLUMNS, Inode, InodeTable
from storjfs.store import MetaStore, Statement

CACHED = 16_384  # names of one generation, about 4 MB

_INODE = ", ".join("i." + column for column in COLUMNS.split(", "))
_FIND = f"SELECT d.id, {_INODE} FROM dentry d JOIN inode i ON i.ino = d.ino WHERE d.parent = ? AND d.name = ?"
_LIST = (
    f"SELECT d.name, d.id, {_INODE} FROM dentry d JOIN inode i ON i.ino = d.ino"
    " WHERE d.parent = ? AND d.id > ? ORDER BY d.id LIMIT ?"
)
_NAMES = "SELECT name FROM dentry WHERE parent = ? LIMIT ?"
# Not REPLACE: with an id given out twice, by a counter that is behind, it would take another name away.
_PUT = (
    "INSERT INTO dentry (parent, name, ino, id) VALUES (?, ?, ?, ?)"
    " ON CONFLICT (parent, name) DO UPDATE SET ino = excluded.ino, id = excluded.id"
)
_DELETE = "DELETE FROM dentry WHERE (parent, name) IN (VALUES (?, ?))"
_COUNTER = "REPLACE INTO counters (key, value) VALUES (?, ?)"

COMPLETE_NAMES = 65_536

NOTHING = (0, 0)
Key = tuple[int, bytes]
Query = tuple[str, tuple[int | bytes, ...]]
Listed = tuple[int, bytes, int]  # id, name, ino


class DentryTable:
    """Names of directories. Entries are (ino, id); ino 0 stands for "no such name"."""

    def __init__(self, store: MetaStore, inodes: InodeTable) -> None:
        self._store = store
        self._inodes = inodes
        self._young: dict[Key, tuple[int, int]] = {}
        self._old: dict[Key, tuple[int, int]] = {}
        self._leaving: dict[Key, tuple[int, int]] = {}
        self._overlay: dict[int, dict[bytes, tuple[int, int, int]]] = {}  # + the group that changed it
        self._sorted: dict[int, list[Listed]] = {}
        self._dirty: dict[Key, None] = {}
        self._frozen: list[tuple[int, list[Key]]] = []
        self._next = self._next_saved = store.read("SELECT value FROM counters WHERE key = 'next_dentry'")[0][
            0
        ]
        self._watchers: dict[int, list[Listing]] = {}
        self._complete: dict[int, set[bytes]] = {}  # names ever entered into directories made by this process
        self._complete_names = 0

    def find(self, parent: int, name: bytes) -> tuple[int, int]:
        """(ino, id) of a name, NOTHING where it does not exist."""
        key = (parent, name)
        entry = self._young.get(key)
        if entry is None:
            entry = self._old.get(key) or self._load(parent, name)
            self._remember(key, entry)
        return entry

    def missing(self, parent: int, name: bytes) -> Query | None:
        """The query that `find` would make, None where it needs none."""
        key = (parent, name)
        if key in self._young or key in self._old or name in self._overlay.get(parent, ()):
            return None
        known = self._complete.get(parent)
        return None if known is not None and name not in known else (_FIND, key)

    def _load(self, parent: int, name: bytes) -> tuple[int, int]:
        names = self._overlay.get(parent)
        if names is not None and (changed := names.get(name)) is not None:
            return changed[:2]
        known = self._complete.get(parent)
        if known is not None and name not in known:
            return NOTHING
        rows = self._store.read(_FIND, (parent, name))
        if not rows:
            return NOTHING
        number, *row = rows[0]
        self._inodes.adopt(tuple(row))
        return row[0], number

    def _remember(self, key: Key, entry: tuple[int, int]) -> None:
        self._young[key] = entry
        leave(self._leaving)
        if len(self._young) >= CACHED:
            self._leaving, self._old, self._young = self._old, self._young, {}

    def begin(self, parent: int) -> None:
        """`parent` is new and empty: for as long as memory allows, a name that was never entered into it is
        known not to exist without asking the database, as programs do before each file they create."""
        self._count_complete()
        self._complete[parent] = set()

    def _count_complete(self) -> None:
        """One more name or directory in memory; where there are too many, start anew."""
        self._complete_names += 1
        if self._complete_names > COMPLETE_NAMES:
            self._complete.clear()
            self._complete_names = 0

    def add(self, parent: int, name: bytes, ino: int) -> None:
        """Enter a name, or point an existing one at another inode."""
        _, number = self.find(parent, name)
        if not number:
            number = self._next
            self._next = number + 1
        self._change(parent, name, ino, number)

    def skip_to(self, number: int) -> None:
        """Give out no id below `number` any more."""
        self._next = max(self._next, number)
        self._next_saved = 0

    def remove(self, parent: int, name: bytes) -> None:
        self._change(parent, name, 0, 0)

    def _change(self, parent: int, name: bytes, ino: int, number: int) -> None:
        names = self._overlay.get(parent)
        if names is None:
            names = self._overlay[parent] = {}
        names[name] = (ino, number, self._store.group)
        key = (parent, name)
        known = self._complete.get(parent)
        if known is not None:
            known.add(name)
            self._count_complete()
        self._dirty[key] = None
        self._remember(key, (ino, number) if ino else NOTHING)
        self._sorted.pop(parent, None)
        if parent in self._watchers:
            for listing in self._watchers[parent]:
                listing.stale = True
        self._store.changed()

    async def emptied(self, parent: int) -> bool:
        """As `is_empty`, in bounded steps where thousands of names were just removed. Until the next await it
        stays true."""
        found, after = self.batch(parent, 0, Listing.BATCH)
        while after is not None:
            await trio.lowlevel.checkpoint()
            found, after = self.batch(parent, after, Listing.BATCH)
        return not found

    def is_empty(self, parent: int) -> bool:
        names = self._overlay.get(parent, {})
        if any(entry[0] for entry in names.values()):
            return False
        rows: list[tuple[bytes]] = self._store.read(_NAMES, (parent, len(names) + 1))
        return all(name in names for (name,) in rows)

    # --- listings ---

    def watch(self, listing: "Listing") -> None:
        self._watchers.setdefault(listing.ino, []).append(listing)

    def unwatch(self, listing: "Listing") -> None:
        watchers = self._watchers[listing.ino]
        watchers.remove(listing)
        if not watchers:
            del self._watchers[listing.ino]

    def batch(self, parent: int, after: int, limit: int) -> tuple[list[Listed], int | None]:
        """The next entries by id; loads their inodes and names as well.

        None, though there may be some further on, where all that were looked at are removed in the overlay:
        then the id after which to go on comes with it. Entries that are added meanwhile have higher ones.
        """
        names = self._overlay.get(parent)
        rows = self._store.read(_LIST, (parent, after, limit))
        found: list[Listed] = []
        for name, number, *row in rows:
            if names is None or name not in names:
                found.append((number, name, row[0]))
                self._inodes.adopt(tuple(row))
                key = (parent, name)
                if key not in self._young:
                    self._remember(key, (row[0], number))
        last = len(rows) < limit
        if names:
            found = self._merged(parent, found, after, None if last else rows[-1][1], limit)
        return found, None if found or last else rows[-1][1]

    def _merged(
        self, parent: int, found: list[Listed], after: int, until: int | None, limit: int
    ) -> list[Listed]:
        """`found` with the overlay's entries of `after < id <= until`; all of them where `until` is None."""
        entries = self._sorted.get(parent)
        if entries is None:
            entries = self._sorted[parent] = sorted(
                (number, name, ino) for name, (ino, number, _) in self._overlay[parent].items() if ino
            )
        first = bisect.bisect_right(entries, after, key=_id)
        if until is not None:
            return sorted(found + entries[first : bisect.bisect_right(entries, until, key=_id)])
        several = entries[first : first + limit]
        if first + limit < len(entries):  # what is above the last one taken comes next time
            found = [entry for entry in found if entry[0] < several[-1][0]]
        return sorted(found + several)

    # --- commit ---

    def freeze(self) -> Sequence[Statement]:
        statements: list[Statement] = []
        if self._dirty:
            added, removed = [], []
            for key in self._dirty:
                parent, name = key
                ino, number, _ = self._overlay[parent][name]
                if ino:
                    added.append((parent, name, ino, number))
                else:
                    removed.append(key)
            if removed:
                statements.append((_DELETE, removed))
            if added:
                statements.append((_PUT, added))
            self._frozen.append((self._store.group, list(self._dirty)))
            self._dirty = {}
        if self._next != self._next_saved:
            self._next_saved = self._next
            statements.append((_COUNTER, [("next_dentry", self._next)]))
        return statements

    def committed(self, group: int) -> None:
        while self._frozen and self._frozen[0][0] <= group:
            for parent, name in self._frozen.pop(0)[1]:
                names = self._overlay.get(parent)
                if names is not None and name in names and names[name][2] <= group:
                    del names[name]
                    self._sorted.pop(parent, None)
                    if not names:
                        del self._overlay[parent]


def _id(entry: Listed) -> int:
    return entry[0]


class Listing:
    """An open directory: a buffer of entries read ahead, dropped as soon as the directory changes."""

    __slots__ = ("after", "buffer", "ino", "inode", "stale")

    BATCH = 64  # half a millisecond, and several where the pages are in no cache of SQLite's

    def __init__(self, inode: Inode) -> None:
        self.inode = inode
        self.ino = inode.ino
        self.buffer: list[Listed] = []
        self.after = 0  # the cookie before the buffer's first entry
        self.stale = False

    def missing(self, cookie: int) -> Query | None:
        """The query that `take` would begin with, None where it needs none."""
        if not self.stale and self.after <= cookie and self.buffer and self.buffer[-1][0] > cookie:
            return None
        return _LIST, (self.ino, cookie, self.BATCH)

    async def take(self, table: DentryTable, cookie: int, limit: int) -> Sequence[Listed]:
        """Up to `limit` entries whose ids are above `cookie`; none at the end."""
        if not self.stale and self.after <= cookie:
            at = bisect.bisect_right(self.buffer, cookie, key=_id)
            if at < len(self.buffer):
                return self.buffer[at : at + limit]
        after: int | None = cookie
        while after is not None:
            self.stale = False
            self.buffer, further = table.batch(self.ino, after, self.BATCH)
            self.after, after = cookie, further
            if after is not None:
                await trio.lowlevel.checkpoint()
        return self.buffer[:limit]
