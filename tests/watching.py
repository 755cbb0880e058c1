"""How long work holds the loop, judged so that a busy machine does not matter.

Only processor time counts, less what Python spent on the garbage of the test run itself, and time asleep in
the kernel; never time in which the thread was not let run. On a virtual machine even that has outliers, so
work is repeated: what is too slow by its nature is so every time.
"""

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

import trio

from storjfs.daemon.watch import Hold, watching
from storjfs.store import MetaStore
from storjfs.store.batch import Values

LIMIT = 0.010
"""Seconds that a step may take of the processor."""
ROUNDS = 3
_REFERENCE = 0.0045
"""Seconds that `_known_work` takes on the machine for which LIMIT is meant; a slower one gets more."""


def _known_work() -> float:
    started = time.thread_time()
    sum(number % 7 for number in range(100_000))
    return time.thread_time() - started


def limit() -> float:
    """LIMIT in terms of this machine, as fast as it is now."""
    return LIMIT * max(1.0, min(_known_work() for _ in range(5)) / _REFERENCE)


def _own(hold: Hold) -> float:
    return hold.processor - hold.garbage + hold.blocked


async def longest_step(work: Callable[[int], Awaitable[object]]) -> float:
    """Seconds of the longest step while `work(round)` and what runs beside it ran, in the best round."""
    best = float("inf")
    for number in range(ROUNDS):
        with watching(LIMIT / 10) as watch:
            await trio.lowlevel.checkpoint()  # what the test itself did until here is not watched
            await work(number)
            await trio.lowlevel.checkpoint()
        best = min(best, max(map(_own, watch.holds), default=0.0))
    return best


def _ours(task: str) -> bool:
    return task.startswith("storjfs.")


def again_and_again(holds: Iterable[Hold], counts: Callable[[str], bool] = _ours) -> list[str]:
    """The tasks, as far as their names count, that held the loop for more than the limit again and again."""
    allowed = limit()
    tasks = Counter(hold.task for hold in holds if _own(hold) > allowed and counts(hold.task))
    return [task for task, count in tasks.items() if count >= ROUNDS]


def too_long(holds: Iterable[Mapping[str, Any]]) -> list[str]:
    """The same from a mount process's report: by the place where it was seen, and the task."""
    allowed = limit() * 1e3
    places = Counter(
        f"{one['task'].split('-')[0]}: {one['where'].rsplit(' < ', 1)[-1]}"
        for one in holds
        if one["processor"] + one["blocked"] > allowed
    )
    return [place for place, count in places.items() if count >= ROUNDS]


class Gauge:
    """Counts what queries of one database cost, in steps of SQLite's virtual machine, which no clock has a
    say in. `most`: of the most expensive call of `read` so far."""

    GRAIN = 500

    def __init__(self, store: MetaStore) -> None:
        self.most = 0
        self._steps = 0
        self._read = store.read
        store.read = self.read  # type: ignore[method-assign]
        store._reader.set_progress_handler(self._count, self.GRAIN)

    def _count(self) -> bool:
        self._steps += self.GRAIN
        return False

    def read(self, sql: str, args: Values = ()) -> list[Any]:
        self._steps = 0
        rows = self._read(sql, args)
        self.most = max(self.most, self._steps)
        return rows
