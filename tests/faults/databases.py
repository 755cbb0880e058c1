"""Two databases that many programs rely on, and what each of their commits must leave.

Run as a program on a mount: `python -m tests.faults.databases DIRECTORY RECORD COMMITS`. Marks: `begun <name>
<n>` before commit n of a database, `committed <name> <n>` when it has returned.
"""

import random
import sqlite3
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Final, Protocol

import lmdb

from tests.faults.recording import Marks

FIRST_ROWS: Final = 4
MAP: Final = 16 << 20


def value(name: str, commit: int, key: int) -> bytes:
    """What a key holds since a commit: of any size up to a few pages."""
    chance = random.Random(f"{name} {commit} {key}")
    return chance.randbytes(chance.choice((20, 300, 3000, 9000)))


@cache
def changes(name: str, commit: int) -> dict[int, bytes]:
    """The keys that a commit sets: some new, some older."""
    chance = random.Random(f"{name} {commit}")
    keys = {commit * 10, *(chance.randrange(commit * 10 + 1) // 10 * 10 for _ in range(FIRST_ROWS))}
    return {key: value(name, commit, key) for key in sorted(keys)}


def content(name: str, commits: int) -> dict[int, bytes]:
    """All that is there after so many commits."""
    held: dict[int, bytes] = {}
    for commit in range(1, commits + 1):
        held |= changes(name, commit)
    return held


class Database(Protocol):
    """One database of a program."""

    name: str
    files: tuple[str, ...]
    """Those that a backup has to hold, the first of which is always there."""

    def open(self, folder: Path) -> Callable[[int], None]:
        """Open or make it; gives what carries out commit n, durable when it returns."""

    def found(self, folder: Path) -> dict[int, bytes]:
        """What it holds after it has checked itself. Raises where it is damaged."""


class Sqlite:
    """`synchronous`: with journal_mode DELETE only EXTRA promises that a commit outlives a power loss, since
    FULL does not sync the directory that the journal is deleted from (https://sqlite.org/pragma.html)."""

    def __init__(self, mode: str, synchronous: str) -> None:
        self.name = f"sqlite-{mode}"
        self.files: tuple[str, ...] = (f"{self.name}.db", f"{self.name}.db-journal", f"{self.name}.db-wal")
        self._mode = mode
        self._synchronous = synchronous

    def open(self, folder: Path) -> Callable[[int], None]:
        connection = sqlite3.connect(folder / self.files[0], isolation_level=None)
        connection.execute(f"PRAGMA journal_mode={self._mode}").fetchall()
        connection.execute(f"PRAGMA synchronous={self._synchronous}")
        connection.execute("CREATE TABLE IF NOT EXISTS held (key INTEGER PRIMARY KEY, value BLOB NOT NULL)")

        def commit(number: int) -> None:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany("REPLACE INTO held VALUES (?, ?)", changes(self.name, number).items())
            connection.execute("COMMIT")
            if number % 7 == 0 and self._mode == "wal":
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

        return commit

    def found(self, folder: Path) -> dict[int, bytes]:
        connection = sqlite3.connect(folder / self.files[0])
        try:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            if not connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'held'").fetchall():
                return {}
            return dict(connection.execute("SELECT key, value FROM held"))
        finally:
            connection.close()


class Lmdb:
    name = "lmdb"
    files: tuple[str, ...] = ("lmdb.mdb",)

    def open(self, folder: Path) -> Callable[[int], None]:
        environment = lmdb.open(str(folder / self.files[0]), map_size=MAP, subdir=False)

        def commit(number: int) -> None:
            with environment.begin(write=True) as transaction:
                for key, held in changes(self.name, number).items():
                    transaction.put(b"%08d" % key, held)

        return commit

    def found(self, folder: Path) -> dict[int, bytes]:
        if not (folder / self.files[0]).stat().st_size:
            return {}
        environment = lmdb.open(str(folder / self.files[0]), map_size=MAP, subdir=False)
        try:
            with environment.begin() as transaction:
                return {int(key): bytes(held) for key, held in transaction.cursor()}
        finally:
            environment.close()


DATABASES: Final[list[Database]] = [
    Sqlite("wal", "FULL"),
    Sqlite("truncate", "FULL"),
    Sqlite("delete", "EXTRA"),
    Lmdb(),
]


def main() -> None:
    folder, mark, commits = Path(sys.argv[1]), Marks(Path(sys.argv[2])), int(sys.argv[3])
    opened = []
    for database in DATABASES:
        mark(f"begun {database.name} 0")
        opened.append((database.name, database.open(folder)))
    for number in range(1, commits + 1):
        for name, commit in opened:
            mark(f"begun {name} {number}")
            commit(number)
            mark(f"committed {name} {number}")


if __name__ == "__main__":
    main()
