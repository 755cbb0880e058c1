"""The model of the disk, and the recorder that it follows."""

import errno
import os
import subprocess
import sys
from pathlib import Path

from tests.faults.disk import EVERYTHING, NOTHING, SECTOR, Disk, State, lay_out, some
from tests.faults.recording import Control, Entry, Kind, Marks, read_record, recorded

A = Entry(Kind.CREATE, file=1, path="/a")
FOLDER = Entry(Kind.SYNC_FOLDER, path="")


def write(data: bytes, offset: int = 0, file: int = 1) -> Entry:
    return Entry(Kind.WRITE, file=file, offset=offset, data=data)


def sync(file: int = 1, error: int = 0) -> Entry:
    return Entry(Kind.SYNC, file=file, error=error)


def after(*entries: Entry) -> Disk:
    disk = Disk()
    for entry in entries:
        disk.apply(entry)
    return disk


def possible(disk: Disk, tries: int = 300) -> list[State]:
    return [disk.cut(some(seed)) for seed in range(tries)]


def test_without_a_sync_content_and_name_may_be_there_or_not() -> None:
    disk = after(A, write(b"x" * 100))
    assert disk.cut(NOTHING) == {"": None}
    assert disk.cut(EVERYTHING) == {"": None, "/a": b"x" * 100}
    found = [state.get("/a") for state in possible(disk)]
    assert {None, b"", b"x" * 100, bytes(100)} == set(found)


def test_a_sync_of_the_file_makes_its_content_sure_and_one_of_the_folder_its_name() -> None:
    assert after(A, write(b"x"), sync()).cut(NOTHING) == {"": None}
    assert after(A, write(b"x"), FOLDER).cut(NOTHING) == {"": None, "/a": b""}
    assert after(A, write(b"x"), sync(), FOLDER, write(b"y")).cut(NOTHING) == {"": None, "/a": b"x"}


def test_sectors_arrive_each_for_itself_and_whole() -> None:
    disk = after(A, write(b"o" * 4 * SECTOR), sync(), FOLDER, write(b"n" * 3 * SECTOR, SECTOR // 2))
    seen = set()
    for state in possible(disk):
        content = state["/a"]
        assert content is not None
        assert content[: SECTOR // 2] == b"o" * (SECTOR // 2)
        parts = [content[at : at + SECTOR] for at in range(SECTOR, 3 * SECTOR, SECTOR)]
        assert all(part in (b"o" * SECTOR, b"n" * SECTOR) for part in parts)
        seen.add(tuple(part[:1] for part in parts))
    assert seen == {(b"o", b"o"), (b"o", b"n"), (b"n", b"o"), (b"n", b"n")}


def test_later_writes_may_be_there_without_earlier_ones_until_a_sync() -> None:
    disk = after(A, write(b"1"), write(b"2", SECTOR), FOLDER)
    found = {state["/a"] for state in possible(disk)}
    assert bytes(SECTOR) + b"2" in found
    assert b"1" in found


def test_what_a_failed_sync_should_have_written_no_later_sync_makes_sure() -> None:
    disk = after(A, FOLDER, write(b"old"), sync(), write(b"new"), sync(error=errno.EIO), sync())
    assert disk.cut(NOTHING)["/a"] == b"old"
    assert disk.cut(EVERYTHING)["/a"] == b"new"
    disk.apply(write(b"again"))
    disk.apply(sync())
    assert disk.cut(NOTHING)["/a"] == b"again"


def test_a_rename_is_there_or_not_and_a_name_is_never_lost_between_folders() -> None:
    made = [Entry(Kind.MKDIR, path="/one"), Entry(Kind.MKDIR, path="/two"), FOLDER]
    file = Entry(Kind.CREATE, file=1, path="/one/a")
    moved = Entry(Kind.RENAME, path="/one/a", second="/two/a")
    disk = after(*made, file, Entry(Kind.SYNC_FOLDER, path="/one"), moved)
    assert {tuple(state) for state in possible(disk)} == {
        ("", "/one", "/one/a", "/two"),
        ("", "/one", "/two", "/two/a"),
    }
    disk.apply(Entry(Kind.SYNC_FOLDER, path="/one"))
    assert "/two/a" in disk.cut(NOTHING)


def test_changes_of_names_overtake_each_other_but_not_those_of_the_same_name() -> None:
    b = Entry(Kind.CREATE, file=2, path="/b")
    replaced = Entry(Kind.RENAME, path="/b", second="/a")
    disk = after(A, write(b"old"), sync(), b, write(b"new", file=2), sync(2), replaced)
    found = [frozenset(state.items()) - {("", None)} for state in possible(disk)]
    assert set(found) == {
        frozenset(),
        frozenset({("/a", b"old")}),
        frozenset({("/b", b"new")}),
        frozenset({("/a", b"old"), ("/b", b"new")}),
        frozenset({("/a", b"new")}),
    }


PROGRAM = """
import ctypes, os, sys
root = sys.argv[1]
os.mkdir(root + "/folder")
fd = os.open(root + "/folder/file", os.O_RDWR | os.O_CREAT, 0o600)
os.write(fd, b"one")
os.pwrite(fd, b"two", 10)
os.writev(fd, [b"th", b"ree"])
os.pwritev(fd, [b"fo", b"ur"], 20)
os.ftruncate(fd, 5000)
libc = ctypes.CDLL(None)
libc.fallocate(fd, 3, ctypes.c_int64(0), ctypes.c_int64(2))
os.fdatasync(fd)
with open(root + "/folder/other", "wb") as file:
    file.write(b"text")
    file.flush()
    os.fsync(file.fileno())
with open(root + "/folder/other", "ab") as file:
    file.write(b" and more")
os.rename(root + "/folder/other", root + "/moved")
os.unlink(root + "/folder/file")
os.rmdir(root + "/folder")
at = os.open(root, os.O_RDONLY)
os.fsync(at)
try:
    os.write(os.open(root + "/moved", os.O_WRONLY), b"0123456789")
except OSError as error:
    print(error.errno)
"""


def test_the_record_is_what_the_process_did_to_its_files(tmp_path: Path) -> None:
    root, record, control = tmp_path / "root", tmp_path / "record", tmp_path / "control"
    root.mkdir()
    Marks(record)("begin", b"data")
    subprocess.run([sys.executable, "-c", PROGRAM, str(root)], env=recorded(root, record), check=True)
    entries = list(read_record(record))
    assert entries[0] == Entry(Kind.MARK, path="begin", data=b"data")
    kinds = [entry.kind for entry in entries[1:]]
    assert kinds == [
        Kind.MKDIR,
        Kind.CREATE,
        *[Kind.WRITE] * 4,
        Kind.TRUNCATE,
        Kind.PUNCH,
        Kind.SYNC,
        Kind.CREATE,
        Kind.WRITE,
        Kind.SYNC,
        Kind.WRITE,
        Kind.RENAME,
        Kind.UNLINK,
        Kind.RMDIR,
        Kind.SYNC_FOLDER,
        Kind.WRITE,
    ]
    # The model comes to what really lies there.
    assert after(*entries).cut(EVERYTHING) == {"": None, "/moved": (root / "moved").read_bytes()}
    whole = b"\0\0ethree" + bytes(2) + b"two" + bytes(7) + b"four" + bytes(5000 - 24)
    before = after(*entries[: 1 + kinds.index(Kind.SYNC)])
    assert before.cut(EVERYTHING)["/folder/file"] == whole

    again = tmp_path / "again"
    again.mkdir()
    Control(control).fail(errno.ENOSPC, {Kind.WRITE}, 7, torn=400)
    words = [sys.executable, "-c", PROGRAM, str(again)]
    environment = recorded(again, tmp_path / "second", control)
    done = subprocess.run(words, env=environment, check=True, stdout=subprocess.PIPE)
    assert done.stdout == b""  # a short write is no error yet
    assert (again / "moved").read_bytes() == b"0123 and more"
    assert Control(control).failed == 1


def test_a_state_is_laid_out_with_holes_for_zeros(tmp_path: Path) -> None:
    state: State = {"/folder": None, "/folder/file": b"x" * 4096 + bytes(1 << 20) + b"y"}
    lay_out(state, tmp_path)
    path = tmp_path / "folder" / "file"
    assert path.read_bytes() == state["/folder/file"]
    assert os.stat(path).st_blocks * 512 < 1 << 19
