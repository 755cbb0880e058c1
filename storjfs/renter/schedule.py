"""When each shard is due for its audit: once per period, at a moment that only this renter can know. Pure.

No timer and no row per shard: the moment follows from a local secret, the shard id and the number of the
period, so a restart changes nothing and a farmer that has seen a thousand audits cannot tell the next.
"""

import hashlib
import heapq
from collections.abc import Iterable
from dataclasses import dataclass

WINDOWS_PER_PERIOD = 24
"""How often per period the shard table is gone through; memory holds one window's share of it."""
LONGEST_TICK = 900.0
SHORTEST_TICK = 0.25


@dataclass(frozen=True, slots=True)
class Due:
    """An audit to come. `at` in seconds since the epoch."""

    at: float
    contract: int
    seg: int
    idx: int
    shard_id: bytes


def tick_length(period: float) -> float:
    """Seconds between two batches: short periods get at least four ticks, long ones at most 15 minutes."""
    return max(min(period / 96, LONGEST_TICK), min(SHORTEST_TICK, period / 4))


def due_in_period(secret: bytes, shard_id: bytes, period: float, number: int) -> float:
    """The moment within period `number` (which spans [number, number + 1) x period)."""
    digest = hashlib.blake2b(
        shard_id + number.to_bytes(8, "big", signed=True), key=secret, digest_size=7, person=b"audit-due"
    ).digest()
    return (number + int.from_bytes(digest, "big") / (1 << 56)) * period


def first_due_after(secret: bytes, shard_id: bytes, period: float, after: float) -> float:
    """The first moment later than `after`."""
    number = int(after // period)
    while True:
        due = due_in_period(secret, shard_id, period, number)
        if due > after:
            return due
        number += 1


class Window:
    """Gathers what falls due in (`start`, `end`], at most `limit` entries of it: the earliest ones.

    If more fall due, `end` moves forward to the last one kept, so nothing is left out: the next window
    starts there.
    """

    def __init__(self, secret: bytes, period: float, start: float, end: float, limit: int = 32768) -> None:
        self._secret = secret
        self._period = period
        self._limit = limit
        self._latest_first: list[tuple[float, bytes, Due]] = []
        self.start = start
        self.end = end

    def consider(self, rows: Iterable[tuple[int, int, int, bytes]]) -> None:
        """Rows of (contract, seg, idx, shard id), in any order."""
        secret, period, start = self._secret, self._period, self.start
        heap = self._latest_first
        for contract, seg, idx, shard_id in rows:
            at = first_due_after(secret, shard_id, period, start)
            if at > self.end:
                continue
            heapq.heappush(heap, (-at, shard_id, Due(at, contract, seg, idx, shard_id)))
            if len(heap) > self._limit:
                dropped = -heapq.heappop(heap)[0]
                # Equal moments would be split here; with 56 bits per period there are none.
                self.end = min(self.end, max(-heap[0][0], self.start)) if heap else dropped

    def due(self) -> list[Due]:
        """All gathered, earliest first."""
        found = [due for _, _, due in self._latest_first if due.at <= self.end]
        found.sort(key=_moment)
        return found


def _moment(due: Due) -> float:
    return due.at
