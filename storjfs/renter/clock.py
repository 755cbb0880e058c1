"""Waiting for a moment of the wall clock."""

from collections.abc import Callable

import trio

LONGEST_NAP = 60.0


class EverMoreSeldom:
    """What is to be done for a thing at once, then after `first` seconds, and after twice as long each time,
    up to `longest`: for what hardly ever changes any more, of which there are ever more."""

    def __init__(self, first: float = 60.0, longest: float = 86400.0) -> None:
        self._first = first
        self._longest = longest
        self._next: dict[int, tuple[float, float]] = {}

    def due(self, thing: int, now: float) -> bool:
        """Whether it is time; if so the next time is later."""
        at, pause = self._next.get(thing, (now, self._first))
        if now < at:
            return False
        self._next[thing] = now + pause, min(2 * pause, self._longest)
        return True


async def sleep_until(now: Callable[[], float], moment: float) -> None:
    """Return once `now()` (seconds since 1970) has reached `moment`.

    Looks at the clock once a minute at least: it may be set, and it runs on while a laptop sleeps, which
    trio's clock does not.
    """
    while (left := moment - now()) > 0:  # noqa: ASYNC110 - no event tells of a clock
        await trio.sleep(min(max(left, 0.01), LONGEST_NAP))
