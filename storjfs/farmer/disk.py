"""The few things the shelf does to files, in one place: a test can stop the world after any of them."""

import os
from pathlib import Path

from storjfs.coding.buffers import Buffer


class Disk:
    """Plain system calls; every one raises OSError, none retries."""

    def create(self, path: Path) -> int:
        """A new file, open for writing. Raises FileExistsError where there is one."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def write(self, file: int, data: Buffer, offset: int) -> None:
        """All of `data` at `offset`."""
        view = memoryview(data)
        while view:
            written = os.pwrite(file, view, offset)
            offset += written
            view = view[written:]

    def sync_data(self, file: int) -> None:
        """What was written survives power loss; its name need not."""
        os.fdatasync(file)

    def sync_folder(self, path: Path) -> None:
        """The names in the folder survive power loss."""
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def close(self, file: int) -> None:
        """Close; the file stays."""
        os.close(file)

    def rename(self, source: Path, target: Path) -> None:
        """Move within the file system, at once; makes the target's folder if it is missing."""
        try:
            source.rename(target)
        except FileNotFoundError:
            target.parent.mkdir(mode=0o700, exist_ok=True)
            source.rename(target)

    def remove(self, path: Path) -> None:
        """Remove the name; no error where there is none."""
        path.unlink(missing_ok=True)

    def free(self, path: Path) -> int:
        """Bytes that may still be written to the file system of `path`."""
        status = os.statvfs(path)
        return status.f_bavail * status.f_frsize
