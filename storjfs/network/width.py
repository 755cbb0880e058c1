"""How many data connections to one peer are worth having: one more while that brings more, half after a
stall.

Pure. Over a long line one connection does not fill it; over a short one, or to a peer that is busy, more of
them only cost memory at both ends. The count climbs by one where transfers wait for a connection, stays where
the last step brought something, and goes back where it did not; it is tried again after a while.
"""

from typing import Final

LEAST: Final = 1
FIRST: Final = 3
MOST: Final = 8
"""A farmer lets a renter have 16 connections unless told otherwise, and one of them is for requests."""
WORTH: Final = 0.5
"""One more connection has to bring so much of what each of the others does."""
TRANSFERS: Final = 16
"""Per connection: what is counted before it is judged."""
SECONDS: Final = 0.5
"""And so long at least."""
CONTENT: Final = 8
"""Judgements to wait before a step is tried again that brought nothing; twice as many each time, up to 64."""


class Width:
    """Feed it what happens; `count` is the number of connections to have."""

    def __init__(self, first: int = FIRST) -> None:
        self.count = first
        self._before: float | None = None
        """Bytes per second with one connection less, where the last step is being tried."""
        self._wait = 0
        self._content = CONTENT
        self._restart(None)

    def done(self, now: float, length: int, *, waiting: bool) -> None:
        """A transfer of so many bytes is complete; `waiting`: others wait for a connection."""
        if not waiting:
            # All have what they want, so the rate says what is wanted, not what could be had.
            self._restart(None)
            return
        if self._since is None:
            self._restart(now)
            return
        self._bytes += length
        self._transfers += 1
        seconds = now - self._since
        if self._transfers >= TRANSFERS * self.count and seconds >= SECONDS:
            self._judge(self._bytes / seconds)
            self._restart(now)

    def stalled(self) -> None:
        """A transfer got stuck: there is no use in more of them."""
        self.count = max(self.count // 2, LEAST)
        self._before = None
        self._restart(None)

    def _judge(self, rate: float) -> None:
        if self._before is not None and rate < (1 + WORTH / (self.count - 1)) * self._before:
            self.count -= 1
            self._before = None
            self._wait, self._content = self._content, min(2 * self._content, 64)
            return
        if self._before is not None:
            self._content = CONTENT
        if self._wait:
            self._wait -= 1
            self._before = None
        elif self.count < MOST:
            self.count += 1
            self._before = rate
        else:
            self._before = None

    def _restart(self, now: float | None) -> None:
        self._since = now
        self._bytes = self._transfers = 0
