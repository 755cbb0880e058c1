"""Ranges of shards on their way, shared by all who want them: a decode needs what others read anyway."""

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from storjfs.coding.buffers import Buffer
from storjfs.coding.geometry import PIECE

KEPT: Final = 8 << 20
"""Bytes of ranges that have arrived and are kept for a moment, until they are in the cache ..."""
KEPT_FOR: Final = 3.0
"""... or so many seconds have passed."""
FEW: Final = 4
"""Pieces below which a range is not kept: of a short read nobody else wants a part."""


class _Flight:
    __slots__ = ("count", "data", "done", "error", "first", "landed")

    def __init__(self, first: int, count: int) -> None:
        self.first, self.count = first, count
        self.data: Buffer | None = None
        self.error: Exception | None = None
        self.done = trio.Event()
        self.landed = 0.0

    def part(self, first: int, count: int) -> Buffer:
        assert self.data is not None
        if (first, count) == (self.first, self.count):
            return self.data
        at = (first - self.first) * PIECE
        return memoryview(self.data)[at : at + count * PIECE]


class Flights:
    """By shard id. Methods belong to the loop's thread."""

    def __init__(self) -> None:
        self._flights: dict[bytes, list[_Flight]] = {}
        self._arrived: OrderedDict[_Flight, bytes] = OrderedDict()
        self._kept = 0

    async def get(
        self, shard_id: bytes, first: int, count: int, ask: Callable[[], Awaitable[Buffer]]
    ) -> Buffer:
        """Pieces `[first, first + count)` of a shard: of a range that is on its way, else what `ask` returns.

        Raises what `ask` raised, for whomever. Where who asks is cancelled, one of those who wait asks anew.
        """
        while (found := self._covering(shard_id, first, count)) is not None:
            await found.done.wait()
            if found.data is not None:
                return found.part(first, count)
            if found.error is not None:
                try:
                    raise found.error
                finally:
                    # Else the error would lead to this frame and that to the error: with all that was on its
                    # way it would stay until somebody looks for garbage, which is seldom while there is work.
                    del found
        flight = _Flight(first, count)
        self._flights.setdefault(shard_id, []).append(flight)
        try:
            flight.data = await ask()
            return flight.data
        except Exception as error:
            flight.error = error
            raise
        finally:
            flight.done.set()
            self._landed(shard_id, flight)
            del flight  # as above

    def _covering(self, shard_id: bytes, first: int, count: int) -> _Flight | None:
        self._forget_some()
        for one in self._flights.get(shard_id, ()):
            if one.first <= first and first + count <= one.first + one.count:
                return one
        return None

    def _landed(self, shard_id: bytes, flight: _Flight) -> None:
        if flight.data is None or flight.count < FEW:
            self._drop(shard_id, flight)
            return
        flight.landed = trio.current_time()
        self._arrived[flight] = shard_id
        self._kept += len(flight.data)
        self._forget_some()

    def _forget_some(self) -> None:
        old = trio.current_time() - KEPT_FOR
        while self._arrived and (self._kept > KEPT or next(iter(self._arrived)).landed < old):
            oldest, owner = self._arrived.popitem(last=False)
            assert oldest.data is not None
            self._kept -= len(oldest.data)
            self._drop(owner, oldest)

    def _drop(self, shard_id: bytes, flight: _Flight) -> None:
        left = self._flights[shard_id]
        left.remove(flight)
        if not left:
            del self._flights[shard_id]
