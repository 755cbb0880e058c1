"""How fast each farmer takes and gives shards beside the others: whom to wait for, whom to work around. Pure.

A farmer *lags* while it was lately far slower than the others, or was waited for in vain. It lags for a while
only, longer each time, and one transfer that is as fast as those of the others ends it: so a farmer on a line
that was busy, or behind a machine that slept, is taken up again by itself.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from statistics import median
from typing import Final

FAR_SLOWER: Final = 8.0
"""A farmer lags where the others are so many times faster."""
IN_VAIN: Final = 0.5
"""Seconds in all for which one was waited for, with no answer in between, after which it lags."""
NEVER_SLOW: Final = 0.5
"""A transfer of so few seconds is no sign of lagging, however fast the others are."""
FIRST_REST: Final = 15.0
LONGEST_REST: Final = 600.0
"""Seconds until one that lags is tried again."""
FIXED: Final = 256 << 10
"""Bytes that a transfer of nothing counts as, so that small ranges and whole shards compare."""
_NEWEST: Final = 0.25


class Way(Enum):
    """Of a transfer, as the renter sees it."""

    PUT = auto()
    GET = auto()


@dataclass(slots=True)
class _Figures:
    rate: float | None = None
    in_vain: float = 0.0
    strikes: int = 0
    until: float = -math.inf


@dataclass(slots=True)
class _Usual:
    """The median of all farmers' rates; made anew after so many changes of one."""

    rate: float | None = None
    changes: int = 0


@dataclass(slots=True)
class Speeds:
    """Of all farmers of a renter, by node id. `now` is any clock, in seconds."""

    now: Callable[[], float]
    _figures: dict[Way, dict[bytes, _Figures]] = field(default_factory=lambda: {way: {} for way in Way})
    _usual: dict[Way, _Usual] = field(default_factory=lambda: {way: _Usual() for way in Way})

    def took(self, farmer: bytes, way: Way, length: int, seconds: float) -> None:
        """A transfer of so many bytes was complete after so many seconds."""
        one = self._of(farmer, way)
        rate = (FIXED + length) / max(seconds, 1e-4)
        # A mean of the logarithms: one answer from a cache must not hide many slow ones.
        one.rate = rate if one.rate is None else one.rate ** (1 - _NEWEST) * rate**_NEWEST
        self._usual[way].changes += 1
        others = self._of_others(farmer, way)
        if seconds > NEVER_SLOW and others is not None and rate * FAR_SLOWER < others:
            self._lags(one)
        else:
            one.in_vain, one.strikes, one.until = 0.0, 0, -math.inf

    def late(self, farmer: bytes, way: Way, length: int, seconds: float) -> None:
        """After so many seconds a transfer was not complete, which others would have been."""
        one = self._of(farmer, way)
        one.in_vain += seconds
        if one.in_vain >= IN_VAIN:
            rate = (FIXED + length) / max(seconds, 1e-4)
            one.rate = rate if one.rate is None else min(one.rate, rate)
            self._usual[way].changes += 1
            self._lags(one)

    def lagging(self, farmer: bytes, way: Way) -> bool:
        """Whether to work around it now."""
        one = self._figures[way].get(farmer)
        return one is not None and one.strikes > 0 and self.now() < one.until

    def rate(self, farmer: bytes, way: Way) -> float | None:
        """Bytes per second of one transfer; None where there was none."""
        one = self._figures[way].get(farmer)
        return one.rate if one is not None else None

    def _lags(self, one: _Figures) -> None:
        now = self.now()
        one.in_vain = 0.0
        if now < one.until:
            return  # of the same time, when many were under way at once
        one.strikes = min(one.strikes + 1, 16)
        one.until = now + min(FIRST_REST * 2.0 ** (one.strikes - 1), LONGEST_REST)

    def _of(self, farmer: bytes, way: Way) -> _Figures:
        return self._figures[way].setdefault(farmer, _Figures())

    def _of_others(self, farmer: bytes, way: Way) -> float | None:
        """What is usual; of few farmers, without this one."""
        known = self._figures[way]
        if len(known) <= 16:
            rates = [one.rate for node, one in known.items() if one.rate is not None and node != farmer]
            return median(rates) if rates else None
        usual = self._usual[way]
        if usual.rate is None or usual.changes > len(known):
            usual.changes = 0
            usual.rate = median(one.rate for one in known.values() if one.rate is not None)
        return usual.rate
