"""Disks under two names, of two farmers, moved elsewhere, or failing in the middle of something."""

import errno
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import trio

from storjfs.farmer import own
from storjfs.farmer.disk import Disk
from storjfs.farmer.disks import Disks, disk_rows
from storjfs.farmer.moving import Mover
from storjfs.farmer.records import Statement
from storjfs.farmer.settings import DiskShare, FarmerSettings
from storjfs.farmer.shardfile import Arrival, Held
from storjfs.protocol.failures import ErrorCode
from storjfs.settlement import Ledger
from storjfs.volume.errors import SettingsError
from tests.farmer.process import Running
from tests.farmer.renter import MIB, refused
from tests.farmer.several_disks import at_work, gone, on, put_some, wait, where, whole


def named(*folders: Path) -> tuple[DiskShare, ...]:
    return tuple(DiskShare(folder, 64 * MIB) for folder in folders)


async def test_a_disk_under_a_second_name_is_refused(
    tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Disks, "run", wait)
    monkeypatch.setattr(Mover, "run", wait)
    async with at_work(tmp_path, ledger, second=64 * MIB) as (farmer, renter):
        await put_some(renter)
        also = tmp_path / "also"
        also.symlink_to(tmp_path / "second")
        both = farmer.settings.changed(disks=named(tmp_path / "second", also))
        with pytest.raises(SettingsError, match="the same disk"):
            farmer.check(both)
        farmer.apply(both)
        with pytest.raises(SettingsError, match="the same disk"):
            await farmer.disks._look()
        assert len(farmer.shelves) == 2
        # Named instead, and both are there: it is no other disk to which shards could be moved.
        farmer.apply(farmer.settings.changed(disks=named(also)))
        with pytest.raises(SettingsError, match="the same disk"):
            await farmer.disks._look()
        farmer.apply(farmer.settings.changed(disks=named(tmp_path / "second")))
        await whole(farmer, renter)


async def test_a_disk_that_is_named_again_while_it_is_emptied_loses_nothing(
    tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Mover, "run", wait)
    copy = Mover._copy
    async with at_work(tmp_path, ledger, second=64 * MIB) as (farmer, renter):
        shards = await put_some(renter)
        before = len(on(farmer, 2, shards))
        assert before > 2
        with_both = farmer.settings

        async def copied(mover: Mover, held: Held, arrival: Arrival) -> None:
            farmer.apply(with_both)
            await copy(mover, held, arrival)

        monkeypatch.setattr(Mover, "_copy", copied)
        farmer.apply(farmer.settings.changed(disks=()))
        await farmer.mover.empty(farmer.shelves.others[0])
        assert len(on(farmer, 2, shards)) == before - 1
        await whole(farmer, renter)


async def test_two_new_names_of_one_disk_are_refused(tmp_path: Path, ledger: Ledger) -> None:
    one, also = tmp_path / "one", tmp_path / "also"
    one.mkdir()
    also.symlink_to(one)
    async with at_work(tmp_path, ledger, second=0) as (farmer, _):
        farmer.apply(farmer.settings.changed(disks=named(one, also)))
        with pytest.raises(SettingsError, match="the same disk"):
            await farmer.disks._look()
        assert [row.folder for row in disk_rows(farmer.records)] == [""]


@pytest.mark.parametrize("running", [False, True])
async def test_a_disk_that_is_mounted_elsewhere_is_used_there(
    tmp_path: Path, ledger: Ledger, running: bool
) -> None:
    second, moved = tmp_path / "second", tmp_path / "moved"
    async with at_work(tmp_path, ledger, second=64 * MIB) as (farmer, renter):
        shards = await put_some(renter)
        there = on(farmer, 2, shards)
        assert there
        if running:
            second.rename(moved)
            farmer.apply(farmer.settings.changed(disks=named(moved)))
            await farmer.disks._look()
            await whole(farmer, renter)
            assert on(farmer, 2, shards) == there
    if not running:
        second.rename(moved)
    async with at_work(tmp_path, ledger, renter, disks=named(moved)) as (farmer, again):
        assert [row.folder for row in disk_rows(farmer.records)] == ["", str(moved)]
        await whole(farmer, again)
        assert on(farmer, 2, shards) == there


def test_the_own_folder_of_a_farmer_is_no_disk_of_another(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.db"
    Ledger(ledger).close_file()
    at, other = tmp_path / "farm", tmp_path / "other"
    for folder in (at, other):
        folder.mkdir()
        FarmerSettings(capacity=16 * MIB, ledger=ledger).write(folder)
    with Running("--at", str(other), "--disk", f"{tmp_path / 'disk'}=16MiB") as farmer:
        farmer.where()
        with Running("--at", str(at), "--disk", f"{other}=16MiB") as one:
            assert one.ended() != 0
            assert "belongs to another farmer" in one.errors()
        assert not (other / "disk").exists()
        with Running("--at", str(tmp_path / "disk"), "--share", "16MiB", "--ledger", str(ledger)) as one:
            assert one.ended() != 0
            assert "disk of another farmer" in one.errors()
        assert farmer.interrupt() == 0


async def test_a_disk_that_was_away_while_shards_were_deleted_can_be_emptied(
    tmp_path: Path, ledger: Ledger
) -> None:
    async with at_work(tmp_path, ledger, second=64 * MIB) as (farmer, renter):
        shards = await put_some(renter, 2)
        (tmp_path / "second").rename(tmp_path / "unplugged")
        assert await renter.delete(shards[0]) == 1
        renter.shards.remove(shards[0])
        (tmp_path / "unplugged").rename(tmp_path / "second")
        await farmer.disks._look()
        await whole(farmer, renter)
        farmer.apply(farmer.settings.changed(disks=(), capacity=64 * MIB))
        await farmer.mover.empty(farmer.shelves.others[0])
        await gone(farmer)
        await whole(farmer, renter)


class SlowToPlace(Disk):
    """Moves files to their places only when it is let."""

    def __init__(self) -> None:
        self.may = threading.Event()
        self.at_it = threading.Event()

    def rename(self, source: Path, target: Path) -> None:
        self.at_it.set()
        assert self.may.wait(60)
        super().rename(source, target)


async def test_a_shard_that_has_just_arrived_on_a_disk_that_leaves_is_left_until_it_is_in_its_place(
    tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Disks, "run", wait)
    disk = SlowToPlace()
    async with at_work(tmp_path, ledger, second=64 * MIB, disk=disk) as (farmer, renter):
        other = farmer.shelves.others[0]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(renter.put, 5000)
            await trio.to_thread.run_sync(disk.at_it.wait)
            farmer.apply(farmer.settings.changed(disks=(), capacity=64 * MIB))
            await farmer.mover.empty(other)
            disk.may.set()
        assert where(farmer, renter.shards[0]) == 2
        await farmer.mover.empty(other)
        assert where(farmer, renter.shards[0]) == 1
        await whole(farmer, renter)


@pytest.mark.parametrize(
    "number",
    [errno.ENODATA, errno.ENOLINK, errno.ETIMEDOUT, errno.EBADMSG, errno.EILSEQ, errno.ENOTCONN],
)
async def test_whatever_the_kernel_calls_it_a_disk_that_fails_takes_nothing_and_nothing_else_ends(
    tmp_path: Path, ledger: Ledger, number: int
) -> None:
    class Failing(Disk):
        def create(self, path: Path) -> int:
            if failing and tmp_path / "second" in path.parents:
                raise OSError(number, os.strerror(number))
            return super().create(path)

    failing = False
    async with at_work(tmp_path, ledger, second=64 * MIB, disk=Failing()) as (farmer, renter):
        failing = True
        with refused(ErrorCode.NO_SPACE):
            await renter.put(5000)
        assert farmer.shelves.others[0].read_only
        assert where(farmer, await renter.put(5000)) == 1


async def test_a_disk_whose_folders_cannot_be_read_at_start_fails_alone(
    tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with at_work(tmp_path, ledger, second=64 * MIB) as (farmer, renter):
        shard = await renter.put(5000)
        assert where(farmer, shard) == 2
    bad = True

    def on_disk(path: Path) -> int:
        if bad and path.parent == tmp_path / "second" / "shelf":
            raise OSError(errno.EBADMSG, os.strerror(errno.EBADMSG))
        return own.on_disk(path)

    monkeypatch.setattr("storjfs.farmer.shelf.on_disk", on_disk)
    async with at_work(tmp_path, ledger, renter, second=64 * MIB) as (farmer, again):
        other = farmer.shelves.others[0]
        assert other.read_only
        assert where(farmer, await again.put(5000)) == 1
        bad = False
        await farmer.disks.try_again(other)
        assert where(farmer, await again.put(5000)) == 2
        await whole(farmer, again)


async def test_nothing_arrives_on_a_disk_that_is_just_given_up(
    tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Disks, "run", wait)
    async with at_work(tmp_path, ledger, second=64 * MIB) as (farmer, renter):
        before, other = farmer.settings, farmer.shelves.others[0]
        commit = farmer.records.commit
        put: list[int] = []

        async def named_again(statements: Sequence[Statement], **steps: Any) -> None:
            if any(sql.startswith("DELETE FROM disk") for sql, _ in statements):
                farmer.apply(before)
                monkeypatch.setattr(farmer.records, "commit", commit)
                put.append(where(farmer, await renter.put(5000)))
            await commit(statements, **steps)

        monkeypatch.setattr(farmer.records, "commit", named_again)
        farmer.apply(before.changed(disks=()))
        await farmer.disks._look()
        assert put == [1]
        assert other not in farmer.shelves.others
        assert where(farmer, await renter.put(5000)) == 2
        await whole(farmer, renter)
