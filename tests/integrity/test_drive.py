"""fsck, scrub and gc of a drive with farmers in a process of their own, running and not."""

import os
import shutil
from pathlib import Path
from typing import Any

import apsw
import pytest
import trio
import trio.lowlevel

from storjfs.daemon import integrity
from storjfs.daemon.offline import read_report
from storjfs.daemon.request import MountRequest
from storjfs.daemon.wiring import Drive, open_drive
from storjfs.fuse import MountOptions
from storjfs.integrity import scrub as scrubbing
from storjfs.store import ROOT_INODE, StoreError, open_meta
from storjfs.volume import VolumeDamaged, VolumePaths, unlock_volume
from tests.real_drives import make_volume, read, running, write
from tests.segments.conftest import until

MIB = 1 << 20


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> VolumePaths:
    return make_volume(tmp_path, monkeypatch)


class Told:
    """Whoever watches; goes away after `patience` objects."""

    def __init__(self, patience: int = 1 << 30) -> None:
        self.progress: list[dict[str, Any]] = []
        self.patience = patience

    async def __call__(self, progress: Any) -> None:
        self.progress.append(dict(progress))
        if len(self.progress) > self.patience:
            raise trio.BrokenResourceError

    @property
    def parts(self) -> set[str]:
        return {one["part"] for one in self.progress}


async def stored(drive: Drive) -> None:
    """Everything is with all the farmers it should be with."""
    with trio.fail_after(60):
        await drive.segments.flush()
    await until(lambda: drive.segments.report().full > 0, drive.store)
    await until(lambda: not os.listdir(drive.paths.journal_dir), drive.store)


def shard_files(paths: VolumePaths) -> dict[str, Path]:
    return {path.name: path for path in paths.farm_dir.rglob("*") if len(path.name) == 64}


async def fsck(drive: Drive, *, repair: bool = False, delete_unknown: bool = False) -> dict[str, Any]:
    return await integrity.fsck_mounted(
        drive, Told(), repair=repair, farmers=True, delete_unknown=delete_unknown
    )


async def test_a_running_drive_is_checked_and_its_farmers_are_put_right(paths: VolumePaths) -> None:
    content = os.urandom(3 * MIB)
    async with running(paths) as drive:
        ino = await write(drive, b"file", content)
        await stored(drive)
        told = Told()
        clean = await integrity.fsck_mounted(drive, told, repair=False, farmers=True)
        assert (clean["exit_code"], clean["found"]) == (0, [])
        assert told.parts >= {"farmers"}
        ((shard_id, contract),) = drive.store.read("SELECT shard_id, contract FROM shard LIMIT 1")
        orphan = os.urandom(32)
        await drive.renter.put(contract, orphan, os.urandom(1000))
        await drive.renter.delete(contract, [shard_id])
        codes = {"farmer-missing", "farmer-orphan"}
        seen = await fsck(drive)
        assert (seen["exit_code"], set(seen["left"])) == (4, codes)
        mended = await fsck(drive, repair=True)
        assert (set(mended["mended"]), set(mended["left"])) == ({"farmer-missing"}, {"farmer-orphan"})
        assert orphan.hex() in shard_files(paths)
        mended = await fsck(drive, repair=True, delete_unknown=True)
        assert (mended["exit_code"], set(mended["mended"]), mended["left"]) == (1, {"farmer-orphan"}, {})
        assert orphan.hex() not in shard_files(paths)
        assert (await fsck(drive))["found"] == []
        assert drive.segments.report().full == 1
        assert await read(drive, ino) == content


class Busy:
    """Writes, moves, unlinks and flushes for as long as it is awaited."""

    def __init__(self, drive: Drive) -> None:
        self.drive = drive
        self.rounds = 0
        self.content: dict[int, bytes] = {}

    async def __call__(self) -> None:
        fs = self.drive.filesystem
        while True:
            number = self.rounds
            handle, made = await fs.create(ROOT_INODE, b"busy%d" % number, 0o644, 0, 0, 1)
            content = os.urandom(520_000)
            for part in range(10):
                await fs.write(handle, part * 50_000, content[part * 50_000 :][:70_000])
            await fs.release(handle)
            directory = await fs.mkdir(ROOT_INODE, b"folder%d" % number, 0o755, 0, 0)
            await fs.rename(ROOT_INODE, b"busy%d" % number, directory.ino, b"moved")
            if number % 2:
                await fs.unlink(directory.ino, b"moved")
                fs.forget([(made.ino, 1)])
            else:
                self.content[made.ino] = content
            if number % 5 == 4:
                with trio.move_on_after(1):
                    await self.drive.segments.flush()
            self.rounds += 1
            await trio.lowlevel.checkpoint()

    async def more(self, rounds: int) -> None:
        """Return when so many more rounds are done."""
        goal = self.rounds + rounds
        while self.rounds < goal:  # noqa: ASYNC110 - the rounds are the condition, they yield
            await trio.sleep(0.01)


async def test_a_busy_drive_is_not_taken_for_a_damaged_one(paths: VolumePaths) -> None:
    async with running(paths) as drive:
        busy = Busy(drive)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(busy)
            for repair in (False, True, False):
                await busy.more(10)
                found = await fsck(drive, repair=repair)
                assert (found["exit_code"], found["left"], found["mended"]) == (0, {}, {})
            nursery.cancel_scope.cancel()


def live_damages() -> dict[str, list[str]]:
    """By code, what brings it about in a stored volume with files f0 to f9 and folders d0 and d1."""

    def ino(name: str) -> str:
        return f"(SELECT ino FROM dentry WHERE name = x'{name.encode().hex()}')"

    first, last = "(SELECT MIN(seg) FROM segment)", "(SELECT MAX(seg) FROM segment)"
    return {
        "links-wrong": [f"UPDATE inode SET nlink = 7 WHERE ino = {ino('f0')}"],
        "directory-links-wrong": ["UPDATE inode SET nlink = nlink + 3 WHERE ino = 1"],
        "stored-wrong": [f"UPDATE inode SET stored = 5 WHERE ino = {ino('f1')}"],
        "xattr-flag-wrong": [f"UPDATE inode SET flags = 1 WHERE ino = {ino('f2')}"],
        "inode-unnamed": [f"DELETE FROM dentry WHERE ino = {ino('f3')}",
                          f"DELETE FROM dentry WHERE ino = {ino('d0')}"],
        "entry-dangling": ["INSERT INTO dentry VALUES (1, x'676f6e65', 700, 600)"],
        "inode-leaked": ["INSERT INTO inode VALUES (800, 33188, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, NULL)"],
        "xattr-nowhere": ["INSERT INTO xattr VALUES (900, x'61', x'62')"],
        "extent-run-missing": [f"DELETE FROM run WHERE ino = {ino('f4')}"],
        "run-no-segment": ["INSERT INTO run VALUES (555, 0, 1, 2, 3)"],
        "live-wrong": [f"UPDATE segment SET live = live - 1 WHERE seg = {first}"],
        "plain-wrong": [f"UPDATE segment SET plain = plain + 9 WHERE seg = {first}"],
        "tally-wrong": ["UPDATE counters SET value = 77 WHERE key = 'segments_full'"],
        "shard-no-segment": ["INSERT INTO shard VALUES (randomblob(32), 555, 0, 1, randomblob(32), "
                             "randomblob(32), 65552, 1)"],
        "shard-invalid": [f"UPDATE shard SET root = x'00' WHERE seg = {first} AND idx = 4"],
        "shard-row-missing": [f"DELETE FROM shard WHERE seg = {last} AND idx = 4"],
        "doomed-no-contract": ["INSERT INTO doomed VALUES (randomblob(32), 99)"],
    }  # fmt: skip


async def test_a_busy_mount_is_mended_and_what_is_written_meanwhile_is_well(paths: VolumePaths) -> None:
    content = {b"f%d" % number: os.urandom(300_000) for number in range(10)}
    inodes: dict[bytes, int] = {}
    async with running(paths) as drive:
        for name, data in content.items():
            inodes[name] = await write(drive, name, data)
            if name == b"f4":
                await stored(drive)
        for name in (b"d0", b"d1"):
            await drive.filesystem.mkdir(ROOT_INODE, name, 0o755, 0, 0)
        await stored(drive)
    damages = live_damages()
    for statement in [statement for several in damages.values() for statement in several]:
        damage(paths, statement)
    damage(paths, "REPLACE INTO counters VALUES ('next_seg', 556)")
    damage(paths, "REPLACE INTO counters VALUES ('next_ino', 901)")
    damage(paths, "REPLACE INTO counters VALUES ('next_dentry', 601)")
    async with running(paths) as drive:
        busy = Busy(drive)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(busy)
            await busy.more(2)
            mended = await fsck(drive, repair=True)
            await busy.more(2)
            nursery.cancel_scope.cancel()
        found = {one["code"] for one in mended["found"]}
        assert found - {"segment-dead"} >= damages.keys() - {"shard-row-missing", "doomed-no-contract"}
        # A shard that is not known is deleted only when no row of a shard is missing any more.
        assert mended["left"] == {"farmer-orphans-kept": 1}
        assert not mended["unmount_to_repair"]
        again = await fsck(drive, repair=True, delete_unknown=True)
        assert (again["mended"], again["left"]) == ({"farmer-orphan": 1}, {})
        assert (await fsck(drive))["left"] == {}
        for name, ino in inodes.items():
            assert await read(drive, ino) == content[name]
        for ino, data in busy.content.items():
            assert await read(drive, ino) == data
        kept = (await drive.filesystem.lookup(ROOT_INODE, b"lost+found")).ino
        await drive.filesystem.lookup(kept, b"#%d" % inodes[b"f3"])
        await drive.filesystem.unlink(ROOT_INODE, b"f0")
        drive.filesystem.forget([(inodes[b"f0"], 1)])
        await drive.store.sync()
    assert (await integrity.fsck_unmounted(paths, None, Told(), repair=False, farmers=False))["left"] == {}


async def test_a_mount_tells_what_has_to_wait_for_an_unmount(paths: VolumePaths) -> None:
    async with running(paths) as drive:
        ino = await write(drive, b"file", b"content")
        await drive.store.sync()
        drive.store.write("UPDATE inode SET size = -5 WHERE ino = ?", [(ino,)])
        found = await fsck(drive, repair=True)
        assert (found["exit_code"], set(found["left"])) == (4, {"inode-invalid", "extent-beyond-size"})
        assert found["unmount_to_repair"]
    mended = await integrity.fsck_unmounted(paths, None, Told(), repair=True, farmers=False)
    assert (mended["exit_code"], set(mended["mended"])) == (1, {"inode-invalid", "extent-beyond-size"})


async def test_a_mount_that_is_read_only_is_not_mended(paths: VolumePaths) -> None:
    async with running(paths) as drive:
        ino = await write(drive, b"file", b"content")
    damage(paths, f"UPDATE inode SET nlink = 5 WHERE ino = {ino}")
    request = MountRequest(volume="real", mountpoint="/nowhere")
    async with open_drive(paths, request, MountOptions(read_only=True)) as drive:
        found = await fsck(drive, repair=True)
        assert (found["left"], found["mended"], found["unmount_to_repair"]) == ({"links-wrong": 1}, {}, True)


async def test_without_a_mount_books_and_farmers_are_checked_and_mended(paths: VolumePaths) -> None:
    content = os.urandom(2 * MIB)
    async with running(paths) as drive:
        ino = await write(drive, b"file", content)
        await stored(drive)
        rows = drive.store.read("SELECT shard_id, contract FROM shard ORDER BY shard_id")
        await drive.renter.delete(rows[0][1], [rows[0][0]])
        orphan = os.urandom(32)
        await drive.renter.put(rows[1][1], orphan, os.urandom(1000))
    sound = await integrity.fsck_unmounted(paths, None, Told(), repair=False, farmers=False)
    assert sound["found"] == []
    damage(paths, f"UPDATE inode SET nlink = 9 WHERE ino = {ino}")
    codes = {"farmer-missing", "farmer-orphan", "links-wrong"}
    seen = await integrity.fsck_unmounted(paths, None, Told(), repair=False, farmers=True)
    assert (seen["exit_code"], set(seen["left"]), seen["mended"]) == (4, codes, {})
    mended = await integrity.fsck_unmounted(paths, None, Told(), repair=True, farmers=True)
    assert (set(mended["mended"]), set(mended["left"])) == (codes - {"farmer-orphan"}, {"farmer-orphan"})
    mended = await integrity.fsck_unmounted(
        paths, None, Told(), repair=True, farmers=True, delete_unknown=True
    )
    assert (mended["exit_code"], set(mended["mended"]), mended["left"]) == (1, {"farmer-orphan"}, {})
    again = await integrity.fsck_unmounted(paths, None, Told(), repair=False, farmers=True)
    assert (again["exit_code"], again["found"]) == (0, [])
    async with running(paths) as drive:
        await until(lambda: drive.segments.report().full == 1, drive.store)
        await until(lambda: orphan.hex() not in shard_files(paths), drive.store)
        assert (await fsck(drive))["found"] == []
        assert await read(drive, ino) == content


def damage(paths: VolumePaths, sql: str) -> None:
    connection: apsw.Connection = open_meta(paths.meta_db, unlock_volume(paths, None).metadata_key)
    connection.execute(sql).fetchall()
    connection.close()


async def test_scrub_finds_rot_and_rebuilds_and_goes_on_where_it_was(
    paths: VolumePaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scrubbing, "BATCH", 2)
    choice = integrity.scrub_choice({})
    async with running(paths) as drive:
        for number in range(3):
            await write(drive, b"file%d" % number, os.urandom(MIB))
            await stored(drive)
        await until(lambda: drive.segments.report().full == 3, drive.store)
        sql = "SELECT shard_id FROM shard WHERE seg = (SELECT MAX(seg) FROM shard) AND idx = 1"
        ((rotten,),) = drive.store.read(sql)
        file = shard_files(paths)[rotten.hex()]
        data = bytearray(file.read_bytes())
        data[70_000] ^= 1
        file.write_bytes(data)
        with pytest.raises(trio.BrokenResourceError):
            await integrity.scrub(drive, Told(3), **choice)
    async with running(paths) as drive:
        kept = scrubbing.Scrub(
            drive.store, drive.keys, drive.segments, drive.renter.read_back, drive.renter.records
        ).unfinished()
        assert kept is not None
        assert kept.read == 6
        told = Told()
        done = await integrity.scrub(drive, told, **choice)
        assert told.progress[0]["done"] == 6
        assert (done["read"], done["wrong"], done["rebuilt"], done["exit_code"]) == (14, 1, 1, 1)
        assert done["damaged"] == done["broken"] == []
        again = await integrity.scrub(drive, Told(), **choice)
        assert (again["read"], again["wrong"], again["exit_code"]) == (15, 0, 0)
        faults = [one for one in drive.renter.records.outcomes() if one.shard_id == rotten]
        assert len(faults) == 1
        some = await integrity.scrub(drive, Told(), **integrity.scrub_choice({"share": 0.5}))
        assert 0 < some["read"] < 15


async def test_scrub_tells_frames_that_were_damaged_before_they_were_sent(paths: VolumePaths) -> None:
    async with running(paths) as drive:
        await write(drive, b"file", os.urandom(MIB))
        await drive.store.sync()
    (file,) = paths.journal_dir.iterdir()
    data = bytearray(file.read_bytes())
    data[5000] ^= 1
    file.write_bytes(data)
    async with running(paths) as drive:
        await stored(drive)
        done = await integrity.scrub(drive, Told(), **integrity.scrub_choice({}))
        assert (done["wrong"], len(done["damaged"]), done["exit_code"]) == (0, 1, 4)


async def test_gc_frees_now_what_nothing_needs(paths: VolumePaths) -> None:
    async with running(paths) as drive:
        fs = drive.filesystem
        kept = os.urandom(MIB)
        ino = await write(drive, b"kept", kept)
        for number in range(4):
            await write(drive, b"gone%d" % number, os.urandom(MIB))
        await stored(drive)
        before = set(shard_files(paths))
        stray = drive.paths.cache_dir / os.urandom(16).hex()
        for number in range(4):
            found = await fs.lookup(ROOT_INODE, b"gone%d" % number)
            await fs.unlink(ROOT_INODE, b"gone%d" % number)
            fs.forget([(found.ino, 1)])
    stray.write_bytes(bytes(50_000))

    async def work(drive: Drive) -> dict[str, Any]:
        told = Told()
        done = await integrity.collect(drive, told)
        assert told.parts == {"segments", "deletions", "files", "log"}
        assert not stray.exists()
        assert await read(drive, ino) == kept
        return done

    done = await integrity.with_drive(paths, None, work)
    assert (done["compacted"], done["moved"], done["files"]) == (1, MIB, 1)
    assert (done["shards"], done["shards_left"]) == (5, 0)
    assert done["garbage"] == 4 * MIB
    assert done["garbage_left"] == 0
    assert done["log_bytes"] > 0
    assert not before & set(shard_files(paths))


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


def files_of(paths: VolumePaths) -> dict[str, bytes]:
    """All files of the volume but those that SQLite and a lock keep beside them."""
    found = (path for path in paths.data_dir.rglob("*") if path.is_file() and path.suffix != ".sock")
    return {
        str(path): path.read_bytes()
        for path in found
        if not path.name.endswith("-shm") and path.name != "lock" and path.stat().st_size
    }


async def test_a_check_without_repair_changes_no_file_even_after_a_crash(
    paths: VolumePaths, tmp_path: Path
) -> None:
    crashed = tmp_path / "crashed"
    async with running(paths) as drive:
        await write(drive, b"file", os.urandom(MIB))
        await drive.store.sync()
        drive.store.write("UPDATE inode SET nlink = 5 WHERE ino > 1", [()])
        await drive.store.sync()
        shutil.copytree(paths.data_dir, crashed, ignore=shutil.ignore_patterns("farm"))
    shutil.copytree(crashed, paths.data_dir, dirs_exist_ok=True)
    before = files_of(paths)
    assert any(name.endswith("meta.db-wal") for name in before)
    found = await integrity.fsck_unmounted(paths, None, Told(), repair=False, farmers=False)
    assert found["left"] == {"links-wrong": 1}
    assert files_of(paths) == before


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
