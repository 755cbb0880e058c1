"""The threads of one farmer that hash, read and write shards: reads go before audits before uploads."""

from collections.abc import Callable
from typing import Final, TypeVar, TypeVarTuple

import trio

from storjfs.network.turns import Turns
from storjfs.protocol.priorities import Priority

T = TypeVar("T")
Args = TypeVarTuple("Args")

WORKERS: Final = 6
MOST: Final = {Priority.AUDIT: 3, Priority.UPLOAD: 4}
"""Threads that audits and uploads may have, so that a read finds one that is free or soon will be."""


class Workers:
    """Runs blocking work, WORKERS at a time."""

    def __init__(self) -> None:
        self._turns = Turns(WORKERS, MOST)
        self._threads = trio.CapacityLimiter(WORKERS)

    @property
    def waiting(self) -> int:
        """How much work waits for a thread."""
        return self._turns.waiting

    async def run(self, priority: Priority, work: Callable[[*Args], T], *args: *Args) -> T:
        """What `work(*args)` returns or raises. Cancelled only while it waits for its turn."""
        async with self._turns.turn(priority):
            return await trio.to_thread.run_sync(work, *args, limiter=self._threads)
