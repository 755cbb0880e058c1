"""Listing directories: every entry once, whatever happens meanwhile; cookies; types; numbers."""

import os
import signal
import stat
from pathlib import Path

from .calls import fails, getdents, opened
from .processes import Child


def listed(descriptor: int, size: int = 1024) -> list[bytes]:
    """The names without . and .., in steps of a few entries."""
    names = []
    while several := getdents(descriptor, size):
        names += [entry.name for entry in several if entry.name not in (b".", b"..")]
    return names


def fill(at: Path, count: int) -> list[bytes]:
    for number in range(count):
        (at / f"file{number:04}").touch()
    return [b"file%04d" % number for number in range(count)]


def test_a_listing_starts_with_the_dots(at: Path) -> None:
    (at / "dir").mkdir()
    with opened(at / "dir", os.O_DIRECTORY) as directory:
        found = {entry.name: entry.ino for entry in getdents(directory)}
        assert found == {b".": (at / "dir").stat().st_ino, b"..": at.stat().st_ino}
        assert getdents(directory) == []


def test_types_and_numbers_are_those_of_stat(at: Path) -> None:
    (at / "file").touch()
    (at / "dir").mkdir()
    (at / "link").symlink_to("x")
    os.mkfifo(at / "fifo")
    os.mknod(at / "socket", stat.S_IFSOCK)
    with opened(at, os.O_DIRECTORY) as directory:
        for entry in getdents(directory):
            if entry.name != b"..":
                found = os.lstat(os.fsencode(at) + b"/" + entry.name)
                assert (entry.ino, entry.kind) == (found.st_ino, found.st_mode >> 12)


def test_every_cookie_leads_back_to_what_came_after_it(at: Path) -> None:
    fill(at, 300)
    with opened(at, os.O_DIRECTORY) as directory:
        entries = []
        while several := getdents(directory, 500):
            entries += several
        assert len(entries) == len({entry.cookie for entry in entries}) == 302
        for number in (0, 1, 2, 37, 38, 150, 300):
            os.lseek(directory, entries[number].cookie, os.SEEK_SET)
            (expected,) = entries[number + 1 : number + 2]
            assert getdents(directory, 500)[0] == expected
        os.lseek(directory, entries[301].cookie, os.SEEK_SET)
        assert getdents(directory) == []
        os.lseek(directory, 0, os.SEEK_SET)
        assert getdents(directory, 500)[0] == entries[0]


def test_a_cookie_outlives_its_entry_and_all_before(at: Path) -> None:
    names = fill(at, 200)
    with opened(at, os.O_DIRECTORY) as directory:
        seen = [entry for entry in getdents(directory, 1000) if entry.name in names]
        for entry in seen:
            os.unlink(os.fsencode(at) + b"/" + entry.name)
        os.lseek(directory, seen[-1].cookie, os.SEEK_SET)
        rest = listed(directory)
        assert sorted(rest) == sorted(set(names) - {entry.name for entry in seen})


def test_removing_while_listing_loses_nothing(at: Path) -> None:
    """As rm -r does it."""
    names = fill(at, 500)
    removed = []
    with opened(at, os.O_DIRECTORY) as directory:
        while several := getdents(directory, 700):
            for entry in several:
                if entry.name not in (b".", b".."):
                    os.unlink(os.fsencode(at) + b"/" + entry.name)
                    removed.append(entry.name)
    assert sorted(removed) == names
    assert os.listdir(at) == []


def test_what_stays_is_listed_once_while_another_process_changes_the_rest(at: Path) -> None:
    names = fill(at, 250)
    turns = at.parent / "turns"
    turns.write_bytes(b"")

    def disturb() -> None:
        number = 0
        while True:
            new = at / f"new{number % 50}"
            new.touch()
            os.rename(new, at / f"renamed{number % 20}")
            (at / f"sub{number % 10}").mkdir(exist_ok=True)
            if number % 3 == 0:
                os.rmdir(at / f"sub{number % 10}")
            number += 1
            with opened(turns, os.O_WRONLY | os.O_APPEND) as count:
                os.write(count, b".")

    disturber = Child(disturb)
    try:
        rounds = 0
        while rounds < 20 or turns.stat().st_size < 100:
            with opened(at, os.O_DIRECTORY) as directory:
                found = listed(directory)
            assert sorted(name for name in found if name.startswith(b"file")) == names
            assert len(found) == len(set(found)), "a name came twice"
            rounds += 1
    finally:
        os.kill(disturber.pid, signal.SIGKILL)
        os.waitpid(disturber.pid, 0)
        os.unlink(turns)


def test_renaming_over_and_over_never_hides_a_name(at: Path) -> None:
    """A replaced name is there before, during and after; a listing shows it exactly once."""
    names = fill(at, 100)

    def replace() -> int:
        for turn in range(60):
            (at.parent / "replacement").touch()
            os.rename(at.parent / "replacement", at / f"file{turn % 100:04}")
        return 0

    child = Child(replace)
    for _ in range(10):
        assert sorted(os.listdir(os.fsencode(at))) == names
    assert child.result() == 0


def test_a_directory_that_was_removed_lists_nothing_more(at: Path) -> None:
    (at / "dir").mkdir()
    with opened(at / "dir", os.O_DIRECTORY) as directory:
        os.rmdir(at / "dir")
        assert fails(getdents, directory) == "ENOENT"


def test_what_else_a_directory_refuses(at: Path) -> None:
    with opened(at, os.O_DIRECTORY) as directory:
        assert fails(os.read, directory, 10) == "EISDIR"
        assert fails(os.write, directory, b"x") == "EBADF"
        os.fsync(directory)
        assert fails(os.ftruncate, directory, 0) == "EINVAL"
