"""link, unlink, rename, mkdir, rmdir, symlink, mknod: what they do and with which errno they fail."""

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .calls import (
    RENAME_EXCHANGE,
    RENAME_NOREPLACE,
    RENAME_WHITEOUT,
    fails,
    linkat,
    opened,
    renameat2,
)
from .conftest import Place
from .processes import needs_other_users, together

LONG = "n" * 256


@pytest.fixture
def tree(at: Path) -> Path:
    """A file, a directory with something in it, an empty one, a link to each, a broken one and a loop."""
    (at / "file").write_text("content")
    (at / "full" / "sub").mkdir(parents=True)
    (at / "full" / "file").touch()
    (at / "empty").mkdir()
    (at / "to file").symlink_to("file")
    (at / "to full").symlink_to("full")
    (at / "broken").symlink_to("nowhere")
    (at / "loop").symlink_to("loop")
    return at


Case = tuple[str, Callable[[Path], Any], str]

ERRNOS: list[Case] = [
    # --- a path that leads nowhere ---
    ("a name of 256 bytes", lambda at: os.mkdir(at / LONG), "ENAMETOOLONG"),
    ("looking up a name of 256 bytes", lambda at: os.stat(at / LONG), "ENAMETOOLONG"),
    ("a path of 4096 bytes", lambda at: os.stat(str(at) + "/." * 2048), "ENAMETOOLONG"),
    ("a loop of links", lambda at: os.stat(at / "loop"), "ELOOP"),
    ("a loop of links on the way", lambda at: os.stat(at / "loop" / "x"), "ELOOP"),
    ("a file on the way", lambda at: os.stat(at / "file" / "x"), "ENOTDIR"),
    ("making something below a file", lambda at: os.mkdir(at / "file" / "x"), "ENOTDIR"),
    ("making something below nothing", lambda at: os.mkdir(at / "none" / "x"), "ENOENT"),
    ("a file with a slash after it", lambda at: os.stat(f"{at}/file/"), "ENOTDIR"),
    ("the empty path", lambda at: os.stat(""), "ENOENT"),
    # --- mkdir ---
    ("mkdir over a file", lambda at: os.mkdir(at / "file"), "EEXIST"),
    ("mkdir over a directory", lambda at: os.mkdir(at / "full"), "EEXIST"),
    ("mkdir over a broken link", lambda at: os.mkdir(at / "broken"), "EEXIST"),
    ("mkdir of .", lambda at: os.mkdir(f"{at}/."), "EEXIST"),
    ("mkdir of ..", lambda at: os.mkdir(f"{at}/full/.."), "EEXIST"),
    # --- rmdir ---
    ("rmdir of nothing", lambda at: os.rmdir(at / "none"), "ENOENT"),
    ("rmdir of a file", lambda at: os.rmdir(at / "file"), "ENOTDIR"),
    ("rmdir of a link to a directory", lambda at: os.rmdir(at / "to full"), "ENOTDIR"),
    ("rmdir of a full directory", lambda at: os.rmdir(at / "full"), "ENOTEMPTY"),
    ("rmdir of .", lambda at: os.rmdir(f"{at}/empty/."), "EINVAL"),
    ("rmdir of ..", lambda at: os.rmdir(f"{at}/full/sub/.."), "ENOTEMPTY"),
    # --- unlink ---
    ("unlink of nothing", lambda at: os.unlink(at / "none"), "ENOENT"),
    ("unlink of a directory", lambda at: os.unlink(at / "empty"), "EISDIR"),
    ("unlink of a file with a slash after it", lambda at: os.unlink(f"{at}/file/"), "ENOTDIR"),
    ("unlink below a file", lambda at: os.unlink(at / "file" / "x"), "ENOTDIR"),
    # --- link ---
    ("link of nothing", lambda at: os.link(at / "none", at / "new"), "ENOENT"),
    ("link of a directory", lambda at: os.link(at / "empty", at / "new"), "EPERM"),
    ("link over a file", lambda at: os.link(at / "file", at / "full" / "file"), "EEXIST"),
    ("link over itself", lambda at: os.link(at / "file", at / "file"), "EEXIST"),
    ("link to a name of 256 bytes", lambda at: os.link(at / "file", at / LONG), "ENAMETOOLONG"),
    ("link to another filesystem", lambda at: os.link("/proc/self/status", at / "new"), "EXDEV"),
    # --- symlink ---
    ("symlink over a file", lambda at: os.symlink("x", at / "file"), "EEXIST"),
    ("symlink over a broken link", lambda at: os.symlink("x", at / "broken"), "EEXIST"),
    ("symlink to the empty path", lambda at: os.symlink("", at / "new"), "ENOENT"),
    ("symlink to a path of 4096 bytes", lambda at: os.symlink("x" * 4096, at / "new"), "ENAMETOOLONG"),
    ("readlink of a file", lambda at: os.readlink(at / "file"), "EINVAL"),
    # --- rename ---
    ("rename of nothing", lambda at: os.rename(at / "none", at / "new"), "ENOENT"),
    ("rename to below nothing", lambda at: os.rename(at / "file", at / "none" / "x"), "ENOENT"),
    ("rename of a file over a directory", lambda at: os.rename(at / "file", at / "empty"), "EISDIR"),
    ("rename of a directory over a file", lambda at: os.rename(at / "empty", at / "file"), "ENOTDIR"),
    ("rename over a full directory", lambda at: os.rename(at / "empty", at / "full"), "ENOTEMPTY"),
    ("rename into itself", lambda at: os.rename(at / "full", at / "full" / "x"), "EINVAL"),
    ("rename into its child", lambda at: os.rename(at / "full", at / "full" / "sub" / "x"), "EINVAL"),
    ("rename over its parent", lambda at: os.rename(at / "full" / "sub", at / "full"), "ENOTEMPTY"),
    (
        "rename of a file over its parent",
        lambda at: os.rename(at / "full" / "file", at / "full"),
        "ENOTEMPTY",
    ),
    ("rename of .", lambda at: os.rename(f"{at}/empty/.", at / "new"), "EBUSY"),
    ("rename to ..", lambda at: os.rename(at / "empty", f"{at}/full/.."), "EBUSY"),
    ("rename to a name of 256 bytes", lambda at: os.rename(at / "file", at / LONG), "ENAMETOOLONG"),
    ("rename of a file with a slash after it", lambda at: os.rename(f"{at}/file/", at / "new"), "ENOTDIR"),
    ("rename to another filesystem", lambda at: os.rename(at / "file", "/dev/shm/storjfs-new"), "EXDEV"),
    ("no replacing", lambda at: renameat2(at / "file", at / "broken", RENAME_NOREPLACE), "EEXIST"),
    ("exchanging with nothing", lambda at: renameat2(at / "file", at / "none", RENAME_EXCHANGE), "ENOENT"),
    (
        "exchanging with a directory around it",
        lambda at: renameat2(at / "full", at / "full" / "sub", RENAME_EXCHANGE),
        "EINVAL",
    ),
    (
        "exchanging and not replacing",
        lambda at: renameat2(at / "file", at / "full", RENAME_EXCHANGE | RENAME_NOREPLACE),
        "EINVAL",
    ),
    ("an unknown flag", lambda at: renameat2(at / "file", at / "new", 1 << 7), "EINVAL"),
    # --- mknod ---
    ("mknod over a file", lambda at: os.mknod(at / "file", stat.S_IFIFO), "EEXIST"),
    ("mknod of a directory", lambda at: os.mknod(at / "new", stat.S_IFDIR), "EPERM"),
    ("mknod of a link", lambda at: os.mknod(at / "new", stat.S_IFLNK), "EINVAL"),
]


@pytest.mark.parametrize(("call", "errno"), [case[1:] for case in ERRNOS], ids=[case[0] for case in ERRNOS])
def test_it_fails_with(tree: Path, call: Callable[[Path], Any], errno: str) -> None:
    before = sorted(os.listdir(tree))
    assert fails(call, tree) == errno
    assert sorted(os.listdir(tree)) == before


def test_names_of_255_bytes_and_any_content_are_kept(at: Path) -> None:
    names = [b"x" * 255, b"\xff\xfe\x01", "Ā𝄞".encode(), b" ", b"-rf *", b"new\nline", b"..."]
    for name in names:
        os.mkdir(os.fsencode(at) + b"/" + name)
    assert sorted(os.listdir(os.fsencode(at))) == sorted(names)


def test_a_link_may_point_to_a_path_of_4095_bytes(at: Path) -> None:
    os.symlink("x" * 4095, at / "link")
    assert os.readlink(at / "link") == "x" * 4095
    assert os.lstat(at / "link").st_size == 4095
    assert stat.S_IMODE(os.lstat(at / "link").st_mode) == 0o777


def test_a_directory_counts_itself_its_name_and_its_subdirectories(at: Path) -> None:
    def links(path: Path) -> int:
        return path.stat().st_nlink

    (at / "a").mkdir()
    (at / "b").mkdir()
    (at / "file").touch()
    assert (links(at), links(at / "a")) == (4, 2)
    os.rename(at / "a", at / "b" / "a")
    assert (links(at), links(at / "b")) == (3, 3)
    (at / "c").mkdir()
    os.rename(at / "c", at / "b" / "a")
    assert (links(at), links(at / "b")) == (3, 3)
    (at / "d").mkdir()
    renameat2(at / "d", at / "file", RENAME_EXCHANGE)
    assert links(at) == 4
    renameat2(at / "d", at / "b" / "a", RENAME_EXCHANGE)
    assert (links(at), links(at / "b")) == (5, 2)
    os.rmdir(at / "d")
    assert links(at) == 4


def test_a_removed_directory_that_is_still_open_takes_nothing_in(at: Path) -> None:
    (at / "dir").mkdir()
    with opened(at / "dir", os.O_RDONLY | os.O_DIRECTORY) as directory:
        os.rmdir(at / "dir")
        assert os.fstat(directory).st_nlink == 0
        assert os.listdir(directory) == []
        assert fails(os.mkdir, "x", dir_fd=directory) == "ENOENT"
        assert fails(os.open, "x", os.O_CREAT | os.O_WRONLY, dir_fd=directory) == "ENOENT"
        assert fails(os.stat, "..", dir_fd=directory) == "nothing"


def test_renaming_a_file_over_another_name_of_itself_does_nothing(at: Path) -> None:
    (at / "a").touch()
    os.link(at / "a", at / "b")
    os.rename(at / "a", at / "b")
    assert sorted(os.listdir(at)) == ["a", "b"]


def test_whoever_has_a_replaced_file_open_keeps_it(at: Path) -> None:
    (at / "old").write_text("old")
    (at / "new").write_text("new")
    with opened(at / "old", os.O_RDWR) as held:
        os.rename(at / "new", at / "old")
        assert (at / "old").read_text() == "new"
        assert os.fstat(held).st_nlink == 0
        assert os.pread(held, 10, 0) == b"old"
        os.pwrite(held, b"still written", 0)
        assert os.pread(held, 20, 0) == b"still written"
    assert (at / "old").read_text() == "new"


def test_an_open_file_follows_its_renaming(at: Path) -> None:
    (at / "dir").mkdir()
    with opened(at / "a", os.O_RDWR | os.O_CREAT) as held:
        os.rename(at / "a", at / "dir" / "b")
        os.rename(at / "dir", at / "elsewhere")
        os.write(held, b"after")
        assert os.readlink(f"/proc/self/fd/{held}") == str(at / "elsewhere" / "b")
    assert (at / "elsewhere" / "b").read_text() == "after"


def test_an_unlinked_open_file_lives_until_it_is_closed(at: Path) -> None:
    with opened(at / "file", os.O_RDWR | os.O_CREAT) as held:
        os.unlink(at / "file")
        os.write(held, b"x" * 100_000)
        os.fsync(held)
        os.ftruncate(held, 50_000)
        os.fchmod(held, 0o600)
        found = os.fstat(held)
        assert (found.st_nlink, found.st_size, stat.S_IMODE(found.st_mode)) == (0, 50_000, 0o600)
        assert os.pread(held, 60_000, 0) == b"x" * 50_000
        assert fails(linkat, held, at / "again") == "ENOENT"
        (at / "file").write_text("another")
        assert os.pread(held, 3, 0) == b"xxx"


def test_a_whiteout_is_refused(place: Place) -> None:
    """Only overlayfs asks for it. On a local filesystem a device 0:0 takes the old name."""
    needs_other_users()
    (place.at / "a").touch()
    refused = fails(renameat2, place.at / "a", place.at / "b", RENAME_WHITEOUT)
    assert refused == ("EINVAL" if place.mounted else "nothing")


def test_what_mknod_makes(at: Path) -> None:
    os.mknod(at / "file", stat.S_IFREG | 0o640)
    os.mkfifo(at / "fifo", 0o604)
    os.mknod(at / "socket", stat.S_IFSOCK | 0o600)
    modes = {name: os.lstat(at / name).st_mode for name in ("file", "fifo", "socket")}
    assert modes == {
        "file": stat.S_IFREG | 0o640,
        "fifo": stat.S_IFIFO | 0o604,
        "socket": stat.S_IFSOCK | 0o600,
    }


def test_devices_keep_their_numbers(at: Path) -> None:
    needs_other_users()
    for name, kind, number in [
        ("char", stat.S_IFCHR, os.makedev(1, 3)),
        ("block", stat.S_IFBLK, os.makedev(259, 300_000)),
    ]:
        os.mknod(at / name, kind | 0o600, number)
        found = os.lstat(at / name)
        assert (stat.S_IFMT(found.st_mode), found.st_rdev) == (kind, number)


def test_a_fifo_and_a_socket_connect_processes(at: Path) -> None:
    import socket

    os.mkfifo(at / "fifo")

    def write() -> int:
        with opened(at / "fifo", os.O_WRONLY) as pipe:
            return os.write(pipe, b"through")

    def read() -> int:
        with opened(at / "fifo") as pipe:
            return len(os.read(pipe, 100))

    assert together([write, read]) == [7, 7]
    with opened(at, os.O_RDONLY | os.O_DIRECTORY) as here, socket.socket(socket.AF_UNIX) as server:
        server.bind(f"/proc/self/fd/{here}/socket")
        server.listen()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(f"/proc/self/fd/{here}/socket")
            client.sendall(b"hello")
            with server.accept()[0] as connection:
                assert connection.recv(10) == b"hello"


def test_only_one_of_many_makes_a_name(at: Path) -> None:
    def make() -> str:
        return fails(os.open, at / "lock", os.O_CREAT | os.O_EXCL | os.O_WRONLY)

    def link() -> str:
        (at / f"mine{os.getpid()}").touch()
        return fails(os.link, at / f"mine{os.getpid()}", at / "linked")

    assert sorted(together([make] * 6)) == ["EEXIST"] * 5 + ["nothing"]
    assert sorted(together([link] * 6)) == ["EEXIST"] * 5 + ["nothing"]


def test_a_storm_of_renames_leaves_one_whole_file_at_any_moment(at: Path) -> None:
    """Four processes replace a file again and again; it is always there and always one of theirs."""
    contents = {bytes([65 + number]) * 5000 for number in range(4)}
    (at / "file").write_bytes(min(contents))

    def replace(number: int) -> int:
        for turn in range(25):
            new = at / f"new{number}.{turn}"
            new.write_bytes(bytes([65 + number]) * 5000)
            os.rename(new, at / "file")
        return 0

    def look() -> int:
        return sum((at / "file").read_bytes() not in contents for _ in range(100))

    actions: list[Callable[[], int]] = [lambda number=number: replace(number) for number in range(4)]  # type: ignore[misc]
    assert together([*actions, look]) == [0] * 5
    assert os.listdir(at) == ["file"]
    assert (at / "file").stat().st_nlink == 1


def test_directories_renamed_against_each_other_never_form_a_circle(at: Path) -> None:
    for name in "abcd":
        (at / name).mkdir()

    def move(seed: int) -> set[str]:
        seen = set()
        for turn in range(60):
            old, new = "abcd"[(seed + turn) % 4], "abcd"[(seed + turn * 3 + 1) % 4]
            for source in (at / old, at / new / old):
                seen.add(fails(os.rename, source, at / new / old))
                seen.add(fails(os.rename, at / new / old, at / old))
        return seen

    outcomes = set().union(*together([lambda seed=seed: move(seed) for seed in range(4)]))  # type: ignore[misc]
    assert outcomes <= {"nothing", "ENOENT", "EINVAL", "ENOTEMPTY", "ELOOP"}
    found = [name for _, folders, _ in os.walk(at) for name in folders]
    assert sorted(found) == ["a", "b", "c", "d"]
