"""What one peer may take of a listener, all its connections together: requests per second, memory, work."""

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final

import trio

from storjfs.network.turns import Turns
from storjfs.protocol.priorities import Priority

MiB: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class GuestLimits:
    """What a peer gets. Who wants more is not refused but listened to more slowly."""

    requests: float = 500.0
    """Requests per second on control connections, in the long run ..."""
    request_burst: float = 2000.0
    """... and after a pause at once."""
    transfers: float = 5000.0
    """Puts and gets per second."""
    transfer_burst: float = 5000.0
    request_bytes: int = 1 * MiB
    """Bytes of requests that are being served."""
    answering: int = 16
    """Requests of control connections worked on at a time; further ones wait by their priority."""
    sending_bytes: int = 32 * MiB
    """Bytes of shards read and not yet sent."""


GUEST_LIMITS: Final = GuestLimits()
SENDING_BYTES: Final = 256 * MiB
"""The same for all peers of one listener together."""


class Allowance:
    """`rate` per second on average, at most `burst` after a pause."""

    __slots__ = ("_burst", "_paid_until", "_rate")

    def __init__(self, rate: float, burst: float) -> None:
        self._rate, self._burst = rate, burst / rate
        self._paid_until = float("-inf")

    def try_spend(self, count: float = 1.0) -> bool:
        """Spend `count` if that much is left."""
        now = trio.current_time()
        until = max(self._paid_until, now - self._burst) + count / self._rate
        if until > now:
            return False
        self._paid_until = until
        return True

    async def spend(self, count: float = 1.0) -> None:
        """Spend `count`, and wait as long as that is too much. No checkpoint where it is not."""
        now = trio.current_time()
        self._paid_until = max(self._paid_until, now - self._burst) + count / self._rate
        if self._paid_until > now:
            await trio.sleep_until(self._paid_until)


class Allowances:
    """An `Allowance` for each of many, of whom the last `remembered` ones are known."""

    def __init__(self, rate: float, burst: float, remembered: int = 1024) -> None:
        self._rate, self._burst, self._remembered = rate, burst, remembered
        self._known: OrderedDict[Hashable, Allowance] = OrderedDict()

    def try_spend(self, who: Hashable) -> bool:
        """Whether `who` has something left, which is spent then."""
        allowance = self._known.pop(who, None) or Allowance(self._rate, self._burst)
        self._known[who] = allowance
        if len(self._known) > self._remembered:
            self._known.popitem(last=False)
        return allowance.try_spend()


class Budget:
    """Bytes that may be in use at a time; one that is larger than all of it is let through alone."""

    __slots__ = ("_freed", "_limit", "used")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._freed = trio.lowlevel.ParkingLot()
        self.used = 0

    def has(self, count: int) -> bool:
        """Whether so many could be taken now."""
        return not self.used or self.used + count <= self._limit

    async def take(self, count: int) -> None:
        """Wait for `count` bytes, to be given back later. No checkpoint where they are free."""
        while not self.has(count):
            await self._freed.park()
        self.used += count

    def give_back(self, count: int) -> None:
        """These are free again."""
        self.used -= count
        self._freed.unpark_all()


class Guest:
    """One peer; `sending` is the budget of all peers together."""

    def __init__(self, limits: GuestLimits = GUEST_LIMITS, sending: Budget | None = None) -> None:
        self.connections = 0
        self.requests = Allowance(limits.requests, limits.request_burst)
        self.transfers = Allowance(limits.transfers, limits.transfer_burst)
        self.request_bytes = Budget(limits.request_bytes)
        half = max(1, limits.answering // 2)
        self.answering = Turns(limits.answering, {Priority.AUDIT: half, Priority.UPLOAD: half})
        self._sending = Budget(limits.sending_bytes)
        self._sending_of_all = sending or Budget(SENDING_BYTES)

    @property
    def sending_bytes(self) -> int:
        """Bytes of shards read for it and not yet sent."""
        return self._sending.used

    def try_to_take_room(self, count: int) -> bool:
        """Take room for `count` bytes of a shard if there is some now."""
        if not self._sending.has(count) or not self._sending_of_all.has(count):
            return False
        self._sending.used += count
        self._sending_of_all.used += count
        return True

    async def take_room(self, count: int) -> None:
        """Wait for room for `count` bytes of a shard, and take it."""
        await self._sending.take(count)
        try:
            await self._sending_of_all.take(count)
        except BaseException:
            self._sending.give_back(count)
            raise

    def give_room_back(self, count: int) -> None:
        """They are sent, or not wanted any more."""
        self._sending.give_back(count)
        self._sending_of_all.give_back(count)
