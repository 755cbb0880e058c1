"""A place for so many at a time; who waits is let in by priority, and nobody waits for ever."""

from collections import deque
from collections.abc import Mapping
from typing import Final

import trio

from storjfs.protocol.priorities import Priority

OLDEST_EVERY: Final = 8
"""Of so many places given to those who wait, one goes to whoever waits longest, whatever its priority."""


class _Waiter:
    __slots__ = ("came", "granted")

    def __init__(self, came: int) -> None:
        self.came = came
        self.granted = trio.Event()


class Turns:
    """`count` places. `most` bounds how many of them one priority may hold, so that others find one free.

    Among equals the first comes first. Cancelling a wait is free at any time.
    """

    def __init__(self, count: int, most: Mapping[Priority, int] | None = None) -> None:
        if count < 1 or any(bound < 1 for bound in (most or {}).values()):
            raise ValueError("there must be a place for everybody")
        self._count = self._free = count
        self._most = dict(most or {})
        self._left = {priority: min(count, (most or {}).get(priority, count)) for priority in Priority}
        self._waiting: dict[Priority, deque[_Waiter]] = {}
        self._came = 0
        self._given = 0

    def resize(self, count: int, most: Mapping[Priority, int] | None = None) -> None:
        """Have so many places from now on; who has one keeps it."""
        if count < 1 or any(bound < 1 for bound in (most or {}).values()):
            raise ValueError("there must be a place for everybody")
        before, after = self._most, dict(most or {})
        for priority in Priority:
            old = min(self._count, before.get(priority, self._count))
            self._left[priority] += min(count, after.get(priority, count)) - old
        self._free += count - self._count
        self._count, self._most = count, after
        self._let_in()

    @property
    def taken(self) -> int:
        """How many places are taken."""
        return self._count - self._free

    @property
    def waiting(self) -> int:
        """How many wait."""
        return sum(map(len, self._waiting.values()))

    def turn(self, priority: Priority) -> "_Turn":
        """`async with` it: a place, from when one is given until the end of the block."""
        return _Turn(self, priority)

    async def take(self, priority: Priority) -> None:
        """Wait for a place and take it, until it is given back."""
        if self._free > 0 and self._left[priority] > 0 and not self._others_first(priority):
            await trio.lowlevel.checkpoint_if_cancelled()
            self._free -= 1
            self._left[priority] -= 1
            return
        queue = self._waiting.setdefault(priority, deque())
        waiter = _Waiter(self._came)
        self._came += 1
        queue.append(waiter)
        try:
            await waiter.granted.wait()
        except BaseException:
            # The place may have been given to it after it was cancelled and before it could learn of that.
            if waiter.granted.is_set():
                self.give_back(priority)
            else:
                queue.remove(waiter)
            raise

    def _others_first(self, priority: Priority) -> bool:
        return any(other <= priority and self._waits(other) for other in self._waiting)

    def _waits(self, priority: Priority) -> bool:
        """Whether somebody of this priority waits who may have a place."""
        return bool(self._waiting.get(priority)) and self._left[priority] > 0

    def give_back(self, priority: Priority) -> None:
        """The place is free again."""
        self._free += 1
        self._left[priority] += 1
        self._let_in()

    def _let_in(self) -> None:
        while self._free > 0 and (chosen := self._next()) is not None:
            self._free -= 1
            self._left[chosen] -= 1
            self._waiting[chosen].popleft().granted.set()

    def _next(self) -> Priority | None:
        """Whose turn it is among those who wait and may have one."""
        may = [priority for priority in Priority if self._waits(priority)]
        if not may:
            return None
        self._given += 1
        if self._given % OLDEST_EVERY == 0:
            return min(may, key=lambda priority: self._waiting[priority][0].came)
        return may[0]


class _Turn:
    """A class and no generator: it is made for every request."""

    __slots__ = ("_priority", "_turns")

    def __init__(self, turns: Turns, priority: Priority) -> None:
        self._turns, self._priority = turns, priority

    async def __aenter__(self) -> None:
        await self._turns.take(self._priority)

    async def __aexit__(self, *_: object) -> None:
        self._turns.give_back(self._priority)
