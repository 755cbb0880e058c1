"""What happened each day, in farmer.db: sums per UTC day and contract, and when the farmer ran.

Bounded: contracts for CONTRACT_DAYS, all of them together for TOTAL_DAYS, the last LIVES starts.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from typing import Final

from storjfs.farmer.records import Records, Statement

DAY: Final = 86400
CONTRACT_DAYS: Final = 62
TOTAL_DAYS: Final = 1100
LIVES: Final = 64
ALL: Final = 0
"""The contract number of the sum over all contracts."""
BEFORE: Final = 0
"""The day that has the sums of all that are forgotten."""
SEEN_EVERY: Final = 600.0
"""Seconds after which it is noted that the farmer still runs, where nothing else is to be noted."""


@dataclass(slots=True)
class Sums:
    """What is counted. Money in nanocredits; in the order of the columns of `day`."""

    audits: int = 0
    """Batches answered."""
    late: int = 0
    """Of these, after the agreed deadline: not paid."""
    proved: int = 0
    """Sealed bytes of the shards that were proved."""
    lost: int = 0
    """Challenged shards of which the answer said that they are damaged or not here."""
    proofs: int = 0
    """Earned by proofs."""
    received: int = 0
    """Bytes of shards taken in."""
    sent: int = 0
    """Bytes of shards sent to renters."""
    egress: int = 0
    """Earned by that."""
    promised: int = 0
    """By vouchers."""
    claimed: int = 0
    """At the settlement."""
    up: int = 0
    """Seconds that the farmer ran; only of all contracts together."""

    @property
    def earned(self) -> int:
        return self.proofs + self.egress

    def add(self, other: "Sums") -> None:
        """Add what `other` counted."""
        for name in NAMES:
            setattr(self, name, getattr(self, name) + getattr(other, name))


@dataclass(frozen=True, slots=True)
class Life:
    """One run of the farmer, times in seconds since 1970."""

    started: int
    seen: int
    """When it was last known to run."""
    stopped: int | None
    """None: it runs still, or did not stop in good order."""


NAMES: Final = tuple(field.name for field in fields(Sums))
_UPDATE: Final = f"DO UPDATE SET {', '.join(f'{name} = {name} + excluded.{name}' for name in NAMES)}"
_ADD: Final = (
    f"INSERT INTO day(day, contract, {', '.join(NAMES)}) VALUES ({', '.join('?' * (len(NAMES) + 2))}) "
    f"ON CONFLICT {_UPDATE}"
)


class History:
    """The days of a farmer whose time is `clock()`. Reads may be made while another process writes."""

    def __init__(self, records: Records, clock: Callable[[], float]) -> None:
        self._records = records
        self._clock = clock
        self._pending: dict[tuple[int, int], Sums] = defaultdict(Sums)
        self._pruned = 0
        self._life = 0
        self._seen = 0.0

    @property
    def today(self) -> int:
        """Days since 1970, UTC."""
        return int(self._clock()) // DAY

    # --- writing ---

    def rows(self, contract: int, sums: Sums) -> list[Statement]:
        """What adds `sums` to today, for a commit with what they are sums of."""
        today = self.today
        return [_row(today, number, sums) for number in dict.fromkeys((contract, ALL))]

    def note_sent(self, contract: int, count: int, earned: int) -> None:
        """`count` bytes went out and earned so much: for the next `fold`, a crash before it forgets them."""
        sums = self._pending[self.today, contract]
        sums.sent += count
        sums.egress += earned

    def note_received(self, contract: int, count: int) -> None:
        """`count` bytes came in: likewise."""
        self._pending[self.today, contract].received += count

    async def begin(self) -> None:
        """A run begins."""
        (number,) = self._records.read("SELECT coalesce(max(number), 0) + 1 FROM life")[0]
        now = int(self._clock())
        await self._records.commit(
            [
                ("INSERT INTO life(number, started, seen) VALUES (?, ?, ?)", (number, now, now)),
                ("DELETE FROM life WHERE number <= ?", (number - LIVES,)),
            ]
        )
        self._life, self._seen = number, self._clock()

    async def fold(self, *, stopping: bool = False, force: bool = False) -> None:
        """Commit what memory knows, and that the farmer runs, or that it stopped in good order.

        Where there is nothing to say nothing is written, unless by `force`.
        """
        now = self._clock()
        if not (self._pending or stopping or force or now - self._seen >= SEEN_EVERY):
            return
        if self._life:
            self._pending[self.today, ALL].add(Sums(up=max(int(now - self._seen), 0)))
        pending, self._pending = self._pending, defaultdict(Sums)
        seen, self._seen = self._seen, now
        statements = list(self._folded(pending))
        if self._life:
            stopped = int(now) if stopping else None
            seen_row = "UPDATE life SET seen = ?, stopped = ? WHERE number = ?"
            statements.append((seen_row, (int(now), stopped, self._life)))
        try:
            await self._records.commit([*statements, *self._old()])
        except BaseException:
            for (day, contract), sums in pending.items():
                if contract == ALL:
                    sums.up = 0  # counted again from `seen` on
                self._pending[day, contract].add(sums)
            self._seen = seen
            raise
        self._pruned = self.today

    def _folded(self, pending: dict[tuple[int, int], Sums]) -> Iterable[Statement]:
        for (day, contract), sums in pending.items():
            yield _row(day, contract, sums)
            if contract != ALL:
                yield _row(day, ALL, sums)

    def _old(self) -> list[Statement]:
        """What adds the oldest days to BEFORE and forgets them, once a day."""
        if self.today == self._pruned:
            return []
        days = ("contract <> 0", self.today - CONTRACT_DAYS), ("contract = 0", self.today - TOTAL_DAYS)
        return [statement for which, last in days for statement in _forget(which, last)]

    # --- reading ---

    def days(self, since: int, contract: int = ALL) -> dict[int, Sums]:
        """The days from `since` on, oldest first (BEFORE: too); those without anything are left out."""
        rows = self._records.read(
            f"SELECT day, {', '.join(NAMES)} FROM day WHERE day >= ? AND contract = ? ORDER BY day",
            since,
            contract,
        )
        return {row[0]: Sums(*row[1:]) for row in rows}

    def all_days(self, since: int) -> Iterator[tuple[int, int, Sums]]:
        """`(day, contract, sums)` of every contract, and of ALL, from day `since` on."""
        for row in self._records.read(
            f"SELECT day, contract, {', '.join(NAMES)} FROM day WHERE day >= ? ORDER BY day", since
        ):
            yield row[0], row[1], Sums(*row[2:])

    def by_contract(self, since: int) -> dict[int, Sums]:
        """The sums of each contract from day `since` on; from BEFORE on: of all times."""
        columns = ", ".join(f"sum({name})" for name in NAMES)
        rows = self._records.read(
            f"SELECT contract, {columns} FROM day WHERE day >= ? AND contract <> 0 GROUP BY contract", since
        )
        return {row[0]: Sums(*row[1:]) for row in rows}

    def lives(self) -> list[Life]:
        """The last runs, newest first."""
        return [
            Life(*row)
            for row in self._records.read("SELECT started, seen, stopped FROM life ORDER BY number DESC")
        ]


def _row(day: int, contract: int, sums: Sums) -> Statement:
    return _ADD, (day, contract, *(getattr(sums, name) for name in NAMES))


def _forget(which: str, last: int) -> list[Statement]:
    sums = ", ".join(f"sum({name})" for name in NAMES)
    where = f"{which} AND day > {BEFORE} AND day <= ?"
    add = (
        f"INSERT INTO day(day, contract, {', '.join(NAMES)}) "
        f"SELECT {BEFORE}, contract, {sums} FROM day WHERE {where} GROUP BY contract ON CONFLICT {_UPDATE}"
    )
    return [(add, (last,)), (f"DELETE FROM day WHERE {where}", (last,))]
