"""Space set aside: a file whose blocks are taken, so that removing it frees them when nothing else can.

What is in it means nothing, and nothing of it is synced. A crash leaves it whole, short or missing; what is
missing is made by the next `make` (decision record 9).
"""

import contextlib
import errno
import logging
import os
import threading
from pathlib import Path
from typing import Final

_LOG = logging.getLogger(__name__)

FULL: Final = (errno.ENOSPC, errno.EDQUOT)
"""What a system call says where the disk, or what a quota leaves of it, is used up."""
_STEP: Final = 1 << 20
_PROMISES: Final = frozenset({"ext2", "ext3", "ext4", "xfs", "tmpfs"})
"""Filesystems on which allocated blocks are taken, whatever was written to them."""


class Ballast:
    """The file at `path`, `size` bytes if it is whole; 0 for none.

    Methods block, and may be called in any thread; those that change something take turns.
    """

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self.size = size
        self._turn = threading.Lock()
        self._taken = self._look()

    @property
    def missing(self) -> int:
        """Bytes that the disk does not hold of it."""
        return max(self.size - self._taken, 0)

    def give_up(self) -> int:
        """Give its blocks back to the disk; returns how many bytes. Raises nothing."""
        with self._turn:
            given = self._look()
            try:
                # Not only unlinked: whoever reads it, a backup say, would keep the blocks.
                with contextlib.suppress(FileNotFoundError):
                    os.truncate(self.path, 0)
                self.path.unlink(missing_ok=True)
            except OSError as error:
                _LOG.warning("the space set aside in %s cannot be given up: %s", self.path, error)
            self._taken = self._look()
            if given > self._taken:
                _LOG.warning("the disk is full: %d bytes that were set aside are given up", given)
            return given - self._taken

    def make(self) -> bool:
        """Set aside what is missing; False, and nothing is, where there is no room. Raises OSError for
        anything else."""
        with self._turn:
            if not self.missing:
                return True
            try:
                self._fill()
            except OSError as error:
                with contextlib.suppress(OSError):
                    self.path.unlink(missing_ok=True)
                if error.errno not in FULL:
                    raise
            self._taken = self._look()
            return not self.missing

    def _fill(self) -> None:
        file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if filesystem_of(self.path) in _PROMISES:
                os.posix_fallocate(file, 0, self.size)
                return
            at = min(self._look(), os.fstat(file).st_size)
            while at < self.size:
                # Random, so that no compression makes little of it.
                at += os.pwrite(file, os.urandom(min(_STEP, self.size - at)), at)
            os.fsync(file)  # where blocks are found late, it must fail now
        finally:
            os.close(file)

    def _look(self) -> int:
        try:
            found = os.stat(self.path)
        except FileNotFoundError:
            return 0
        return min(found.st_size, found.st_blocks * 512)


def filesystem_of(path: Path) -> str:
    """The kernel's name of the type of filesystem that `path` lies on, as proc(5) lists it; "" if unknown."""
    device = os.stat(path).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    for line in mounts.splitlines():
        fields = line.split()
        if fields[2] == wanted and "-" in fields:
            return fields[fields.index("-") + 1]
    return ""
