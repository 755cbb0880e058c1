"""When Python looks for garbage that refers to itself.

By itself it looks through everything that lives now and then, 40 ms once the caches are full, in the middle
of a request. Here it looks in pauses only: each time at what was made in the last half second, and now and
then at everything. What is made while there is work to do waits for that, which costs memory and nobody's
time; what does not refer to itself, and that is nearly everything, goes at once anyway. Only when the process
has grown by much since the last look at everything is there one in the middle of work: what a mistake ties
into such knots may hold buffers, and must not fill the machine's memory until there is a pause.
"""

import gc
import logging
import resource
from time import thread_time
from typing import Final

import trio

log = logging.getLogger(__name__)

STEP: Final = 0.5
"""Seconds between two looks at what is new, and those over which is judged whether there is work to do."""
IDLE: Final = 0.04
"""Share of them that the loop may be busy in a pause."""
QUIET: Final = 25
"""Times that the loop may wait for something in a pause, its own timers included. On a machine that is busy
with other things requests may come so slowly that they take less than that share, and would still wait."""
EVERYTHING: Final = 600.0
"""Seconds after which a pause is used to look through everything, if anything was left out since."""
PATIENCE: Final = 3600.0
"""Seconds after which that no longer waits for a pause."""
GROWTH: Final = 128 << 20
"""Bytes that the process may have grown by since then before that does not wait either."""


async def collect_garbage() -> None:
    """Take the matter from Python until cancelled."""
    gc.disable()
    gc.freeze()
    last, left_out, size = trio.current_time(), False, _resident()
    try:
        while True:
            before, waits = thread_time(), _waits()
            await trio.sleep(STEP)
            paused = thread_time() - before < STEP * IDLE and _waits() - waits < QUIET
            overdue = trio.current_time() >= last + (EVERYTHING if paused else PATIENCE)
            if left_out and (overdue or _resident() >= size + GROWTH):
                _look_through_everything()
                last, left_out, size = trio.current_time(), False, _resident()
                continue
            if paused:
                gc.collect(0)
            else:
                left_out = True
            gc.freeze()  # moves them out of sight, whatever their number, at no cost
    finally:
        gc.unfreeze()
        gc.enable()


def _waits() -> int:
    """How often this thread has waited so far; see getrusage(2)."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw


def _resident() -> int:
    """Bytes of memory that this process has; see proc(5)."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def _look_through_everything() -> None:
    began = thread_time()
    gc.unfreeze()
    found = gc.collect()
    gc.freeze()
    log.debug("%d objects of garbage found in %.0f ms", found, (thread_time() - began) * 1e3)
