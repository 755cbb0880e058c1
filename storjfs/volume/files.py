"""Private directories."""

import os
import stat
from pathlib import Path

from storjfs.store.durable import sync_folder
from storjfs.volume.errors import RuntimeDirectoryUnsafe


def make_private(directory: Path) -> None:
    """Make a directory of mode 0700, its missing parents too, so that a crash cannot lose it. Idempotent.

    The mode of a directory that exists is left alone: a person may have chosen it.
    """
    if directory.is_dir():
        return
    make_private(directory.parent)
    directory.mkdir(mode=0o700, exist_ok=True)
    sync_folder(directory.parent)


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
