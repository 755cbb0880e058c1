"""A killed program must be able to end, although its request waits here.

The kernel lets even a killed program wait for the answer to a request that we have taken, and libfuse keeps
to itself that the kernel asked for it to be given up (FUSE_INTERRUPT). Most requests wait for a bounded time.
For one that may wait without end we look every second whether the program that opened the file is being
killed: such a program is gone in a moment, unless it waits for us.
"""

import errno
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from storjfs.errors import FilesystemError

PERIOD = 1.0  # seconds
SIGKILL_BIT = 1 << 8
PROC = Path("/proc")


async def unless_killed(opener: int, wait: Callable[[], Awaitable[None]]) -> None:
    """Await `wait()`, and cancel it with EINTR if the process with the thread `opener` is being killed.

    Any signal whose default is to end a process shows as SIGKILL in the end. A process that cannot be found
    (it ended, or lives in another namespace) is not watched.
    """
    process = _process_of(opener)
    if process is None:
        await wait()
        return
    killed = False

    async def watch(scope: trio.CancelScope) -> None:
        nonlocal killed
        seen = 0
        while seen < 2:
            await trio.sleep(PERIOD)
            seen = seen + 1 if is_being_killed(process) else 0
        killed = True
        scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch, nursery.cancel_scope)
        await wait()
        nursery.cancel_scope.cancel()
    if killed:
        raise FilesystemError(errno.EINTR)


def is_being_killed(process: int) -> bool:
    """Whether a fatal signal is pending for any thread of the process."""
    try:
        return any(
            int(_field(status, "SigPnd"), 16) & SIGKILL_BIT
            for status in PROC.glob(f"{process}/task/*/status")
        )
    except (OSError, ValueError):
        return False  # it has just ended


def _process_of(thread: int) -> int | None:
    try:
        return int(_field(PROC / str(thread) / "status", "Tgid"))
    except (OSError, ValueError):
        return None


def _field(status: Path, name: str) -> str:
    for line in status.read_text().splitlines():
        if line.startswith(name + ":"):
            return line.split()[1]
    raise ValueError(name)
