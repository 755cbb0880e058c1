"""The few things the shelf does to files, in one place: a test can stop the world after any of them."""

import errno
import fcntl
import mmap
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar, TypeVarTuple

import apsw

from storjfs.coding.buffers import Buffer
from storjfs.store.durable import sync_folder

T = TypeVar("T")
Args = TypeVarTuple("Args")

ALIGNMENT: Final = 4096
LARGEST_BLOCK: Final = 128 << 10
FAILING: Final = frozenset(
    {
        errno.EIO,
        errno.EROFS,
        errno.ENOENT,
        errno.ENODEV,
        errno.ENXIO,
        errno.ESTALE,
        errno.EUCLEAN,
        errno.EREMOTEIO,
        # What bad sectors, cables and timeouts are called to who goes past the page cache;
        errno.ENODATA,
        errno.ENOLINK,
        errno.ETIMEDOUT,
        errno.EILSEQ,
        # a checksum of the file system's own; a file system in a process that has ended.
        errno.EBADMSG,
        errno.ENOTCONN,
    }
)
"""What a disk says that fails, was taken away, or whose file system the kernel no longer writes to."""


def aligned_buffer(size: int) -> memoryview:
    """Zeroed memory that begins at a multiple of ALIGNMENT."""
    return memoryview(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))


def disk_error(error: BaseException) -> str:
    """What the disk said, where that is why a file or a database failed; else empty. A full disk works."""
    if isinstance(error, OSError):
        return error.strerror or str(error) if error.errno in FAILING else ""
    if isinstance(error, apsw.IOError | apsw.ReadOnlyError | apsw.CantOpenError):
        return f"farmer.db: {error}"
    return ""


class Disk:
    """Plain system calls; every one raises OSError, none retries."""

    @property
    def given_up(self) -> bool:
        """Whether something is waited for no more: nothing else is done before `answers_again`."""
        return False

    def answers_again(self) -> bool:
        """Whether all that was given up has ended; the disk is asked again from now on then."""
        return True

    def ask(self, work: Callable[[*Args], T], *args: *Args) -> T:
        """What `work(*args)` returns or raises, which looks at files of this disk and changes nothing."""
        return work(*args)

    def create(self, path: Path) -> int:
        """A new file, open for writing past the page cache where that is possible (see `write`).

        A shard is written once and seldom read, so it should push nothing else out of memory; and it costs
        less (0.2 against 0.4 to 3.6 CPU seconds per GB on a virtual machine). Raises FileExistsError.
        """
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            return os.open(path, flags | os.O_DIRECT, 0o600)
        except OSError as error:
            # A file system without O_DIRECT may have made the file before it refused.
            if error.errno != errno.EINVAL:
                raise
            path.unlink(missing_ok=True)
            return os.open(path, flags, 0o600)

    def write(self, file: int, data: Buffer, offset: int) -> None:
        """All of `data` at `offset`. Memory, offset and length should be multiples of ALIGNMENT."""
        view = memoryview(data)
        while view:
            try:
                written = os.pwrite(file, view, offset)
            except OSError as error:
                flags = fcntl.fcntl(file, fcntl.F_GETFL)
                if error.errno != errno.EINVAL or not flags & os.O_DIRECT:
                    raise
                # Not aligned as this disk wants it.
                fcntl.fcntl(file, fcntl.F_SETFL, flags & ~os.O_DIRECT)
                continue
            offset += written
            view = view[written:]

    def open(self, path: Path) -> int:
        """An existing file, open for reading."""
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def read(self, file: int, length: int, offset: int) -> bytes:
        """`length` bytes from `offset`, fewer where the file ends."""
        return os.pread(file, length, offset)

    def forget(self, file: int, length: int, offset: int) -> None:
        """These bytes need not stay in memory: who reads them next gets them from the disk."""
        os.posix_fadvise(file, offset, length, os.POSIX_FADV_DONTNEED)

    def cut(self, file: int, length: int) -> None:
        """Make the file `length` bytes long."""
        os.ftruncate(file, length)

    def sync_data(self, file: int) -> None:
        """What was written survives power loss; its name need not."""
        os.fdatasync(file)

    def sync_folder(self, path: Path) -> None:
        """The names in the folder survive power loss."""
        sync_folder(path)

    def close(self, file: int) -> None:
        """Close; the file stays."""
        os.close(file)

    def rename(self, source: Path, target: Path) -> None:
        """Move within the file system, at once; makes the target's folder, on disk, if it is missing."""
        try:
            source.rename(target)
        except FileNotFoundError:
            target.parent.mkdir(mode=0o700, exist_ok=True)
            self.sync_folder(target.parent.parent)
            source.rename(target)

    def remove(self, path: Path) -> None:
        """Remove the name; no error where there is none."""
        path.unlink(missing_ok=True)

    def probe(self, path: Path) -> bool:
        """Whether a few bytes written to the file at `path`, and synced, are read back from the disk."""
        token = os.urandom(ALIGNMENT)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.pwrite(file, token, 0)
            os.fdatasync(file)
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)  # not from memory
            return os.pread(file, ALIGNMENT, 0) == token
        finally:
            os.close(file)

    def block(self, path: Path) -> int:
        """Bytes in which the file system of `path` gives space to files, and ALIGNMENT at least.

        What network file systems say is how much they like to transfer; that is not believed.
        """
        block = os.statvfs(path).f_frsize
        return max(block, ALIGNMENT) if block <= LARGEST_BLOCK else ALIGNMENT

    def free(self, path: Path) -> int:
        """Bytes that may still be written to the file system of `path`."""
        status = os.statvfs(path)
        return status.f_bavail * status.f_frsize
