"""Ranges on their way: what fails is forgotten at once, with all that those who waited for it hold."""

import gc
import weakref
from collections.abc import Iterator

import pytest
import trio
import trio.testing

from storjfs.coding.buffers import Buffer
from storjfs.errors import StorjfsError
from storjfs.segments.flights import Flights

SHARD = bytes(16)
COUNT = 4


class Held:
    """Stands for the buffers of one who reads."""


@pytest.fixture
def _nobody_looks_for_garbage() -> Iterator[None]:
    """As in a mount that has work to do."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("_nobody_looks_for_garbage")
async def test_a_failed_range_does_not_keep_the_frames_of_those_who_waited() -> None:
    flights = Flights()
    frames: list[weakref.ref[Held]] = []
    asked, fail = trio.Event(), trio.Event()

    async def ask() -> Buffer:
        asked.set()
        await fail.wait()
        raise StorjfsError("no answer")

    async def read() -> str:
        mine = Held()
        frames.append(weakref.ref(mine))
        try:
            await flights.get(SHARD, 0, COUNT, ask)
        except StorjfsError as error:
            return str(error)
        return ""

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await asked.wait()
        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        fail.set()
    assert [one() for one in frames] == [None, None]
