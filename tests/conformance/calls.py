"""System calls that Python does not offer, or hides something of."""

import ctypes
import errno
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

LIBC = ctypes.CDLL(None, use_errno=True)

AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_SYMLINK_FOLLOW = 0x400
RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT = 1, 2, 4
UTIME_NOW, UTIME_OMIT = (1 << 30) - 1, (1 << 30) - 2
FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE = 1, 2
GETDENTS64 = {"x86_64": 217, "aarch64": 61}
LARGEST_HANDLE = 128
CLOCK_REALTIME_COARSE = 5  # the clock from which the kernel takes the times of files


# Of two names for one number, the one that the man pages of the calls here use.
SAME = {errno.EOPNOTSUPP: "EOPNOTSUPP", errno.EDEADLK: "EDEADLK"}


def _checked(result: int) -> int:
    if result == -1:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def renameat2(old: Path, new: Path, flags: int) -> None:
    """rename(2) with flags."""
    _checked(LIBC.renameat2(AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), flags))


def linkat(descriptor: int, new: Path) -> None:
    """Give an open file a name."""
    source = f"/proc/self/fd/{descriptor}".encode()
    _checked(LIBC.linkat(AT_FDCWD, source, AT_FDCWD, os.fsencode(new), AT_SYMLINK_FOLLOW))


def utimensat(path: Path, access: tuple[int, int], modification: tuple[int, int]) -> None:
    """Set times as (seconds, nanoseconds), which may be UTIME_NOW or UTIME_OMIT."""
    times = struct.pack("qqqq", *access, *modification)
    _checked(LIBC.utimensat(AT_FDCWD, os.fsencode(path), times, 0))


def fallocate(descriptor: int, mode: int, offset: int, length: int) -> None:
    """fallocate(2), without the C library's emulation."""
    numbers = (ctypes.c_int(descriptor), ctypes.c_int(mode), ctypes.c_int64(offset), ctypes.c_int64(length))
    _checked(LIBC.fallocate(*numbers))


class Entry(tuple[int, int, int, bytes]):
    """One entry as the kernel lists it: inode number, cookie of the next entry, type, name."""

    ino = property(lambda self: self[0])
    cookie = property(lambda self: self[1])
    kind = property(lambda self: self[2])
    name = property(lambda self: self[3])


def getdents(descriptor: int, size: int = 4096) -> list[Entry]:
    """What one getdents64(2) gives; nothing at the end."""
    buffer = ctypes.create_string_buffer(size)
    filled = _checked(LIBC.syscall(GETDENTS64[os.uname().machine], descriptor, buffer, size))
    entries, start = [], 0
    while start < filled:
        ino, cookie, length, kind = struct.unpack_from("=QqHB", buffer.raw, start)
        name = buffer.raw[start + 19 : start + length].split(b"\0", 1)[0]
        entries.append(Entry((ino, cookie, kind, name)))
        start += length
    return entries


def file_handle(path: Path) -> tuple[int, bytes]:
    """Type and bytes of the handle by which an NFS server would know the file."""
    buffer = ctypes.create_string_buffer(struct.pack("Ii", LARGEST_HANDLE, 0), 8 + LARGEST_HANDLE)
    mount = ctypes.c_int()
    _checked(LIBC.name_to_handle_at(AT_FDCWD, os.fsencode(path), buffer, ctypes.byref(mount), 0))
    length, kind = struct.unpack_from("Ii", buffer.raw)
    return kind, buffer.raw[8 : 8 + length]


def open_by_handle(on: Path, handle: tuple[int, bytes], flags: int = os.O_RDONLY) -> int:
    """A descriptor for a file handle of the filesystem `on` lies on."""
    kind, content = handle
    buffer = ctypes.create_string_buffer(struct.pack("Ii", len(content), kind) + content)
    mount = os.open(on, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return _checked(LIBC.open_by_handle_at(mount, buffer, flags))
    finally:
        os.close(mount)


@contextmanager
def opened(path: Path, flags: int = os.O_RDONLY, mode: int = 0o644) -> Iterator[int]:
    """A descriptor, closed at the end."""
    descriptor = os.open(path, flags, mode)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def fails(action: Callable[..., Any], *arguments: Any, **named: Any) -> str:
    """The name of the errno with which a call fails; "nothing" if it does not."""
    try:
        result = action(*arguments, **named)
    except OSError as failure:
        code = failure.errno or 0
        return SAME.get(code) or errno.errorcode[code]
    if isinstance(result, int) and action is os.open:
        os.close(result)
    return "nothing"
