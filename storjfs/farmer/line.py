"""One direction of a farmer's line: what passed, whose chunk is next, whose transfer has its turn."""

from collections import Counter, deque
from typing import Final

import trio

from storjfs.farmer.fairness import Bucket, FairQueue
from storjfs.protocol.ids import NodeId

SHARE: Final = 128 << 10
"""Bytes per second that each transfer under way has at least, on average; others wait for their turn."""
FEWEST: Final = 2
"""Transfers under way at once, however low the limit."""
METERED: Final = 10
"""Seconds over which rates are averaged."""


class Meter:
    """Bytes in all, and per second of late."""

    __slots__ = ("_seconds", "total")

    def __init__(self) -> None:
        self.total = 0
        self._seconds: deque[tuple[int, int]] = deque(maxlen=METERED + 1)

    def add(self, count: int, now: float) -> None:
        """`count` bytes at `now` (trio's clock)."""
        self.total += count
        second = int(now)
        if self._seconds and self._seconds[-1][0] == second:
            second, before = self._seconds.pop()
            count += before
        self._seconds.append((second, count))

    def rate(self, now: float) -> float:
        """Bytes per second over the last METERED seconds."""
        return sum(count for second, count in self._seconds if second > now - METERED) / METERED


class Direction:
    """One direction of the line. `run` must be running where a limit holds."""

    def __init__(self) -> None:
        self.meter = Meter()
        self.rate: int | None = None
        """Bytes per second that hold now; None where nothing does."""
        self._holding: Counter[NodeId] = Counter()
        self._bucket = Bucket(1, 0.0)
        self._chunks: FairQueue[NodeId, trio.Event] = FairQueue()
        self._turns: FairQueue[NodeId, trio.Event] = FairQueue()
        self._work = trio.Event()

    @property
    def under_way(self) -> int:
        """Transfers that have their turn."""
        return self._holding.total()

    def transfers_of(self, peer: NodeId) -> int:
        """Of these, those of one renter."""
        return self._holding[peer]

    @property
    def waiting(self) -> int:
        """Transfers that wait for their turn."""
        return len(self._turns)

    def limit(self, rate: int | None) -> None:
        """`rate` holds from now on. What waits and need not any more goes on at once."""
        if rate != self.rate:
            if rate is not None:
                self._bucket.change(rate, trio.current_time())
            self.rate = rate
            self._work.set()
            self._admit()

    async def run(self) -> None:
        """Let chunks through as their time comes, until cancelled."""
        while True:
            await self._work.wait()
            self._work = trio.Event()
            while self._chunks:
                delay = self._bucket.wait(trio.current_time()) if self.rate is not None else 0.0
                if delay > 0:
                    with trio.move_on_after(delay):
                        await self._work.wait()  # the limit may change
                    self._work = trio.Event()
                    continue
                ticket = self._chunks.pop()
                if self.rate is not None:
                    self._bucket.take(ticket.size, trio.current_time())
                ticket.item.set()

    async def let_through(self, peer: NodeId, count: int) -> None:
        """Return when `count` more bytes of this renter's shards may pass; at once where no limit holds."""
        if self.rate is None:
            return
        allowed = trio.Event()
        ticket = self._chunks.push(peer, count, allowed)
        self._work.set()
        try:
            await allowed.wait()
        finally:
            self._chunks.withdraw(ticket)

    def enter_at_once(self, peer: NodeId) -> bool:
        """As `enter`, if it need not wait; whether it has its turn."""
        if self.rate is not None:
            free = self._free(1) and not self._turns
            if not free and (peer in self._holding or not self._free(2)):
                return False
        self._holding[peer] += 1
        return True

    async def enter(self, peer: NodeId, size: int) -> None:
        """Return when a transfer of `size` bytes has its turn; `leave` follows. Cancelled, it has none."""
        if self.enter_at_once(peer):
            return
        turn = trio.Event()
        ticket = self._turns.push(peer, size, turn)
        try:
            await turn.wait()
        except BaseException:
            self._turns.withdraw(ticket)
            if turn.is_set():
                self.leave(peer)
            raise

    def leave(self, peer: NodeId) -> None:
        """A transfer has ended."""
        self._holding[peer] -= 1
        if not self._holding[peer]:
            del self._holding[peer]
        self._admit()

    def _free(self, times: int) -> bool:
        """Whether one more transfer is less than so many times what the line bears.

        Twice that for a renter that has none under way: else a few who read slowly would keep all others out.
        """
        return self.rate is None or self.under_way < times * max(self.rate // SHARE, FEWEST)

    def _admit(self) -> None:
        while self._turns and self._free(1):
            ticket = self._turns.pop()
            self._holding[ticket.owner] += 1
            ticket.item.set()
