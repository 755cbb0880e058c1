"""What all mends write with: statements, a transaction, numbers not given out yet, and lost+found."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import apsw

from storjfs.segments.holdings import LENGTH_IF_HELD
from storjfs.store import ROOT_INODE, StoreError, missing_indexes, open_meta

LOST_AND_FOUND: Final = b"lost+found"
DIRECTORY: Final = 0o040000
FILE: Final = 0o100000
SYMLINK: Final = 0o120000
TYPE: Final = 0o170000

Row = tuple[Any, ...]


class Tables:
    """meta.db, to be changed. `now` in nanoseconds since 1970."""

    def __init__(self, path: Path, key: bytes | None, now: int) -> None:
        self.now = now
        self._connection = open_meta(path, key)

    def close(self) -> None:
        self._connection.close(True)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All of it or nothing, and durable after it. Raises StoreError where it cannot be written."""
        try:
            self.run("BEGIN IMMEDIATE")
            yield
            self.run("COMMIT")
        except BaseException as error:
            with contextlib.suppress(apsw.Error):  # it only repeats what `error` says
                if not self._connection.get_autocommit():
                    self.run("ROLLBACK")
            if isinstance(error, apsw.FullError | apsw.IOError | apsw.ReadOnlyError):
                raise StoreError(
                    f"what is wrong cannot be mended: {error}",
                    hint="Each mend is done as a whole or not at all. Free space on the disk that holds the "
                    "volume, or see to that disk, and run storjfs fsck --repair again.",
                ) from error
            raise

    def reindex(self) -> None:
        """Make all indexes anew, those that are gone included, as far as rows allow it."""
        for sql in ["REINDEX", *missing_indexes(self._connection).values()]:
            with contextlib.suppress(apsw.Error):
                self.run(sql)

    @property
    def changes(self) -> int:
        """Rows changed since it was opened."""
        return self._connection.total_changes()

    def run(self, sql: str, *args: Any) -> None:
        self._connection.execute(sql, args).fetchall()

    def rows(self, sql: str, *args: Any) -> list[Row]:
        return self._connection.execute(sql, args).fetchall()

    def one(self, sql: str, *args: Any) -> Any:
        """The first value of the first row, None without rows."""
        rows = self.rows(sql, *args)
        return rows[0][0] if rows else None

    def next(self, key: str) -> int:
        """A number that was never given out, of 'next_ino' or 'next_dentry'."""
        value = int(self.one("SELECT value FROM counters WHERE key = ?", key))
        self.run("UPDATE counters SET value = ? WHERE key = ?", value + 1, key)
        return value

    def take_out(self, shard_id: bytes) -> None:
        """The shard is not needed: no row any more, and its farmer is to delete it."""
        self.run(
            f"INSERT OR IGNORE INTO doomed SELECT shard_id, contract, {LENGTH_IF_HELD} FROM shard "
            "WHERE shard_id = ? AND contract <> 0",
            shard_id,
        )
        self.run("DELETE FROM shard WHERE shard_id = ?", shard_id)

    # --- inodes and names ---

    def kind(self, ino: int) -> int | None:
        """The type bits of an inode, None where there is none."""
        mode = self.one("SELECT mode FROM inode WHERE ino = ?", ino)
        return None if mode is None else mode & TYPE

    def make_inode(self, ino: int, mode: int, *, parent: int = 0, nlink: int = 1) -> None:
        """An inode of the root's owner, its size and content as its extents say."""
        owner = self.rows("SELECT uid, gid FROM inode WHERE ino = 1")
        uid, gid = owner[0] if owner else (os.getuid(), os.getgid())
        ((size, stored),) = self.rows(
            "SELECT COALESCE(MAX(off + len), 0), COALESCE(SUM(len), 0) FROM extent WHERE ino = ?", ino
        )
        xattrs = self.one("SELECT EXISTS (SELECT 1 FROM xattr WHERE ino = ?)", ino)
        size = 0 if mode & TYPE == DIRECTORY else max(size, 0)
        self.run(
            "INSERT INTO inode VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 0, ?, ?, ?, NULL)",
            *(ino, mode, uid, gid, nlink, size, self.now, self.now, self.now, parent, xattrs, stored),
        )

    def enter(self, parent: int, name: bytes, ino: int) -> None:
        """Give an inode a name; one that is taken gets a number behind it. A directory learns its parent."""
        free, number = name, 1
        while self.one("SELECT 1 FROM dentry WHERE parent = ? AND name = ?", parent, free):
            number += 1
            free = b"%s.%d" % (name, number)
        self.run("INSERT INTO dentry VALUES (?, ?, ?, ?)", parent, free, ino, self.next("next_dentry"))
        self.run(f"UPDATE inode SET parent = ? WHERE ino = ? AND mode & {TYPE} = {DIRECTORY}", parent, ino)

    def keep(self, ino: int) -> None:
        """Give an inode a name in lost+found, which is made if need be."""
        self.enter(self._lost_and_found(), b"#%d" % ino, ino)

    def _lost_and_found(self) -> int:
        sql = (
            "SELECT i.ino FROM dentry d JOIN inode i ON i.ino = d.ino "
            f"WHERE d.parent = {ROOT_INODE} AND d.name = ? AND i.mode & {TYPE} = {DIRECTORY}"
        )
        found = self.one(sql, LOST_AND_FOUND)
        if found is None:
            found = self.next("next_ino")
            self.make_inode(found, DIRECTORY | 0o700, parent=ROOT_INODE, nlink=2)
            self.enter(ROOT_INODE, LOST_AND_FOUND, found)
        return int(found)
