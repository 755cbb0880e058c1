"""Embedded farmers that are no longer named, or were given up and are back: nothing is lost."""

import contextlib
import dataclasses
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from storjfs.daemon.integrity import fsck_unmounted
from storjfs.daemon.missing_farm import FarmMissing
from storjfs.daemon.wiring import Drive
from storjfs.protocol.contracts import State
from storjfs.volume import EmbeddedFarm, VolumePaths, read_settings, write_settings
from tests.real_drives import make_volume, read, running, write
from tests.segments.conftest import until

MIB = 1 << 20
PATIENCE = 120


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> VolumePaths:
    return make_volume(tmp_path, monkeypatch)


def name_farmers(paths: VolumePaths, count: int) -> None:
    write_settings(paths, dataclasses.replace(read_settings(paths), farmers=EmbeddedFarm(count)))


async def write_stored(drive: Drive, name: bytes, content: bytes) -> int:
    ino = await write(drive, name, content)
    await drive.segments.flush()
    return ino


def states(drive: Drive) -> list[State]:
    return [entry.state for entry in drive.renter.book]


async def whole(drive: Drive) -> None:
    """Every segment has all its shards."""

    def full() -> bool:
        report = drive.segments.report()
        return report.full > 0 and not (report.degraded or report.at_risk or report.lost)

    await until(full, drive.store, seconds=PATIENCE)


async def test_farmers_taken_off_the_settings_are_used_until_their_shards_have_moved(
    paths: VolumePaths,
) -> None:
    content = os.urandom(MIB)
    async with running(paths) as drive:
        ino = await write_stored(drive, b"file", content)
        await whole(drive)
    name_farmers(paths, 2)
    shutil.rmtree(paths.cache_dir)
    async with running(paths) as drive:
        assert State.BREACHED not in states(drive)
        assert drive.segments.report().lost == 0
        assert await read(drive, ino) == content
        problems = (await drive.facts()).renter_problems
        assert any("taken off the settings" in problem for problem in problems)
        # What is written from now on is only with those that are named.
        await write_stored(drive, b"new", os.urandom(MIB))
        leaving = {entry.number for entry in drive.renter.book if entry.node_id in drive.renter.book.leaving}
        used = drive.store.read("SELECT contract FROM shard WHERE seg = (SELECT MAX(seg) FROM shard)")
        assert not leaving & {contract for (contract,) in used}
    name_farmers(paths, 6)
    shutil.rmtree(paths.cache_dir)
    async with running(paths) as drive:
        await whole(drive)
        assert await read(drive, ino) == content
        assert not drive.renter.book.leaving


async def test_a_farmer_that_leaves_is_emptied_and_its_contract_ends(paths: VolumePaths) -> None:
    content = os.urandom(MIB)
    async with running(paths) as drive:
        for number in range(2):
            await write_stored(drive, b"file%d" % number, os.urandom(MIB))
        ino = await write_stored(drive, b"file", content)
        await whole(drive)
    name_farmers(paths, 5)
    async with running(paths) as drive:
        (leaving,) = [one for one in drive.renter.book if one.node_id in drive.renter.book.leaving]

        def ended() -> bool:
            drive.renter.look_around()
            return leaving.state is State.ENDED

        await until(ended, drive.store, seconds=PATIENCE)
        await whole(drive)
        sql = "SELECT 1 FROM shard WHERE contract = ? AND state < 3"
        assert drive.store.read(sql, (leaving.number,)) == []
    shutil.rmtree(paths.cache_dir)
    async with running(paths) as drive:
        assert not drive.renter.book.leaving, "a farmer without contracts is not started any more"
        assert await read(drive, ino) == content


async def test_farmers_that_were_given_up_bring_their_shards_back(paths: VolumePaths) -> None:
    content = os.urandom(MIB)
    async with running(paths) as drive:
        ino = await write_stored(drive, b"file", content)
        await whole(drive)
        for entry in list(drive.renter.book)[2:]:
            await drive.renter.farmer_removed(entry.node_id)
        assert states(drive).count(State.BREACHED) == 4
        await until(lambda: drive.segments.report().lost == 1, drive.store, seconds=PATIENCE)
    shutil.rmtree(paths.cache_dir)
    async with running(paths) as drive:
        await whole(drive)
        assert states(drive) == [State.ACTIVE] * 6
        assert await read(drive, ino) == content


async def test_farmers_that_are_all_away_are_not_replaced_and_cost_nothing_once_they_are_back(
    paths: VolumePaths,
) -> None:
    content = os.urandom(MIB)
    async with running(paths) as drive:
        ino = await write_stored(drive, b"file", content)
        await whole(drive)
    away = paths.data_dir / "unplugged"
    paths.farm_dir.rename(away)
    for name in ("farm", "farm/farmer-00"):
        for opened in (running(paths), integrity_of(paths)):
            with pytest.RaisesGroup(FarmMissing, allow_unwrapped=True, flatten_subgroups=True):
                async with opened:
                    pass
            assert not list(paths.farm_dir.glob("*/*")), "a refused start makes no farmer"
        (paths.data_dir / name).mkdir()
    async with running(paths, new_farmers=True) as drive:
        assert State.BREACHED not in states(drive)
        assert drive.segments.report().lost == 0
        await until(lambda: states(drive).count(State.ACTIVE) == 12, drive.store, seconds=PATIENCE)
        await write_stored(drive, b"new", content)
    async with running(paths):
        """Decided once, it is not asked again."""
    shutil.rmtree(paths.farm_dir)
    away.rename(paths.farm_dir)
    shutil.rmtree(paths.cache_dir)
    async with running(paths) as drive:
        assert await read(drive, ino) == content


@contextlib.asynccontextmanager
async def integrity_of(paths: VolumePaths) -> AsyncIterator[object]:
    """fsck, which starts embedded farmers too."""

    async def nobody(progress: object) -> None:
        """Nobody watches."""

    yield await fsck_unmounted(paths, None, nobody, repair=True, farmers=True)


async def test_some_farmers_that_are_gone_are_no_reason_to_refuse(paths: VolumePaths) -> None:
    content = os.urandom(MIB)
    async with running(paths) as drive:
        ino = await write_stored(drive, b"file", content)
        await whole(drive)
    for folder in sorted(paths.farm_dir.iterdir())[:5]:
        folder.rename(paths.data_dir / folder.name)
    async with running(paths) as drive:
        assert State.BREACHED not in states(drive)
    for folder in sorted(paths.farm_dir.iterdir())[:5]:
        shutil.rmtree(folder)
        (paths.data_dir / folder.name).rename(folder)
    shutil.rmtree(paths.cache_dir)
    async with running(paths) as drive:
        assert await read(drive, ino) == content


async def test_a_volume_whose_data_need_no_farmers_mounts_without_them(paths: VolumePaths) -> None:
    async with running(paths):
        pass
    shutil.rmtree(paths.farm_dir)
    async with running(paths) as drive:
        await write_stored(drive, b"file", b"x" * MIB)
