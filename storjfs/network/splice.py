"""Two TCP connections joined: what comes from one goes to the other, unread, moved by the kernel."""

import fcntl
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

import trio

PIPE: Final = 256 << 10
"""Bytes of the pipe between two sockets, and of one step."""
LARGE: Final = 64
"""Pipes of that size at a time; others have what the kernel gives, a quarter of it. Its pages are counted by
user: beyond 64 MiB all programs of this one would get pipes of a page or two (pipe(7))."""
_FLAGS: Final = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK

Passing = Callable[[int], Awaitable[None]]
"""Called with each number of bytes that came, before they go on; may wait."""


class Idle(Exception):
    """Nothing has passed for too long."""


async def splice(
    one: trio.SocketStream,
    other: trio.SocketStream,
    *,
    idle: float,
    linger: float,
    from_one: Passing,
    from_other: Passing,
    step: Callable[[], int] = lambda: PIPE,
) -> None:
    """Return when both sides have ended or one is lost; does not close them. Nobody else may use them then.

    `idle`: seconds in which something has to pass, `linger` the same once one side has ended. `step()`: bytes
    that pass at a time, at most. Raises Idle. Cancelled, it may have lost what was on its way.
    """
    life = _Life(idle, linger)
    with life.scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_pump, one, other, from_one, step, life)
            nursery.start_soon(_pump, other, one, from_other, step, life)
    if life.scope.cancelled_caught and not life.lost:
        raise Idle


class _Life:
    """How long the two may go on."""

    __slots__ = ("_idle", "_linger", "lost", "scope")

    def __init__(self, idle: float, linger: float) -> None:
        self._idle, self._linger = idle, linger
        self.lost = False
        self.scope = trio.CancelScope(deadline=trio.current_time() + idle)

    def passed(self) -> None:
        self.scope.deadline = trio.current_time() + self._idle

    def ended(self) -> None:
        """One side sends nothing any more."""
        self._idle = self._linger
        self.passed()

    def end(self) -> None:
        """One side is lost."""
        self.lost = True
        self.scope.cancel()


async def _pump(
    source: trio.SocketStream,
    target: trio.SocketStream,
    passing: Passing,
    step: Callable[[], int],
    life: _Life,
) -> None:
    """Pass on what comes from `source` until it ends; the end too."""
    try:
        with _pipe() as (out, into):
            while count := await _receive(source, into, min(step(), PIPE)):
                await passing(count)
                await _send(out, target, count)
                life.passed()
            life.ended()
            await target.send_eof()
    except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
        life.end()


_large: set[int] = set()
"""Of the pipes of this process that are large, the ends that are written to."""


@contextmanager
def _pipe() -> Iterator[tuple[int, int]]:
    """The two ends of a pipe that nobody waits for. Raises OSError."""
    out, into = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if len(_large) < LARGE:
            with suppress(OSError):  # above what a user may have: then it stays as it is
                fcntl.fcntl(into, fcntl.F_SETPIPE_SZ, PIPE)
                _large.add(into)
        yield out, into
    finally:
        _large.discard(into)
        os.close(out)
        os.close(into)


async def _receive(source: trio.SocketStream, into: int, most: int) -> int:
    while True:
        try:
            count = os.splice(source.socket.fileno(), into, most, flags=_FLAGS)
        except BlockingIOError:
            await trio.lowlevel.wait_readable(source.socket)
        else:
            await trio.lowlevel.checkpoint()
            return count


async def _send(out: int, target: trio.SocketStream, count: int) -> None:
    while count:
        try:
            count -= os.splice(out, target.socket.fileno(), count, flags=_FLAGS)
        except BlockingIOError:
            await trio.lowlevel.wait_writable(target.socket)
