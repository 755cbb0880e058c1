"""The two folders on disk: unsent segments in the journal's, copies of stored ones in the cache's.

The name of a file is the hex segment id; the catalogue knows the rest. The cache folder may be deleted at any
time, and is made anew when it is needed. Beside the segments it holds the order in which the last run would
have given them up.
"""

import errno
import logging
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from storjfs.segments.files import is_ours
from storjfs.volume.files import make_private

_LOG = logging.getLogger(__name__)

_NAME: Final = 32
_ORDER: Final = "order"
_PART: Final = ".part"
"""Ends the name of what is not whole yet; start-up removes it."""
_LARGEST_ORDER: Final = 8 << 20


class OtherDisk(OSError):
    """The two folders lie on different disks, so a file has to be carried over."""


class Folders:
    """Paths, listings and moves. Everything raises OSError."""

    def __init__(self, journal: Path, cache: Path) -> None:
        self.journal = journal
        self.cache = cache

    def make(self) -> None:
        """Have both folders, readable for nobody else."""
        make_private(self.journal)
        make_private(self.cache)

    def unsent(self, segment_id: bytes) -> Path:
        return self.journal / segment_id.hex()

    def cached(self, segment_id: bytes) -> Path:
        return self.cache / segment_id.hex()

    def found_cached(self) -> list[tuple[bytes, int]]:
        """(segment id, bytes on disk) of what lies in the cache folder, oldest first.

        Removes parts, and what took the place of a file of ours: links, and all that is no file.
        """
        found = []
        with os.scandir(self.cache) as entries:
            for entry in entries:
                segment_id = _id_of(entry.name)
                if segment_id is None and entry.name != _ORDER and not entry.name.endswith(_PART):
                    continue
                status = entry.stat(follow_symlinks=False)
                if not is_ours(status) or entry.name.endswith(_PART):
                    remove(Path(entry.path))
                elif segment_id is not None:
                    found.append((status.st_mtime_ns, segment_id, status.st_blocks * 512))
        return [(segment_id, size) for _, segment_id, size in sorted(found)]

    def found_unsent(self) -> list[bytes]:
        """Segment ids of the files in the journal folder."""
        ids = (_id_of(name) for name in os.listdir(self.journal))
        return [segment_id for segment_id in ids if segment_id is not None]

    def move_to_cache(self, segment_id: bytes) -> None:
        """Raises OtherDisk where it can only be copied."""
        try:
            self.with_cache(partial(os.rename, self.unsent(segment_id), self.cached(segment_id)))
        except OSError as error:
            if error.errno == errno.EXDEV:
                raise OtherDisk(error.errno, "the cache lies on another disk") from error
            raise

    def copy_to_cache(self, segment_id: bytes) -> None:
        """Have a copy of an unsent file in the cache folder, whole or not at all. Blocking."""
        target = self.cached(segment_id)
        part = target.with_suffix(_PART)
        try:
            self.with_cache(partial(_write_new, part, self.unsent(segment_id)))
            os.rename(part, target)
        except OSError:
            remove(part)
            raise

    def with_cache(self, action: Callable[[], object]) -> None:
        """Do what needs the cache folder, made anew where somebody deleted it."""
        try:
            action()
        except FileNotFoundError:
            self.cache.mkdir(parents=True, exist_ok=True, mode=0o700)
            action()

    def read_order(self) -> bytes:
        """What `write_order` wrote last, b"" where there is nothing."""
        try:
            fd = os.open(self.cache / _ORDER, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            with open(fd, "rb") as file:
                return file.read(_LARGEST_ORDER) if is_ours(os.fstat(fd)) else b""
        except OSError:
            return b""

    def write_order(self, packed: bytes) -> None:
        """Keep the order for the next run; not synced, for it is advice. No bytes leave no file."""
        path = self.cache / _ORDER
        if not packed:
            path.unlink(missing_ok=True)
            return
        part = path.with_suffix(_PART)
        try:
            _write_new(part, packed)
            os.rename(part, path)
        except OSError:
            part.unlink(missing_ok=True)
            raise


def _write_new(path: Path, content: bytes | Path) -> None:
    """Make a file, whatever lay there, of these bytes or those of another file. Blocking."""
    path.unlink(missing_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as target:
        if isinstance(content, bytes):
            target.write(content)
        else:
            with open(content, "rb") as source:
                shutil.copyfileobj(source, target, 1 << 20)


def remove(path: Path) -> None:
    """Remove a file that nothing needs, or an empty folder that somebody put in its place.

    What cannot be removed stays, until the next start sorts it out.
    """
    try:
        try:
            path.unlink(missing_ok=True)
        except IsADirectoryError:
            path.rmdir()
    except OSError as error:
        _LOG.warning("a file that is no longer needed could not be removed: %s", error)


def _id_of(name: str) -> bytes | None:
    if len(name) != _NAME:
        return None
    try:
        return bytes.fromhex(name)
    except ValueError:
        return None


__all__ = ["Folders", "OtherDisk", "remove"]
