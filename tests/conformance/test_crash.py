"""What is left of unlinked files that were open: nothing, after the last close as after a crash."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from storjfs.store import open_meta
from tests.e2e.drive import Drive, unmounted

from .calls import fails
from .processes import Child

MIB = 1 << 20


@pytest.fixture
def drive(tmp_path: Path) -> Iterator[Drive]:
    with unmounted(tmp_path) as made:
        made.mount()
        yield made


def left(drive: Drive) -> dict[str, int]:
    """What the metadata of an unmounted drive still holds, the root directory aside."""
    database = open_meta(drive.paths().meta_db, drive.keys().metadata_key)
    queries = {
        "inodes": "SELECT COUNT(*) - 1 FROM inode",
        "orphans": "SELECT COUNT(*) FROM orphan",
        "extents": "SELECT COUNT(*) FROM extent",
        "live bytes": "SELECT COALESCE(SUM(live), 0) FROM segment",
    }
    try:
        return {what: int(str(database.execute(query).fetchall()[0][0])) for what, query in queries.items()}
    finally:
        database.close()


def hold_unlinked(path: Path) -> int:
    """A descriptor of a file of 3 MiB that has no name any more and can still be written and read."""
    path.write_bytes(os.urandom(2 * MIB))
    file = os.open(path, os.O_RDWR)
    os.unlink(path)
    os.pwrite(file, os.urandom(MIB), 2 * MIB)
    os.fsync(file)
    assert len(os.pread(file, 4 * MIB, 0)) == 3 * MIB
    return file


NOTHING = {"inodes": 0, "orphans": 0, "extents": 0, "live bytes": 0}


def test_the_last_close_frees_an_unlinked_file(drive: Drive) -> None:
    first = hold_unlinked(drive.at / "file")
    second = os.dup(first)
    os.close(first)
    assert len(os.pread(second, 4 * MIB, 0)) == 3 * MIB
    os.close(second)
    drive.umount()
    assert left(drive) == NOTHING


def test_the_end_of_the_program_frees_an_unlinked_file(drive: Drive) -> None:
    def hold() -> None:
        hold_unlinked(drive.at / "file")
        os.kill(os.getpid(), signal.SIGKILL)

    os.waitpid(Child(hold).pid, 0)
    drive.umount()
    assert left(drive) == NOTHING


def test_a_crash_frees_an_unlinked_file(drive: Drive) -> None:
    held = hold_unlinked(drive.at / "file")
    drive.kill()
    # The second where the request had reached the connection when that ended.
    assert fails(os.fsync, held) in ("ENOTCONN", "ECONNABORTED")
    os.close(held)
    assert left(drive)["orphans"] == 1
    drive.mount()
    assert os.listdir(drive.at) == []
    drive.umount()
    assert left(drive) == NOTHING
