"""The auditor: a background task that has every shard proven once per period, at a moment nobody can foresee.

It walks the shard table in key ranges, once per window of the schedule, so its memory is bounded whatever the
volume's size; it works on one batch per farmer at a time, checks proofs in a worker thread, and yields in
between. How far it has come stands in local.db, as do the challenges that are not answered yet.
"""

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from storjfs.errors import StorjfsError
from storjfs.protocol.contracts import Event
from storjfs.protocol.ids import NodeId, short
from storjfs.renter.audits import HELD_STATES, Answer, Audits, BatchResult, MarkLost
from storjfs.renter.behind import Behind
from storjfs.renter.book import ContractBook, Entry
from storjfs.renter.clock import sleep_until
from storjfs.renter.local_records import Challenge, LocalRecords
from storjfs.renter.schedule import WINDOWS_PER_PERIOD, Due, Window, tick_length
from storjfs.renter.settings import RenterSettings
from storjfs.store import MetaStore

log = logging.getLogger(__name__)

BATCH = 32
"""Shards per request: about 600 KiB of proofs."""
ROWS = 400
"""Rows of the shard table read at a time, about a millisecond."""
GIVEN_UP = 32
"""Shards looked at and marked as lost in one go, a few milliseconds."""
PAUSE = 0.002
"""Seconds left to others after each such step."""
FIRST_RETRY = 5.0
LONGEST_RETRY = 3600.0
CURSOR = "audit cursor"


@dataclass(slots=True)
class AuditSummary:
    """What `audit_now` found, in shards; `silent` lists contracts that did not answer."""

    passed: int = 0
    failed: int = 0
    silent: list[int] = field(default_factory=list)


class _Work:
    """What is to be audited under one contract. `sweep`: go through all its shards behind this id."""

    __slots__ = (
        "done",
        "due",
        "failed",
        "heard",
        "passed",
        "retries",
        "sweep",
        "swept_at",
        "tried",
        "up",
        "wake",
    )

    def __init__(self) -> None:
        self.due: deque[bytes] = deque()
        self.sweep: bytes | None = None
        self.swept_at = float("-inf")
        self.wake = trio.Event()
        self.done = trio.Event()
        self.retries = 0
        self.tried = 0.0
        self.up = False
        """What was left out is being made up for."""
        self.heard = False
        """Another farmer has answered since the last attempt here."""
        self.passed = 0
        self.failed = 0


class Auditor:
    """See the top. `run` owns its tasks; everything else may be called while it runs."""

    def __init__(
        self,
        audits: Audits,
        book: ContractBook,
        records: LocalRecords,
        store: MetaStore,
        settings: RenterSettings,
        mark_lost: MarkLost,
        now: Callable[[], float],
        connected: Callable[[NodeId], bool],
    ) -> None:
        """`connected(farmer)`: whether a connection to it is up, which keep-alive makes sure of."""
        self._audits = audits
        self._book = book
        self._records = records
        self._store = store
        self._settings = settings
        self._mark_lost = mark_lost
        self._now = now
        self._connected = connected
        self._behind = Behind(records, store, float(settings.audit_period), now)
        self._work: dict[int, _Work] = {}
        self._nursery: trio.Nursery | None = None
        self._secret = b""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Audit until cancelled; then everything under way is on disk and goes on at the next start."""
        self._secret = await self._records.secret()
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                for number, work in self._work.items():  # what was asked for before
                    self._start(number, work)
                for number in list(self._records.challenges):
                    self._of(number).wake.set()
                for entry in self._book:
                    if entry.serves and entry.number not in self._records.challenges:
                        self._make_up(entry.number)
                task_status.started()
                await self._follow_schedule()
            finally:
                self._nursery = None

    # --- from outside ---

    async def audit_now(self) -> AuditSummary:
        """Audit every shard of every contract now; returns when all have answered or stayed silent. Before
        `run` runs it waits for that.

        Each proof that passes is paid, as any other.
        """
        works = []
        for entry in self._book:
            if entry.serves:
                work = self._start_sweep(entry.number)
                work.passed = work.failed = 0
                works.append((entry, work, work.done))
        summary = AuditSummary()
        for entry, work, done in works:
            await done.wait()
            summary.passed += work.passed
            summary.failed += work.failed
            if work.retries:
                summary.silent.append(entry.number)
        return summary

    def heard_from(self, farmer: NodeId) -> None:
        """The farmer is there (again): do not wait for the next retry."""
        for entry in self._book.with_farmer(farmer):
            if entry.number in self._work:
                self._work[entry.number].wake.set()

    def contained(self, contract: int) -> bool:
        """Whether its farmer owes us an answer for longer than it may take."""
        work = self._work.get(contract)
        return bool(work and work.retries) or bool(self._records.standing(contract).silent_since)

    def unproven_since(self, contract: int) -> float | None:
        """Since when shards that were due are not proven, seconds since 1970; None if all are."""
        challenge, work = self._records.challenges.get(contract), self._work.get(contract)
        owed = [challenge.made] if challenge is not None and work is not None and work.retries else []
        since = self._behind.since(contract)
        return min([*owed, *([since] if since is not None else [])], default=None)

    async def gone(self, entry: Entry, reason: str) -> None:
        """The farmer is gone for good: the contract is breached and all its shards are lost."""
        log.warning("farmer %s is given up: %s", short(entry.node_id), reason)
        if entry.serves:
            await self._book.change(entry, Event.BREACH)
        await self.give_up_shards(entry)

    # --- the schedule ---

    async def _follow_schedule(self) -> None:
        period = float(self._settings.audit_period)
        tick = tick_length(period)
        known = self._records.cursor(CURSOR)
        cursor = self._now() if known is None else min(known, self._now())
        while True:
            # After a long pause every shard is due once, not once per period missed.
            cursor = max(cursor, self._now() - period)
            end = cursor + max(period / WINDOWS_PER_PERIOD, 2 * tick)
            try:
                cursor = await self._audit_window(Window(self._secret, period, cursor, end), tick)
            except (StorjfsError, OSError) as error:
                log.warning("the audits' schedule: %s", error)
                await trio.sleep(FIRST_RETRY)

    async def _audit_window(self, window: Window, tick: float) -> float:
        """Hand out at its time what is due in `window`; its end."""
        await self._scan(window)
        due, cursor = deque(window.due()), window.start
        while cursor < window.end:
            until = min(cursor + tick, window.end)
            await sleep_until(self._now, until)
            self._hand_out(due, until)
            await self._advance(cursor, until)
            cursor = until
        return window.end

    async def _advance(self, before: float, until: float) -> None:
        """Keep how far we have come, once nothing before it waits only in memory."""
        await self._behind.keep()
        if not any(work.due for work in self._work.values()):
            await self._records.set_cursor(CURSOR, until)
        elif self._records.cursor(CURSOR) is None:
            await self._records.set_cursor(CURSOR, before)

    def _hand_out(self, due: deque[Due], until: float) -> None:
        while due and due[0].at <= until:
            one = due.popleft()
            entry = self._book.get(one.contract)
            if entry is None or not entry.serves:
                continue
            work = self._of(one.contract)
            # A farmer that is silent is asked the same again and again; what else is due then comes later.
            if work.retries:
                self._behind.left_out(one.contract, one.at)
            else:
                work.due.append(one.shard_id)
                work.wake.set()

    async def _scan(self, window: Window) -> None:
        """Go through all shards that are held and note what is due."""
        after = b""
        sql = (
            f"SELECT contract, seg, idx, shard_id FROM shard WHERE shard_id > ? "
            f"AND state IN {HELD_STATES} ORDER BY shard_id LIMIT {ROWS}"
        )
        while rows := await self._store.read_patiently(sql, (after,)):
            window.consider(rows)
            after = rows[-1][3]
            await trio.sleep(PAUSE)

    # --- one contract ---

    def _of(self, number: int) -> _Work:
        work = self._work.get(number)
        if work is None:
            work = self._work[number] = _Work()
            self._start(number, work)
        return work

    def _start(self, number: int, work: _Work) -> None:
        if self._nursery is not None:
            self._nursery.start_soon(self._work_on, number, work, name=f"audit of contract {number}")

    def _make_up(self, number: int) -> None:
        """Begin to make up for what was left out while its farmer was silent, if anything was."""
        work = self._of(number)
        if not work.up and self._nursery is not None and self._behind.since(number) is not None:
            work.up = True
            self._nursery.start_soon(self._make_up_for, number, work)

    async def _make_up_for(self, number: int, work: _Work) -> None:
        def hand_out(shard_id: bytes) -> None:
            work.due.append(shard_id)
            work.wake.set()

        try:
            await self._behind.make_up(number, self._secret, lambda: not work.retries, hand_out)
        except (StorjfsError, OSError) as error:
            log.warning("audits of contract %d that were left out wait: %s", number, error)
        finally:
            work.up = False
            work.wake.set()

    def _start_sweep(self, number: int) -> _Work:
        work = self._of(number)
        work.sweep = b""
        work.swept_at = self._now()
        if work.done.is_set():
            work.done = trio.Event()
        work.wake.set()
        return work

    async def _work_on(self, number: int, work: _Work) -> None:
        """Carry out what is due under one contract, a batch at a time, for as long as the auditor runs."""
        while True:
            await work.wake.wait()
            work.wake = trio.Event()
            try:
                await self._work_off(number, work)
            except (StorjfsError, OSError) as error:
                # A full disk, say. What is stored goes on later where it stopped.
                log.warning("auditing contract %d: %s", number, error)
                work.done.set()
                await trio.sleep(FIRST_RETRY)
                work.wake.set()

    async def _work_off(self, number: int, work: _Work) -> None:
        while (entry := self._book.get(number)) is not None and entry.serves:
            challenge = self._records.challenges.get(number) or await self._next_batch(entry, work)
            if challenge is None:
                await self._behind.settle(number)
                break
            result = await self._audits.attempt(entry, challenge)
            if not await self._after(entry, work, result):
                break
            await trio.lowlevel.checkpoint()
        else:
            await self._drop_challenge(number)
        if not work.retries or entry is None or not entry.serves:
            work.done.set()

    async def _next_batch(self, entry: Entry, work: _Work) -> Challenge | None:
        """A new challenge: of what is due, else of the sweep; None when there is nothing left."""
        while work.due or work.sweep is not None:
            ids = [work.due.popleft() for _ in range(min(BATCH, len(work.due)))]
            if not ids and work.sweep is not None:
                sql = (
                    f"SELECT shard_id FROM shard WHERE contract = ? AND shard_id > ? "
                    f"AND state IN {HELD_STATES} ORDER BY shard_id LIMIT {BATCH}"
                )
                ids = [row[0] for row in self._store.read(sql, (entry.number, work.sweep))]
                work.sweep = ids[-1] if ids else None
            try:
                challenge = await self._audits.begin(entry, list(dict.fromkeys(ids)))
            except BaseException:
                work.due.extendleft(reversed(ids))
                raise
            if challenge is not None:
                return challenge
        return None

    async def _after(self, entry: Entry, work: _Work, result: BatchResult) -> bool:
        """Go on from an attempt; False where this contract has to wait."""
        now = trio.current_time()
        if result.answer is Answer.ANSWERED:
            work.retries = 0
            work.tried = now
            self._make_up(entry.number)
            work.passed += result.passed
            work.failed += result.failed
            for number, other in self._work.items():
                other.heard |= number != entry.number
            period = float(self._settings.audit_period)
            if result.failed >= max(result.passed, 1) and self._now() >= work.swept_at + period:
                # Whoever has lost half of a sample has lost more: find out now what.
                work.sweep = b""
                work.swept_at = self._now()
            return True
        if result.answer is Answer.OVER:
            await self.gone(entry, result.detail)
            return False
        work.retries += 1
        delay = self._retry_delay(work.retries)
        if result.answer is Answer.SILENT:
            await self._note_silence(entry, work, result.detail, now)
        else:
            log.warning("farmer %s cannot be audited: %s", short(entry.node_id), result.detail)
        # Those who wait for audit_now learn that this one is silent.
        work.done.set()
        if entry.serves:
            # To be asked it had to greet perhaps; only what it does from now on says that it is there again.
            work.wake = trio.Event()
            with trio.move_on_after(delay):
                await work.wake.wait()
            work.wake = trio.Event()
        return True

    def _retry_delay(self, retries: int) -> float:
        period = float(self._settings.audit_period)
        first, longest = min(FIRST_RETRY, period / 4), min(LONGEST_RETRY, period / 2)
        return float(min(first * 2 ** min(retries - 1, 20), max(longest, first)))

    async def _note_silence(self, entry: Entry, work: _Work, detail: str, now: float) -> None:
        """Count silence only while others answer: else it may be our own line that is down."""
        others = {one.node_id for one in self._book if one.serves} - {entry.node_id}
        # Audits may be rare, so whoever else is connected counts as well.
        heard = work.heard or not others or any(map(self._connected, others))
        # Before the first attempt that failed nobody watched.
        watched = now - work.tried if work.retries > 1 and heard else 0.0
        work.tried = now
        work.heard = False
        await self._audits.silent(entry, detail, watched)
        if self._records.standing(entry.number).silent_for > self._settings.offline_grace:
            await self.gone(entry, "silent for longer than agreed")

    async def _drop_challenge(self, number: int) -> None:
        work = self._work[number]
        work.due.clear()
        work.sweep = None
        await self._behind.forget(number)
        challenge = self._records.challenges.get(number)
        if challenge is not None:
            await self._audits.forget(challenge)

    async def give_up_shards(self, entry: Entry) -> None:
        """Mark all shards of a contract that is over as lost. Idempotent; goes on after a crash."""
        after, found = b"", False
        # Not only those held: to skip the others by the thousand would take long in one go.
        sql = (
            f"SELECT seg, idx, shard_id, state IN {HELD_STATES} FROM shard "
            f"WHERE contract = ? AND shard_id > ? ORDER BY shard_id LIMIT {GIVEN_UP}"
        )
        while rows := await self._store.read_patiently(sql, (entry.number, after)):
            for seg, idx, shard_id, held in rows:
                if held:
                    found = True
                    self._mark_lost(seg, idx, shard_id)
            after = rows[-1][2]
            await trio.sleep(PAUSE)
        if found:
            await self._store.sync()
