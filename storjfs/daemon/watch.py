"""Watching how long single steps of tasks hold the loop.

Every request of a mount is answered on one thread, so whoever computes for long delays everybody. A step is
what a task does from one await that gives way to the next. It is judged by the processor time of the loop's
thread: wall time also counts what other programs took of the machine, and says nothing about this code.
"""

import contextlib
import gc
import logging
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


class Hold(NamedTuple):
    """A step that was too long; times in seconds. `garbage` is the part of `processor` that Python spent on
    collecting garbage. `where`: what was seen running, innermost first; empty where the step ended before
    anybody looked."""

    task: str
    processor: float
    wall: float
    garbage: float
    where: str

    def __str__(self) -> str:
        garbage = f", {self.garbage * 1e3:.0f} of it for garbage" if self.garbage > 0.0005 else ""
        return (
            f"{self.task} held the loop for {self.processor * 1e3:.1f} ms of processor time{garbage}"
            f" ({self.wall * 1e3:.1f} ms in all): {self.where or 'not seen'}"
        )


class Watch(trio.abc.Instrument):
    """Counts steps, and tells `held` of each that takes more than `limit` seconds of processor time.

    Made by `watching`. `holds` keeps the latest; `longest` the longest of all, whether too long or not.
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
        self._processor = self._wall = 0.0
        self._garbage = self._garbage_before = self._collecting_since = 0.0
        self._seen: tuple[int, str] = (0, "")
        self._stop = threading.Event()

    # --- trio's side ---

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.steps += 1
        self._garbage_before = self._garbage
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
        if took > self.limit:
            step, where = self._seen
            garbage = self._garbage - self._garbage_before
            hold = Hold(task.name, took, wall, garbage, where if step == self.steps else "")
            del self.holds[: len(self.holds) - MOST_HOLDS + 1]
            self.holds.append(hold)
            self._held(hold)

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
        """Note what runs whenever one step lasts through two looks."""
        last = 0
        while not self._stop.wait(self.limit / 2):
            step = self.steps
            if self._running and step == last and self._seen[0] != step:
                frame = sys._current_frames().get(self._thread)
                if step == self.steps:
                    self._seen = step, _described(frame)
            last = step

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
