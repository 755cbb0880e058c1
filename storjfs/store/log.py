"""The write-ahead log of meta.db is copied into the database, so that it ends and starts anew.

Only between two commits can a copy reach the log's end, and only then does the log start anew. So most of it
is copied beside the commits, on a thread of its own, and the last pages on the commit thread.
"""

import logging
import queue
from collections.abc import Callable
from pathlib import Path
from typing import Final

import apsw

from storjfs.store.database import BUSY_TIMEOUT_MS, StoreError, sync_failed

_LOG = logging.getLogger(__name__)

WAL_PAGES = 6_000  # pages of log (24 MiB) after which it is copied into the database
FINISH_PAGES = 400  # what of a copy may be left to the commit thread
_PASSES: Final = 4


class Log:
    """The log of the database at `path`. But for `run`, `ask` and `stop` it belongs to the commit thread.

    `connect()` opens a connection for `run`'s thread; `on_commit_thread(call)` has it called there, between
    two commits. `distrusted` is set once a sync of the database has failed: the kernel may have dropped pages
    that no later copy would write again, so from then on nothing may be committed, and the log stays as it
    is, so that the next start copies all of it.
    """

    def __init__(
        self,
        path: Path,
        writer: apsw.Connection,
        connect: Callable[[], apsw.Connection],
        on_commit_thread: Callable[[Callable[[], None]], None],
    ) -> None:
        self._path = path
        self._writer = writer
        self._connect = connect
        self._on_commit_thread = on_commit_thread
        self._asked: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._pages = 0
        self.copying = False
        """Whether a copy is asked for that has not come to its end."""
        self.distrusted: apsw.Error | None = None
        writer.set_wal_hook(self._note)

    def _note(self, connection: apsw.Connection, database: str, pages: int) -> int:
        self._pages = pages
        return apsw.SQLITE_OK

    def ask(self) -> None:
        """Have it copied beside the commits, unless that is under way."""
        if not self.copying:
            self.copying = True
            self._asked.put(True)

    def committed(self) -> None:
        """A commit has ended: a long log is copied."""
        if self._pages > WAL_PAGES:
            self.ask()

    def reuse(self) -> bool:
        """Copy all of the log, whose blocks the next commit then writes anew; whether that can help."""
        if not self._pages or self.distrusted is not None:
            return False
        try:
            total, copied = self._writer.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        except apsw.Error as error:
            self._failed(error)
            return False
        return 0 < total == copied

    def shrink(self) -> None:
        """Copy all of it and give its space back, without waiting: where somebody reads an older state, as
        far as that allows."""
        if self.distrusted is not None:
            return
        self._writer.set_busy_timeout(0)
        try:
            self._writer.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        except apsw.BusyError:
            pass
        except apsw.Error as error:
            self._failed(error)
        finally:
            self._writer.set_busy_timeout(BUSY_TIMEOUT_MS)

    def run(self) -> None:
        """The thread that copies beside the commits, until `stop`.

        Of a copy in several passes only the last syncs the database; see `distrusted`. Where no connection
        can be had, as with no descriptor left, the commit thread copies all of the log, and the next time it
        is tried again.
        """
        connection: apsw.Connection | None = None
        try:
            while self._asked.get():
                try:
                    connection = connection or self._connect()
                    for _ in range(_PASSES):
                        total, copied = connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
                        if total - copied < FINISH_PAGES:
                            break
                except (apsw.Error, StoreError) as error:
                    self._failed(error)
                self._on_commit_thread(self._finish)
        finally:
            if connection is not None:
                connection.close()

    def stop(self) -> None:
        """End `run` once what was asked for is done."""
        self._asked.put(False)

    def _finish(self) -> None:
        if self.distrusted is None:
            try:
                self._writer.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
            except apsw.Error as error:
                self._failed(error)
        self.copying = False

    def _failed(self, error: apsw.Error | StoreError) -> None:
        """A failed sync is the end, which whoever waits for the next commit learns. Anything else, as a full
        disk, leaves the log as it was, and the next copy begins where this one did."""
        _LOG.warning("the log of %s could not be copied: %s", self._path, error)
        if isinstance(error, apsw.Error) and sync_failed(error):
            self.distrusted = error
