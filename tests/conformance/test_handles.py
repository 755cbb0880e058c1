"""File handles, as an NFS server uses them: a file is found again by its number, or is stale."""

import os
from pathlib import Path

from tests.fuse.mounts import mounted

from .calls import fails, file_handle, open_by_handle, opened
from .processes import needs_other_users


def test_a_handle_leads_to_its_file_whatever_it_is_called(at: Path) -> None:
    needs_other_users()
    (at / "file").write_text("content")
    (at / "dir").mkdir()
    handle = file_handle(at / "file")
    assert handle != file_handle(at / "dir")
    os.rename(at / "file", at / "dir" / "moved")
    with open(open_by_handle(at, handle), closefd=True) as file:
        assert file.read() == "content"
    directory = open_by_handle(at, file_handle(at / "dir"), os.O_RDONLY | os.O_DIRECTORY)
    assert os.listdir(directory) == ["moved"]
    os.close(directory)


def test_a_handle_of_what_is_gone_is_stale(at: Path) -> None:
    needs_other_users()
    (at / "file").touch()
    (at / "dir").mkdir()
    handles = [file_handle(at / "file"), file_handle(at / "dir")]
    os.unlink(at / "file")
    os.rmdir(at / "dir")
    assert [fails(open_by_handle, at, handle) for handle in handles] == ["ESTALE", "ESTALE"]


def test_handles_outlive_the_mount(tmp_path: Path) -> None:
    """After mounting again the kernel knows nothing of the inode and looks it up as "." and its parents as
    ".."; numbers are never used again, so that an old handle cannot lead to a new file."""
    needs_other_users()
    with mounted(tmp_path) as at:
        (at / "a" / "b").mkdir(parents=True)
        (at / "a" / "b" / "file").touch()
        (at / "gone").touch()
        handles = [file_handle(path) for path in (at / "a" / "b" / "file", at / "a" / "b", at / "gone")]
        os.unlink(at / "gone")
    with mounted(tmp_path) as at:
        for number in range(10):
            (at / f"new{number}").touch()
        file, _, gone = handles
        assert fails(open_by_handle, at, gone) == "ESTALE"
        with open(open_by_handle(at, file), "rb") as found:
            assert os.path.samestat(os.fstat(found.fileno()), os.stat(at / "a" / "b" / "file"))
    with mounted(tmp_path) as at:
        inside = open_by_handle(at, handles[1], os.O_RDONLY | os.O_DIRECTORY)
        assert os.readlink(f"/proc/self/fd/{inside}") == str(at / "a" / "b")
        with opened(Path(f"/proc/self/fd/{inside}/.."), os.O_RDONLY | os.O_DIRECTORY) as above:
            assert os.path.samestat(os.fstat(above), os.stat(at / "a"))
        os.close(inside)
