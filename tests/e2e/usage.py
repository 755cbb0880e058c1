"""What the local files of a mounted volume really take of the disk, looked at again and again."""

import contextlib
import math
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from .drive import Drive

Sizes = dict[tuple[int, int], int]
"""Bytes on disk by device and inode, so that a file counts once wherever it is seen."""


class Usage:
    """The disk usage of some folders, and of what a process keeps open of them that has no name any more.

    A look takes a moment, in which one file may go and another come. So each takes two, and counts for every
    file the smaller of both: what was there at the moment between them was no less than that.
    """

    def __init__(self, folders: list[Path], pid: int) -> None:
        self._folders = folders
        self._pid = pid
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.samples: list[tuple[float, int]] = []
        """When each look began (time.monotonic), and what it saw."""

    def look(self) -> int:
        """Bytes on disk now."""
        first, second = self._sizes(), self._sizes()
        return sum(min(size, second[file]) for file, size in first.items() if file in second)

    def _sizes(self) -> Sizes:
        found: Sizes = {}
        for folder in self._folders:
            with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
                for entry in entries:
                    _add(found, entry.path)
        self._add_unnamed(found)
        return found

    def _add_unnamed(self, found: Sizes) -> None:
        at = f"/proc/{self._pid}/fd"
        with contextlib.suppress(OSError):
            for number in os.listdir(at):
                with contextlib.suppress(OSError):
                    target = os.readlink(f"{at}/{number}")
                    if target.startswith(tuple(f"{folder}/" for folder in self._folders)):
                        _add(found, f"{at}/{number}", follow=True)

    def _run(self) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            self.samples.append((began, self.look()))

    def most(self, since: float = 0.0, until: float = math.inf) -> int:
        """The largest of the samples that began in this time."""
        return max(seen for began, seen in self.samples if since <= began < until)

    @contextlib.contextmanager
    def watched(self) -> Iterator["Usage"]:
        """Look all the time meanwhile."""
        self._thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            self._thread.join()


def _add(found: Sizes, path: str, *, follow: bool = False) -> None:
    with contextlib.suppress(FileNotFoundError):
        status = os.stat(path, follow_symlinks=follow)
        file = status.st_dev, status.st_ino
        found[file] = max(found.get(file, 0), status.st_blocks * 512)


def usage_of(drive: Drive) -> Usage:
    """Of a mounted drive: its journal and its cache."""
    paths = drive.paths()
    return Usage([paths.journal_dir, paths.cache_dir], drive.pid())
