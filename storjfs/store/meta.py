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

from storjfs.store.background import tell_committed
from storjfs.store.batch import Values, run_rows
from storjfs.store.database import DiskFull, StoreError, found_full
from storjfs.store.log import Log
from storjfs.store.reading import MetaReader, open_meta

_LOG = logging.getLogger(__name__)

Statement = tuple[str, Sequence[Values]]

MAX_AGE = 5.0  # seconds from the first change of a group until it closes by itself
MAX_CHANGES = 6_000  # changes after which a group closes by itself: freezing them holds the loop
MODEST = MAX_CHANGES // 2  # how far background work fills a group while another is on its way


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
        """Everything frozen for groups up to `group` is durable. What it raises is logged; that stays so."""


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
        self._token: trio.lowlevel.TrioToken | None = None
        self._log = Log(path, self._writer, lambda: self._connect(cache_kib=256), self._jobs.put)

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
            raise _anew(self.failure)
        if self._changes:
            group = self.group
            self._close_group()
        elif self._flying is not None:
            group = self._flying.group
        else:
            await trio.lowlevel.checkpoint()
            if self.failure is not None:
                raise _anew(self.failure)
            return
        outcome = self._outcomes.get(group)
        if outcome is None:
            outcome = self._outcomes[group] = _Outcome()
        await outcome.event.wait()
        if outcome.error is not None:
            try:
                raise _anew(outcome.error)
            finally:
                del outcome  # its error remembers this frame

    async def shrink_log(self) -> None:
        """Copy all of the log into the database and give its space back, between two commits.

        Where a reader holds an older state, only as far as that allows, and without waiting for it.
        """
        done = trio.Event()
        token = trio.lowlevel.current_trio_token()

        def shrink() -> None:
            try:
                self._log.shrink()
            finally:
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
                tell_committed(participant.committed, job.group)
        else:
            _LOG.error("group %d is not committed: %s", job.group, error, exc_info=error.__cause__)
            if error.__cause__ is not None:
                # Its frames refer to the one that made `error` of it: neither would go by itself.
                error.__cause__.__traceback__ = None
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
            threading.Thread(target=self._log.run, name="storjfs checkpoint"),
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
            self._log.stop()
            with trio.CancelScope(shield=True):
                for thread in threads:
                    await trio.to_thread.run_sync(thread.join)
            if self._log.distrusted is not None or (self.failure is not None and self.failure.permanent):
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
            self._log.committed()

    def _commit(self, job: _Job) -> StoreError | None:
        tried = relieved = False
        while True:
            error = self._attempt(job)
            if not isinstance(error, DiskFull):
                if relieved and error is None:
                    # While there is room for what the database grows by: the next commits need none then.
                    self._log.reuse()
                return error
            if not tried:
                tried = True
                if self._log.reuse():
                    continue
            if not self.relieve(error.errno):
                return error
            relieved = True

    def _attempt(self, job: _Job) -> StoreError | None:
        cursor = self._writer.cursor()
        try:
            if self._log.distrusted is not None:
                raise self._log.distrusted.with_traceback(None)
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


def _anew(error: StoreError) -> StoreError:
    """An error that is kept, to be raised once more. Each time would add to its traceback all that leads to
    whoever syncs, with what they write: as long as a disk fails, that would be everything."""
    return error.with_traceback(None)
