"""flock, fcntl and open file description locks between processes on one mount."""

import fcntl
import os
import signal
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from .calls import fails, opened
from .processes import Child, together

OFD_SETLK, OFD_GETLK = 37, 36


def record(kind: int, start: int = 0, length: int = 0) -> bytes:
    """struct flock."""
    return struct.pack("hhqqi4x", kind, os.SEEK_SET, start, length, 0)


def flock(file: int, kind: int) -> None:
    fcntl.flock(file, {fcntl.F_WRLCK: fcntl.LOCK_EX, fcntl.F_RDLCK: fcntl.LOCK_SH}[kind] | fcntl.LOCK_NB)


def posix(file: int, kind: int) -> None:
    fcntl.fcntl(file, fcntl.F_SETLK, record(kind))


def ofd(file: int, kind: int) -> None:
    fcntl.fcntl(file, OFD_SETLK, record(kind))


@pytest.fixture
def file(at: Path) -> Path:
    (at / "file").write_bytes(bytes(1000))
    return at / "file"


LOCKS = pytest.mark.parametrize("lock", [flock, posix, ofd])
BUSY = ("EAGAIN", "EACCES")


@LOCKS
def test_one_writer_or_many_readers(file: Path, lock: Callable[[int, int], None]) -> None:
    def attempt(kind: int) -> str:
        with opened(file, os.O_RDWR) as mine:
            return fails(lock, mine, kind)

    def outcomes() -> list[str]:
        return [Child(lambda kind=kind: attempt(kind)).result() for kind in (fcntl.F_RDLCK, fcntl.F_WRLCK)]  # type: ignore[misc]

    with opened(file, os.O_RDWR) as held:
        lock(held, fcntl.F_RDLCK)
        assert outcomes() == ["nothing", "EAGAIN"]
        lock(held, fcntl.F_WRLCK)
        assert outcomes() == ["EAGAIN", "EAGAIN"]
    assert outcomes() == ["nothing", "nothing"]


@LOCKS
def test_a_lock_ends_with_its_process(file: Path, lock: Callable[[int, int], None]) -> None:
    ready, tell = os.pipe()

    def hold() -> None:
        mine = os.open(file, os.O_RDWR)
        lock(mine, fcntl.F_WRLCK)
        os.write(tell, b"x")
        signal.pause()

    child = Child(hold)
    os.read(ready, 1)
    with opened(file, os.O_RDWR) as mine:
        assert fails(lock, mine, fcntl.F_WRLCK) in BUSY
        os.kill(child.pid, 9)
        os.waitpid(child.pid, 0)
        assert fails(lock, mine, fcntl.F_WRLCK) == "nothing"
    os.close(ready)
    os.close(tell)


def test_locks_of_ranges_exclude_only_each_other(file: Path) -> None:
    def attempt(start: int, length: int) -> str:
        with opened(file, os.O_RDWR) as mine:
            return fails(fcntl.fcntl, mine, fcntl.F_SETLK, record(fcntl.F_WRLCK, start, length))

    with opened(file, os.O_RDWR) as held:
        fcntl.fcntl(held, fcntl.F_SETLK, record(fcntl.F_WRLCK, 100, 50))
        ranges = [(0, 100), (99, 2), (149, 1), (150, 0), (0, 0)]
        found = [Child(lambda where=where: attempt(*where)).result() for where in ranges]  # type: ignore[misc]
    assert found == ["nothing", "EAGAIN", "EAGAIN", "nothing", "EAGAIN"]


def test_who_holds_a_lock_is_told(file: Path) -> None:
    def ask() -> tuple[int, int]:
        with opened(file, os.O_RDWR) as mine:
            answer = fcntl.fcntl(mine, fcntl.F_GETLK, record(fcntl.F_WRLCK))
        kind, _, _, _, pid = struct.unpack("hhqqi4x", answer)
        return kind, pid

    with opened(file, os.O_RDWR) as held:
        posix(held, fcntl.F_RDLCK)
        assert Child(ask).result() == (fcntl.F_RDLCK, os.getpid())


def test_two_that_wait_for_each_other_are_told(file: Path) -> None:
    """EDEADLK for one of them."""
    with opened(file, os.O_RDWR) as mine:
        fcntl.fcntl(mine, fcntl.F_SETLK, record(fcntl.F_WRLCK, 0, 1))
        ready, tell = os.pipe()

        def other() -> str:
            with opened(file, os.O_RDWR) as theirs:
                fcntl.fcntl(theirs, fcntl.F_SETLK, record(fcntl.F_WRLCK, 1, 1))
                os.write(tell, b"x")
                return fails(fcntl.fcntl, theirs, fcntl.F_SETLKW, record(fcntl.F_WRLCK, 0, 1))

        child = Child(other)
        os.read(ready, 1)
        ours = fails(fcntl.fcntl, mine, fcntl.F_SETLKW, record(fcntl.F_WRLCK, 1, 1))
        fcntl.fcntl(mine, fcntl.F_SETLK, record(fcntl.F_UNLCK))
        assert sorted([ours, child.result()]) == ["EDEADLK", "nothing"]
        os.close(ready)
        os.close(tell)


@pytest.mark.parametrize("kind", ["flock", "fcntl"])
def test_a_counter_under_a_lock_counts_every_turn(file: Path, kind: str) -> None:
    """Four processes, each of which waits for the lock, reads, adds one, and writes."""

    def count() -> None:
        with opened(file, os.O_RDWR) as mine:
            for _ in range(50):
                fcntl.flock(mine, fcntl.LOCK_EX) if kind == "flock" else fcntl.lockf(mine, fcntl.LOCK_EX)
                value = int(os.pread(mine, 10, 0).strip(b"\0") or b"0")
                os.pwrite(mine, b"%10d" % (value + 1), 0)
                fcntl.flock(mine, fcntl.LOCK_UN) if kind == "flock" else fcntl.lockf(mine, fcntl.LOCK_UN)

    together([count] * 4)
    assert int(file.read_bytes()[:10]) == 200


def test_a_lease_is_granted_as_locally(file: Path) -> None:
    with opened(file, os.O_RDONLY) as mine:
        fcntl.fcntl(mine, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        assert fcntl.fcntl(mine, fcntl.F_GETLEASE) == fcntl.F_RDLCK
        fcntl.fcntl(mine, fcntl.F_SETLEASE, fcntl.F_UNLCK)
