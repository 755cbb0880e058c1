"""Private directories and files that are either the old or the new ones, whenever the machine stops."""

import os
import secrets
import stat
from pathlib import Path

from storjfs.volume.errors import RuntimeDirectoryUnsafe


def make_private(directory: Path) -> None:
    """Make a directory of mode 0700, its missing parents too, so that a crash cannot lose it. Idempotent.

    The mode of a directory that exists is left alone: a person may have chosen it.
    """
    if directory.is_dir():
        return
    make_private(directory.parent)
    directory.mkdir(mode=0o700, exist_ok=True)
    _sync(directory.parent)


def make_runtime(directory: Path) -> None:
    """Make the directory of the control socket, and refuse one that others could have prepared for us.

    Raises RuntimeDirectoryUnsafe if it is a link, belongs to another user, or is open to others.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = os.lstat(directory)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise RuntimeDirectoryUnsafe(
            f"{directory} is not a private directory of this user",
            hint="Remove it, or set XDG_RUNTIME_DIR to a directory of yours with mode 0700.",
        )


def write_atomically(path: Path, data: bytes) -> None:
    """Replace the file with `data`, mode 0600; on disk when this returns.

    After a crash at any point the file has its old or its new content. The directory must exist.
    """
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(fd)
        os.rename(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def _sync(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
