"""How much of the disk is left for the volume, and what may still be done with it (decision record 9)."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import trio

from storjfs.errors import FilesystemError

DISK_RESERVE: Final = 256 << 20
"""Free bytes of the disk that holds the journal below which nothing new is taken."""
LOOK_AFTER: Final = 32 << 20
"""Bytes taken between two looks at the free space, at most."""
PERIOD: Final = 1.0
"""Seconds between two looks where nothing is known to be taken."""


class NoRoom(FilesystemError):
    """Nothing more can be taken now. Nothing that was taken before is lost."""

    def __init__(self, message: str, hint: str, number: int = errno.ENOSPC) -> None:
        super().__init__(number, message)
        self.hint = hint


class DiskSpace:
    """The free space of the disk that holds `folder`. Methods belong to the loop's thread; sizes in bytes.

    Below `reserve` nothing new is taken, below half of it nothing at all. `missing` tells what is to be set
    aside before anything else; `used_up`, if not 0, why nothing is taken however much seems to be free.
    """

    def __init__(self, folder: Path, reserve: int) -> None:
        self.folder = folder
        self.reserve = reserve
        self.missing: Callable[[], int] = lambda: 0
        self.used_up: Callable[[], int] = lambda: 0
        self._left = 0
        self._look_at = float("-inf")

    def taken(self, size: int) -> None:
        """So many bytes are about to be written."""
        self._left -= size
        if self._left < self.reserve:
            self._look_at = float("-inf")

    def left(self, *, look: bool = False) -> int:
        """Free bytes without what is to be set aside; looked up once per PERIOD, or now. Raises OSError."""
        now = trio.current_time()
        if look or now >= self._look_at:
            found = os.statvfs(self.folder)
            self._left = found.f_bavail * found.f_frsize - self.missing()
            self._look_at = now + PERIOD
        return self._left

    @property
    def takes_new(self) -> bool:
        """Whether anything new may be made, opened for writing, or cached."""
        return not self.used_up() and self.left() >= self.reserve

    @property
    def takes_more(self) -> bool:
        """Whether what is open may be written to."""
        return not self.used_up() and self.left() >= self.reserve // 2

    @property
    def takes_moves(self) -> bool:
        """Whether what is live may be moved out of segments, so that the rest of them becomes free."""
        return not self.used_up() and self.left() >= self.reserve // 32

    def refusal(self) -> NoRoom:
        """What a program, and a person, is told when something is not taken."""
        number = self.used_up()
        if number == errno.EDQUOT:
            return NoRoom(
                f"the quota for {self.folder} is used up",
                "Free some of it, or have it raised; the drive takes writes again then.",
                number,
            )
        return NoRoom(
            f"the disk that holds {self.folder} is nearly full",
            "Free some space on it; the drive takes writes again then.",
        )

    def shares_disk(self, other: Path) -> bool:
        """Whether what is freed in the folder `other` is freed here."""
        try:
            return os.stat(other).st_dev == os.stat(self.folder).st_dev
        except OSError:
            return False


__all__ = ["DISK_RESERVE", "LOOK_AFTER", "DiskSpace", "NoRoom"]
