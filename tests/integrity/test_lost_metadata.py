"""Metadata that are gone, older than the data, or lack what else is there: nothing is given up for it."""

import os
import shutil
from pathlib import Path

import apsw
import pytest
import trio
import trio.lowlevel

from storjfs.daemon import integrity
from storjfs.daemon.offline import read_report
from storjfs.store import StoreError
from storjfs.volume import VolumeDamaged, VolumePaths
from tests.integrity.drives import MIB, Told, damage, fsck, shard_files, stored
from tests.real_drives import read, running, write


@pytest.mark.parametrize("how", ["deleted", "emptied"])
async def test_metadata_that_are_gone_are_told_and_never_replaced_by_empty_ones(
    paths: VolumePaths, how: str
) -> None:
    async with running(paths) as drive:
        ino = await write(drive, b"file", b"unsent")
        await drive.store.sync()
    kept = paths.meta_db.with_name("kept")
    paths.meta_db.rename(kept)
    if how == "emptied":
        paths.meta_db.touch()
    journal = {path.name: path.read_bytes() for path in paths.journal_dir.iterdir()}
    with pytest.raises(VolumeDamaged, match="metadata"):
        await integrity.fsck_unmounted(paths, None, Told(), repair=True, farmers=False)
    with pytest.raises(VolumeDamaged, match="metadata"):
        async with running(paths):
            raise AssertionError("a volume without its metadata was mounted")
    with pytest.raises(VolumeDamaged, match="metadata"):
        await trio.to_thread.run_sync(read_report, paths, None)
    assert {path.name: path.read_bytes() for path in paths.journal_dir.iterdir()} == journal
    kept.rename(paths.meta_db)
    async with running(paths) as drive:
        assert await read(drive, ino) == b"unsent"


async def test_a_table_that_is_gone_is_told_and_nothing_is_made_in_its_place(paths: VolumePaths) -> None:
    async with running(paths) as drive:
        await write(drive, b"file", b"content")
    damage(paths, "DROP TABLE extent")
    for repair in (False, True):
        with pytest.raises(StoreError, match="lacks the table extent"):
            await integrity.fsck_unmounted(paths, None, Told(), repair=repair, farmers=False)
    with pytest.RaisesGroup(
        pytest.RaisesExc(StoreError, match="lacks the table extent"), flatten_subgroups=True
    ):
        async with running(paths):
            raise AssertionError("a volume without a table was mounted")


async def test_unsent_data_whose_segment_has_no_row_survive_mount_and_gc_until_fsck_finds_them(
    paths: VolumePaths,
) -> None:
    content = os.urandom(MIB)
    async with running(paths) as drive:
        ino = await write(drive, b"file", content)
        await drive.store.sync()
    damage(paths, "DELETE FROM segment")
    (file,) = paths.journal_dir.iterdir()
    async with running(paths) as drive:
        assert any("fsck --repair" in problem for problem in drive.segments.report().problems)
        await integrity.collect(drive, Told())
    assert file.exists()
    mended = await integrity.fsck_unmounted(paths, None, Told(), repair=True, farmers=False)
    assert (mended["exit_code"], mended["left"]) == (1, {})
    async with running(paths) as drive:
        assert await read(drive, ino) == content
        await stored(drive)


async def test_numbers_are_not_given_out_twice_though_their_counters_are_behind(paths: VolumePaths) -> None:
    content = [os.urandom(100_000) for _ in range(4)]
    async with running(paths) as drive:
        inodes = [await write(drive, b"old%d" % number, data) for number, data in enumerate(content)]
    damage(paths, "UPDATE counters SET value = 2 WHERE key IN ('next_ino', 'next_seg')")
    async with running(paths) as drive:
        for number in range(4):
            await write(drive, b"new%d" % number, os.urandom(100_000))
        assert [await read(drive, ino) for ino in inodes] == content
        drive.store.write("UPDATE counters SET value = 3 WHERE key = 'next_dentry'", [()])
        mended = await fsck(drive, repair=True)
        assert (mended["mended"], mended["left"]) == ({"counter-behind": 1}, {})
        assert (await fsck(drive))["found"] == []


@pytest.mark.parametrize("mounted", [True, False])
async def test_shards_are_not_given_up_while_farmers_are_on_a_wrong_disk(
    paths: VolumePaths, mounted: bool
) -> None:
    content = os.urandom(MIB)
    async with running(paths) as drive:
        ino = await write(drive, b"file", content)
        await stored(drive)
    real, empty = paths.farm_dir, paths.data_dir / "other"
    farm_before = {path.name: path for path in paths.farm_dir.iterdir()}
    shutil.copytree(real, empty)
    # The index of every farmer as it was before the first shard came.
    for name in farm_before:
        for index in (empty / name).glob("*.db"):
            _forget_shards(index)
    real.rename(paths.data_dir / "unplugged")
    empty.rename(real)
    if mounted:
        async with running(paths) as drive:
            found = await fsck(drive, repair=True)
    else:
        found = await integrity.fsck_unmounted(paths, None, Told(), repair=True, farmers=True)
    assert "farmer-missing" in found["left"]
    shutil.rmtree(real)
    (paths.data_dir / "unplugged").rename(real)
    shutil.rmtree(paths.cache_dir)
    async with running(paths) as drive:
        await fsck(drive, repair=True)
        assert await read(drive, ino) == content


def _forget_shards(index: Path) -> None:
    connection = apsw.Connection(str(index))
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    if "shard" in tables:
        connection.execute("DELETE FROM shard").fetchall()
    connection.close()


async def test_shards_whose_rows_are_lost_are_not_deleted_as_orphans(paths: VolumePaths) -> None:
    async with running(paths) as drive:
        await write(drive, b"file", os.urandom(MIB))
        await stored(drive)
    shards = set(shard_files(paths))
    damage(paths, "DELETE FROM shard")
    shutil.rmtree(paths.cache_dir)
    for _ in range(2):
        found = await integrity.fsck_unmounted(
            paths, None, Told(), repair=True, farmers=True, delete_unknown=True
        )
        assert found["left"]["farmer-orphans-kept"] > 0
    async with running(paths) as drive:
        found = await fsck(drive, repair=True, delete_unknown=True)
        assert found["left"]["farmer-orphans-kept"] > 0
    assert set(shard_files(paths)) == shards


@pytest.mark.parametrize("mounted", [True, False])
async def test_what_was_written_after_a_backup_of_the_metadata_survives_a_repair_with_the_backup(
    paths: VolumePaths, mounted: bool
) -> None:
    yesterday, today = paths.data_dir / "backup.db", paths.data_dir / "newer.db"
    async with running(paths) as drive:
        for number in range(6):
            await write(drive, b"old%d" % number, os.urandom(100_000))
            await stored(drive)
    shutil.copy(paths.meta_db, yesterday)
    content = os.urandom(MIB)
    async with running(paths) as drive:
        ino = await write(drive, b"new", content)
        await stored(drive)
    shards = set(shard_files(paths))
    shutil.copy(paths.meta_db, today)
    shutil.copy(yesterday, paths.meta_db)
    found = await integrity.fsck_unmounted(paths, None, Told(), repair=True, farmers=True)
    async with running(paths) as drive:
        if mounted:
            found = await fsck(drive, repair=True)
        await integrity.collect(drive, Told())
    assert found["left"]["farmer-orphan"] > 0
    assert set(shard_files(paths)) == shards
    shutil.copy(today, paths.meta_db)
    shutil.rmtree(paths.cache_dir)
    async with running(paths) as drive:
        assert await read(drive, ino) == content
