"""The watch on the loop."""

import gc
import time

import trio

from storjfs.coding.merkle import shard_root
from storjfs.daemon.watch import Hold, watching, watching_if_asked

LIMIT = 0.02


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


async def test_steps_that_wait_or_are_many_are_not_told() -> None:
    with watching(LIMIT) as watch:
        for _ in range(100):
            await trio.lowlevel.checkpoint()
            compute(LIMIT / 100)
        await trio.lowlevel.checkpoint()
        time.sleep(1.5 * LIMIT)  # noqa: ASYNC251 - it is a step that waits where it should not
        await trio.lowlevel.checkpoint()
    assert watch.longest_wall >= 1.5 * LIMIT
    assert watch.steps > 100
    assert all(hold.processor < 1.4 * LIMIT for hold in watch.holds), "waiting does not count"


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
