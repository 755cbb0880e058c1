"""A heartbeat comes only where loop, records and disk work; a clock that moves is noticed."""

import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from storjfs.farmer.disk import Disk
from storjfs.farmer.farmer import Farmer
from storjfs.farmer.pulse import ClockWatch, Pulse, is_synchronised
from tests.farmer.renter import farming


class MoodyDisk(Disk):
    """Fails as it is told to."""

    error = 0
    lies = False

    def probe(self, path: Path) -> bool:
        if self.error:
            raise OSError(self.error, "as the test wants it")
        return super().probe(path) and not self.lies


@asynccontextmanager
async def pulse(folder: Path) -> AsyncIterator[tuple[Pulse, MoodyDisk, Farmer]]:
    disk = MoodyDisk()
    async with farming(folder, disk=disk) as farmer:
        yield Pulse(farmer.book.history, farmer.shelf), disk, farmer


async def test_beats_while_all_works(tmp_path: Path) -> None:
    async with pulse(tmp_path) as (heart, _, farmer):
        before = heart.last
        beat = await heart.beat()
        assert before is None
        assert (beat.works, beat.full, beat.problem) == (True, False, "")
        assert heart.last is beat
        assert (farmer.folder / "shelf" / "pulse").stat().st_size == 4096
        with trio.fail_after(60):
            while not (lives := farmer.book.history.lives()):  # noqa: ASYNC110 - it has just begun
                await trio.sleep(0.01)
        assert lives[0].seen >= int(beat.at) - 1


@pytest.mark.parametrize("number", [errno.EIO, errno.EROFS])
async def test_disk_that_fails_stops_it(tmp_path: Path, number: int) -> None:
    async with pulse(tmp_path) as (heart, disk, _):
        disk.error = number
        beat = await heart.beat()
        assert not beat.works
        assert "as the test wants it" in beat.problem
        disk.error = 0
        assert (await heart.beat()).works


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
async def test_full_disk_works_and_is_told(tmp_path: Path, number: int) -> None:
    async with pulse(tmp_path) as (heart, disk, _):
        disk.error = number
        beat = await heart.beat()
        assert beat.works
        assert beat.full


async def test_disk_that_forgets_stops_it(tmp_path: Path) -> None:
    async with pulse(tmp_path) as (heart, disk, _):
        disk.lies = True
        assert not (await heart.beat()).works


async def test_records_that_do_not_commit_stop_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with pulse(tmp_path) as (heart, _, farmer):
        with monkeypatch.context() as broken:

            async def fail(*_: object, **__: object) -> None:
                raise RuntimeError("no longer written")

            broken.setattr(farmer.records, "commit", fail)
            assert not (await heart.beat()).works
        assert (await heart.beat()).works


async def test_records_that_hang_give_no_beat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with pulse(tmp_path) as (heart, _, farmer):
        await heart.beat()

        async def hang(*_: object, **__: object) -> None:
            await trio.sleep_forever()

        with monkeypatch.context() as broken:
            broken.setattr(farmer.records, "commit", hang)
            async with trio.open_nursery() as nursery:
                before = heart.last
                nursery.start_soon(heart.beat)
                await trio.testing.wait_all_tasks_blocked(0.1)
                assert heart.last is before
                nursery.cancel_scope.cancel()


class Clocks:
    def __init__(self) -> None:
        self.wall = 1_000_000.0
        self.boot = self.awake = 500.0

    def watch(self, newest: float = 0.0) -> ClockWatch:
        return ClockWatch(newest, lambda: self.wall, lambda: self.boot, lambda: self.awake)

    def go(self, seconds: float, *, stepped: float = 0.0, slept: float = 0.0) -> None:
        self.wall += seconds + stepped + slept
        self.boot += seconds + slept
        self.awake += seconds


def test_clock_that_only_goes_says_nothing() -> None:
    clocks = Clocks()
    watch = clocks.watch(clocks.wall)
    for _ in range(100):
        clocks.go(60, stepped=0.5)
        watch.look()
    assert (watch.set_back, watch.step, watch.slept) == (0, 0, 0)


@pytest.mark.parametrize("step", [-3600.0, 7200.0])
def test_clock_that_was_set_is_noticed(step: float) -> None:
    clocks = Clocks()
    watch = clocks.watch()
    clocks.go(60, stepped=step)
    watch.look()
    assert (watch.step, watch.slept) == (step, 0)


def test_machine_that_slept_is_noticed() -> None:
    clocks = Clocks()
    watch = clocks.watch()
    clocks.go(60, slept=8 * 3600)
    watch.look()
    assert (watch.step, watch.slept) == (0, 8 * 3600)


def test_clock_without_a_battery_is_noticed_until_it_is_set_right() -> None:
    clocks = Clocks()
    watch = clocks.watch(clocks.wall + 86400)
    assert watch.set_back == 86400
    clocks.go(10, stepped=86400)
    watch.look()
    assert watch.set_back == 0


def test_kernel_says_whether_the_clock_is_kept_right() -> None:
    assert is_synchronised() in (True, False, None)
