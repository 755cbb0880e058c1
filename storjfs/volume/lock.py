"""One process at a time uses a volume: flock(2) on a file in its data directory."""

import contextlib
import errno
import fcntl
import os
from types import TracebackType
from typing import Self

from storjfs.volume.errors import VolumeLocked
from storjfs.volume.files import make_private
from storjfs.volume.paths import VolumePaths


class VolumeLock:
    """The exclusive right to a volume, until `close` or the death of the last process that inherited it.

    It survives fork (the lock belongs to the open file); the child that goes on with it calls `sign`. It is
    not inherited across exec.
    """

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.sign()

    def sign(self) -> None:
        """Write this process's id into the file, for those who wait to see. A full disk may lack the room."""
        signature = f"{os.getpid()}\n".encode()
        try:
            os.pwrite(self._fd, signature, 0)
            os.ftruncate(self._fd, len(signature))
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise

    def close(self) -> None:
        """Give the right up. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def lock_volume(paths: VolumePaths) -> VolumeLock:
    """Take the volume, at once or not at all. Raises VolumeLocked with the holder's process id."""
    make_private(paths.data_dir)
    fd = os.open(paths.lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return VolumeLock(fd)
    except BlockingIOError:
        pid = _signed(fd)
        os.close(fd)
        raise VolumeLocked(
            f"the volume {paths.name} is in use by another process" + (f" (process {pid})" if pid else ""),
            hint="`storjfs status` shows where it is mounted; `storjfs umount` ends that.",
            pid=pid,
        ) from None
    except BaseException:
        os.close(fd)
        raise


def _signed(fd: int) -> int | None:
    with contextlib.suppress(ValueError):
        return int(os.pread(fd, 32, 0))
    return None
