"""fsck of a drive with farmers in a process of their own, running and not."""

import os
import shutil
from pathlib import Path

import trio
import trio.lowlevel

from storjfs.daemon import integrity
from storjfs.daemon.request import MountRequest
from storjfs.daemon.wiring import Drive, open_drive
from storjfs.fuse import MountOptions
from storjfs.integrity import View
from storjfs.store import ROOT_INODE
from storjfs.volume import VolumePaths, unlock_volume
from tests.integrity.drives import MIB, Told, damage, fsck, shard_files, stored
from tests.real_drives import read, running, write
from tests.segments.conftest import until


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
        await until(lambda: not drive.segments.report().to_delete, drive.store)
        # The five of the segment: neither more nor fewer for what became of the one that was not known.
        rows = drive.renter.report().contracts
        assert sum(row.shards for row in rows) == len(shard_files(paths)) == 5
        assert sorted(row.shards for row in rows) == [0, 1, 1, 1, 1, 1]
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
        "doomed-no-contract": ["INSERT INTO doomed VALUES (randomblob(32), 99, 0)"],
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


async def test_the_last_that_is_told_of_a_look_at_the_books_is_its_end(paths: VolumePaths) -> None:
    async with running(paths):
        told = Told()
        with View(paths.meta_db, unlock_volume(paths, None).metadata_key) as view:
            await integrity._watched(view, lambda: view.step("shards", 2, 3), told)
    assert told.progress[-1] == {"part": "shards", "done": 3, "of": 3}


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
