"""A committed state of meta.db, held still while it is looked through.

Everything is counted inside SQLite: rows come to Python only where something is wrong, so that a mount's loop
hardly notices, and what must be gathered over all rows (names per inode, live bytes per segment) goes to
temporary tables that spill to a file of the system's temporary folder. They hold numbers only: that file is
not encrypted. So memory does not grow with the volume.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Self

import apsw

from storjfs.errors import StorjfsError
from storjfs.store import ROOT_INODE, open_meta

CACHE_KIB: Final = 16 << 10
STEPS: Final = 200_000
"""Instructions of SQLite's machine between two looks whether to stop: some milliseconds."""
CHUNK: Final = 100_000
"""Rows of the extent table looked at by one statement."""
DEEPEST: Final = 512
MOST_LOG: Final = 4 << 30
"""Bytes by which the log may grow while a state is held, since it cannot start anew meanwhile."""


class Stopped(StorjfsError):
    """The examination was given up because somebody asked for that."""


class TooMuchWritten(StorjfsError):
    """So much was written meanwhile that holding the state any longer would fill the disk."""


class View:
    """One connection that changes nothing; belongs to one thread at a time, but `stop` and `progress`.

    `progress` is (what is looked at, how much of it is done, of how much) for another thread to read.
    """

    def __init__(self, path: Path, key: bytes | None) -> None:
        self._log = path.with_name(path.name + "-wal")
        self.connection = open_meta(path, key, CACHE_KIB, read_only=True)
        self._stopped = False
        self._log_before = 0
        self.progress: tuple[str, int, int] = ("", 0, 0)
        for pragma in ("temp_store=FILE", f"temp.cache_size=-{CACHE_KIB}"):
            self.connection.execute(f"PRAGMA {pragma}").fetchall()
        self.connection.set_progress_handler(self._must_stop, STEPS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close(True)

    def stop(self) -> None:
        """Have whoever works with it end with Stopped soon. Callable from any thread."""
        self._stopped = True

    def _must_stop(self) -> bool:
        return self._stopped

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """All reads inside see one committed state. Raises Stopped, TooMuchWritten, apsw.Error."""
        self._log_before = self._log_size()
        self.run("BEGIN")
        try:
            yield
        except apsw.InterruptError:
            raise Stopped("the examination was given up") from None
        finally:
            # Whatever went on: temporary tables go with it, nothing else was changed.
            with contextlib.suppress(apsw.Error):
                if not self.connection.get_autocommit():
                    self.connection.execute("ROLLBACK").fetchall()

    def rows(self, sql: str, args: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
        """Rows of a query, as they come."""
        yield from self.connection.execute(sql, args)

    def run(self, sql: str, args: tuple[Any, ...] = ()) -> None:
        """A statement without rows."""
        self.connection.execute(sql, args).fetchall()

    def one(self, sql: str, args: tuple[Any, ...] = ()) -> Any:
        """The first value of the first row, None without rows."""
        for row in self.connection.execute(sql, args):
            return row[0]
        return None

    def step(self, what: str, done: int = 0, of: int = 0) -> None:
        """Note how far the work is. Raises Stopped, TooMuchWritten."""
        self.progress = (what, done, of)
        if self._stopped:
            raise Stopped("the examination was given up")
        if self._log_size() > self._log_before + MOST_LOG:
            raise TooMuchWritten(
                "too much is written meanwhile to hold a consistent state",
                hint="Nothing is wrong with the data; check in a quieter time, or unmounted.",
            )

    def _log_size(self) -> int:
        try:
            return os.stat(self._log).st_size
        except OSError:
            return 0

    # --- what is gathered over all rows ---

    def gather_names(self) -> None:
        """Make the temporary table `named` (ino, names, parent): how many names lead to an inode."""
        self.run("CREATE TEMP TABLE named (ino INTEGER PRIMARY KEY, names INTEGER, parent INTEGER)")
        self.run("INSERT INTO named SELECT ino, COUNT(*), MIN(parent) FROM dentry GROUP BY ino")

    def extent_chunks(self) -> Iterator[tuple[int, int, int, int]]:
        """Ranges of the extent table, (ino, off) to (ino, off), the latter not included."""
        ino, off = -(1 << 62), -(1 << 62)
        while True:
            after = list(
                self.rows(
                    "SELECT ino, off FROM extent WHERE (ino, off) >= (?, ?) "
                    "ORDER BY ino, off LIMIT 1 OFFSET ?",
                    (ino, off, CHUNK),
                )
            )
            if not after:
                yield ino, off, 1 << 62, 1 << 62
                return
            yield ino, off, after[0][0], after[0][1]
            ino, off = after[0]

    # --- names for people ---

    def path(self, ino: int) -> str:
        """A path that leads to the inode as far as one can be found, its number else. Needs `named`."""
        parts: list[str] = []
        at = ino
        while at != ROOT_INODE and len(parts) < DEEPEST:
            parent = self.one("SELECT parent FROM named WHERE ino = ?", (at,))
            name = self.one("SELECT name FROM dentry WHERE parent = ? AND ino = ?", (parent, at))
            if name is None:
                break
            parts.append(readable(name))
            at = parent
        if not parts:
            return f"inode {ino}"
        return ("" if at == ROOT_INODE else f"inode {at}/") + "/".join(reversed(parts))


def readable(name: object) -> str:
    """A name as it can be shown and put into JSON, whatever its bytes."""
    raw = name if isinstance(name, bytes) else str(name).encode()
    return os.fsdecode(raw).encode("utf-8", "replace").decode()
