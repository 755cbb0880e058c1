"""Waiting for a moment of the wall clock."""

from collections.abc import Callable

import trio

LONGEST_NAP = 60.0


async def sleep_until(now: Callable[[], float], moment: float) -> None:
    """Return once `now()` (seconds since 1970) has reached `moment`.

    Looks at the clock once a minute at least: it may be set, and it runs on while a laptop sleeps, which
    trio's clock does not.
    """
    while (left := moment - now()) > 0:  # noqa: ASYNC110 - no event tells of a clock
        await trio.sleep(min(max(left, 0.01), LONGEST_NAP))
