"""Reading meta.db: opening it, and what is committed, without holding the loop for longer than need be."""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar

import apsw
import trio

from storjfs.store.aside import SLOW, Aside
from storjfs.store.batch import Values
from storjfs.store.database import StoreError, open_database, open_to_read, unusable
from storjfs.store.schema import META_MIGRATIONS, META_SCHEMA, META_VERSION

T = TypeVar("T")

_TABLES = set(re.findall(r"^CREATE TABLE (\w+)", META_SCHEMA, re.MULTILINE))

# What a disk or a damaged file leads to, not a wrong statement of ours.
_UNREADABLE = (
    apsw.IOError,
    apsw.CorruptError,
    apsw.NotADBError,
    apsw.CantOpenError,
    apsw.BusyError,
    apsw.FullError,
)


def open_meta(
    path: Path, key: bytes | None, cache_kib: int = 4096, *, read_only: bool = False
) -> apsw.Connection:
    """A connection to the meta.db at `path`, made or brought up to date if need be; see `open_database`.

    `read_only`: nothing of it is changed; see `open_to_read`. Raises StoreError, also where a table is gone.
    """
    if read_only:
        connection = open_to_read(path, key, version=META_VERSION, cache_kib=cache_kib)
    else:
        connection = open_database(
            path,
            key,
            META_SCHEMA,
            version=META_VERSION,
            migrations=META_MIGRATIONS,
            autocheckpoint=0,
            cache_kib=cache_kib,
        )
    try:
        gone = _TABLES - _names_of(connection, "table")
    except apsw.Error as error:
        connection.close()
        raise unusable(path, error) from error
    if gone:
        connection.close()
        raise StoreError(
            f"the database {path} is damaged: it lacks the table {min(gone)}",
            hint="Nothing was changed. What farmers hold is still there; restore the database from a backup.",
        )
    return connection


def missing_indexes(connection: apsw.Connection) -> dict[str, str]:
    """The statements that make the indexes which are not there, by their names."""
    there = _names_of(connection, "index")
    made = re.findall(r"^CREATE (?:UNIQUE )?INDEX (\w+) .*?;", META_SCHEMA, re.MULTILINE)
    statements = re.findall(r"^CREATE (?:UNIQUE )?INDEX .*?;", META_SCHEMA, re.MULTILINE)
    return {name: sql for name, sql in zip(made, statements, strict=True) if name not in there}


def _names_of(connection: apsw.Connection, kind: str) -> set[str]:
    rows = connection.execute("SELECT name FROM main.sqlite_schema WHERE type = ?", (kind,)).fetchall()
    return {str(name) for (name,) in rows}


class MetaReader:
    """The reading side of a volume's meta.db. All methods belong to the loop's thread.

    `aside` has pages fetched by a thread where reads on the loop are found to be slow.
    """

    def __init__(self, path: Path, key: bytes | None) -> None:
        self._path = path
        self._key = key
        self._reader = self._connect(cache_kib=32 << 10)
        self._read_cursor = self._reader.cursor()
        self.aside = Aside(partial(self._connect, cache_kib=1024))

    def _connect(self, cache_kib: int) -> apsw.Connection:
        return open_meta(self._path, self._key, cache_kib)

    def read(self, sql: str, args: Values = ()) -> list[Any]:
        """Rows of a query on what is committed. Give it bounds: it runs on the loop; see `aside` as well.

        Raises StoreError where the disk does not give them.
        """
        started = perf_counter()
        try:
            rows = self._read_cursor.execute(sql, args).fetchall()
        except _UNREADABLE as error:
            raise self._not_read(error) from error
        if (took := perf_counter() - started) > SLOW:
            self.aside.took(took)
        return rows

    async def read_patiently(self, sql: str, args: Values = ()) -> list[Any]:
        """As `read`, for what runs in the background and goes through much that is in no cache."""
        if self.aside.distant:
            await self.aside.fetch(sql, args)
        return self.read(sql, args)

    async def scan(self, sql: str, args: Values = ()) -> list[Any]:
        """As `read`, for what may take long: on another thread, with a connection of its own."""
        return await self.study(lambda connection: connection.execute(sql, args).fetchall())

    async def study(self, look: Callable[[apsw.Connection], T]) -> T:
        """As `scan`, for what takes several queries: `look` is given the connection, on the other thread."""

        def looked() -> T:
            connection = self._connect(cache_kib=1024)
            try:
                return look(connection)
            except _UNREADABLE as error:
                raise self._not_read(error) from error
            finally:
                connection.close()

        return await trio.to_thread.run_sync(looked)

    def _not_read(self, error: apsw.Error) -> StoreError:
        return StoreError(
            f"the database {self._path} cannot be read: {error}",
            permanent=False,
            hint=unusable(self._path, error).hint or "Check the disk; storjfs fsck tells what is damaged.",
        )

    def _close_readers(self) -> None:
        self.aside.close()
        self._read_cursor.close()
        self._reader.close()
