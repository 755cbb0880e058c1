"""Who is next, and when: a fair queue over renters and a token bucket. Pure; the clock is an argument."""

import heapq
from collections.abc import Hashable
from dataclasses import dataclass
from itertools import count
from typing import Final, Generic, TypeVar

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)

DEPTH: Final = 0.25
"""Seconds of its rate that a bucket holds at most: what may go out at once after a pause."""
SOON: Final = 0.0005
"""The shortest wait: adding less to a clock may not change it."""
REMEMBERED: Final = 256
"""Owners of whom an idle queue knows what they had."""


class Bucket:
    """Lets `rate` units per second through, on average, and DEPTH seconds of it at once.

    Whoever finds it not empty may take any amount: the bucket goes into debt, and the next one waits longer.
    """

    __slots__ = ("_level", "_seen", "rate")

    def __init__(self, rate: float, now: float) -> None:
        self.rate = rate
        self._level = rate * DEPTH
        self._seen = now

    def change(self, rate: float, now: float) -> None:
        """From now on `rate`; a debt stays."""
        self._fill(now)
        self.rate = rate
        self._level = min(self._level, rate * DEPTH)

    def wait(self, now: float) -> float:
        """Seconds until something may be taken; 0 if at once."""
        self._fill(now)
        return 0.0 if self._level >= 0 else max(-self._level / self.rate, SOON)

    def take(self, amount: float, now: float) -> None:
        """Take `amount`, more than there is where need be."""
        self._fill(now)
        self._level -= amount

    def _fill(self, now: float) -> None:
        if now > self._seen:
            self._level = min(self._level + (now - self._seen) * self.rate, self.rate * DEPTH)
            self._seen = now


@dataclass(slots=True, eq=False)
class Ticket(Generic[K, T]):
    """An item in the queue; `size` is what it costs its owner."""

    owner: K
    size: float
    item: T
    withdrawn: bool = False


class FairQueue(Generic[K, T]):
    """Start-time fair queueing (Goyal, Vin, Cheng 1996): owners with items waiting get equal shares.

    An owner's items keep their order. However many it has waiting, and of whatever sizes, it gets no more
    than another one that always has at least one. Work per item is logarithmic in what waits.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Ticket[K, T]]] = []
        self._numbers = count()
        self._time = 0.0
        # When each owner will have used up what it queued, in units of service; only while that is ahead.
        self._finish: dict[K, float] = {}
        self._waiting = 0

    def __len__(self) -> int:
        return self._waiting

    def push(self, owner: K, size: float, item: T) -> Ticket[K, T]:
        """Queue `item`."""
        start = max(self._time, self._finish.get(owner, 0.0))
        self._finish[owner] = start + size
        ticket = Ticket(owner, size, item)
        heapq.heappush(self._heap, (start, next(self._numbers), ticket))
        self._waiting += 1
        return ticket

    def withdraw(self, ticket: Ticket[K, T]) -> None:
        """Take an item out, if it was not popped; its owner gets back what it cost."""
        if ticket.withdrawn:
            return
        ticket.withdrawn = True
        self._waiting -= 1
        if ticket.owner in self._finish:
            self._finish[ticket.owner] -= ticket.size
        if not self._waiting:
            self._settle()

    def pop(self) -> Ticket[K, T]:
        """The next one. Raises IndexError where nothing waits."""
        while True:
            start, _, ticket = heapq.heappop(self._heap)
            if ticket.withdrawn:
                continue
            self._time = max(self._time, start)
            self._waiting -= 1
            ticket.withdrawn = True
            if not self._waiting:
                self._settle()
            return ticket

    def _settle(self) -> None:
        """Nothing waits: forget owners whose time has passed, so that memory is bounded by who is active."""
        self._heap.clear()
        if len(self._finish) <= REMEMBERED:
            return
        self._finish = {owner: finish for owner, finish in self._finish.items() if finish > self._time}
        if len(self._finish) > REMEMBERED:
            self._time = max(self._finish.values())
            self._finish.clear()
