"""farmer.db: all that a farmer must not forget, committed in groups on a worker thread.

Specified in docs/formats/farmer.md. Times are seconds since 1970.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

import apsw
import trio

from storjfs.farmer.own import MOST_STATEMENTS, PAGE, OwnFiles
from storjfs.store import found_full, open_database
from storjfs.store.batch import Values, run_rows
from storjfs.store.database import cut_log

log = logging.getLogger(__name__)

IMPATIENT_MS = 10
Statement = tuple[str, Values]
Step = Callable[[], None]

VERSION = 5
_HISTORY = """
CREATE TABLE day (                         -- storjfs.farmer.history.Sums
    day          INTEGER NOT NULL,         -- since 1970, UTC
    contract     INTEGER NOT NULL,         -- 0: all together
    audits       INTEGER NOT NULL,
    late         INTEGER NOT NULL,
    proved       INTEGER NOT NULL,
    lost         INTEGER NOT NULL,
    proofs       INTEGER NOT NULL,
    received     INTEGER NOT NULL,
    sent         INTEGER NOT NULL,
    egress       INTEGER NOT NULL,
    promised     INTEGER NOT NULL,
    claimed      INTEGER NOT NULL,
    up           INTEGER NOT NULL,
    PRIMARY KEY (day, contract)
) WITHOUT ROWID;

CREATE TABLE life (                        -- the last runs of the farmer
    number       INTEGER NOT NULL PRIMARY KEY,
    started      INTEGER NOT NULL,
    seen         INTEGER NOT NULL,         -- when it was last known to run
    stopped      INTEGER                   -- NULL: not, or not in good order
);
"""
_FROM_AUDITS = """
INSERT INTO day SELECT time / 86400, contract, count(*), 0, sum(proved), 0, sum(price), 0, 0, 0, 0, 0, 0
    FROM audit GROUP BY time / 86400, contract;
INSERT INTO day SELECT day, 0, sum(audits), 0, sum(proved), 0, sum(proofs), 0, 0, 0, 0, 0, 0
    FROM day GROUP BY day;
"""
_DAMAGE = """
CREATE TABLE damaged (                     -- shards of the index that are not what they were: farmer.damage
    shard_id     BLOB NOT NULL PRIMARY KEY,
    contract     INTEGER NOT NULL,
    found        INTEGER NOT NULL,         -- when
    reason       TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX damaged_by_contract ON damaged (contract, shard_id);

CREATE TABLE scrub (                       -- how far the farmer has read through its shelf: farmer.scrub
    number       INTEGER NOT NULL PRIMARY KEY,  -- 1: there is one row
    began        INTEGER NOT NULL,         -- this pass, or the last one
    ended        INTEGER,                  -- NULL: it is under way
    place        BLOB NOT NULL,            -- the last shard id that was read
    shards       INTEGER NOT NULL,         -- read in this pass
    size         INTEGER NOT NULL,         -- their bytes
    damaged      INTEGER NOT NULL          -- of these, found to be
);
"""
_RELAYED = """
CREATE TABLE relayed (                     -- what was passed on for others: farmer.relayed
    day          INTEGER NOT NULL,         -- since 1970, UTC
    farmer       BLOB NOT NULL,            -- its node id; of a day's later ones: 32 zeros
    to_farmer    INTEGER NOT NULL,         -- bytes
    from_farmer  INTEGER NOT NULL,         -- bytes
    streams      INTEGER NOT NULL,         -- connections
    PRIMARY KEY (day, farmer)
) WITHOUT ROWID;
"""
_DISKS = """
CREATE TABLE disk (                        -- where shards lie: farmer.disks
    number       INTEGER NOT NULL PRIMARY KEY,  -- 1: the farmer's own folder
    folder       TEXT NOT NULL,            -- of the others, absolute
    token        BLOB NOT NULL,            -- what the file `disk` in it says; of 1 nothing
    block        INTEGER NOT NULL,         -- bytes in which its files are counted; 0: `stored` is not known
    shards       INTEGER NOT NULL,
    stored       INTEGER NOT NULL,         -- bytes of these on the disk
    failing      INTEGER,                  -- since when; NULL: it works
    lost         INTEGER NOT NULL DEFAULT 0  -- 1: renters are told that its shards are gone
);
INSERT INTO disk(number, folder, token, block, shards, stored) VALUES (1, '', x'', 0, 0, 0);
"""
_DOOMED = """
CREATE TABLE doomed (                      -- files that the index does not know (there); still to be removed
    shard_id     BLOB NOT NULL,
    disk         INTEGER NOT NULL,
    PRIMARY KEY (shard_id, disk)
) WITHOUT ROWID;
"""
_ELSEWHERE = """
CREATE INDEX shard_elsewhere ON shard (disk, contract, shard_id) WHERE disk <> 1;
"""
_SHARDS_ON_DISKS = f"""
ALTER TABLE shard ADD COLUMN disk INTEGER NOT NULL DEFAULT 1;
{_ELSEWHERE}
ALTER TABLE doomed RENAME TO doomed_before;
{_DOOMED}
INSERT INTO doomed(shard_id, disk) SELECT shard_id, 1 FROM doomed_before;
DROP TABLE doomed_before;
"""
MIGRATIONS = {1: _HISTORY + _FROM_AUDITS, 2: _DAMAGE, 3: _RELAYED, 4: _DISKS + _SHARDS_ON_DISKS}
SCHEMA = (
    """
CREATE TABLE contract (
    contract     INTEGER NOT NULL PRIMARY KEY,
    contract_id  BLOB NOT NULL UNIQUE,
    proposal     BLOB NOT NULL UNIQUE,     -- SHA-256 of the terms that were proposed last
    renter       BLOB NOT NULL,
    lane         BLOB NOT NULL,
    state        TEXT NOT NULL,            -- storjfs.protocol.contracts.State
    signed       BLOB NOT NULL,            -- the newest revision, exact bytes with both signatures
    shards       INTEGER NOT NULL,
    used         INTEGER NOT NULL,         -- sealed bytes held
    footprint    INTEGER NOT NULL,         -- bytes of their files
    unpaid_since INTEGER                   -- when the second unpaid audit was answered
);
CREATE INDEX contract_by_state ON contract (state);
CREATE INDEX contract_by_renter ON contract (renter, contract_id);

CREATE TABLE revision (                    -- every doubly signed revision
    contract     INTEGER NOT NULL,
    revision     INTEGER NOT NULL,
    signed       BLOB NOT NULL,
    PRIMARY KEY (contract, revision)
) WITHOUT ROWID;

CREATE TABLE transition (                  -- how each contract came to its state
    number       INTEGER NOT NULL PRIMARY KEY,
    contract     INTEGER NOT NULL,
    time         INTEGER NOT NULL,
    event        TEXT NOT NULL,            -- storjfs.protocol.contracts.Event
    state        TEXT NOT NULL
);

CREATE TABLE lane (
    lane         BLOB NOT NULL PRIMARY KEY,
    payer        BLOB NOT NULL,
    deposit      INTEGER NOT NULL,         -- as last seen in the settlement, as the next three
    claimed      INTEGER NOT NULL,
    expiry       INTEGER NOT NULL,
    open         INTEGER NOT NULL,
    account      BLOB NOT NULL,            -- storjfs.farmer.account.LaneAccount
    voucher      BLOB                      -- the best one, exact bytes
) WITHOUT ROWID;

CREATE TABLE audit (                       -- answered batches, so that none is billed twice
    contract     INTEGER NOT NULL,
    epoch        INTEGER NOT NULL,
    digest       BLOB NOT NULL,            -- SHA-256 of the signed request
    time         INTEGER NOT NULL,
    proved       INTEGER NOT NULL,         -- sealed bytes of the shards that were proved
    price        INTEGER NOT NULL,
    PRIMARY KEY (contract, epoch)
) WITHOUT ROWID;

CREATE TABLE shard (
    shard_id     BLOB NOT NULL PRIMARY KEY,
    contract     INTEGER NOT NULL,
    revision     INTEGER NOT NULL,         -- of the contract when the receipt was signed
    root         BLOB NOT NULL,
    length       INTEGER NOT NULL,
    disk         INTEGER NOT NULL DEFAULT 1
) WITHOUT ROWID;
CREATE INDEX shard_by_contract ON shard (contract);

CREATE TABLE deletion (                    -- signed orders: they rebut a claim that a shard was lost
    deletion     INTEGER NOT NULL PRIMARY KEY,
    contract     INTEGER NOT NULL,
    time         INTEGER NOT NULL,
    signed       BLOB NOT NULL
);

"""
    + _HISTORY
    + _DAMAGE
    + _RELAYED
    + _DOOMED
    + _DISKS
    + _ELSEWHERE
)


class _Job:
    __slots__ = ("after", "before", "done", "error", "statements")

    def __init__(self, statements: Sequence[Statement], before: Step | None, after: Step | None) -> None:
        self.statements = statements
        self.before = before
        self.after = after
        self.done = trio.Event()
        self.error: Exception | None = None


class Records:
    """The database at `path`. Reads see what is committed; they and all calls belong to the loop's thread.

    `relieve()` is called in the worker thread when a commit finds no space; it is tried again if True.
    `own` measures what the records take, and bounds their log; `budget()` is how many bytes they may take.
    A commit that would need more finds no space.
    """

    def __init__(
        self,
        path: Path,
        relieve: Callable[[], bool] = lambda: False,
        own: OwnFiles | None = None,
        budget: Callable[[], int] | None = None,
    ) -> None:
        self._relieve = relieve
        self._own = own
        self._budget = budget
        log_size = own.allowance.log if own is not None else 4 << 20
        self._writer = open_database(
            path,
            None,
            SCHEMA,
            version=VERSION,
            migrations=MIGRATIONS,
            autocheckpoint=log_size // PAGE,
        )
        self._writer.pragma("journal_size_limit", log_size)
        self._reader = open_database(path, None, SCHEMA, version=VERSION, migrations=MIGRATIONS)
        if own is not None:
            own.measure_records()
        self._waiting: list[_Job] = []
        self._wake = trio.Event()
        self._closed = False
        self._scope = trio.CancelScope()

    def read(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """Rows of a query. Give it bounds: it runs on the loop."""
        return self._reader.execute(sql, values).fetchall()

    async def commit(
        self, statements: Sequence[Statement], *, before: Step | None = None, after: Step | None = None
    ) -> None:
        """Durable when it returns. Calls made meanwhile share the next commit, in the order of the calls.

        `before` and `after` run in the worker thread, before and after the commit; several calls with an
        equal `before` have it run once. If it fails, that is raised in these, and their statements did not
        take effect; if the commit fails, none of the group's did. What `after` raises is raised though the
        statements are durable.
        Not cancelled: it takes place and is waited for, so that memory and database change together.
        """
        job = _Job(statements, before, after)
        if self._closed:
            raise trio.ClosedResourceError("the farmer's records are closed")
        self._waiting.append(job)
        self._wake.set()
        with trio.CancelScope(shield=True):
            await job.done.wait()
        error, job.error = job.error, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # it remembers this frame

    def write_first(self, statements: Sequence[Statement]) -> None:
        """Commit at once. Blocking, and only before `run`; the budget is not known yet."""
        with self._transaction():
            for sql, values in statements:
                self._writer.execute(sql, values).fetchall()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Commit what comes until `stop`, then the rest, and close the database.

        Shielded from cancellation: those who use it end first, and what they wrote last must be committed.
        """
        with trio.CancelScope(shield=True) as self._scope:
            task_status.started()
            while True:
                await self._wake.wait()
                await self._flush()
        with trio.CancelScope(shield=True):
            await self._flush()
        self.close()

    def stop(self) -> None:
        """End `run`."""
        self._scope.cancel()

    def close(self) -> None:
        """Close the database; what waits for a commit fails. Idempotent."""
        if self._closed:
            return
        self._closed = True
        for job in self._waiting:
            job.error = trio.ClosedResourceError("the farmer's records are closed")
            job.done.set()
        self._waiting = []
        self._reader.close()
        self._writer.close()

    async def _flush(self) -> None:
        while self._waiting:
            jobs = self._group()
            # Shielded: a group under way cannot be taken back, and its waiters must learn how it ended.
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(self._commit, jobs)
            for job in jobs:
                job.done.set()
        self._wake = trio.Event()

    def _group(self) -> list[_Job]:
        """The jobs of the next transaction: so many that its part of the log stays within bounds."""
        count = statements = 0
        for job in self._waiting:
            statements += len(job.statements)
            if count and statements > MOST_STATEMENTS:
                break
            count += 1
        jobs, self._waiting = self._waiting[:count], self._waiting[count:]
        return jobs

    def _commit(self, jobs: list[_Job]) -> None:
        jobs = self._prepared(jobs)
        try:
            statements = [statement for job in jobs for statement in job.statements]
            try:
                self._write(statements)
            except apsw.Error as error:
                if not found_full(error, self._writer) or not self._relieve():
                    raise
                self._write(statements)
        # Whatever it was, those who wait must learn that nothing is durable.
        except Exception as error:
            for job in jobs:
                job.error = error.with_traceback(None)
            return
        for job in jobs:
            if job.after is not None:
                try:
                    job.after()
                except Exception as error:
                    log.exception("a step after a commit failed")
                    job.error = error

    def _prepared(self, jobs: list[_Job]) -> list[_Job]:
        """Those whose `before` went well: what one disk says is no matter of shards on others."""
        for step in dict.fromkeys(job.before for job in jobs if job.before is not None):
            try:
                step()
            except Exception as error:
                for job in jobs:
                    if job.before == step:
                        job.error = error
        return [job for job in jobs if job.error is None]

    def _make_way(self, statements: int) -> None:
        """See that so many statements may be written within the budget. Raises apsw.FullError."""
        if self._own is None or self._budget is None:
            return
        needed = self._own.added_by(statements)
        if self._own.records + needed <= self._budget() and not self._own.log_is_long:
            return
        # Whoever reads for long keeps the log from being begun anew; it is not waited for.
        why = "" if cut_log(self._writer, IMPATIENT_MS) else ", and something has read farmer.db for long"
        self._own.measure_records()
        if self._own.records + needed > self._budget():
            raise apsw.FullError(f"the farmer's share is used up{why}")

    def _write(self, statements: Sequence[Statement]) -> None:
        self._make_way(len(statements))
        with self._transaction():
            cursor = self._writer.cursor()
            for sql, rows in groupby(statements, key=lambda statement: statement[0]):
                run_rows(cursor, sql, [row for _, row in rows])
            cursor.close()
        if self._own is not None:
            self._own.measure_records()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        run = self._writer.execute
        run("BEGIN IMMEDIATE").fetchall()
        try:
            yield
            run("COMMIT").fetchall()
        except BaseException:
            if not self._writer.get_autocommit():
                run("ROLLBACK").fetchall()
            raise
