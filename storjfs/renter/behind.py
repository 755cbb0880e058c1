"""Audits that fell due while a farmer owed an answer: left out, and made up for when it is there again.

Of each contract only the span of time is kept in which shards were due and not asked for, in local.db too:
which these were follows from the schedule. They come in the order in which they were due, MAKE_UP times as
fast.
"""

import math
from collections.abc import Callable
from typing import Final

import trio

from storjfs.renter.audits import HELD_STATES
from storjfs.renter.local_records import LocalRecords
from storjfs.renter.schedule import WINDOWS_PER_PERIOD, Window
from storjfs.store import MetaStore

MAKE_UP: Final = WINDOWS_PER_PERIOD
"""A whole period that was left out is made up for in one part in so many of it."""
SHARDS: Final = 4096
"""In memory at a time, for each contract."""
ROWS: Final = 400
PAUSE: Final = 0.002
"""Rows of the shard table read at a time, and seconds left to others after each such step."""


class Behind:
    """`period` in seconds; `now()` in seconds since 1970, as every moment here."""

    def __init__(
        self, records: LocalRecords, store: MetaStore, period: float, now: Callable[[], float]
    ) -> None:
        self._records, self._store, self._period, self._now = records, store, period, now
        self._spans: dict[int, tuple[float, float] | None] = {}
        self._unkept: set[int] = set()
        self._made_up: set[int] = set()

    def since(self, contract: int) -> float | None:
        """From when on shards that were due have not been asked for; None if all have."""
        span = self._span(contract)
        return span[0] if span is not None else None

    def _span(self, contract: int) -> tuple[float, float] | None:
        if contract not in self._spans:
            since = self._records.cursor(_name(contract))
            self._spans[contract] = None if since is None else (since, self._now())
        return self._spans[contract]

    def left_out(self, contract: int, at: float) -> None:
        """A shard was due at `at` and is not asked for now."""
        self._made_up.discard(contract)
        span = self._span(contract)
        if span is None:
            self._unkept.add(contract)
            span = math.nextafter(at, -math.inf), at
        self._spans[contract] = span[0], max(span[1], at)

    async def keep(self) -> None:
        """Make it survive the end of the process. Raises StoreError; then call it again."""
        for contract in list(self._unkept):
            if (since := self.since(contract)) is not None:
                await self._records.set_cursor(_name(contract), since)
            self._unkept.discard(contract)

    async def make_up(
        self, contract: int, secret: bytes, answers: Callable[[], bool], hand_out: Callable[[bytes], None]
    ) -> None:
        """Hand out what was left out, evenly; ends when all of it is, or `answers()` is false any more."""
        while answers() and (span := self._span(contract)) is not None:
            # What fell due more than once is asked for once.
            since = max(span[0], self._now() - self._period)
            window = Window(secret, self._period, since, max(span[1], since), SHARDS)
            await self._scan(contract, window)
            begun = trio.current_time()
            for due in window.due():
                await trio.sleep_until(begun + (due.at - since) / MAKE_UP)
                if not answers():
                    return
                hand_out(due.shard_id)
                self._passed(contract, due.at)
            if self._passed(contract, window.end):
                self._made_up.add(contract)
                return

    def _passed(self, contract: int, at: float) -> bool:
        """All until then is handed out; whether that is all there is."""
        span = self._span(contract)
        if span is None or at >= span[1]:
            return True
        self._spans[contract] = at, span[1]
        return False

    async def settle(self, contract: int) -> None:
        """What was handed out has been answered: if that was all, nothing is behind any more."""
        if contract in self._made_up:
            await self.forget(contract)

    async def forget(self, contract: int) -> None:
        """Nothing is to be made up for. Raises StoreError."""
        if self._span(contract) is None:
            return
        self._spans[contract] = None
        self._made_up.discard(contract)
        if contract not in self._unkept:
            await self._records.forget_cursor(_name(contract))
        self._unkept.discard(contract)

    async def _scan(self, contract: int, window: Window) -> None:
        after = b""
        sql = (
            f"SELECT contract, seg, idx, shard_id FROM shard WHERE contract = ? AND shard_id > ? "
            f"AND state IN {HELD_STATES} ORDER BY shard_id LIMIT {ROWS}"
        )
        while rows := await self._store.read_patiently(sql, (contract, after)):
            window.consider(rows)
            after = rows[-1][3]
            await trio.sleep(PAUSE)


def _name(contract: int) -> str:
    return f"audits behind {contract}"
