"""local.db's part of this room: challenges under way, audit outcomes and scores.

Of this machine only: losing it costs scores, no data and no money. The challenges under way are
the exception to "may be lost": they are on disk before they are sent and are repeated byte for byte.
"""

import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path

from storjfs.protocol.signing import Signed
from storjfs.protocol.terms import MONTH
from storjfs.renter.durable import DurableDatabase, Statement
from storjfs.store import StoreError

log = logging.getLogger(__name__)

LOCAL_VERSION = 3
KEPT_OUTCOMES = 10_000

LOCAL_SCHEMA = """
CREATE TABLE record (
    name   TEXT NOT NULL PRIMARY KEY,     -- 'secret', 'audit cursor', 'read-back cursor', 'scrub',
                                          -- 'audits behind N'
    value  BLOB NOT NULL
) WITHOUT ROWID;

CREATE TABLE standing (                   -- what we remember of a farmer under one contract
    contract      INTEGER NOT NULL PRIMARY KEY,
    passed        INTEGER NOT NULL,       -- proofs
    failed        INTEGER NOT NULL,
    offline       INTEGER NOT NULL,       -- batches without an answer
    last_audit    REAL NOT NULL,          -- seconds since 1970, 0 for never
    last_result   TEXT NOT NULL,          -- passed, failed, offline; empty
    integrity     REAL NOT NULL,          -- 0..1, falls quickly with failed proofs
    presence      REAL NOT NULL,          -- 0..1, share of answers in time
    strikes       INTEGER NOT NULL,       -- audit periods with failures, less those without
    last_failed   REAL NOT NULL,
    silent_since  REAL NOT NULL,          -- 0: it answers
    epoch         INTEGER NOT NULL,       -- number of the last audit batch
    operator      TEXT NOT NULL,          -- operator group that its offer names
    silent_for    REAL NOT NULL,          -- seconds of silence that we watched, see Standing.silent
    told          INTEGER NOT NULL DEFAULT 0,  -- damaged shards it told of itself, see Standing.told_of
    told_since    REAL NOT NULL DEFAULT 0      -- in the month that began then
);

CREATE TABLE challenge (                  -- sent or about to be; at most one per contract
    contract  INTEGER NOT NULL PRIMARY KEY,
    nonce     BLOB NOT NULL,
    request   BLOB NOT NULL,              -- the exact signed bytes
    made      REAL NOT NULL
);

CREATE TABLE outcome (                    -- proofs that failed and batches that got no answer, newest last
    id        INTEGER NOT NULL PRIMARY KEY,
    at        REAL NOT NULL,
    contract  INTEGER NOT NULL,
    shard_id  BLOB NOT NULL,              -- empty: the whole batch
    result    TEXT NOT NULL,
    detail    TEXT NOT NULL
);
"""

MIGRATIONS = {
    1: "ALTER TABLE standing ADD COLUMN told INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE standing ADD COLUMN told_since REAL NOT NULL DEFAULT 0;",
    2: "ALTER TABLE standing DROP COLUMN shards; ALTER TABLE standing DROP COLUMN used;",
}
TOLD_FREELY = 100
"""A farmer may tell of one in so many of its shards as damaged, per month, and be thought no worse of."""
TOLD_AT_LEAST = 2
"""Shards that it may tell of however few it has."""


class Result(StrEnum):
    """How an audit ended."""

    PASSED = "passed"
    FAILED = "failed"
    OFFLINE = "offline"
    TOLD = "told"
    """Of a shard only: the farmer found the damage and told of it before it was asked."""


@dataclass(slots=True)
class Standing:
    """One row of `standing`."""

    contract: int
    passed: int = 0
    failed: int = 0
    offline: int = 0
    last_audit: float = 0.0
    last_result: str = ""
    integrity: float = 1.0
    presence: float = 1.0
    strikes: int = 0
    last_failed: float = 0.0
    silent_since: float = 0.0
    epoch: int = 0
    operator: str = ""
    silent_for: float = 0.0
    told: int = 0
    told_since: float = 0.0

    @property
    def score(self) -> float:
        """0..1 for placement."""
        return self.integrity * self.presence

    def answered(self, passed: int, failed: int, now: float, period: float) -> None:
        """A batch was answered in time, with so many passed and failed proofs."""
        self.passed += passed
        self.failed += failed
        self.last_audit = now
        self.last_result = Result.FAILED if failed else Result.PASSED
        self.silent_since = self.silent_for = 0.0
        self.presence += 0.1 * (1.0 - self.presence)
        total = passed + failed
        if not total:
            return
        # One failed batch halves the standing at least; a clean one wins back a twentieth of what is missing.
        if failed:
            self.integrity *= 0.5 * (passed / total)
            # A farmer that lost its disk fails in many batches: that is one strike per period, not fifty.
            if not self.strikes or now - self.last_failed >= period:
                self.strikes += 1
            self.last_failed = now
        else:
            self.integrity += 0.05 * (1.0 - self.integrity)
            if self.strikes and now - self.last_failed >= period * 2**self.strikes:
                self.strikes -= 1
                self.last_failed = now

    def told_of(self, count: int, held: int, now: float) -> int:
        """It told of `count` damaged shards before it was asked; how many of them count like failed proofs.
        `held`: shards that it has.

        Disks rot, and a farmer that says so at once lets us repair while the other shards are there: one that
        lost by it would wait to be caught. Beyond a share per month (of 30 days) it makes no difference, so
        that nobody sheds by it what he was paid to keep.
        """
        if now - self.told_since >= MONTH:
            self.told, self.told_since = 0, now
        freely = max(held // TOLD_FREELY, TOLD_AT_LEAST)
        before, self.told = self.told, self.told + count
        return max(self.told - max(freely, before), 0)

    def silent(self, now: float, watched: float) -> None:
        """A batch was not answered in time, after `watched` seconds in which others did answer.

        Only watched time adds up to a farmer's being gone: not that in which this machine slept, nor that in
        which nobody answered because our own line was down.
        """
        self.offline += 1
        self.silent_for += watched
        self.last_audit = now
        self.last_result = Result.OFFLINE
        self.silent_since = self.silent_since or now
        self.presence *= 0.9

    def resting(self, now: float, period: float) -> bool:
        """Whether it should get no new shards for now.

        The first time a farmer fails it is merely the last choice; failing in further periods makes it rest,
        twice as long each time, so that nobody makes us rebuild the same shards again and again.
        """
        if self.strikes < 2:
            return False
        return bool(now < self.last_failed + min(period, 3600.0) * 2 ** min(self.strikes - 2, 8))


_STANDING = ", ".join(field.name for field in fields(Standing))
_PUT_STANDING = (
    f"INSERT OR REPLACE INTO standing ({_STANDING}) VALUES ({', '.join('?' * len(fields(Standing)))})"
)


@dataclass(frozen=True, slots=True)
class Challenge:
    """A batch on disk that is not answered yet."""

    contract: int
    nonce: bytes
    request: Signed
    made: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """One thing that went wrong; `shard_id` is empty for a whole batch."""

    at: float
    contract: int
    shard_id: bytes
    result: Result
    detail: str


class LocalRecords:
    """The only user of these tables. Everything it holds in memory is bounded by the number of contracts."""

    def __init__(self, path: Path, key: bytes | None) -> None:
        self._db = DurableDatabase(path, key, LOCAL_SCHEMA, version=LOCAL_VERSION, migrations=MIGRATIONS)
        rows = self._db.read(f"SELECT {_STANDING} FROM standing")
        self._standings = {row[0]: Standing(*row) for row in rows}
        self._new_secret = os.urandom(32)
        self.challenges: dict[int, Challenge] = {}
        for contract, nonce, request, made in self._db.read("SELECT * FROM challenge"):
            self.challenges[contract] = Challenge(contract, nonce, Signed.from_bytes(request), made)

    @property
    def problem(self) -> StoreError | None:
        """Why local.db was not written the last time, None if it was."""
        return self._db.problem

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def standing(self, contract: int) -> Standing:
        """The live row; what is changed in it is written by the next call that concerns its contract."""
        found = self._standings.get(contract)
        if found is None:
            found = self._standings[contract] = Standing(contract)
        return found

    async def secret(self) -> bytes:
        """32 random bytes of this machine, made once: what makes audit times unpredictable.

        One that cannot be kept (a full disk) serves until the end of the process.
        """
        rows = self._db.read("SELECT value FROM record WHERE name = 'secret'")
        if rows:
            return bytes(rows[0][0])
        try:
            await self._db.write(("INSERT INTO record VALUES ('secret', ?)", (self._new_secret,)))
        except StoreError as error:
            log.warning("the times of audits are drawn anew at the next start: %s", error)
        return self._new_secret

    def cursor(self, name: str) -> float | None:
        """How far in time a background task has come (seconds since 1970), None at the very beginning."""
        rows = self._db.read("SELECT value FROM record WHERE name = ?", (name,))
        return float(rows[0][0]) if rows else None

    async def set_cursor(self, name: str, value: float) -> None:
        """Keep how far a task has come."""
        await self._db.write(("INSERT OR REPLACE INTO record VALUES (?, ?)", (name, value)))

    async def forget_cursor(self, name: str) -> None:
        """There is no such task any more."""
        await self._db.write(("DELETE FROM record WHERE name = ?", (name,)))

    def kept(self, name: str) -> bytes | None:
        """What a task kept under a name to go on later."""
        rows = self._db.read("SELECT value FROM record WHERE name = ?", (name,))
        return bytes(rows[0][0]) if rows else None

    async def keep(self, name: str, value: bytes) -> None:
        """Keep it; durable on return."""
        await self._db.write(("INSERT OR REPLACE INTO record VALUES (?, ?)", (name, value)))

    # --- audits ---

    async def begin(self, challenge: Challenge, epoch: int) -> None:
        """Store a challenge that is about to be sent. There is no other one of this contract."""
        # First in memory: a row saved meanwhile by others must not bring the old number back. A number that
        # is skipped because this fails does no harm.
        standing = self.standing(challenge.contract)
        standing.epoch = epoch
        await self._db.write(
            (
                "INSERT INTO challenge VALUES (?,?,?,?)",
                (challenge.contract, challenge.nonce, challenge.request.to_bytes(), challenge.made),
            ),
            self._standing_row(standing),
        )
        self.challenges[challenge.contract] = challenge

    async def finish(self, challenge: Challenge, outcomes: Iterable[Outcome]) -> None:
        """The challenge was answered: forget it, save its contract's standing and what went wrong."""
        await self._db.write(
            ("DELETE FROM challenge WHERE contract = ?", (challenge.contract,)),
            self._standing_row(self.standing(challenge.contract)),
            *self._outcome_rows(outcomes),
        )
        self.challenges.pop(challenge.contract, None)

    async def fault(
        self,
        contract: int,
        shard_id: bytes,
        detail: str,
        now: float,
        period: float,
        *,
        told_of: int | None = None,
    ) -> None:
        """A shard was found damaged or missing outside of an audit.

        `told_of`: where its farmer said so itself, the number of shards that it holds.
        """
        standing = self.standing(contract)
        counts = 1 if told_of is None else standing.told_of(1, told_of, now)
        if counts:
            standing.answered(0, counts, now, period)
        result = Result.FAILED if counts else Result.TOLD
        await self.note([Outcome(now, contract, shard_id, result, detail[:256])], contract)

    async def note(self, outcomes: Iterable[Outcome], contract: int) -> None:
        """Save what went wrong and the standing, and leave the open challenge as it is."""
        await self._db.write(self._standing_row(self.standing(contract)), *self._outcome_rows(outcomes))

    def outcomes(self, limit: int = 100) -> list[Outcome]:
        """The latest, newest first."""
        sql = "SELECT at, contract, shard_id, result, detail FROM outcome ORDER BY id DESC LIMIT ?"
        return [Outcome(at, c, s, Result(r), d) for at, c, s, r, d in self._db.read(sql, (limit,))]

    @staticmethod
    def _standing_row(standing: Standing) -> Statement:
        return _PUT_STANDING, tuple(getattr(standing, field.name) for field in fields(standing))

    @staticmethod
    def _outcome_rows(outcomes: Iterable[Outcome]) -> list[Statement]:
        sql = "INSERT INTO outcome (at, contract, shard_id, result, detail) VALUES (?,?,?,?,?)"
        rows: list[Statement] = [
            (sql, (one.at, one.contract, one.shard_id, one.result.value, one.detail)) for one in outcomes
        ]
        if rows:
            rows.append(
                ("DELETE FROM outcome WHERE id <= (SELECT max(id) FROM outcome) - ?", (KEPT_OUTCOMES,))
            )
        return rows
