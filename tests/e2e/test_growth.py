"""Large things on a real mount: correct, and never holding the loop for long."""

import os
import stat
import subprocess
from collections.abc import Iterator

import pytest

from storjfs.daemon.client import request
from storjfs.store import open_meta
from tests.watching import LIMIT, too_long

from .drive import Drive, await_that

MIB = 1 << 20
ENTRIES = 100_000
EXTENTS = 100_000
PAGE = 4096


@pytest.fixture
def watched(drive: Drive) -> Iterator[Drive]:
    """A drive whose mount process watches its loop; in the end nothing held it for long again and again."""
    drive.env["STORJFS_WATCH_LOOP"] = str(LIMIT * 1e3)
    drive.mount()
    yield drive
    report = request(drive.paths().control_socket, "loop")
    assert report["steps"] > 0
    assert not too_long(report["holds"]), report["holds"]


def fill(drive: Drive) -> None:
    """While it is not mounted: a large directory, and files of very many extents that share their content.

    The extents lead to a file that exists, so that they can be read.
    """
    keys = drive.keys()
    db = open_meta(drive.paths().meta_db, keys.metadata_key)
    with db:
        ((ino, dentry),) = db.execute(
            "SELECT a.value, b.value FROM counters a, counters b "
            "WHERE a.key = 'next_ino' AND b.key = 'next_dentry'"
        )
        assert isinstance(ino, int)
        assert isinstance(dentry, int)
        inode = (
            "INSERT INTO inode SELECT ?, ?, uid, gid, ?, ?, mtime, mtime, mtime, 0, ?, 0, ?, NULL "
            "FROM inode WHERE ino = 1"
        )
        db.execute(inode, (ino, 0o40755, 2, 0, 1, 0))
        db.execute("UPDATE inode SET nlink = nlink + 1 WHERE ino = 1")
        db.execute("INSERT INTO dentry VALUES (1, ?, ?, ?)", (b"large", ino, dentry))
        first = ino + 1
        db.executemany(inode, ((first + n, 0o100644, 1, 0, 0, 0) for n in range(ENTRIES)))
        db.executemany(
            "INSERT INTO dentry VALUES (?, ?, ?, ?)",
            ((ino, b"entry-%06d" % n, first + n, dentry + 1 + n) for n in range(ENTRIES)),
        )
        ((off, length, seg, pos, run, skip),) = db.execute(
            "SELECT e.off, e.len, e.seg, e.pos, e.run, e.skip FROM extent e JOIN dentry d ON d.ino = e.ino "
            "WHERE d.name = ?",
            (b"page",),
        )
        assert (off, length) == (0, PAGE)
        first += ENTRIES
        for number in range(3):
            many = first + number
            db.execute(inode, (many, 0o100644, 1, EXTENTS * PAGE, 0, EXTENTS * PAGE))
            name = (1, b"many-%d" % number, many, dentry + ENTRIES + 1 + number)
            db.execute("INSERT INTO dentry VALUES (?, ?, ?, ?)", name)
            db.executemany(
                "INSERT INTO extent VALUES (?, ?, ?, ?, ?, ?, ?)",
                ((many, n * PAGE, PAGE, seg, pos, run, skip) for n in range(EXTENTS)),
            )
        db.execute(
            "UPDATE segment SET live = live + ?1, plain = plain + ?1 WHERE seg = ?2",
            (3 * EXTENTS * PAGE, seg),
        )
        for key, value in (
            ("next_ino", first + 3),
            ("next_dentry", dentry + ENTRIES + 10),
            ("inodes", first + 2),
        ):
            db.execute("REPLACE INTO counters VALUES (?, ?)", (key, value))
    db.close()


def test_a_large_directory_and_files_of_very_many_extents(watched: Drive) -> None:
    (watched.at / "page").write_bytes(b"p" * PAGE)
    watched.umount()
    fill(watched)
    watched.mount()
    large = watched.at / "large"
    names = os.listdir(large)
    assert len(names) == len(set(names)) == ENTRIES
    found = subprocess.run(
        ["find", str(large), "-name", "entry-0999*", "-size", "0"], capture_output=True, text=True, check=True
    )
    assert len(found.stdout.splitlines()) == 100
    assert (large / "entry-054321").stat().st_size == 0
    (large / "new").write_bytes(b"new")
    assert (large / "new").read_bytes() == b"new"
    with pytest.raises(OSError, match="not empty"):
        large.rmdir()

    whole = watched.at / "many-0"
    with whole.open("rb") as file:
        assert os.pread(file.fileno(), 3 * MIB, 300 * MIB) == b"p" * (3 * MIB)
        for _ in range(64):
            assert file.read(MIB) == b"p" * MIB
    whole.unlink()
    (watched.at / "new").write_bytes(b"other")
    (watched.at / "new").rename(watched.at / "many-1")
    assert (watched.at / "many-1").read_bytes() == b"other"
    os.truncate(watched.at / "many-2", PAGE + 1)
    os.truncate(watched.at / "many-2", 10 * MIB)
    assert (watched.at / "many-2").read_bytes() == b"p" * (PAGE + 1) + bytes(10 * MIB - PAGE - 1)

    subprocess.run(["rm", "-r", str(large)], check=True)
    assert sorted(os.listdir(watched.at)) == ["many-1", "many-2", "page"]
    watched.run("flush")


def test_a_sparse_file_of_16_tebibytes(watched: Drive) -> None:
    path = watched.at / "sparse"
    end = 1 << 44
    with path.open("w+b") as file:
        for at in (0, 1 << 30, (1 << 43) + 5, end - PAGE):
            os.pwrite(file.fileno(), b"x" * PAGE, at)
        os.fsync(file.fileno())
        assert os.fstat(file.fileno()).st_size == end
        file.truncate(100)
        os.fsync(file.fileno())
        file.truncate(end)
        assert os.pread(file.fileno(), 2 * PAGE, end - PAGE) == bytes(PAGE)
        assert os.pread(file.fileno(), PAGE, 1 << 30) == bytes(PAGE)
        file.truncate(0)
    path.unlink()


def test_fsync_with_very_many_changes_pending(watched: Drive) -> None:
    for number in range(3):
        folder = watched.at / f"d{number}"
        folder.mkdir()
        for name in range(4000):
            os.close(os.open(folder / str(name), os.O_CREAT | os.O_WRONLY))
        handle = os.open(folder, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)
    assert stat.S_ISDIR((watched.at / "d2").stat().st_mode)


def test_free_space_falls_by_what_is_written_and_rises_when_it_is_removed(drive: Drive) -> None:
    """Within two percent and a little for padding; the waiting part counts before any farmer has it.

    Contracts are small here: what else happens to the disk does not show.
    """
    size = 96 * MIB
    drive.init(capacity='"2 GiB"')
    drive.mount()

    def free() -> int:
        found = os.statvfs(drive.at)
        assert 0 < found.f_bavail <= found.f_bfree <= found.f_blocks
        return found.f_bfree * found.f_frsize

    def near(difference: int) -> bool:
        return abs(difference - size) < size * 0.02 + 2 * MIB

    before, inodes = os.statvfs(drive.at), free()
    assert before.f_files - before.f_ffree == 1
    path = drive.at / "data"
    with path.open("wb") as file:
        for _ in range(size // MIB):
            file.write(os.urandom(MIB))
        file.flush()
        os.fsync(file.fileno())
    assert inodes - free() > size * 0.98 - 2 * MIB, "counts as soon as it is written"
    drive.run("flush")
    await_that(lambda: near(inodes - free()), "df shows what was written, and no more", 30)
    now = os.statvfs(drive.at)
    assert now.f_blocks == before.f_blocks
    assert now.f_files - now.f_ffree == 2
    drive.umount()
    drive.mount()
    await_that(lambda: near(inodes - free()), "the same after another mount", 30)
    path.unlink()
    await_that(lambda: inodes - free() < 2 * MIB, "df shows that it is gone")
