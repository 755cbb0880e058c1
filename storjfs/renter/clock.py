"""Waiting for a moment of the wall clock."""

from collections.abc import Callable

import trio

LONGEST_NAP = 60.0


async def sleep_until(now: Callable[[], float], moment: float) -> None:
    """Return once `now()` (seconds since 1970) has reached `moment`.

    Looks at the clock once a minute at least: it is set, and runs on while a laptop sleeps, which trio's clock
    does not.
    """
    while (left := moment - now()) > 0:
        await trio.sleep(min(max(left, 0.01), LONGEST_NAP))
