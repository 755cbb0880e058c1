"""Queries made in a thread first, where the database's pages have to come from a disk that takes its time.

The loop makes its queries itself: with the pages in a cache that is ten times faster than another thread. But
where they are not, it would wait for the disk, and all requests with it. Whether they are nobody can say
beforehand; so it is judged by what queries met lately, a read from the disk or none (getrusage(2)).
"""

import contextlib
import resource
from collections.abc import Callable
from time import perf_counter
from typing import Final

import apsw
import trio

from storjfs.store.batch import Values
from storjfs.store.database import StoreError

SLOW: Final = 0.001
"""Seconds that a query takes at least whose reading from the disk is worth a thread."""
THREADS: Final = 4
FIRST: Final = 32
"""Queries in a row that need not be slow before the loop makes them itself."""
MOST: Final = 32_768
"""The same after it was wrong to do so many times: twice as many each time."""


class Aside:
    """What is known of how far away the pages are. Belongs to the loop's thread.

    `distant`: whoever is about to make a query on the loop, for what no cache of his has, fetches it first.
    """

    def __init__(self, connect: Callable[[], apsw.Connection]) -> None:
        self.distant = False
        self._connect = connect
        self._idle: list[apsw.Connection] = []
        self._limiter = trio.CapacityLimiter(THREADS)
        self._near = 0
        self._needed = FIRST
        self._blocks = 0

    def took(self, seconds: float) -> None:
        """A query on the loop took so long, which is more than SLOW: was it the disk?"""
        blocks = resource.getrusage(resource.RUSAGE_THREAD).ru_inblock
        if blocks != self._blocks:
            self._blocks = blocks
            if not self.distant:
                self._needed = min(2 * self._needed, MOST)
            self.distant, self._near = True, 0

    async def fetch(self, sql: str, args: Values) -> None:
        """Make a query in a thread, so that its pages are in the page cache; what it finds is dropped, since
        only the loop knows what is not committed yet. Never fails: the loop will meet the same error."""
        connection = self._idle.pop() if self._idle else None

        def query() -> tuple[apsw.Connection | None, bool]:
            used = connection
            before, started = resource.getrusage(resource.RUSAGE_THREAD).ru_inblock, perf_counter()
            with contextlib.suppress(apsw.Error, StoreError):
                used = used or self._connect()
                used.execute(sql, args).fetchall()
            read = resource.getrusage(resource.RUSAGE_THREAD).ru_inblock != before
            return used, read and perf_counter() - started > SLOW

        used, slow = await trio.to_thread.run_sync(query, limiter=self._limiter)
        if used is not None:
            self._idle.append(used)
        self._near = 0 if slow else self._near + 1
        if self._near >= self._needed:
            self.distant = False

    def close(self) -> None:
        """Close its connections; nothing may be under way."""
        while self._idle:
            self._idle.pop().close()
