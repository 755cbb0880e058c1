"""What programs see through a real mount: the adapter and the kernel, with the file data in memory."""

import contextlib
import ctypes
import errno
import mmap
import os
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from storjfs.filesystem.core import RESERVE
from tests.fuse.mounts import mounted


@pytest.fixture
def at(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path) as directory:
        yield directory


@contextlib.contextmanager
def open_folder() -> Iterator[Path]:
    """A folder that others can reach. Not within pytest's own, which each starting run closes to others."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_written_bytes_are_read_back(at: Path) -> None:
    content = os.urandom(3 << 20)
    (at / "file").write_bytes(content)
    assert (at / "file").read_bytes() == content
    assert (at / "file").stat().st_size == len(content)


def test_a_mapping_and_a_descriptor_see_the_same_file(at: Path) -> None:
    with open(at / "file", "w+b") as file:
        file.truncate(1 << 20)
        with mmap.mmap(file.fileno(), 1 << 20) as view:
            view[5000:5005] = b"hello"
            view.flush()
        assert os.pread(file.fileno(), 5, 5000) == b"hello"


def test_appending_and_cutting(at: Path) -> None:
    with open(at / "file", "ab") as file:
        file.write(b"x" * 10_000)
    os.truncate(at / "file", 100)
    with open(at / "file", "ab") as file:
        file.write(b"end")
    assert (at / "file").read_bytes() == b"x" * 100 + b"end"
    with open(at / "file", "wb") as file:
        assert os.fstat(file.fileno()).st_size == 0


def test_a_directory_of_many_files_is_listed_completely_and_with_dots(at: Path) -> None:
    names = {f"file number {number}" for number in range(2000)}
    for name in names:
        (at / name).touch()
    assert set(os.listdir(at)) == names
    shown = subprocess.run(["ls", "-a", str(at)], capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )
    assert shown[:2] == [".", ".."]
    with os.scandir(at) as entries:
        assert all(entry.is_file() and entry.inode() == entry.stat().st_ino for entry in entries)


def test_names_are_any_bytes(at: Path) -> None:
    name = bytes(set(range(1, 256)) - {ord("/")})[:255]
    os.mkdir(os.path.join(os.fsencode(at), name))
    assert os.listdir(os.fsencode(at)) == [name]
    with pytest.raises(OSError) as caught:
        os.mkdir(os.path.join(os.fsencode(at), b"x" * 256))
    assert caught.value.errno == errno.ENAMETOOLONG


def test_a_name_made_after_a_failed_lookup_is_found(at: Path) -> None:
    assert not (at / "later").exists()
    (at / "later").mkdir()
    assert (at / "later").is_dir()


def test_an_open_file_survives_its_unlinking(at: Path) -> None:
    with open(at / "file", "w+b") as file:
        file.write(b"still here")
        file.flush()
        os.unlink(at / "file")
        assert os.listdir(at) == []
        file.seek(0)
        assert file.read() == b"still here"
        assert os.fstat(file.fileno()).st_nlink == 0


def test_renaming_replaces_exchanges_and_refuses(at: Path) -> None:
    (at / "a").write_text("a")
    (at / "b").write_text("b")
    renameat2(at / "a", at / "b", 2)
    assert ((at / "a").read_text(), (at / "b").read_text()) == ("b", "a")
    with pytest.raises(OSError) as caught:
        renameat2(at / "a", at / "b", 1)
    assert caught.value.errno == errno.EEXIST
    os.rename(at / "a", at / "b")
    assert (at / "b").read_text() == "b"
    assert os.listdir(at) == ["b"]


def renameat2(source: Path, target: Path, flags: int) -> None:
    """renameat2(2), which the os module does not have."""
    library = ctypes.CDLL(None, use_errno=True)
    if library.renameat2(-100, os.fsencode(source), -100, os.fsencode(target), flags) != 0:
        raise OSError(ctypes.get_errno(), "renameat2")


def test_links_of_both_kinds(at: Path) -> None:
    (at / "file").write_text("x")
    os.link(at / "file", at / "other")
    os.symlink("file", at / "link")
    assert (at / "file").stat().st_nlink == 2
    assert (at / "other").stat().st_ino == (at / "file").stat().st_ino
    assert os.readlink(at / "link") == "file"
    assert (at / "link").read_text() == "x"


def test_modes_owners_and_times_are_kept(at: Path) -> None:
    (at / "file").touch(mode=0o600)
    os.chmod(at / "file", 0o4711)
    os.utime(at / "file", ns=(1_000_000_001, 2_000_000_002))
    found = (at / "file").stat()
    assert stat.S_IMODE(found.st_mode) == 0o4711
    assert (found.st_atime_ns, found.st_mtime_ns) == (1_000_000_001, 2_000_000_002)
    before = after = found.st_ctime_ns
    while after == before:  # the kernel's clock for these times ticks every few milliseconds
        os.chmod(at / "file", 0o644)
        after = (at / "file").stat().st_ctime_ns
    assert after > before


def test_the_umask_and_the_owner_apply_to_new_files(at: Path) -> None:
    before = os.umask(0o027)
    try:
        (at / "file").touch(mode=0o666)
        (at / "dir").mkdir(mode=0o777)
    finally:
        os.umask(before)
    assert stat.S_IMODE((at / "file").stat().st_mode) == 0o640
    assert stat.S_IMODE((at / "dir").stat().st_mode) == 0o750
    assert (at / "file").stat().st_uid == os.getuid()


def test_extended_attributes(at: Path) -> None:
    (at / "file").touch()
    with pytest.raises(OSError) as caught:
        os.getxattr(at / "file", "user.none")
    assert caught.value.errno == errno.ENODATA
    os.setxattr(at / "file", "user.word", b"\0binary")
    with pytest.raises(OSError) as caught:
        os.setxattr(at / "file", "user.word", b"", os.XATTR_CREATE)
    assert caught.value.errno == errno.EEXIST
    assert os.getxattr(at / "file", "user.word") == b"\0binary"
    assert os.listxattr(at / "file") == ["user.word"]
    os.removexattr(at / "file", "user.word")
    assert os.listxattr(at / "file") == []


def test_special_files(at: Path) -> None:
    os.mkfifo(at / "fifo")
    assert stat.S_ISFIFO((at / "fifo").stat().st_mode)


def test_df_says_something_sensible(at: Path) -> None:
    found = os.statvfs(at)
    assert found.f_frsize * found.f_blocks == 1 << 40
    assert found.f_frsize * found.f_bfree == 1 << 39
    assert found.f_frsize * (found.f_bfree - found.f_bavail) == RESERVE
    assert found.f_files - found.f_ffree == 1
    assert found.f_namemax == 255


def test_a_read_only_mount_says_so_itself(tmp_path: Path) -> None:
    with mounted(tmp_path) as at:
        (at / "file").write_text("x")
    with mounted(tmp_path, "ro") as at:
        with pytest.raises(OSError) as caught:
            (at / "other").touch()
        assert caught.value.errno == errno.EROFS
        assert os.listdir(at) == ["file"]


def test_small_writes_do_not_ask_for_an_attribute_each_time(tmp_path: Path) -> None:
    """The promise to drop set-id bits ourselves (see storjfs.fuse.connection) arrived at the kernel."""
    with mounted(tmp_path) as at:
        with open(at / "file", "wb", buffering=0) as file:
            for _ in range(100):
                os.write(file.fileno(), b"y" * 100)
        with pytest.raises(OSError):
            os.getxattr(at / "file", "user.asked")
    asked = (tmp_path / "meta.db.asked").read_text().split()
    assert "user.asked" in asked
    assert asked.count("security.capability") < 5


@pytest.mark.parametrize("change", ["printf x >> {}", "truncate -s 3 {}"])
def test_who_writes_to_a_set_id_file_takes_the_bits_away(tmp_path: Path, change: str) -> None:
    if os.getuid() != 0:
        pytest.skip("needs another user to be")
    with open_folder() as folder, mounted(folder, "allow_other") as at:
        (at / "program").write_text("before")
        os.chmod(at / "program", 0o6777)
        assert stat.S_IMODE((at / "program").stat().st_mode) == 0o6777
        command = change.format(at / "program")
        subprocess.run(["sh", "-c", command], user=65534, group=65534, extra_groups=[], check=True)
        assert stat.S_IMODE((at / "program").stat().st_mode) == 0o777


def wait_until(true: Callable[[], bool]) -> None:
    """The kernel forgets what it no longer needs a little later."""
    for _ in range(3000):
        if true():
            return
        time.sleep(0.01)
    raise AssertionError("this did not happen")


def test_what_is_removed_goes_however_often_it_was_looked_up(at: Path) -> None:
    """The kernel counts each answer that told it of an inode, and so have we to."""

    def files() -> int:
        return os.statvfs(at).f_files - os.statvfs(at).f_ffree

    before = files()
    (at / "folder").mkdir()
    (at / "folder" / "file").write_text("x")
    os.link(at / "folder" / "file", at / "folder" / "second name")
    os.symlink("file", at / "folder" / "link")
    os.mkfifo(at / "folder" / "pipe")
    for _ in range(3):
        with os.scandir(at / "folder") as entries:
            assert len(list(entries)) == 4
    held = os.open(at / "folder" / "file", os.O_PATH)
    try:
        os.rename(at / "folder" / "second name", at / "folder" / "file")  # of one file: changes nothing
        shutil.rmtree(at / "folder")
        wait_until(lambda: files() == before + 2)  # the folder as well: the file's name lay in it
        assert os.fstat(held).st_nlink == 0
    finally:
        os.close(held)
    wait_until(lambda: files() == before)
