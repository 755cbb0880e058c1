"""Whether calls that fail leave garbage that refers to itself, and with it what their callers hold.

A mount looks for such garbage in pauses only, and in 150 MB/s of it no machine lives until then.
"""

import gc
import weakref
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager


class Held:
    """Stands for the buffers of one who calls."""


class Callers:
    """Those who call, and what is left of what each held."""

    def __init__(self) -> None:
        self._held: list[weakref.ref[Held]] = []

    async def fails(self, call: Callable[[], Awaitable[object]], *kinds: type[Exception]) -> None:
        """One who makes this call, which raises one of these."""
        mine = Held()
        self._held.append(weakref.ref(mine))
        try:
            await call()
        except kinds:
            return
        raise AssertionError("it did not fail")

    def left(self) -> int:
        """How many have ended and still hold something."""
        return sum(one() is not None for one in self._held)


@contextmanager
def nothing_left(but: int = 0) -> Iterator[Callers]:
    """At the end of the block all calls in it have ended, and nothing is left of them without a collector,
    `but` for so many that were told last of a state that lasts."""
    gc.collect()
    gc.disable()
    try:
        callers = Callers()
        yield callers
        assert len(callers._held) > 1
        assert callers.left() <= but
    finally:
        gc.enable()
