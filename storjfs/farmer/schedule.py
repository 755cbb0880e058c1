"""Rates and times of day as people write them: `20Mbit`, `08:00-23:00`, `Mon-Fri 22:00-06:00`. Pure."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from typing import Final, Self

from storjfs.volume.errors import SettingsError

MINUTES: Final = 24 * 60
DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
SLOWEST: Final = 125_000
"""Bytes per second of the lowest limit: below 1 Mbit/s transfers would be taken for stalled."""

_RATE = re.compile(r"\s*(\d{1,9}(?:\.\d{1,6})?)\s*([kMG](?:bit|B))\s*", re.ASCII | re.IGNORECASE)
_RATE_UNITS: Final = {
    "kbit": 125,
    "mbit": 125_000,
    "gbit": 125_000_000,
    "kb": 1000,
    "mb": 1_000_000,
    "gb": 1_000_000_000,
}
_SPAN = re.compile(r"(\d{1,2}):(\d{2})\s*-\s*(\d{1,2}):(\d{2})", re.ASCII)

WallClock = Callable[[float], datetime]
"""Local time at a moment given in seconds since 1970."""


@dataclass(frozen=True, slots=True)
class Limit:
    """Bytes per second that shards may take on the line, in each direction."""

    sent: int
    received: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """`20Mbit` for both directions, `10Mbit/50Mbit` for sent and received. Raises SettingsError."""
        sent, slash, received = text.partition("/")
        return cls(_parse_rate(sent), _parse_rate(received if slash else sent))

    def __str__(self) -> str:
        sent, received = show_rate(self.sent), show_rate(self.received)
        return sent if sent == received else f"{sent}/{received}"


def _parse_rate(text: str) -> int:
    found = _RATE.fullmatch(text)
    if found is None:
        raise SettingsError(f"{text!r} is not a rate", hint='Write it as in "20Mbit" (8 Mbit are 1 MB).')
    rate = int(Fraction(found[1]) * _RATE_UNITS[found[2].lower()])
    if rate < SLOWEST:
        raise SettingsError(
            f"a limit of {text.strip()} is too low for shards to arrive in time", hint="1Mbit is the lowest."
        )
    return rate


def show_rate(rate: int) -> str:
    """The shortest text from which exactly this rate (bytes per second) is read."""
    for unit in ("Gbit", "Mbit", "kbit"):
        if rate % _RATE_UNITS[unit.lower()] == 0:
            return f"{rate // _RATE_UNITS[unit.lower()]}{unit}"
    return f"{Decimal(rate) / 1000}kB"


@dataclass(frozen=True, slots=True)
class Span:
    """From minute `start` of a day up to minute `end`; past midnight where `end` is not after `start`.

    `days` are those on which it begins, 0 for Monday.
    """

    start: int
    end: int
    days: frozenset[int] = frozenset(range(7))

    def covers(self, local: datetime) -> bool:
        """Whether wall clock time `local` lies in it."""
        minute, today = local.hour * 60 + local.minute, local.weekday()
        if self.start < self.end:
            return today in self.days and self.start <= minute < self.end
        return (today in self.days and minute >= self.start) or (
            (today - 1) % 7 in self.days and minute < self.end
        )


@dataclass(frozen=True, slots=True)
class Schedule:
    """When a limit holds: in any of the spans; always where there are none.

    A rule of wall clock times: what summer time repeats is covered twice, what it skips never comes.
    """

    spans: tuple[Span, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """`08:00-23:00`, `Mon-Fri 08:00-23:00; Sat,Sun 22:00-06:00`. Raises SettingsError."""
        spans = []
        for part in text.split(";"):
            days, _, times = part.strip().rpartition(" ")
            spans.append(_parse_span(times, _parse_days(days)))
        return cls(tuple(spans))

    def holds(self, local: datetime) -> bool:
        """Whether the limit holds at wall clock time `local`."""
        return not self.spans or any(span.covers(local) for span in self.spans)

    def __str__(self) -> str:
        return "; ".join(map(_show_span, self.spans))


ALWAYS: Final = Schedule()


def _no_schedule(text: str) -> SettingsError:
    return SettingsError(
        f"{text!r} is not a schedule", hint='Write it as in "08:00-23:00" or "Mon-Fri 08:00-23:00".'
    )


def _parse_span(text: str, days: frozenset[int]) -> Span:
    found = _SPAN.fullmatch(text)
    if found is None:
        raise _no_schedule(text)
    hours = int(found[1]), int(found[3])
    minutes = int(found[2]), int(found[4])
    start, end = (hour * 60 + minute for hour, minute in zip(hours, minutes, strict=True))
    if start >= MINUTES or end > MINUTES or max(minutes) > 59:
        raise SettingsError(f"{text!r} names a time that no day has", hint="Times go from 00:00 to 24:00.")
    if start == end:
        raise SettingsError(f"{text!r} is no time at all", hint='Write "00:00-24:00" for whole days.')
    return Span(start, end, days)


def _parse_days(text: str) -> frozenset[int]:
    if not text.strip():
        return frozenset(range(7))
    days: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        try:
            start = DAYS.index(first.capitalize())
            end = DAYS.index(last.capitalize()) if dash else start
        except ValueError:
            raise _no_schedule(text) from None
        days.update((start + step) % 7 for step in range((end - start) % 7 + 1))
    return frozenset(days)


def _show_span(span: Span) -> str:
    times = f"{span.start // 60:02}:{span.start % 60:02}-{span.end // 60:02}:{span.end % 60:02}"
    if len(span.days) == 7:
        return times
    return f"{','.join(DAYS[day] for day in sorted(span.days))} {times}"
