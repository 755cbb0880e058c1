"""Several disks: each with its limit, each failing for itself; which folders can be one."""

import errno
import os
import random
import time
from pathlib import Path

import pytest
import trio

from storjfs.farmer.disks import Disks, disk_rows
from storjfs.farmer.report import read_report
from storjfs.farmer.settings import DiskShare, FarmerSettings
from storjfs.protocol.failures import ErrorCode
from storjfs.protocol.ids import ShardId
from storjfs.settlement import Ledger
from storjfs.volume.errors import SettingsError
from tests.farmer.process import Running, run, status
from tests.farmer.renter import MIB, farming, refused, renting
from tests.farmer.several_disks import at_work, exact, on, put_some, wait, where, whole
from tests.farmer.test_limit import fill, sizes_and_blocks
from tests.farmer.test_read_only import FailingDisk


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
