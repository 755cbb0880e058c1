"""A cheaper way for pyfuse3 to wait for the next request.

pyfuse3 looks up the event loop as its global `trio` and lets it be replaced (that is how its asyncio support
works). By default each request costs a trip through the scheduler for the lock that its workers share, and a
registration with epoll. Here a free lock is taken at once, and a descriptor that is readable already is not
waited for; every `PATIENCE`-th wait goes through the loop all the same, so that other tasks get their turn.
With four clients that call stat(2) at once this doubles the rate (12,000 to 25,000 per second).
"""

import collections
import select
import types
from typing import Any

import pyfuse3
import trio
from outcome import Value

from .connection import Connection

PATIENCE = 16


class Turn:
    """A first-come-first-served lock that is no checkpoint when it is free."""

    __slots__ = ("_held", "_queue")

    def __init__(self) -> None:
        self._held = False
        self._queue: collections.deque[trio.lowlevel.Task] = collections.deque()

    async def __aenter__(self) -> None:
        if not self._held:
            self._held = True
            return
        task = trio.lowlevel.current_task()
        self._queue.append(task)

        def leave(_: Any) -> trio.lowlevel.Abort:
            self._queue.remove(task)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(leave)

    async def __aexit__(self, *_: object) -> None:
        if self._queue:
            trio.lowlevel.reschedule(self._queue.popleft(), Value(None))
        else:
            self._held = False


class Readiness:
    """`wait_readable` for the one descriptor of the session; sees the handshake through first."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._poll: select.poll | None = None
        self._waits = 0

    async def __call__(self, descriptor: int) -> None:
        self._waits += 1
        if self._poll is None:
            if self._waits == 1:
                self._connection.offer()
                return
            # libfuse answers INIT without waiting for anything, so its answer is there.
            self._connection.agree()
            self._poll = select.poll()
            self._poll.register(descriptor, select.POLLIN)
        elif self._waits % PATIENCE and self._poll.poll(0):
            return
        await trio.lowlevel.wait_readable(descriptor)


def install(connection: Connection) -> None:
    """Make pyfuse3 wait this way, for the one session that will be on `connection`."""
    lowlevel = types.SimpleNamespace(
        wait_readable=Readiness(connection),
        notify_closing=trio.lowlevel.notify_closing,
        current_task=trio.lowlevel.current_task,
        current_trio_token=trio.lowlevel.current_trio_token,
    )
    pyfuse3.trio = types.SimpleNamespace(  # type: ignore[attr-defined]
        Lock=Turn,
        lowlevel=lowlevel,
        open_nursery=trio.open_nursery,
        ClosedResourceError=trio.ClosedResourceError,
    )
