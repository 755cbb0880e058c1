"""The watch on the loop."""

import gc
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import trio

from storjfs.coding.merkle import shard_root
from storjfs.daemon.watch import Hold, Watch, watching, watching_if_asked

LIMIT = 0.02
SPIN = "import os, sys; os.sched_setaffinity(0, {int(sys.argv[1])}); print(flush=True)\nwhile True: pass"


def compute(seconds: float) -> None:
    """Use the processor for so long, whatever else runs."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


async def test_a_step_that_computes_for_long_is_told_with_its_task() -> None:
    told: list[Hold] = []

    async def busy() -> None:
        await trio.lowlevel.checkpoint()
        compute(1.5 * LIMIT)

    with watching(LIMIT, told.append) as watch:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(busy, name="the busy one")
    assert [hold.task for hold in told] == ["the busy one"]
    assert watch.holds == told
    assert watch.longest >= told[0].processor >= 1.5 * LIMIT
    assert "the busy one held the loop" in str(told[0])
    (reported,) = watch.report()["holds"]
    assert reported["task"] == "the busy one"


async def test_the_place_is_seen_while_it_lasts() -> None:
    with watching(LIMIT) as watch:
        await trio.lowlevel.checkpoint()
        block = bytes(1 << 20)
        end = time.monotonic() + 60
        while "merkle.py" not in watch._seen[1] and time.monotonic() < end:
            shard_root(block)
        compute(1.5 * LIMIT)  # what was seen before belongs to the same step
        await trio.lowlevel.checkpoint()
    assert "coding/merkle.py" in watch.holds[0].where


async def caught(work: Callable[[], object]) -> Hold:
    """The hold that a step with `work` is. On a busy machine the thread that looks may come too late for one:
    then for another."""
    told: list[Hold] = []

    async def run() -> None:
        while not any(hold.task == "to be caught" for hold in told):
            await trio.lowlevel.checkpoint()
            work()

    with watching(0.010, told.append), trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, name="to be caught")
    return next(hold for hold in told if hold.task == "to be caught")


async def test_a_step_that_computes_for_15_ms_is_caught() -> None:
    hold = await caught(lambda: compute(0.015))
    assert hold.processor >= 0.015


async def test_a_step_that_sleeps_for_15_ms_is_caught() -> None:
    hold = await caught(lambda: time.sleep(0.015))
    assert hold.processor < 0.010 < hold.blocked <= hold.wall


async def test_a_step_that_waits_15_ms_for_a_read_is_caught() -> None:
    reading, writing = os.pipe()
    asked = queue.SimpleQueue[bool]()

    def answer() -> None:
        while asked.get():
            time.sleep(0.015)
            os.write(writing, b"x")

    def read() -> None:
        asked.put(True)
        os.read(reading, 1)

    slow = threading.Thread(target=answer)
    slow.start()
    try:
        hold = await caught(read)
    finally:
        asked.put(False)
        slow.join()
        os.close(reading)
        os.close(writing)
    assert hold.processor < 0.010 < hold.blocked <= hold.wall


async def test_many_short_steps_are_not_told() -> None:
    with watching(LIMIT) as watch:
        for _ in range(100):
            await trio.lowlevel.checkpoint()
            compute(LIMIT / 100)
        await trio.lowlevel.checkpoint()
    assert watch.steps > 100
    assert not watch.holds


async def long_enough(watch: Watch) -> None:
    """Short computations until one of them took much longer than it should."""
    with trio.fail_after(60):
        while watch.longest_wall < 1.5 * LIMIT:
            await trio.lowlevel.checkpoint()
            compute(LIMIT / 2)
            await trio.lowlevel.checkpoint()


async def test_a_thread_that_is_not_let_run_is_not_told() -> None:
    """Another program has the processor."""
    allowed = os.sched_getaffinity(0)
    others = []
    try:
        for _ in range(3):
            command = [sys.executable, "-c", SPIN, str(min(allowed))]
            others.append(subprocess.Popen(command, stdout=subprocess.PIPE))  # noqa: ASYNC220 - quick enough
        for other in others:
            assert other.stdout is not None
            other.stdout.readline()
        os.sched_setaffinity(0, {min(allowed)})
        with watching(LIMIT) as watch:
            await long_enough(watch)
    finally:
        os.sched_setaffinity(0, allowed)
        for other in others:
            other.kill()
            other.wait()
            assert other.stdout is not None
            other.stdout.close()
    assert not watch.holds


async def test_waiting_for_pythons_lock_is_not_told() -> None:
    """Another thread has it, which may not be let run either."""
    done = threading.Event()

    def spin() -> None:
        while not done.is_set():
            pass

    before = sys.getswitchinterval()
    sys.setswitchinterval(2 * LIMIT)
    other = threading.Thread(target=spin)
    other.start()
    try:
        with watching(LIMIT) as watch, trio.fail_after(60):
            while watch.longest_wall < 1.5 * LIMIT:
                await trio.lowlevel.checkpoint()
                os.stat("/")  # gives the lock away
                await trio.lowlevel.checkpoint()
    finally:
        done.set()
        other.join()
        sys.setswitchinterval(before)
    assert not watch.holds


async def test_time_for_garbage_is_told_apart() -> None:
    with watching(LIMIT / 100) as watch:
        await trio.lowlevel.checkpoint()
        gc.collect()
        await trio.lowlevel.checkpoint()
    hold = max(watch.holds)
    assert 0 < hold.garbage <= hold.processor


def test_nobody_watches_unless_asked() -> None:
    with watching_if_asked(None) as watch:
        assert watch is None
    with watching_if_asked("") as watch:
        assert watch is None
