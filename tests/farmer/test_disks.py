"""Several disks: each with its limit, each failing for itself, and one that is emptied loses nothing."""

import contextlib
import errno
import os
import random
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from storjfs.farmer import keeping, proving
from storjfs.farmer.book import Book, ContractEntry
from storjfs.farmer.disks import Disks, disk_rows
from storjfs.farmer.farmer import Farmer
from storjfs.farmer.report import read_report
from storjfs.farmer.settings import DiskShare, FarmerSettings
from storjfs.farmer.shelf import Held, NoRoom
from storjfs.farmer.shelves import held_of
from storjfs.protocol.failures import ErrorCode
from storjfs.protocol.ids import ShardId
from storjfs.protocol.terms import CREDIT
from storjfs.settlement import Ledger
from storjfs.volume.errors import SettingsError
from tests.farmer.process import Running, run, status
from tests.farmer.renter import MIB, Renter, Shard, farming, refused, renting
from tests.farmer.test_limit import fill, sizes_and_blocks
from tests.farmer.test_read_only import FailingDisk

MOST_STEPS = 24
"""Of moving two shards."""
SEED = b"r" * 32
SIZES = (1, 5000, 70_000, MIB + 5000, 2 * MIB)


@asynccontextmanager
async def at_work(
    tmp_path: Path, ledger: Ledger, before: Renter | None = None, *, second: int = 16 * MIB, **changes: Any
) -> AsyncIterator[tuple[Farmer, Renter]]:
    """A farmer with a disk beside its own, unless `second` is 0, and its renter."""
    disks = (DiskShare(tmp_path / "second", second),) if second else ()
    async with (
        farming(tmp_path, **{"capacity": 16 * MIB, "disks": disks, "scrub_every": 0, **changes}) as farmer,
        renting(ledger, farmer.node_id, farmer.listening[0], SEED) as renter,
    ):
        farmer.settings.write(farmer.folder)
        if before is None:
            await renter.agree(10**6 * CREDIT, capacity=(await renter.ask_offer()).capacity)
        else:
            same(renter, before)
        yield farmer, renter


async def wait(_: object) -> None:
    """Instead of what a farmer does by itself."""
    await trio.sleep_forever()


def same(renter: Renter, before: Renter) -> None:
    """It goes on as the same renter."""
    renter.contract, renter.offer, renter.tally = before.contract, before.offer, before.tally
    renter.shards, renter.epoch, renter.counter = before.shards, before.epoch, before.counter


def where(farmer: Farmer, shard: Shard) -> int:
    ((disk,),) = farmer.records.read("SELECT disk FROM shard WHERE shard_id = ?", shard.shard_id)
    return int(disk)


def on(farmer: Farmer, number: int, shards: list[Shard]) -> list[Shard]:
    return [shard for shard in shards if where(farmer, shard) == number]


async def whole(farmer: Farmer, renter: Renter) -> None:
    """Every shard is where the index says, and nothing else is anywhere; the sums are right."""
    for at in range(0, len(renter.shards), 100):
        assert all(verdict.passed for verdict in await renter.audit(*renter.shards[at : at + 100]))
        await renter.pay()
    for shard in renter.shards[:20]:
        await renter.pay()
        assert await renter.get(shard) == shard.data
    exact(farmer)


def files_in(shelf: Path) -> list[Path]:
    """All shards there; the farmer may just be clearing an empty disk away."""
    while True:
        with contextlib.suppress(FileNotFoundError):
            return [path for path in shelf.rglob("*") if path.is_file() and path.name != "pulse"]


def exact(farmer: Farmer) -> None:
    for shelf in farmer.shelves:
        rows = farmer.records.read("SELECT shard_id, length FROM shard WHERE disk = ?", shelf.number)
        files = files_in(shelf.folder)
        assert sorted(path.name for path in files) == sorted(ShardId(row[0]).hex() for row in rows)
        space = sum(shelf.space_of(row[1]) for row in rows)
        (row,) = (one for one in disk_rows(farmer.records) if one.number == shelf.number)
        assert (row.shards, row.stored) == (len(rows), space)
        assert shelf.taken == shelf.stored == space


async def put_some(renter: Renter, count: int = 3) -> list[Shard]:
    return [await renter.put(size) for _ in range(count) for size in SIZES]


async def test_shards_are_spread_and_each_disk_keeps_its_limit(tmp_path: Path, ledger: Ledger) -> None:
    async with at_work(tmp_path, ledger) as (farmer, renter):
        await fill(renter, random.Random(3))
        for folder in (farmer.folder, tmp_path / "second"):
            assert 12 * MIB < max(sizes_and_blocks(folder)) <= 16 * MIB
        await whole(farmer, renter)
    async with at_work(tmp_path, ledger, renter) as (farmer, again):
        await whole(farmer, again)
        await again.delete(*again.shards)
        again.shards.clear()
        exact(farmer)
        assert [row.shards for row in disk_rows(farmer.records)] == [0, 0]


async def test_more_is_sold_with_another_disk(tmp_path: Path, ledger: Ledger) -> None:
    async with (
        farming(tmp_path, capacity=16 * MIB) as farmer,
        renting(ledger, farmer.node_id, farmer.listening[0]) as renter,
    ):
        alone = (await renter.ask_offer()).capacity
        more = farmer.settings.changed(disks=(DiskShare(tmp_path / "second", 32 * MIB),))
        farmer.check(more)
        assert farmer.apply(more) == (["disks"], [])
        with trio.fail_after(30):
            while len(farmer.shelves) == 1:  # noqa: ASYNC110 - a thread has a part in it
                await trio.sleep(0.01)
        assert alone + 28 * MIB < (await renter.ask_offer()).capacity < alone + 32 * MIB


async def test_a_disk_that_is_away_fails_alone_and_its_shards_come_back_with_it(
    tmp_path: Path, ledger: Ledger
) -> None:
    async with at_work(tmp_path, ledger) as (farmer, renter):
        await put_some(renter)
    (tmp_path / "second").rename(tmp_path / "unplugged")
    (tmp_path / "second").mkdir()  # what is below a mount point
    async with at_work(tmp_path, ledger, renter) as (farmer, again):
        here, away = on(farmer, 1, again.shards), on(farmer, 2, again.shards)
        assert here
        assert away
        assert all(verdict.passed for verdict in await again.audit(*here))
        await again.pay()
        assert await again.get(here[0]) == here[0].data
        for ask in (again.audit, again.get):
            with refused(ErrorCode.BUSY):
                await ask(away[0])
        new = await again.put(5000)
        assert where(farmer, new) == 1
        assert await again.delete(away[0]) == 1
        again.shards.remove(away[0])
        report = read_report(farmer.folder)
        assert [one.state for one in report.disks] == ["working", "failing"]
        assert "disk_missing" in {warn.code for warn in report.warnings}
        assert not list((tmp_path / "second").iterdir())
    async with at_work(tmp_path, ledger, again) as (farmer, back):
        (tmp_path / "second").rmdir()
        (tmp_path / "unplugged").rename(tmp_path / "second")
        other = farmer.shelves.others[0]
        await farmer.disks.try_again(other)
        assert not other.read_only
        await whole(farmer, back)


async def test_what_a_crash_left_on_a_disk_is_finished_when_it_is_back_and_not_taken_for_damage(
    tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with at_work(tmp_path, ledger, second=64 * MIB) as (farmer, renter):
        shard = await renter.put(70_000)
        other = farmer.shelves.others[0]
        # As by a crash after the commit, and by one before another's.
        other.path(shard.shard_id).rename(other.arriving_path(shard.shard_id))
        other.arriving_path(ShardId(bytes(32))).write_bytes(b"part")
    (tmp_path / "second").rename(tmp_path / "unplugged")
    monkeypatch.setattr(Disks, "run", wait)
    async with at_work(tmp_path, ledger, renter, second=64 * MIB) as (farmer, again):
        (tmp_path / "unplugged").rename(tmp_path / "second")
        other = farmer.shelves.others[0]
        for back in (False, True):
            if back:
                assert other.try_again()
            # It is whole where it arrived.
            assert await again.get(shard) == shard.data
            assert where(farmer, await again.put(5000)) == 1
        await farmer.disks.try_again(other)
        assert where(farmer, await again.put(5000)) == 2
        await whole(farmer, again)


async def test_a_disk_that_stays_away_is_lost_and_renters_are_told(tmp_path: Path, ledger: Ledger) -> None:
    now = time.time()

    async with at_work(tmp_path, ledger, clock=lambda: now, disk_grace=1000) as (farmer, renter):
        shards = await put_some(renter)
        here, away = on(farmer, 1, shards), on(farmer, 2, shards)
        (tmp_path / "second").rename(tmp_path / "unplugged")
        await farmer.disks._look()
        with refused(ErrorCode.BUSY):
            await renter.get(away[0])
        now += 999
        await farmer.disks._look()
        with refused(ErrorCode.BUSY):
            await renter.get(away[0])
        now += 1
        await farmer.disks._look()
        with refused(ErrorCode.CORRUPT):
            await renter.get(away[0])
        answer = await renter.ask(renter.challenge(here[0]))
        assert answer.damaged == tuple(sorted(shard.shard_id for shard in away))
        verdicts = await renter.audit(here[0], away[0])
        assert [verdict.passed for verdict in verdicts] == [True, False]
        await renter.pay()
        report = read_report(farmer.folder)
        assert (report.disks[1].state, report.damaged) == ("lost", len(away))
        assert "disk_lost" in {warn.code for warn in report.warnings}
        assert await renter.delete(away[0]) == 1
        renter.shards.remove(away[0])
        (tmp_path / "unplugged").rename(tmp_path / "second")
        await farmer.disks._look()
        assert (await renter.ask(renter.challenge(here[0]))).damaged == ()
        await whole(farmer, renter)


async def test_an_error_of_one_disk_stops_that_one_alone(tmp_path: Path, ledger: Ledger) -> None:
    class Second(FailingDisk):
        def _fail(self, call: str) -> None:
            if call in self.calls and failing:
                raise OSError(errno.EIO, os.strerror(errno.EIO))

        def create(self, path: Path) -> int:
            return self._here(path, "create") or super().create(path)

        def probe(self, path: Path) -> bool:
            return bool(self._here(path, "probe")) or super().probe(path)

        def _here(self, path: Path, call: str) -> int:
            if failing and tmp_path / "second" in path.parents:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return 0

    failing = False
    async with at_work(tmp_path, ledger, second=64 * MIB, disk=Second()) as (farmer, renter):
        failing = True
        with refused(ErrorCode.NO_SPACE):
            await renter.put(5000)  # it has more room: it is asked first
        assert farmer.shelves.others[0].read_only
        assert not farmer.shelf.read_only
        assert where(farmer, await renter.put(5000)) == 1
        failing = False
        await farmer.disks.try_again(farmer.shelves.others[0])
        assert where(farmer, await renter.put(5000)) == 2
        await whole(farmer, renter)


async def gone(farmer: Farmer) -> None:
    """Return when the second disk is not used any more."""
    with trio.fail_after(120):
        while len(farmer.shelves) > 1:
            farmer.disks._changed.set()
            await trio.sleep(0.02)


async def test_a_disk_is_emptied_while_renters_put_get_and_delete(tmp_path: Path, ledger: Ledger) -> None:
    rng = random.Random(5)
    async with at_work(tmp_path, ledger, capacity=48 * MIB) as (farmer, renter):
        await put_some(renter)
        farmer.apply(farmer.settings.changed(disks=()))
        async with trio.open_nursery() as nursery:

            async def use() -> None:
                while True:
                    await renter.put(rng.choice(SIZES[:3]))
                    shard = rng.choice(renter.shards)
                    assert await renter.get(shard) == shard.data
                    renter.shards.remove(shard)
                    assert await renter.delete(shard) == 1
                    for verdict in await renter.audit(*renter.shards[:3]):
                        assert verdict.passed
                    renter.tally = renter.tally.with_egress(renter.terms, len(shard.data))
                    await renter.pay()

            nursery.start_soon(use)
            await gone(farmer)
            nursery.cancel_scope.cancel()
    async with at_work(tmp_path, ledger, renter, capacity=48 * MIB, second=0) as (farmer, again):
        with contextlib.suppress(StopIteration):
            # What was put or deleted when it was cancelled may be either way.
            known = {ShardId(row[0]) for row in farmer.records.read("SELECT shard_id FROM shard")}
            again.shards = [shard for shard in again.shards if shard.shard_id in known]
        await whole(farmer, again)
    assert not list((tmp_path / "second").iterdir())


async def test_a_disk_for_whose_shards_there_is_no_room_keeps_them_until_there_is(
    tmp_path: Path, ledger: Ledger
) -> None:
    async with at_work(tmp_path, ledger) as (farmer, renter):
        await fill(renter, random.Random(4))
        farmer.apply(farmer.settings.changed(disks=()))
        other = farmer.shelves.others[0]
        with pytest.raises(NoRoom, match="limit is reached"):
            await farmer.mover.empty(other)
        assert (await renter.ask_offer()).capacity == 0
        await whole(farmer, renter)
        assert max(sizes_and_blocks(farmer.folder)) <= 16 * MIB
        farmer.apply(farmer.settings.changed(capacity=48 * MIB))
        await farmer.mover.empty(other)
        await gone(farmer)
        await whole(farmer, renter)


async def test_what_rotted_is_not_moved_but_told(tmp_path: Path, ledger: Ledger) -> None:
    async with at_work(tmp_path, ledger, second=64 * MIB) as (farmer, renter):
        rotten, sound = await renter.put(70_000), await renter.put(5000)
        other = farmer.shelves.others[0]
        path = other.path(rotten.shard_id)
        path.write_bytes(path.read_bytes().replace(rotten.data[:4], bytes(4), 1))
        farmer.apply(farmer.settings.changed(disks=()))
        await farmer.mover.empty(other)
        assert (where(farmer, rotten), where(farmer, sound)) == (2, 1)
        with refused(ErrorCode.CORRUPT):
            await renter.get(rotten)
        assert await renter.delete(rotten) == 1
        renter.shards.remove(rotten)
        await gone(farmer)
        await whole(farmer, renter)


async def test_a_shard_that_is_moved_while_it_is_read_is_no_damage(
    tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with at_work(tmp_path, ledger, second=64 * MIB) as (farmer, renter):
        shards = [await renter.put(70_000) for _ in range(3)]
        assert on(farmer, 2, shards) == shards
        other = farmer.shelves.others[0]
        rows = farmer.records.read("SELECT shard_id, root, length, disk FROM shard")
        helds = {row[0]: held_of(row) for row in rows}
        farmer.apply(farmer.settings.changed(disks=()))
        await farmer.mover.empty(other)
        assert on(farmer, 1, shards) == shards
        # What looked the shards up before they were moved.
        before = {shard.shard_id: helds[shard.shard_id] for shard in shards[:2]}
        asked = proving.held_under

        def asked_before(book: Book, entry: ContractEntry, shard_id: ShardId) -> Held | None:
            return before.pop(shard_id, None) or asked(book, entry, shard_id)

        for module in (keeping, proving):
            monkeypatch.setattr(module, "held_under", asked_before)
        assert await renter.get(shards[0]) == shards[0].data
        assert [verdict.passed for verdict in await renter.audit(shards[1])] == [True]
        assert await farmer.scrub.judge(helds[shards[2].shard_id]) is None
        assert not before
        assert farmer.records.read("SELECT * FROM damaged") == []


CRASHING = """
import os, sys
from pathlib import Path
import trio
from storjfs.farmer.farmer import Farmer
from tests.farmer.renter import MIB, settings
from tests.farmer.test_shelf import CountingDisk

class Crashing(CountingDisk):
    def step(self):
        if self.steps >= self.stop_after:
            os._exit(9)
        super().step()

async def main(folder, steps):
    changed = settings(folder, capacity=32 * MIB, scrub_every=0)
    farmer = Farmer.open(folder / "farmer", changed, disk=Crashing(steps))
    async with farmer.running():
        for shelf in farmer.shelves.others:
            await farmer.mover.empty(shelf)

trio.run(main, Path(sys.argv[1]), int(sys.argv[2]))
"""
"""Moves everything off the second disk, and ends at once after so many steps."""


@pytest.mark.parametrize("steps", range(MOST_STEPS + 1))
async def test_after_a_crash_at_any_step_of_a_move_every_shard_is_in_one_place(
    tmp_path: Path, ledger: Ledger, steps: int
) -> None:
    async with at_work(tmp_path, ledger, second=64 * MIB) as (farmer, renter):
        await renter.put(70_000)
        await renter.put(MIB + 5000)
        assert len(on(farmer, 2, renter.shards)) == 2
    words = [sys.executable, "-c", CRASHING, str(tmp_path), str(steps)]
    done = await trio.run_process(words, check=False, capture_stderr=True)
    assert done.returncode == (0 if steps == MOST_STEPS else 9), done.stderr
    async with at_work(tmp_path, ledger, renter, capacity=32 * MIB, second=0) as (farmer, again):
        await gone(farmer)
        await whole(farmer, again)


async def test_killed_again_and_again_while_a_disk_is_emptied_no_shard_is_lost(
    tmp_path: Path, ledger: Ledger
) -> None:
    at, second = tmp_path / "farm", tmp_path / "second"
    at.mkdir()
    rng = random.Random(9)
    settings = FarmerSettings(capacity=48 * MIB, ledger=ledger.path, term_min=1, period_min=1, scrub_every=0)
    settings.write(at)
    with Running("--at", str(at), "--disk", f"{second}=48MiB") as farmer:
        async with renting(ledger, *farmer.where(), SEED) as renter:
            await renter.agree(10**6 * CREDIT, capacity=40 * MIB)
            for _ in range(60):
                await renter.put(rng.choice(SIZES[1:4]))
        assert [one["shards"] > 9 for one in status(at)["disks"]] == [True, True]
        said = run("empty", str(second), "--at", str(at))
        assert "is being emptied" in said.stdout, said.stderr
        kills = 0
        farmer.send(signal.SIGKILL)
        farmer.ended()
    while used(second):
        with Running("--at", str(at)) as farmer:
            farmer.where()
            if kills < 6:
                kills += 1
                await some_files_fewer(second)
                farmer.send(signal.SIGKILL)
                farmer.ended()
            else:
                with trio.fail_after(120):
                    while used(second):  # noqa: ASYNC110 - another process has a part in it
                        await trio.sleep(0.05)
                assert farmer.interrupt() == 0
    changes: dict[str, Any] = {"capacity": 48 * MIB, "ledger": ledger.path, "scrub_every": 0}
    at.rename(tmp_path / "farmer")
    async with (
        farming(tmp_path, **changes) as last,
        renting(ledger, last.node_id, last.listening[0], SEED) as again,
    ):
        same(again, renter)
        await whole(last, again)
        assert len(disk_rows(last.records)) == 1


def used(folder: Path) -> bool:
    """Whether there is anything in it."""
    return any(folder.iterdir())


async def some_files_fewer(folder: Path) -> None:
    """Return when something has been moved since, or nothing is left to be."""

    def count() -> int:
        return len(files_in(folder / "shelf"))

    before = count()
    with trio.fail_after(60):
        # Another process moves them.
        while count() > max(before - 4, 1) and used(folder):  # noqa: ASYNC110
            await trio.sleep(0.005)


def test_a_folder_that_cannot_be_a_disk_is_refused_with_the_reason(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.db"
    Ledger(ledger).close_file()
    at, other = tmp_path / "farm", tmp_path / "other"
    for folder in (at, other):
        folder.mkdir()
        FarmerSettings(capacity=16 * MIB, ledger=ledger).write(folder)
    with Running("--at", str(other), "--disk", f"{tmp_path / 'taken'}=16MiB") as farmer:
        farmer.where()
        with Running("--at", str(at)) as one:
            one.where()
            for folder, reason in [
                (tmp_path / "taken", "belongs to another farmer"),
                (tmp_path / "no" / "where", "there is no folder"),
                (at / "in", "lie in one another"),
            ]:
                settings = FarmerSettings.read(at)
                assert settings is not None
                settings.changed(disks=(DiskShare(folder, 16 * MIB),)).write(at)
                done = run("reload", "--at", str(at))
                assert done.returncode != 0
                assert reason in done.stderr
                settings.write(at)
            done = run("empty", str(tmp_path / "taken"), "--at", str(at))
            assert "is no disk of this farmer" in done.stderr
            done = run("--at", str(tmp_path / "unmounted" / "farmer"))
            assert done.returncode != 0
            assert "is its disk mounted?" in done.stderr
            assert not (tmp_path / "unmounted").exists()
            done = run("empty", str(at), "--at", str(at))
            assert done.returncode != 0
            assert "first disk" in done.stderr
            assert one.interrupt() == 0
        report = status(other)
        assert [disk["folder"] for disk in report["disks"]] == [str(other), str(tmp_path / "taken")]
        shown = run("status", "--at", str(other)).stdout
        assert "taken" in shown
        assert farmer.interrupt() == 0


@pytest.mark.parametrize("text", ["/mnt/disk", "disk=1TB", "/mnt/disk=much", "/mnt/disk=0"])
def test_wrong_words_for_a_disk_are_refused(text: str) -> None:
    with pytest.raises(SettingsError):
        DiskShare.parse(text)


def test_words_for_a_disk() -> None:
    one = DiskShare.parse("/mnt/a=b/farmer=1 GiB")
    assert one == DiskShare(Path("/mnt/a=b/farmer"), 1 << 30)
    assert DiskShare.parse(str(one)) == one
