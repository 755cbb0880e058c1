"""Which operation renews which of atime, mtime and ctime, and which times can be kept."""

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .calls import (
    CLOCK_REALTIME_COARSE,
    RENAME_EXCHANGE,
    UTIME_NOW,
    UTIME_OMIT,
    fails,
    opened,
    renameat2,
    utimensat,
)
from .conftest import Place
from .processes import as_user, needs_other_users

Effects = dict[str, str]


def tick(after: int = 0) -> None:
    """Return when the clock that stamps files has moved on, and beyond a stamp."""
    after = max(after, time.clock_gettime_ns(CLOCK_REALTIME_COARSE))
    while time.clock_gettime_ns(CLOCK_REALTIME_COARSE) <= after:
        pass


def times(path: Path | int) -> dict[str, int]:
    found = os.lstat(path) if isinstance(path, Path) else os.fstat(path)
    return {"a": found.st_atime_ns, "m": found.st_mtime_ns, "c": found.st_ctime_ns}


def effects(action: Callable[[], Any], watched: dict[str, Path]) -> Effects:
    """For each watched file the times that an action renewed, as letters in the order a, m, c.

    They are held by descriptors, so that it does not matter whether the names stay.
    """
    with contextlib.ExitStack() as stack:
        held = {
            name: stack.enter_context(opened(path, os.O_PATH | os.O_NOFOLLOW))
            for name, path in watched.items()
        }
        before = {name: times(descriptor) for name, descriptor in held.items()}
        tick(max(max(stamps.values()) for stamps in before.values()))
        started = time.clock_gettime_ns(CLOCK_REALTIME_COARSE)
        action()
        renewed = {}
        for name, descriptor in held.items():
            after = times(descriptor)
            kinds = "".join(kind for kind in "amc" if after[kind] != before[name][kind])
            for kind in kinds:
                assert started <= after[kind] <= time.time_ns(), f"{name}: {kind}time {after[kind]}"
            if kinds:
                renewed[name] = kinds
    return renewed


def _write(path: Path) -> None:
    with opened(path, os.O_WRONLY) as file:
        os.write(file, b"new")
        os.fsync(file)


NOW, OMIT = (0, UTIME_NOW), (0, UTIME_OMIT)

CASES: list[tuple[str, Callable[[Path], Any], Effects]] = [
    ("create", lambda at: os.close(os.open(at / "new", os.O_CREAT)), {"at": "mc"}),
    ("open with O_CREAT", lambda at: os.close(os.open(at / "file", os.O_CREAT)), {}),
    ("truncate to nothing", lambda at: os.truncate(at / "file", 0), {"file": "mc"}),
    (
        "open with O_TRUNC",
        lambda at: os.close(os.open(at / "file", os.O_WRONLY | os.O_TRUNC)),
        {"file": "mc"},
    ),
    (
        "open of an empty file with O_TRUNC",
        lambda at: os.close(os.open(at / "nothing", os.O_WRONLY | os.O_TRUNC)),
        {"nothing": "mc"},
    ),
    ("write", lambda at: _write(at / "file"), {"file": "mc"}),
    ("truncate to less", lambda at: os.truncate(at / "file", 1), {"file": "mc"}),
    ("truncate to more", lambda at: os.truncate(at / "file", 100), {"file": "mc"}),
    ("mkdir", lambda at: os.mkdir(at / "new"), {"at": "mc"}),
    ("rmdir", lambda at: os.rmdir(at / "empty"), {"at": "mc", "empty": "c"}),
    ("mkfifo", lambda at: os.mkfifo(at / "new"), {"at": "mc"}),
    ("symlink", lambda at: os.symlink("file", at / "new"), {"at": "mc"}),
    ("link", lambda at: os.link(at / "file", at / "dir" / "new"), {"dir": "mc", "file": "c"}),
    ("unlink", lambda at: os.unlink(at / "link"), {"at": "mc", "link": "c"}),
    ("unlink of one of two names", lambda at: os.unlink(at / "dir" / "second"), {"dir": "mc", "twice": "c"}),
    ("rename", lambda at: os.rename(at / "empty", at / "new"), {"at": "mc", "empty": "c"}),
    (
        "rename to another directory",
        lambda at: os.rename(at / "link", at / "dir" / "new"),
        {"at": "mc", "dir": "mc", "link": "c"},
    ),
    (
        "rename over one of two names",
        lambda at: os.rename(at / "link", at / "dir" / "second"),
        {"at": "mc", "dir": "mc", "twice": "c", "link": "c"},
    ),
    (
        "exchange",
        lambda at: renameat2(at / "nothing", at / "dir" / "second", RENAME_EXCHANGE),
        {"at": "mc", "dir": "mc", "twice": "c", "nothing": "c"},
    ),
    ("chmod", lambda at: os.chmod(at / "file", 0o600), {"file": "c"}),
    ("chmod to the same", lambda at: os.chmod(at / "file", 0o644), {"file": "c"}),
    ("chmod of a directory", lambda at: os.chmod(at / "dir", 0o700), {"dir": "c"}),
    ("chown", lambda at: os.chown(at / "file", os.getuid(), -1), {"file": "c"}),
    ("lchown of a link", lambda at: os.lchown(at / "link", os.getuid(), -1), {"link": "c"}),
    ("setxattr", lambda at: os.setxattr(at / "file", "user.a", b"1"), {"file": "c"}),
    ("removexattr", lambda at: os.removexattr(at / "twice", "user.a"), {"twice": "c"}),
    ("utimensat with both now", lambda at: utimensat(at / "file", NOW, NOW), {"file": "amc"}),
    ("utimensat with both left out", lambda at: utimensat(at / "file", OMIT, OMIT), {}),
    ("access time now", lambda at: utimensat(at / "file", NOW, OMIT), {"file": "ac"}),
    ("modification time now", lambda at: utimensat(at / "file", OMIT, NOW), {"file": "mc"}),
    ("stat, access, readlink", lambda at: (os.stat(at / "file"), os.access(at / "file", 4)), {}),
    ("listing a directory", lambda at: os.listdir(at / "dir"), {"dir": "a"}),
    ("reading a link", lambda at: os.readlink(at / "link"), {"link": "a"}),
]


@pytest.mark.parametrize(("call", "renewed"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_it_renews(at: Path, call: Callable[[Path], Any], renewed: Effects) -> None:
    (at / "file").write_text("content")
    (at / "nothing").touch()
    (at / "empty").mkdir()
    (at / "dir").mkdir()
    (at / "twice").touch()
    os.link(at / "twice", at / "dir" / "second")
    os.setxattr(at / "twice", "user.a", b"1")
    (at / "link").symlink_to("file")
    names = ["file", "nothing", "empty", "dir", "twice", "link"]
    watched = {"at": at, **{name: at / name for name in names}}
    assert effects(lambda: call(at), watched) == renewed


def test_truncate_to_the_same_size_renews_mtime_and_ctime(place: Place) -> None:
    """Not on the drive: with the writeback cache the kernel keeps these times, and where the size stays it
    does not renew them."""
    (place.at / "file").write_text("content")
    found = effects(lambda: os.truncate(place.at / "file", 7), {"file": place.at / "file"})
    assert found == ({} if place.mounted else {"file": "mc"})


def test_a_read_renews_the_access_time_once(place: Place) -> None:
    """relatime. What the kernel answers from its page cache never reaches a FUSE filesystem: reads of what
    was just written leave the access time alone on the drive."""
    file = place.at / "file"
    with opened(file, os.O_RDWR | os.O_CREAT) as at:
        os.write(at, b"x" * 10_000)
        os.fsync(at)
        os.posix_fadvise(at, 0, 0, os.POSIX_FADV_DONTNEED)
    assert effects(lambda: file.read_bytes(), {"file": file}) == {"file": "a"}
    assert effects(lambda: file.read_bytes(), {"file": file}) == {}
    tick()
    _write(file)
    assert effects(lambda: file.read_bytes(), {"file": file}) == ({} if place.mounted else {"file": "a"})


def test_the_moved_file_gets_a_new_ctime_only(at: Path) -> None:
    (at / "old").write_text("x")
    before = times(at / "old")
    tick(max(before.values()))
    os.rename(at / "old", at / "new")
    after = times(at / "new")
    assert (after["a"], after["m"]) == (before["a"], before["m"])
    assert after["c"] > before["c"]


def test_new_things_have_three_equal_times_of_now(at: Path) -> None:
    before = time.clock_gettime_ns(CLOCK_REALTIME_COARSE)
    (at / "file").touch()
    (at / "dir").mkdir()
    (at / "link").symlink_to("x")
    for name in ("file", "dir", "link"):
        found = times(at / name)
        assert found["a"] == found["m"] == found["c"]
        assert before <= found["m"] <= time.time_ns()


def test_what_is_done_later_never_looks_older(at: Path) -> None:
    """make(1) and its like compare times of files that were made, written and moved in all sorts of ways."""
    last = 0
    for turn in range(30):
        made = at / f"made{turn}"
        with opened(made, os.O_RDWR | os.O_CREAT) as file:
            stamps = [os.fstat(file).st_mtime_ns]
            os.write(file, b"x")
            stamps.append(os.fstat(file).st_mtime_ns)
        (at / f"dir{turn}").mkdir()
        stamps.append((at / f"dir{turn}").stat().st_mtime_ns)
        os.utime(made)
        stamps.append(made.stat().st_mtime_ns)
        os.symlink("x", at / f"link{turn}")
        stamps.append(os.lstat(at / f"link{turn}").st_mtime_ns)
        os.truncate(made, 0)
        stamps.append(made.stat().st_mtime_ns)
        for stamp in stamps:
            assert stamp >= last, f"turn {turn}: {stamps} after {last}"
            last = stamp


KEPT = [
    (0, 0),
    (0, 1),
    (1_234_567_890, 123_456_789),
    (2**31 - 1, 999_999_999),
    (2**31, 1),
    (2**32 - 1, 999_999_999),
    (2**32 + 5, 7),
    (-1, 999_999_999),
    (-1_000_000_000, 1),
]


@pytest.mark.parametrize("kind", ["file", "directory"])
@pytest.mark.parametrize("when", KEPT, ids=str)
def test_a_time_is_kept_to_the_nanosecond(at: Path, kind: str, when: tuple[int, int]) -> None:
    path = at / "it"
    path.touch() if kind == "file" else path.mkdir()
    utimensat(path, when, when)
    found = path.stat()
    assert found.st_atime_ns == found.st_mtime_ns == when[0] * 10**9 + when[1]


@pytest.mark.parametrize("seconds", [2**34, 2**40, 2**62, -(2**34), -(2**40), -(2**62)])
def test_a_time_that_cannot_be_kept_becomes_the_nearest_that_can(place: Place, seconds: int) -> None:
    """As the kernel does for a local filesystem; ours has nanoseconds since 1970 in 64 bits. Either way the
    next operation works."""
    directory = place.at / "dir"
    directory.mkdir()
    utimensat(directory, (seconds, 5), (seconds, 5))
    found = directory.stat().st_mtime_ns
    assert (found > 10 * 10**18) if seconds > 0 and not place.mounted else True
    if place.mounted:
        assert found == ((1 << 63) - 1 if seconds > 0 else -(1 << 63))
    (place.at / "file").touch()
    utimensat(place.at / "file", (seconds, 5), (seconds, 5))
    with opened(place.at / "file") as file:
        os.fsync(file)


def test_only_the_owner_sets_a_time_and_writers_may_say_now(at: Path) -> None:
    needs_other_users()
    (at / "file").touch()
    os.chmod(at / "file", 0o666)
    os.chmod(at, 0o777)
    assert as_user(lambda: fails(os.utime, at / "file", (1, 1))) == "EPERM"
    assert as_user(lambda: fails(os.utime, at / "file")) == "nothing"
    os.chmod(at / "file", 0o644)
    assert as_user(lambda: fails(os.utime, at / "file")) == "EACCES"
