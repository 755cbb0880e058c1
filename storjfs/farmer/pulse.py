"""Whether the farmer really works: the loop turns, the records commit, the disk takes and gives bytes back.

And whether its clock can be trusted, for contracts and vouchers go by time.
"""

import ctypes
import errno
import logging
import time
from collections.abc import Callable
from typing import Final

import apsw
import msgspec
import trio

from storjfs.farmer.history import History
from storjfs.farmer.shelf import Shelf

log = logging.getLogger(__name__)

FULL: Final = (errno.ENOSPC, errno.EDQUOT)
STEP: Final = 30.0
"""Seconds by which the clock may be set at once without a word."""
NAP: Final = 120.0
"""Seconds for which the machine may have slept without a word."""
_TIME_ERROR: Final = 5
_TIMEX_ROOM: Final = 512


class Heartbeat(msgspec.Struct, frozen=True):
    """How the last look went."""

    at: float
    """Seconds since 1970."""
    took: float
    """Seconds."""
    works: bool
    full: bool = False
    """The disk works and has no room: that is not for a restart to mend."""
    problem: str = ""
    read_only: bool = False
    """The disk says that it fails: nothing is taken in, and that is not for a restart to mend either."""


class Pulse:
    """Looks at one farmer. `beat` may be made again and again, one at a time."""

    def __init__(self, history: History, shelf: Shelf, clock: Callable[[], float] = time.time) -> None:
        self._history = history
        self._shelf = shelf
        self._clock = clock
        self._limiter = trio.CapacityLimiter(1)
        self.last: Heartbeat | None = None

    async def beat(self) -> Heartbeat:
        """Commit to farmer.db, and write, sync and read on the shelf's disk.

        Does not return while one of them hangs; that is what a watchdog is for.
        """
        began = trio.current_time()
        problem, full, read_only = "", False, False
        try:
            await self._history.fold(force=True)
            await trio.to_thread.run_sync(probe, self._shelf, limiter=self._limiter)
            if self._shelf.read_only:
                await trio.to_thread.run_sync(self._shelf.try_again, limiter=self._limiter)
        except apsw.FullError as error:
            problem, full = f"farmer.db cannot grow: {error}", True
        except OSError as error:
            problem = f"{self._shelf.folder}: {error.strerror or error}"
            full = error.errno in FULL
            read_only = self._shelf.failed(error)
        except Exception as error:
            problem = f"farmer.db: {error}"
            read_only = self._shelf.failed(error)
        if self._shelf.read_only and not problem:
            problem, read_only = self._shelf.read_only, True
        if problem and (self.last is None or problem != self.last.problem):
            log.error("the disk does not work as it should: %s", problem)
        took = trio.current_time() - began
        self.last = Heartbeat(self._clock(), took, full or not problem, full, problem, read_only)
        return self.last


def probe(shelf: Shelf) -> None:
    """Write a few bytes to the shelf's disk, sync them, read them back. Blocking. Raises OSError."""
    if not shelf.present:
        raise OSError(errno.ENODEV, "the disk is not there")
    if not shelf.disk.probe(shelf.folder / "pulse"):
        raise OSError(errno.EIO, "what was written is not what is read")


class ClockWatch:
    """Notices a clock that was set, a machine that slept, and time that went back since the last run.

    `newest`: the latest moment that farmer.db knows, seconds since 1970.
    """

    def __init__(
        self,
        newest: float,
        wall: Callable[[], float] = time.time,
        boot: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
        awake: Callable[[], float] = time.monotonic,
    ) -> None:
        self._wall, self._boot, self._awake = wall, boot, awake
        self._before = wall(), boot(), awake()
        behind = newest - wall()
        self.set_back = max(behind, 0.0) if behind > STEP else 0.0
        """Seconds by which it is now earlier than it was before: the clock was wrong, or is."""
        self.step = 0.0
        """Seconds by which the clock was set last, while the farmer ran."""
        self.slept = 0.0
        """Seconds for which the machine slept last."""

    def look(self) -> None:
        """Compare with the look before."""
        now = self._wall(), self._boot(), self._awake()
        wall, boot, awake = (new - old for new, old in zip(now, self._before, strict=True))
        self._before = now
        if abs(wall - boot) > STEP:
            self.step = wall - boot
            log.warning("the clock was set by %+.0f s", self.step)
            self.set_back = max(self.set_back - self.step, 0.0) if self.set_back else 0.0
        if boot - awake > NAP:
            self.slept = boot - awake
            log.warning("the machine slept for %.0f s; no audit was answered meanwhile", self.slept)


def is_synchronised() -> bool | None:
    """Whether something keeps the kernel's clock right (adjtimex(2)); None if it will not say."""
    try:
        state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.create_string_buffer(_TIMEX_ROOM))
    except (AttributeError, OSError):
        return None
    return None if state < 0 else state != _TIME_ERROR
