"""Watching how long single steps of tasks hold the loop.

Every request of a mount is answered on one thread, so whoever computes or waits there delays everybody. A
step is what a task does from one await that gives way to the next. It is judged by the processor time of
the loop's thread and by the time it slept in the kernel, as in a read from a disk. Wall time also counts
what other programs took of the machine, and says nothing about this code: the time in which the thread
could have run and was not let (proc_pid_schedstat(5) counts it), and that in which it waited for a lock,
mostly Python's, whose holder may not have been let run.
"""

import contextlib
import gc
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from time import perf_counter, thread_time
from types import FrameType
from typing import Any, Final, NamedTuple

import trio

log = logging.getLogger(__name__)

VARIABLE: Final = "STORJFS_WATCH_LOOP"
"""Environment variable that turns the watch on in a mount process: the limit in milliseconds."""
MOST_HOLDS: Final = 1000
_PACKAGE: Final = str(Path(__file__).resolve().parents[1])
_INNERMOST: Final = 4
_OFTEN: Final = 0.002
"""Seconds between two looks at least: each takes Python's lock."""


class Hold(NamedTuple):
    """A step that was too long; times in seconds. `garbage` is the part of `processor` that Python spent on
    collecting garbage. `blocked`: asleep in the kernel for anything but a lock, 0 where nobody looked then.
    `where`: what was seen running, innermost first; empty where the step ended before anybody looked."""

    task: str
    processor: float
    blocked: float
    wall: float
    garbage: float
    where: str

    def __str__(self) -> str:
        garbage = f", {self.garbage * 1e3:.0f} of it for garbage" if self.garbage > 0.0005 else ""
        return (
            f"{self.task} held the loop for {self.processor * 1e3:.1f} ms of processor time{garbage},"
            f" and {self.blocked * 1e3:.1f} ms asleep ({self.wall * 1e3:.1f} ms in all):"
            f" {self.where or 'not seen'}"
        )


class _Asleep:
    """What the kernel knows of one thread: the one that makes this. Read by any."""

    def __init__(self) -> None:
        self._schedule = os.open("/proc/thread-self/schedstat", os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._waits_in = os.open("/proc/thread-self/wchan", os.O_RDONLY | os.O_CLOEXEC)
        except BaseException:
            os.close(self._schedule)
            raise

    def close(self) -> None:
        os.close(self._schedule)
        os.close(self._waits_in)

    def queued(self) -> float:
        """Seconds of its life in which it could have run and was not let."""
        return int(os.pread(self._schedule, 100, 0).split()[1]) / 1e9

    def where(self) -> str:
        """The kernel's function it sleeps in, "0" while it does not."""
        return os.pread(self._waits_in, 100, 0).decode("ascii", "replace").strip("\0\n") or "0"


class Watch(trio.abc.Instrument):
    """Counts steps, and tells `held` of each that computes or sleeps for more than `limit` seconds.

    Made by `watching`. `holds` keeps the latest; `longest` is the most processor time and `longest_wall` the
    longest of all steps, whether too long or not.
    """

    def __init__(self, limit: float, held: Callable[[Hold], None]) -> None:
        self.limit = limit
        self.holds: list[Hold] = []
        self.steps = 0
        self.longest = 0.0
        self.longest_wall = 0.0
        self._held = held
        self._thread = threading.get_ident()
        self._running = False
        self._processor = self._wall = self._queued = 0.0
        self._asleep = _Asleep()
        self._looks: tuple[int, int, int] = (0, 0, 0)  # of a step: asleep in the kernel, waiting for a lock
        self._garbage = self._garbage_before = self._collecting_since = 0.0
        self._seen: tuple[int, str] = (0, "")
        self._stop = threading.Event()

    # --- trio's side ---

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.steps += 1
        self._garbage_before = self._garbage
        self._queued = self._asleep.queued()
        self._wall = perf_counter()
        self._processor = thread_time()
        self._running = True

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if not self._running:
            return  # the watch began in the middle of this step
        self._running = False
        took = thread_time() - self._processor
        wall = perf_counter() - self._wall
        self.longest = max(self.longest, took)
        self.longest_wall = max(self.longest_wall, wall)
        if wall <= self.limit:
            return
        blocked = self._blocked(wall - took)
        if took + blocked > self.limit:
            step, where = self._seen
            garbage = self._garbage - self._garbage_before
            hold = Hold(task.name, took, blocked, wall, garbage, where if step == self.steps else "")
            del self.holds[: len(self.holds) - MOST_HOLDS + 1]
            self.holds.append(hold)
            self._held(hold)

    def _blocked(self, idle: float) -> float:
        """The part of a step's `idle` seconds that it slept for something else than a lock, as far as it was
        looked at."""
        step, sleeping, waiting = self._looks
        if step != self.steps or not sleeping:
            return 0.0
        asleep = idle - (self._asleep.queued() - self._queued)
        return max(0.0, asleep) * sleeping / (sleeping + waiting)

    # --- Python's collector of garbage ---

    def _collected(self, phase: str, info: Mapping[str, int]) -> None:
        if threading.get_ident() != self._thread:
            return
        if phase == "start":
            self._collecting_since = thread_time()
        else:
            self._garbage += thread_time() - self._collecting_since

    # --- the thread that looks ---

    def _look(self) -> None:
        """Note what runs, and what it waits for, whenever one step lasts through two looks."""
        last = 0
        while not self._stop.wait(max(self.limit / 4, _OFTEN)):
            step = self.steps
            if self._running and step == last:
                waits_in = self._asleep.where()
                frame = sys._current_frames().get(self._thread) if self._seen[0] != step else None
                if step == self.steps:
                    self._count(step, waits_in)
                    if frame is not None:
                        self._seen = step, _described(frame)
            last = step

    def _count(self, step: int, waits_in: str) -> None:
        before, sleeping, waiting = self._looks
        if before != step:
            sleeping = waiting = 0
        lock = "futex" in waits_in
        self._looks = step, sleeping + (waits_in != "0" and not lock), waiting + lock

    @contextlib.contextmanager
    def _watching(self) -> Iterator["Watch"]:
        looker = threading.Thread(target=self._look, name="storjfs watch", daemon=True)
        trio.lowlevel.add_instrument(self)
        gc.callbacks.append(self._collected)
        looker.start()
        try:
            yield self
        finally:
            trio.lowlevel.remove_instrument(self)
            gc.callbacks.remove(self._collected)
            self._stop.set()
            looker.join()
            self._asleep.close()

    def report(self) -> dict[str, Any]:
        """For the control socket, times in milliseconds."""
        return {
            "limit": self.limit * 1e3,
            "steps": self.steps,
            "longest": self.longest * 1e3,
            "longest_wall": self.longest_wall * 1e3,
            "holds": [
                {
                    "task": hold.task,
                    "processor": hold.processor * 1e3,
                    "blocked": hold.blocked * 1e3,
                    "garbage": hold.garbage * 1e3,
                    "wall": hold.wall * 1e3,
                    "where": hold.where,
                }
                for hold in self.holds
            ],
        }


def watching(
    limit: float, held: Callable[[Hold], None] = lambda hold: None
) -> contextlib.AbstractContextManager[Watch]:
    """Watch the loop that this is called on, from the next step on, until the context is left."""
    return Watch(limit, held)._watching()


def watching_if_asked(asked: str | None) -> contextlib.AbstractContextManager[Watch | None]:
    """As `watching`, with a line in the log for each hold, where `asked` is a limit in milliseconds."""
    if not asked:
        return contextlib.nullcontext()
    return watching(float(asked) / 1e3, lambda hold: log.warning("%s", hold))


def _described(frame: FrameType | None) -> str:
    """The innermost places of this package in a stack."""
    places: list[str] = []
    while frame is not None and len(places) < _INNERMOST:
        code = frame.f_code
        if code.co_filename.startswith(_PACKAGE):
            name = code.co_filename[len(_PACKAGE) + 1 :]
            places.append(f"{name}:{frame.f_lineno} {code.co_name}")
        frame = frame.f_back
    return " < ".join(places)
