"""Garbage that refers to itself goes, and looking for it keeps nobody waiting."""

import gc
import time
import weakref
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from storjfs.daemon import garbage


class Knot:
    """Refers to itself, so only the collector finds it."""

    def __init__(self) -> None:
        self.me = self


def knots(count: int = 10) -> tuple[list[Knot], "weakref.ref[Knot]"]:
    made = [Knot() for _ in range(count)]
    return made, weakref.ref(made[0])


def compute(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


async def be_busy(seconds: float) -> None:
    """Leave no pause for so long."""
    end = trio.current_time() + seconds
    while trio.current_time() < end:
        compute(garbage.STEP * garbage.IDLE * 1.1)
        await trio.sleep(garbage.STEP / 2)


@asynccontextmanager
async def collecting() -> AsyncIterator[None]:
    """Garbage is looked for in this block."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(garbage.collect_garbage)
        yield
        nursery.cancel_scope.cancel()


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    yield
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


async def test_in_a_pause_what_is_new_is_looked_through_soon(autojump_clock: trio.testing.MockClock) -> None:
    async with collecting():
        await trio.testing.wait_all_tasks_blocked()
        assert not gc.isenabled()
        made, one = knots()
        del made
        await trio.sleep(2 * garbage.STEP)
        assert one() is None


async def test_what_was_made_during_work_is_looked_through_in_a_pause(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(garbage, "EVERYTHING", 5.0)
    async with collecting():
        await be_busy(1)
        made, one = knots()
        del made
        await be_busy(10)
        assert one() is not None, "there was work to do"
        await trio.sleep(2 * garbage.STEP)
        assert one() is None


async def test_requests_that_come_slowly_leave_no_pause(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They take hardly any of the processor, but each would have to wait."""
    waits = 0
    monkeypatch.setattr(garbage, "EVERYTHING", 5.0)
    monkeypatch.setattr(garbage, "_waits", lambda: waits)
    async with collecting():
        await trio.testing.wait_all_tasks_blocked()
        await be_busy(1)
        made, one = knots()
        del made
        for _ in range(80):
            waits += garbage.QUIET
            await trio.sleep(garbage.STEP / 4)
        assert one() is not None
        await trio.sleep(3 * garbage.STEP)
        assert one() is None


async def test_but_it_does_not_wait_for_a_pause_for_ever(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(garbage, "PATIENCE", 5.0)
    async with collecting():
        await be_busy(1)
        made, one = knots()
        del made
        await be_busy(10)
        assert one() is None


async def test_nor_while_the_process_grows_by_much(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = garbage.GROWTH
    monkeypatch.setattr(garbage, "_resident", lambda: size)
    async with collecting():
        await be_busy(1)
        made, one = knots()
        del made
        size += garbage.GROWTH - 1
        await be_busy(10)
        assert one() is not None
        size += 1
        await be_busy(1)
        assert one() is None


def test_its_own_memory_is_seen_to_grow() -> None:
    before = garbage._resident()
    much = bytearray(b"x") * (32 << 20)
    assert garbage._resident() - before >= len(much) // 2
