"""From inodes back to their paths, as committed; for reports, since it reads all names once."""

from collections.abc import Sequence
from typing import Any

import apsw

from storjfs.store import ROOT_INODE

# By the directory's own note of where it lies: an index by inode would cost each new file something.
_DIRECTORY = """
SELECT d.parent, d.name FROM inode i JOIN dentry d ON d.parent = i.parent WHERE i.ino = ? AND d.ino = i.ino
"""


def paths_of(connection: apsw.Connection, inos: Sequence[int], limit: int) -> list[bytes]:
    """At most `limit` paths of these inodes, relative to the root, in the inodes' order; a file with several
    names may have several.

    Where the way up breaks off or leads into itself (a directory was removed meanwhile, or the metadata are
    damaged) a path begins there. Blocking: goes through all names once, and of the directories above through
    those beside them. Raises apsw.Error.
    """
    marks = ", ".join("?" * len(inos))
    found: list[Any] = connection.execute(
        f"SELECT ino, parent, name FROM dentry WHERE ino IN ({marks}) LIMIT {limit}", tuple(inos)
    ).fetchall()
    folders = {ROOT_INODE: b""}
    return [_folder(connection, folders, parent) + bytes(name) for _, parent, name in sorted(found)]


def _folder(connection: apsw.Connection, folders: dict[int, bytes], ino: int) -> bytes:
    """The path of a directory with a slash at its end; `folders` are those known, to which it is added."""
    above: dict[int, bytes] = {}
    while ino not in folders and ino not in above:
        found: list[Any] = connection.execute(_DIRECTORY, (ino,)).fetchall()
        if not found:
            break
        above[ino] = bytes(found[0][1])
        ino = found[0][0]
    path = folders.get(ino, b"")
    for folder, name in reversed(above.items()):
        path += name + b"/"
        folders[folder] = path
    return path


__all__ = ["paths_of"]
