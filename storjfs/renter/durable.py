"""A small database of this room: written on a worker thread, one caller at a time, read on the loop."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import apsw
import trio

from storjfs.store import DiskFull, StoreError, found_full, open_database

Value = None | int | float | str | bytes
Statement = tuple[str, Sequence[Value]]


class DurableDatabase:
    """An encrypted SQLite file whose every `write` is one transaction, on disk when it returns.

    Raises storjfs.store.StoreError where it cannot be opened.
    """

    def __init__(
        self,
        path: Path,
        key: bytes | None,
        schema: str,
        *,
        version: int = 1,
        migrations: Mapping[int, str] | None = None,
    ) -> None:
        self._path = path
        self.problem: StoreError | None = None
        """Why the last `write` failed, None if it did not."""
        self._writer = open_database(path, key, schema, version=version, migrations=migrations)
        self._reader = open_database(path, key, schema, version=version, migrations=migrations)
        self._turn = trio.Lock()

    def read(self, sql: str, args: Sequence[Value] = ()) -> list[Any]:
        """Rows of a query on what is committed. Give it bounds: it runs on the loop. Raises StoreError."""
        try:
            return self._reader.execute(sql, tuple(args)).fetchall()
        except apsw.Error as error:
            raise StoreError(f"{self._path} cannot be read: {error}") from error

    async def write(self, *statements: Statement) -> None:
        """Run the statements in one transaction; when this returns, it is durable.

        Cancelled before it started, nothing has happened; once started it is not interrupted, so a caller
        that updates its own view right after the call keeps view and database equal. Raises StoreError, and
        nothing is changed.
        """
        async with self._turn:
            try:
                await trio.to_thread.run_sync(self._commit, statements)
            except apsw.Error as error:
                self.problem = self._told(error)
                raise self.problem from error
            self.problem = None

    def _told(self, error: apsw.Error) -> StoreError:
        full = found_full(error, self._writer)
        if full:
            hint = "Free space on the disk that holds it; what was to be written is tried again then."
            return DiskFull(f"no space is left for {self._path}", full, hint)
        return StoreError(
            f"{self._path} cannot be written: {error}",
            permanent=False,
            hint="Check the disk that holds it.",
        )

    def _commit(self, statements: Sequence[Statement]) -> None:
        cursor = self._writer.cursor()
        cursor.execute("BEGIN IMMEDIATE")
        try:
            for sql, args in statements:
                cursor.execute(sql, tuple(args)).fetchall()
            cursor.execute("COMMIT")
        except BaseException:
            if not self._writer.get_autocommit():
                cursor.execute("ROLLBACK")
            raise
        finally:
            cursor.close()

    def close(self) -> None:
        """Close both connections; nothing may be in progress."""
        self._reader.close()
        try:
            self._writer.close()
        except apsw.ConnectionNotClosedError:  # pragma: no cover - a cursor still alive in a traceback
            self._writer.close(True)
