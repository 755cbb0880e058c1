"""How much the disks of embedded farmers can take, whatever the contracts say."""

import os
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

from storjfs.protocol.ids import NodeId


def free_on(folder: Path) -> tuple[int, int]:
    """(file system, bytes free there for users) of a folder. Raises OSError."""
    status = os.statvfs(folder)
    return os.stat(folder).st_dev, status.f_bavail * status.f_frsize


def rooms(
    folders: Mapping[bytes, Path], reserve: int, look: Callable[[Path], tuple[int, int]] = free_on
) -> dict[NodeId, int]:
    """What each farmer can still take: an equal part of its file system's free space beyond `reserve`.

    Those whose folder cannot be looked at have none.
    """
    disks: dict[bytes, tuple[int, int]] = {}
    for node, folder in folders.items():
        try:
            disks[node] = look(folder)
        except OSError:
            disks[node] = (0, 0)
    sharing = Counter(disk for disk, _ in disks.values())
    return {NodeId(node): max(free - reserve, 0) // sharing[disk] for node, (disk, free) in disks.items()}
