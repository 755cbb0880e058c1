"""Reads and uploads that fail again and again, while farmers are away, take no memory."""

import trio
import trio.testing

from storjfs.coding.buffers import Buffer
from storjfs.errors import StorjfsError
from storjfs.segments import SegmentUnreadable
from storjfs.segments.flights import Flights
from storjfs.segments.together import all_of
from tests.letting_go import nothing_left
from tests.segments.conftest import Volume


async def test_a_range_that_several_wait_for() -> None:
    flights = Flights()
    asked, fail = trio.Event(), trio.Event()

    async def ask() -> Buffer:
        asked.set()
        await fail.wait()
        raise StorjfsError("no answer")

    with nothing_left() as callers:
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(callers.fails, lambda: flights.get(bytes(16), 0, 4, ask), StorjfsError)
                await asked.wait()
            await trio.testing.wait_all_tasks_blocked()
            fail.set()


async def test_several_calls_of_which_one_fails() -> None:
    async def fail() -> None:
        await trio.lowlevel.checkpoint()
        raise StorjfsError("no")

    with nothing_left() as callers:
        for _ in range(2):
            await callers.fails(lambda: all_of(fail, trio.sleep_forever), StorjfsError)


async def test_a_read_of_what_cannot_be_had(volume: Volume) -> None:
    volume.outage = 0.0
    async with volume.running() as segments:
        (run,) = volume.append_random(5000)
        await segments.flush()
    volume.drop_cache()
    async with volume.running():
        volume.farm.go(online=False)
        with nothing_left() as callers:
            async with trio.open_nursery() as nursery:
                for _ in range(2):
                    nursery.start_soon(callers.fails, lambda: volume.read(run), SegmentUnreadable)
