"""An older copy of meta.db costs nothing for good, also of what had not been sent yet."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from storjfs.daemon import integrity, newest
from storjfs.store import StoreError
from storjfs.store.batch import Values
from storjfs.volume import VolumePaths
from tests.integrity.drives import Told
from tests.real_drives import make_volume, read, running, write


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> VolumePaths:
    return make_volume(tmp_path, monkeypatch)


@pytest.mark.parametrize("by", ["mount", "fsck"])
async def test_unsent_data_that_an_older_copy_does_not_know_is_kept(paths: VolumePaths, by: str) -> None:
    older, newer = paths.data_dir / "older.db", paths.data_dir / "newer.db"
    content = os.urandom(200_000)
    async with running(paths) as drive:
        await write(drive, b"old", content)
        await drive.segments.flush()
    shutil.copy(paths.meta_db, older)
    async with running(paths) as drive:
        ino = await write(drive, b"new", content)
        await drive.store.sync()
    (unsent,) = paths.journal_dir.iterdir()
    shutil.copy(paths.meta_db, newer)
    shutil.copy(older, paths.meta_db)
    if by == "fsck":
        await integrity.fsck_unmounted(paths, None, Told(), repair=True, farmers=False)
    async with running(paths) as drive:
        if by == "mount":
            assert any("older" in problem for problem in (await drive.facts()).disk_problems)
        await integrity.collect(drive, Told())
    shutil.copy(newer, paths.meta_db)
    (paths.journal_kept_dir / unsent.name).rename(unsent)
    async with running(paths) as drive:
        assert await read(drive, ino) == content


async def test_an_open_segment_that_grew_since_is_kept_whole(paths: VolumePaths) -> None:
    older, newer = paths.data_dir / "older.db", paths.data_dir / "newer.db"
    async with running(paths) as drive:
        await write(drive, b"first", os.urandom(100_000))
        await drive.store.sync()
        await drive.store.shrink_log()
        shutil.copy(paths.meta_db, older)
        await write(drive, b"second", os.urandom(100_000))
        await drive.store.sync()
    (unsent,) = paths.journal_dir.iterdir()
    size = unsent.stat().st_size
    paths.newest_file.write_text("99")
    shutil.copy(paths.meta_db, newer)
    shutil.copy(older, paths.meta_db)
    async with running(paths):
        assert (paths.journal_kept_dir / unsent.name).stat().st_size == size > 200_000


async def test_what_an_older_copy_knows_as_unsent_is_kept_too(paths: VolumePaths) -> None:
    older = paths.data_dir / "older.db"
    async with running(paths) as drive:
        await write(drive, b"first", os.urandom(100_000))
        await drive.store.sync()
        await drive.store.shrink_log()
        shutil.copy(paths.meta_db, older)
    (unsent,) = paths.journal_dir.iterdir()
    content = unsent.read_bytes()
    paths.newest_file.write_text("99")
    shutil.copy(older, paths.meta_db)
    async with running(paths) as drive:
        await drive.segments.flush()
        await drive.store.sync()
    assert (paths.journal_kept_dir / unsent.name).read_bytes() == content


def test_what_is_set_aside_is_on_disk_before_anything_is_cut(
    paths: VolumePaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths.journal_dir.mkdir(exist_ok=True)
    grown, unknown = (paths.journal_dir / os.urandom(16).hex() for _ in range(2))
    for file in (grown, unknown):
        file.write_bytes(b"newer")
    paths.newest_file.write_text("99")
    synced = list[str]()
    fsync = os.fsync

    def note(fd: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{fd}"))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", note)

    def read(sql: str, args: Values) -> list[Any]:
        if sql == newest._NEXT:
            return [(1,)]
        return [(0, 2)] if args == (bytes.fromhex(grown.name),) else []

    assert newest.set_aside_newer(paths, read)
    kept = paths.journal_kept_dir
    assert {one.name: one.read_bytes() for one in kept.iterdir()} == {
        grown.name: b"newer",
        unknown.name: b"newer",
    }
    assert f"{kept / grown.name}.part" in synced
    assert synced[-1] == str(kept)


async def test_after_a_crash_nothing_is_set_aside(paths: VolumePaths) -> None:
    async with running(paths) as drive:
        await write(drive, b"file", os.urandom(100_000))
        await drive.store.sync()
        stray = paths.journal_dir / os.urandom(16).hex()
        stray.write_bytes(b"never committed")
    async with running(paths) as drive:
        assert (await drive.facts()).disk_problems == []
    assert not stray.exists()
    assert not paths.journal_kept_dir.exists()


async def test_nothing_is_said_of_what_was_set_aside_where_nothing_was(paths: VolumePaths) -> None:
    async with running(paths) as drive:
        await write(drive, b"sent", os.urandom(100_000))
        await drive.segments.flush()
    paths.newest_file.write_text("99")
    async with running(paths) as drive:
        (said,) = (await drive.facts()).disk_problems
    assert "older" in said
    assert str(paths.journal_kept_dir) not in said
    assert "audits of shards that were deleted since" in said


@pytest.mark.parametrize("damage", ["DELETE FROM counters", "UPDATE counters SET value = 'senseless'"])
async def test_a_damaged_number_of_the_next_segment_ends_no_mount(paths: VolumePaths, damage: str) -> None:
    async with running(paths) as drive:
        ino = await write(drive, b"file", b"content" * 10_000)
        await drive.store.sync()
        drive.store.write(f"{damage} WHERE key = ?", [("next_seg",)])
        await drive.store.sync()
        assert await read(drive, ino) == b"content" * 10_000
        await write(drive, b"another", b"content")
        await drive.store.sync()


async def test_a_disk_that_does_not_say_how_far_it_has_come_ends_no_mount(
    paths: VolumePaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(paths) as drive:
        before = paths.newest_file.read_text()
        query = drive.store.read

        def fail(sql: str, args: Values = ()) -> list[Any]:
            if sql == newest._NEXT:
                raise StoreError("the disk fails", permanent=False)
            return query(sql, args)

        monkeypatch.setattr(drive.store, "read", fail)
        await write(drive, b"file", os.urandom(100_000))
        await drive.store.sync()
        assert paths.newest_file.read_text() == before
