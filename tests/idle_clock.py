"""A clock that jumps to the next deadline once nothing is left to do; threads at work are something to do."""

import math
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing

SETTLING: float = 0.02
"""Real seconds for which nothing must happen before it jumps: threads of other kinds are not seen."""


def idle_clock(patch: pytest.MonkeyPatch) -> trio.testing.MockClock:
    """A new one; it stands still while `trio.to_thread.run_sync` runs something, however slow the machine is.

    Where trio's own clock is told to jump after a moment of idleness, a thread that takes longer than that
    moment costs whatever time is left to the next deadline.
    """
    clock = trio.testing.MockClock(autojump_threshold=SETTLING)
    original: Callable[..., Awaitable[Any]] = trio.to_thread.run_sync
    working = 0

    async def run_sync(*args: Any, **options: Any) -> Any:
        nonlocal working
        working += 1
        clock.autojump_threshold = math.inf
        try:
            return await original(*args, **options)
        finally:
            working -= 1
            if not working:
                clock.autojump_threshold = SETTLING

    patch.setattr(trio.to_thread, "run_sync", run_sync)
    return clock
