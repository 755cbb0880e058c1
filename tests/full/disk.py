"""A small filesystem of its own, and a program that leaves nothing of it."""

import contextlib
import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.drive import await_that

MIB = 1 << 20


NOTHING = 64 << 10
"""Free bytes that count as none: no segment, and hardly a commit, has room in them."""


class Hog:
    """Another program's file on the same disk."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def fill(self) -> None:
        """Take every byte that is free, until nobody frees any meanwhile."""
        await_that(self._takes_all, "nothing is free on the disk")

    def _takes_all(self) -> bool:
        self._take()
        return free(self._path.parent) < NOTHING

    def _take(self) -> None:
        file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            for size in (MIB, 64 << 10, 4 << 10, 512):
                with contextlib.suppress(OSError):
                    while os.write(file, b"\1" * size):
                        pass
            # Where blocks are found late, they are taken for good now.
            with contextlib.suppress(OSError):
                os.fsync(file)
        finally:
            os.close(file)

    def leave(self, size: int) -> None:
        """Take all but `size` bytes."""
        self._take()
        os.truncate(self._path, max(self._path.stat().st_size - size, 0))

    def remove(self) -> None:
        """Give everything back."""
        self._path.unlink(missing_ok=True)


class SmallDisk:
    """The filesystem mounted at `at`."""

    def __init__(self, at: Path) -> None:
        self.at = at
        self.hog = Hog(at / "hog")

    @property
    def free(self) -> int:
        """Bytes that a program may still write."""
        return free(self.at)


def free(folder: Path) -> int:
    """Bytes that a program may still write to the filesystem of `folder`."""
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


@contextlib.contextmanager
def small_disk(folder: Path, kind: str, size: int) -> Iterator[SmallDisk]:
    """A filesystem of `size` bytes at `folder/disk`: "ext4" in a file there, or "tmpfs"; gone afterwards."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount a small disk")
    at = folder / "disk"
    at.mkdir()
    if kind == "ext4":
        image = folder / "image"
        with image.open("wb") as file:
            file.truncate(size)
        # No blocks for root: the tests run as root and must find the disk as full as anybody.
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], check=True)
        subprocess.run(["mount", "-o", "loop", str(image), str(at)], check=True)
    else:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "small", str(at)], check=True)
    try:
        yield SmallDisk(at)
    finally:
        # A process that was killed may need a moment to let go.
        await_that(
            lambda: subprocess.run(["umount", str(at)], check=False).returncode == 0, "it is unmounted"
        )


def refused(error: OSError) -> bool:
    """Whether it says that there is no room."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)
