"""The group commit of meta.db (decision record 1): one writer thread, fed by the loop."""

import contextlib
import logging
import queue
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import apsw
import trio

from storjfs.store.batch import Values, run_rows
from storjfs.store.database import BUSY_TIMEOUT_MS, DiskFull, StoreError, found_full, sync_failed
from storjfs.store.reading import MetaReader, open_meta

_LOG = logging.getLogger(__name__)

Statement = tuple[str, Sequence[Values]]

MAX_AGE = 5.0  # seconds from the first change of a group until it closes by itself
MAX_CHANGES = 6_000  # changes after which a group closes by itself: freezing them holds the loop
MODEST = MAX_CHANGES // 2  # how far background work fills a group while another is on its way
WAL_PAGES = 6_000  # pages of log (24 MiB) after which it is copied into the database
FINISH_PAGES = 400  # what of a checkpoint may be left to the writer thread


class Participant(Protocol):
    """Keeps uncommitted changes in memory and hands them over when a group closes.

    All three are called on the loop and must not wait. Between `freeze` and `committed` the overlay still
    answers reads, for the database does not know the changes yet. After a failed commit `freeze` is called
    again for the next group without a `committed` between: the store keeps the statements it was given and
    puts the later ones after them; `committed(g)` then covers every group up to g.
    """

    def freeze(self) -> Sequence[Statement]:
        """The changes since the last freeze, which form the group `MetaStore.group`."""

    def before_commit(self) -> Callable[[], None] | None:
        """What the commit thread must do (and may block for) before these changes may be committed.

        Called right after `freeze`. The callable may be called again after a failure. An OSError with ENOSPC
        or EDQUOT leads to another attempt later; any other error ends all writing.
        """

    def committed(self, group: int) -> None:
        """Everything frozen for groups up to `group` is durable."""


class _Outcome:
    """Where those who wait for a group learn how it ended."""

    __slots__ = ("error", "event")

    def __init__(self) -> None:
        self.event = trio.Event()
        self.error: StoreError | None = None


class _Job:
    __slots__ = ("group", "prepare", "statements")

    def __init__(self, group: int, prepare: list[Callable[[], None]], statements: list[Statement]) -> None:
        self.group = group
        self.prepare = prepare
        self.statements = statements


class MetaStore(MetaReader):
    """meta.db of one volume, read and changed.

    All methods belong to the loop's thread. `run` must be running for anything to be committed.

    `group` numbers the group that gathers changes now; it counts from 1 in each process. `failure` is the
    error of the last commit, None while all is well; while it is set, changing anything further only grows
    what cannot be written.

    `relieve(errno)` is called on the commit thread, and may block, when a commit finds no space: it is tried
    again each time that this returns True.
    """

    def __init__(self, path: Path, key: bytes | None) -> None:
        self._writer = open_meta(path, key, cache_kib=16 << 10)
        super().__init__(path, key)
        self.group = 1
        self.failure: StoreError | None = None
        self.relieve: Callable[[int], bool] = lambda number: False
        self._participants: list[Participant] = []
        self._loose: list[Statement] = []
        self._changes = 0
        self._dirty_since = 0.0
        self._wake = trio.Event()
        self._full = trio.Event()
        self._outcomes: dict[int, _Outcome] = {}
        self._flying: _Job | None = None
        self._failed: _Job | None = None
        self._again = False
        self._landed = trio.Event()
        self._jobs: queue.SimpleQueue[_Job | Callable[[], None] | None] = queue.SimpleQueue()
        self._checkpoints: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._checkpointing = False
        self._distrusted: apsw.Error | None = None
        self._wal_pages = 0
        self._token: trio.lowlevel.TrioToken | None = None
        self._writer.set_wal_hook(self._note_wal)

    @classmethod
    def open(cls, path: Path, key: bytes | None) -> "MetaStore":
        """Open or create the database at `path`. Raises StoreError."""
        return cls(path, key)

    # --- changing ---

    def join(self, participant: Participant) -> None:
        """Ask `participant` for its changes from now on; earlier participants' statements run first."""
        self._participants.append(participant)

    def changed(self, count: int = 1) -> None:
        """A participant has `count` new changes: the group closes MAX_AGE later at the latest.

        It never closes in here, even when it is full: the caller may be halfway through a request, and half
        of one must not be committed.
        """
        if not self._changes:
            self._dirty_since = trio.current_time()
            self._wake.set()
        self._changes += count
        if self._changes > MAX_CHANGES:
            self._full.set()

    async def room(self, *, most: int | None = None) -> None:
        """Return when more changes may be made: at once, unless the group that gathers is full already while
        the one before it is still on its way to the disk. Bounds memory, and what a freeze has to do.

        Call it between two requests, not within one: a full group closes here. `most`: changes at which it
        counts as full; fewer for work that must not keep programs waiting. Does not wait while the last
        commit has failed; see `failure`.
        """
        most = MAX_CHANGES if most is None else most
        while self._changes > most and self.failure is None:
            if self._flying is not None:
                await self._landed.wait()
            elif self._changes > MAX_CHANGES:
                self._close_group()
            else:
                break

    def write(self, sql: str, rows: Sequence[Values]) -> None:
        """Add a statement to the current group, after those of its participants."""
        self._loose.append((sql, rows))
        self.changed(len(rows))

    def request_commit(self) -> None:
        """Close the group now, or as soon as the one before is committed; do not wait for it."""
        if self._changes:
            self._close_group()

    async def sync(self) -> None:
        """Return when every change made until now is durable.

        Concurrent calls share a commit. Raises StoreError if the commit failed: then nothing is lost but
        nothing is durable either. A cancelled call leaves the commit under way.
        """
        if self.failure is not None and self.failure.permanent:
            raise self.failure
        if self._changes:
            group = self.group
            self._close_group()
        elif self._flying is not None:
            group = self._flying.group
        else:
            await trio.lowlevel.checkpoint()
            if self.failure is not None:
                raise self.failure
            return
        outcome = self._outcomes.get(group)
        if outcome is None:
            outcome = self._outcomes[group] = _Outcome()
        await outcome.event.wait()
        if outcome.error is not None:
            raise outcome.error

    async def shrink_log(self) -> None:
        """Copy all of the log into the database and give its space back, between two commits.

        Where a reader holds an older state, only as far as that allows, and without waiting for it.
        """
        done = trio.Event()
        token = trio.lowlevel.current_trio_token()

        def shrink() -> None:
            self._writer.set_busy_timeout(0)
            try:
                if self._distrusted is None:
                    self._writer.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
            except apsw.BusyError:
                pass
            except apsw.Error as error:
                self._checkpoint_failed(error)
            finally:
                self._writer.set_busy_timeout(BUSY_TIMEOUT_MS)
                with contextlib.suppress(trio.RunFinishedError):
                    token.run_sync_soon(done.set)

        self._jobs.put(shrink)
        await done.wait()

    def _close_group(self) -> None:
        if self._flying is not None:
            self._again = True
            return
        if self.failure is not None and self.failure.permanent:
            return
        statements: list[Statement] = []
        prepare: list[Callable[[], None]] = []
        if self._failed is not None:
            statements, prepare = self._failed.statements, self._failed.prepare
            self._failed = None
        for participant in self._participants:
            statements += participant.freeze()
            wait = participant.before_commit()
            if wait is not None:
                prepare.append(wait)
        statements += self._loose
        self._loose = []
        self._changes = 0
        self._again = False
        self._wake = trio.Event()
        self._full = trio.Event()
        self._flying = _Job(self.group, prepare, statements)
        self.group += 1
        self._jobs.put(self._flying)

    def _finished(self, job: _Job, error: StoreError | None) -> None:
        self._flying = None
        self._landed.set()
        self._landed = trio.Event()
        self.failure = error
        if error is None:
            for participant in self._participants:
                participant.committed(job.group)
        else:
            _LOG.error("group %d is not committed: %s", job.group, error, exc_info=error.__cause__)
            self._failed = job
            self._changes += 1
            self._dirty_since = trio.current_time()
            self._wake.set()
        self._finish_waiters(job.group if error is None or not error.permanent else self.group, error)
        if self._again:
            self._close_group()

    def _finish_waiters(self, group: int, error: StoreError | None) -> None:
        for waited in [g for g in self._outcomes if g <= group]:
            outcome = self._outcomes.pop(waited)
            outcome.error = error
            outcome.event.set()

    # --- running ---

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Commit groups until cancelled; then let the one under way end, and close the database.

        Changes made after the last `sync` are lost by cancelling, as in a crash.
        """
        self._token = trio.lowlevel.current_trio_token()
        threads = [
            threading.Thread(target=self._commit_jobs, name="storjfs commit"),
            threading.Thread(target=self._checkpoint_log, name="storjfs checkpoint"),
        ]
        for thread in threads:
            thread.start()
        task_status.started()
        try:
            while True:
                await self._wake.wait()
                with trio.move_on_at(self._dirty_since + MAX_AGE):
                    await self._full.wait()
                old = bool(self._changes) and trio.current_time() >= self._dirty_since + MAX_AGE
                if old or self._changes > MAX_CHANGES:
                    self._close_group()
                    if self._changes:  # the group before is not committed yet, or none ever will be
                        await trio.sleep(MAX_AGE)
        finally:
            self._jobs.put(None)
            self._checkpoints.put(False)
            with trio.CancelScope(shield=True):
                for thread in threads:
                    await trio.to_thread.run_sync(thread.join)
            if self._distrusted is not None or (self.failure is not None and self.failure.permanent):
                for connection in (self._reader, self._writer):
                    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            self._close_readers()
            self._writer.close()

    # --- the commit thread ---

    def _commit_jobs(self) -> None:
        assert self._token is not None
        while (job := self._jobs.get()) is not None:
            if not isinstance(job, _Job):
                job()
                continue
            error = self._commit(job)
            try:
                self._token.run_sync_soon(self._finished, job, error)
            except trio.RunFinishedError:
                return
            if self._wal_pages > WAL_PAGES and not self._checkpointing:
                self._checkpointing = True
                self._checkpoints.put(True)

    def _commit(self, job: _Job) -> StoreError | None:
        tried = relieved = False
        while True:
            error = self._attempt(job)
            if not isinstance(error, DiskFull):
                if relieved and error is None:
                    # While there is room for what the database grows by: the next commits need none then.
                    self._reuse_log()
                return error
            if not tried:
                tried = True
                if self._reuse_log():
                    continue
            if not self.relieve(error.errno):
                return error
            relieved = True

    def _reuse_log(self) -> bool:
        """Copy all of the log, whose blocks the next commit then writes anew; whether that can help."""
        if not self._wal_pages or self._distrusted is not None:
            return False
        try:
            total, copied = self._writer.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        except apsw.Error as error:
            self._checkpoint_failed(error)
            return False
        return 0 < total == copied

    def _attempt(self, job: _Job) -> StoreError | None:
        cursor = self._writer.cursor()
        try:
            if self._distrusted is not None:
                raise self._distrusted
            for wait in job.prepare:
                wait()
            if job.statements:
                cursor.execute("BEGIN IMMEDIATE")
                for sql, rows in job.statements:
                    run_rows(cursor, sql, rows)
                cursor.execute("COMMIT")
        # Whatever went wrong, the waiters must learn it: fsync may not claim success.
        except Exception as error:
            full = found_full(error, self._writer)
            with contextlib.suppress(apsw.Error):  # it only repeats what `error` says
                if not self._writer.get_autocommit():
                    self._writer.execute("ROLLBACK")
            return _commit_error(error, full)
        finally:
            cursor.close()
        return None

    def _note_wal(self, connection: apsw.Connection, database: str, pages: int) -> int:
        self._wal_pages = pages
        return apsw.SQLITE_OK

    # --- the checkpoint thread ---

    def _checkpoint_log(self) -> None:
        """Copy the log into the database beside the commits; leave the last pages to the commit thread.

        Only between two commits can a checkpoint reach the log's end, and only then does the log start anew.

        Of a checkpoint in several passes only the last syncs the database. If that sync fails, the kernel may
        have dropped pages of the earlier passes, which no later one would copy again: from then on nothing is
        committed and the log stays as it is, so that the next start copies all of it.

        Where no connection can be had, as with no descriptor left, the commit thread copies all of the log,
        and the next checkpoint tries again.
        """
        connection: apsw.Connection | None = None
        try:
            while self._checkpoints.get():
                try:
                    connection = connection or self._connect(cache_kib=256)
                    for _ in range(4):
                        total, copied = connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
                        if total - copied < FINISH_PAGES:
                            break
                except (apsw.Error, StoreError) as error:
                    self._checkpoint_failed(error)
                self._jobs.put(self._finish_checkpoint)
        finally:
            if connection is not None:
                connection.close()

    def _finish_checkpoint(self) -> None:
        if self._distrusted is None:
            try:
                self._writer.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
            except apsw.Error as error:
                self._checkpoint_failed(error)
        self._checkpointing = False

    def _checkpoint_failed(self, error: apsw.Error | StoreError) -> None:
        """A failed sync is the end, which whoever waits for the next commit learns. Anything else, as a full
        disk, leaves the log as it was, and the next checkpoint begins where this one did."""
        _LOG.warning("the log of %s could not be copied: %s", self._path, error)
        if isinstance(error, apsw.Error) and sync_failed(error):
            self._distrusted = error


def _commit_error(error: Exception, full: int) -> StoreError:
    """What waiters are told. A full disk may be emptied; after any other error nothing on it can be trusted:
    an fsync that failed once may succeed the next time without having written anything."""
    result: StoreError
    if full:
        result = DiskFull(
            "no space left for the volume's metadata and unsent data",
            full,
            "Free space on the disk that holds the volume; what was written is kept in memory.",
        )
    else:
        damaged = isinstance(error, apsw.ConstraintError)  # a number given out twice: fsck mends it
        again = "run storjfs fsck --repair, mount again" if damaged else "mount again"
        result = StoreError(
            f"the volume can no longer be written: {error}",
            hint=f"Unmount, {again}; what fsync confirmed is safe.",
        )
    result.__cause__ = error
    return result
