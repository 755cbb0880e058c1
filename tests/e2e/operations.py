"""What programs do to a tree, as functions that run in processes of their own and as other users.

Each takes the root of a tree and plain values, and returns a plain value or raises OSError. Descriptors stay
in the process, under a number that the caller chooses.
"""

import contextlib
import errno
import fcntl
import mmap
import multiprocessing
import multiprocessing.connection
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.conformance.calls import getdents, renameat2

ANY = os.O_NONBLOCK  # lest a FIFO blocks
OPERATIONS: dict[str, Callable[..., Any]] = {}
held: dict[tuple[Path, int], int] = {}


def operation(function: Callable[..., Any]) -> Callable[..., Any]:
    OPERATIONS[function.__name__] = function
    return function


@contextlib.contextmanager
def opened(path: Path, flags: int) -> Iterator[int]:
    at = os.open(path, flags | ANY, 0o644)
    try:
        yield at
    finally:
        os.close(at)


# --- by name ---


@operation
def write(root: Path, path: str, offset: int, size: int, seed: int) -> int:
    data = (bytes([seed, 255 - seed, 7]) * (size // 3 + 1))[:size]
    with opened(root / path, os.O_RDWR | os.O_CREAT) as at:
        return os.pwrite(at, data, offset)


@operation
def append(root: Path, path: str, size: int) -> int:
    with opened(root / path, os.O_WRONLY | os.O_APPEND | os.O_CREAT) as at:
        return os.write(at, b"z" * size)


@operation
def read(root: Path, path: str, offset: int, size: int) -> bytes:
    with opened(root / path, os.O_RDONLY) as at:
        return os.pread(at, size, offset)


@operation
def copy(root: Path, old: str, new: str) -> int:
    """Within the kernel, as cp(1) does it."""
    with opened(root / old, os.O_RDONLY) as source, opened(root / new, os.O_WRONLY | os.O_CREAT) as target:
        return os.copy_file_range(source, target, 200_000)


@operation
def truncate(root: Path, path: str, size: int) -> None:
    os.truncate(root / path, size)


@operation
def open_with(root: Path, path: str, flags: int) -> None:
    os.close(os.open(root / path, flags | ANY, 0o666))


@operation
def mkdir(root: Path, path: str, mode: int) -> None:
    os.mkdir(root / path, mode)


@operation
def rmdir(root: Path, path: str) -> None:
    os.rmdir(root / path)


@operation
def unlink(root: Path, path: str) -> None:
    os.unlink(root / path)


@operation
def rename(root: Path, old: str, new: str, flags: int) -> None:
    renameat2(root / old, root / new, flags)


@operation
def link(root: Path, old: str, new: str) -> None:
    os.link(root / old, root / new, follow_symlinks=False)


@operation
def symlink(root: Path, path: str, target: str) -> None:
    os.symlink(target, root / path)


@operation
def mknod(root: Path, path: str, kind: int) -> None:
    os.mknod(root / path, kind | 0o666)


@operation
def chmod(root: Path, path: str, mode: int) -> None:
    os.chmod(root / path, mode)


@operation
def chown(root: Path, path: str, uid: int, gid: int) -> None:
    os.chown(root / path, uid, gid, follow_symlinks=False)


@operation
def access(root: Path, path: str, mode: int) -> bool:
    return os.access(root / path, mode)


@operation
def utimens(root: Path, path: str, access: int, change: int) -> tuple[int, int]:
    os.utime(root / path, ns=(access, change), follow_symlinks=False)
    found = os.lstat(root / path)
    return found.st_atime_ns, found.st_mtime_ns


@operation
def setxattr(root: Path, path: str, name: str, value: bytes) -> None:
    os.setxattr(root / path, name, value)


@operation
def removexattr(root: Path, path: str, name: str) -> None:
    os.removexattr(root / path, name)


@operation
def listing(root: Path, path: str, size: int) -> list[tuple[bytes, int]]:
    """Names and types, asked for a few at a time, going back to a cookie once."""
    with opened(root / path, os.O_DIRECTORY) as at:
        found: dict[bytes, int] = {}
        while several := getdents(at, size):
            found |= {entry.name: entry.kind for entry in several}
            os.lseek(at, several[-1].cookie, os.SEEK_SET)
        return sorted(found.items())


@operation
def umask(root: Path, mask: int) -> None:
    os.umask(mask)


# --- by descriptor ---


@operation
def keep_open(root: Path, number: int, path: str, flags: int) -> None:
    at = os.open(root / path, flags | ANY)
    close(root, number)
    held[root, number] = at


def _held(root: Path, number: int) -> int:
    """EBADF where none is kept under this number, or it is no regular file."""
    at = held.get((root, number))
    if at is None or not stat.S_ISREG(os.fstat(at).st_mode):
        raise OSError(errno.EBADF, "not kept")
    return at


@operation
def close(root: Path, number: int) -> None:
    if (at := held.pop((root, number), None)) is not None:
        os.close(at)


@operation
def write_open(root: Path, number: int, offset: int, size: int) -> tuple[int, int, bytes]:
    at = _held(root, number)
    os.pwrite(at, b"o" * size, offset)
    found = os.fstat(at)
    return found.st_size, found.st_nlink, os.pread(at, 5000, max(0, offset - 100))


@operation
def map_open(root: Path, number: int, offset: int, size: int) -> bytes:
    """Change what lies there through a mapping; what it says afterwards of all that is mapped."""
    at = _held(root, number)
    length = min(os.fstat(at).st_size, 300_000)
    if not length:
        return b""
    with mmap.mmap(at, length) as memory:
        end = min(offset + size, length)
        if offset < end:
            memory[offset:end] = b"m" * (end - offset)
        return memory[:5000]


@operation
def lock_open(root: Path, number: int, kind: str, how: int) -> None:
    at = _held(root, number)
    if how != fcntl.LOCK_UN:
        how |= fcntl.LOCK_NB
    (fcntl.flock if kind == "flock" else fcntl.lockf)(at, how)


@operation
def change_open(root: Path, number: int, mode: int, size: int) -> tuple[int, int]:
    at = _held(root, number)
    os.fchmod(at, mode)
    os.ftruncate(at, size)
    os.fsync(at)
    found = os.fstat(at)
    return found.st_size, found.st_mode


# --- in a process of its own ---


def outcome(name: str, root: Path, values: tuple[Any, ...]) -> Any:
    """What a program sees: the result, or the errno."""
    try:
        return OPERATIONS[name](root, *values)
    except OSError as failure:
        return errno.errorcode.get(failure.errno or 0, failure.errno)


class Worker:
    """A process that runs operations on the same path in several roots, one after the other.

    `user`: (uid, gid, further groups), None for our own.
    """

    def __init__(self, user: tuple[int, int, tuple[int, ...]] | None) -> None:
        forking = multiprocessing.get_context("fork")
        self._pipe, theirs = forking.Pipe()
        self._process = forking.Process(target=self._serve, args=(theirs, user), daemon=True)
        self._process.start()

    def _serve(
        self, pipe: multiprocessing.connection.Connection, user: tuple[int, int, tuple[int, ...]] | None
    ) -> None:
        os.chdir("/")
        if user is not None:
            uid, gid, groups = user
            os.setgroups(groups)
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
        while (asked := pipe.recv()) is not None:
            name, roots, values = asked
            pipe.send([outcome(name, root, values) for root in roots])

    def run(self, name: str, roots: tuple[Path, ...], *values: Any) -> list[Any]:
        """The outcomes, one for each root."""
        self._pipe.send((name, roots, values))
        outcomes: list[Any] = self._pipe.recv()
        return outcomes

    def stop(self) -> None:
        self._pipe.send(None)
        self._process.join()
