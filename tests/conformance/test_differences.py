"""What a program does not get on the drive, and what it sees instead: docs/reference/semantics.md."""

import array
import ctypes
import fcntl
import os
import stat
import struct
import subprocess
import tempfile
from pathlib import Path

from .calls import LIBC, fails, opened
from .conftest import Place
from .processes import as_user, needs_other_users

FS_IOC_GETFLAGS = 0x80086601
FICLONE = 0x40049409
STATX = 332
STATX_BTIME = 0x800


def test_no_inode_flags(place: Place) -> None:
    with opened(place.at / "file", os.O_RDWR | os.O_CREAT) as file:
        found = fails(fcntl.ioctl, file, FS_IOC_GETFLAGS, array.array("l", [0]), True)
    assert found == ("ENOTTY" if place.mounted else "nothing")


def test_no_clones(place: Place) -> None:
    (place.at / "old").write_text("x")
    with opened(place.at / "old") as old, opened(place.at / "new", os.O_RDWR | os.O_CREAT) as new:
        assert fails(fcntl.ioctl, new, FICLONE, old) == "EOPNOTSUPP"


def test_no_time_of_birth(place: Place) -> None:
    (place.at / "file").touch()
    buffer = ctypes.create_string_buffer(256)
    path = os.fsencode(place.at / "file")
    assert LIBC.statx(-100, path, 0, ctypes.c_uint(STATX_BTIME), buffer) == 0
    (mask,) = struct.unpack_from("I", buffer.raw)
    assert bool(mask & STATX_BTIME) is not place.mounted


def test_set_id_programs_and_devices_are_kept_but_not_honoured(place: Place) -> None:
    """fusermount3 mounts with nosuid and nodev."""
    needs_other_users()
    (place.at / "id").write_bytes(Path("/usr/bin/id").read_bytes())
    os.chmod(place.at / "id", 0o4755)
    os.mknod(place.at / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))

    def run() -> str:
        return subprocess.run(
            [place.at / "id", "-u"], capture_output=True, text=True, check=True
        ).stdout.strip()

    if place.mounted:
        assert as_user(run) == "65534"
        assert fails(os.open, place.at / "null", os.O_WRONLY) == "EACCES"
    else:
        flags = os.statvfs(place.at).f_flag
        assert (as_user(run) == "0") is not bool(flags & os.ST_NOSUID)
        assert (fails(os.open, place.at / "null", os.O_WRONLY) == "nothing") is not bool(flags & os.ST_NODEV)


def test_other_users_see_nothing_of_a_drive_that_is_not_shared() -> None:
    from tests.fuse.mounts import mounted

    needs_other_users()
    # Not within pytest's folder, which each run that starts closes to others: that would give EACCES as well.
    with tempfile.TemporaryDirectory() as folder, mounted(Path(folder)) as at:
        for reached in (folder, at):
            os.chmod(reached, 0o755)
        assert as_user(lambda: fails(os.stat, at / "x")) == "EACCES"


def test_the_whole_filesystem_is_synced_page_by_page_only(at: Path) -> None:
    """syncfs(2) and sync(2) send dirty pages but no request to make them durable: they succeed, and what they
    covered is durable a few seconds later."""
    with opened(at / "file", os.O_RDWR | os.O_CREAT) as file:
        os.write(file, b"x")
        assert LIBC.syncfs(file) == 0


def test_room_and_limits_are_told(at: Path) -> None:
    found = os.statvfs(at)
    assert found.f_namemax == 255
    assert 0 < found.f_bavail <= found.f_bfree <= found.f_blocks
    assert os.pathconf(at, "PC_NAME_MAX") == 255


def set_id(path: Path) -> Path:
    path.write_text("program")
    os.chmod(path, 0o6755)
    return path


def test_on_a_shared_drive_root_takes_set_id_bits_away_too(place: Place) -> None:
    """libfuse 3.14 does not say who writes, and to leave them would be the worse mistake."""
    needs_other_users()
    with opened(set_id(place.at / "program"), os.O_WRONLY) as file:
        os.write(file, b"x")
    left = stat.S_IMODE((place.at / "program").stat().st_mode)
    assert left == (0o755 if place.mounted else 0o6755)


def test_chown_to_nobody_at_all_leaves_set_id_bits(place: Place) -> None:
    """The kernel sends nothing that names an owner, so the filesystem cannot know it from a touch."""
    needs_other_users()
    os.chown(set_id(place.at / "program"), -1, -1)
    left = stat.S_IMODE((place.at / "program").stat().st_mode)
    assert left == (0o6755 if place.mounted else 0o755)


def test_a_directory_has_no_size(place: Place) -> None:
    found = place.at.stat()
    assert (found.st_size, found.st_blocks) == (0, 0) if place.mounted else found.st_size > 0


def test_a_set_group_id_bit_without_execution_survives_a_write_by_a_stranger(place: Place) -> None:
    """It means nothing (it once marked mandatory locks); newer kernels clear it on local filesystems."""
    needs_other_users()
    path = place.at / "file"
    path.write_text("x")
    os.chmod(path, 0o2666)

    def write() -> None:
        with opened(path, os.O_WRONLY) as file:
            os.write(file, b"y")

    as_user(write)
    left = stat.S_IMODE(path.stat().st_mode)
    assert left in ((0o2666,) if place.mounted else (0o2666, 0o666))
