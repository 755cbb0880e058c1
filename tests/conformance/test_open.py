"""open, creat, truncate and what the flags mean."""

import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .calls import fails, opened
from .conftest import Place

O_TMPFILE = 0o20200000
NEW = os.O_CREAT | os.O_EXCL | os.O_WRONLY

ERRNOS: list[tuple[str, Callable[[Path], Any], str]] = [
    ("a file that is not there", lambda at: os.open(at / "none", os.O_RDONLY), "ENOENT"),
    ("a new file below nothing", lambda at: os.open(at / "none" / "x", NEW), "ENOENT"),
    ("a new file below a file", lambda at: os.open(at / "file" / "x", NEW), "ENOTDIR"),
    ("a new file with a name of 256 bytes", lambda at: os.open(at / ("n" * 256), NEW), "ENAMETOOLONG"),
    ("a new file that is there", lambda at: os.open(at / "file", NEW), "EEXIST"),
    ("a new file in the place of a broken link", lambda at: os.open(at / "broken", NEW), "EEXIST"),
    ("a new file in the place of a directory", lambda at: os.open(at / "dir", NEW), "EEXIST"),
    ("a new file with a slash after it", lambda at: os.open(f"{at}/new/", NEW), "EISDIR"),
    ("a file with a slash after it", lambda at: os.open(f"{at}/file/", os.O_RDONLY), "ENOTDIR"),
    ("a directory to write", lambda at: os.open(at / "dir", os.O_WRONLY), "EISDIR"),
    ("a directory to truncate", lambda at: os.truncate(at / "dir", 0), "EISDIR"),
    ("a directory with O_CREAT", lambda at: os.open(at / "dir", os.O_CREAT), "EISDIR"),
    ("a file as a directory", lambda at: os.open(at / "file", os.O_DIRECTORY), "ENOTDIR"),
    ("a link that is not followed", lambda at: os.open(at / "link", os.O_NOFOLLOW), "ELOOP"),
    ("a loop of links", lambda at: os.open(at / "loop", os.O_RDONLY), "ELOOP"),
    ("a new file through a loop of links", lambda at: os.open(at / "loop", os.O_CREAT), "ELOOP"),
    ("a socket", lambda at: os.open(at / "socket", os.O_RDONLY), "ENXIO"),
    ("a FIFO nobody reads", lambda at: os.open(at / "fifo", os.O_WRONLY | os.O_NONBLOCK), "ENXIO"),
    ("truncate of a FIFO", lambda at: os.truncate(at / "fifo", 0), "EINVAL"),
    ("truncate to less than nothing", lambda at: os.truncate(at / "file", -1), "EINVAL"),
    ("truncate of nothing", lambda at: os.truncate(at / "none", 0), "ENOENT"),
]


@pytest.fixture
def tree(at: Path) -> Path:
    (at / "file").write_text("content")
    (at / "dir").mkdir()
    (at / "link").symlink_to("file")
    (at / "broken").symlink_to("nowhere")
    (at / "loop").symlink_to("loop")
    os.mkfifo(at / "fifo")
    os.mknod(at / "socket", stat.S_IFSOCK | 0o600)
    return at


@pytest.mark.parametrize(("call", "errno"), [case[1:] for case in ERRNOS], ids=[case[0] for case in ERRNOS])
def test_it_fails_with(tree: Path, call: Callable[[Path], Any], errno: str) -> None:
    assert fails(call, tree) == errno


def test_a_broken_link_is_a_way_to_make_its_target(tree: Path) -> None:
    with opened(tree / "broken", os.O_CREAT | os.O_WRONLY) as file:
        os.write(file, b"made")
    assert (tree / "nowhere").read_text() == "made"


def test_the_access_mode_holds_for_the_descriptor(tree: Path) -> None:
    with opened(tree / "file", os.O_WRONLY) as file:
        assert fails(os.read, file, 1) == "EBADF"
    with opened(tree / "file", os.O_RDONLY) as file:
        assert fails(os.write, file, b"x") == "EBADF"
        assert fails(os.ftruncate, file, 0) == "EINVAL"
    with opened(tree / "new", NEW, 0) as file:  # a mode without any bit binds the next open only
        assert os.write(file, b"x") == 1


def test_what_is_cut_and_grown_again_reads_as_zeros(at: Path) -> None:
    with opened(at / "file", os.O_RDWR | os.O_CREAT) as file:
        os.write(file, b"x" * 200_000)
        os.fsync(file)
        os.ftruncate(file, 70_001)
        os.ftruncate(file, 200_000)
        assert os.pread(file, 200_000, 0) == b"x" * 70_001 + bytes(129_999)


def test_a_temporary_file_without_a_name(place: Place) -> None:
    """libfuse 3.14 does not pass it on: programs fall back to a name that they unlink."""
    found = fails(os.open, place.at, O_TMPFILE | os.O_RDWR, 0o600)
    assert found == ("EOPNOTSUPP" if place.mounted else "nothing")


@pytest.mark.parametrize(
    "flags", [os.O_SYNC, os.O_DSYNC, os.O_NOATIME, os.O_CLOEXEC, os.O_NOCTTY, os.O_NONBLOCK]
)
def test_flags_that_change_nothing_here(at: Path, flags: int) -> None:
    with opened(at / "file", os.O_RDWR | os.O_CREAT | flags) as file:
        assert os.write(file, b"x" * 5000) == 5000
        assert os.pread(file, 6000, 0) == b"x" * 5000


def test_a_running_program_is_not_written_and_an_open_one_not_run(at: Path) -> None:
    program = at / "program"
    shutil.copy(shutil.which("sleep") or "/bin/sleep", program)
    program.chmod(0o755)
    with subprocess.Popen([program, "1000"]) as running:
        try:
            assert fails(os.open, program, os.O_WRONLY) == "ETXTBSY"
            assert fails(os.truncate, program, 0) == "ETXTBSY"
            os.rename(program, at / "moved")
        finally:
            running.kill()
    with opened(at / "moved", os.O_WRONLY):
        assert fails(subprocess.run, [at / "moved", "0"]) == "ETXTBSY"
    assert subprocess.run([at / "moved", "0"]).returncode == 0


def test_the_end_of_what_a_file_can_reach(place: Place) -> None:
    """On the drive that is what off_t holds, as on tmpfs; ext4 ends at 16 TiB."""
    last = (1 << 63) - 1
    with opened(place.at / "file", os.O_RDWR | os.O_CREAT) as file:
        assert fails(os.pwrite, file, b"xx", last - 1) == "EINVAL"
        if not place.mounted:
            assert fails(os.pwrite, file, b"x", 1 << 60) == "EFBIG"
        far = last - 3 if place.mounted else 1 << 42
        os.pwrite(file, b"far", far)
        os.fsync(file)
        assert os.fstat(file).st_size == far + 3
        assert os.pread(file, 5, far - 2) == b"\0\0far"
        os.ftruncate(file, 0)
    assert (place.at / "file").stat().st_blocks == 0


def test_a_limit_on_the_size_of_files_holds(at: Path) -> None:
    from resource import RLIMIT_FSIZE, setrlimit
    from signal import SIG_IGN, SIGXFSZ, signal

    from .processes import Child

    def write() -> tuple[int, str, str]:
        signal(SIGXFSZ, SIG_IGN)
        setrlimit(RLIMIT_FSIZE, (10_000, 10_000))
        with opened(at / "file", os.O_RDWR | os.O_CREAT) as file:
            return (
                os.write(file, b"x" * 20_000),
                fails(os.write, file, b"x"),
                fails(os.ftruncate, file, 20_000),
            )

    assert Child(write).result() == (10_000, "EFBIG", "EFBIG")
