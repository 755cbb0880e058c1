"""Names and inodes: what must hold between dentry, inode, xattr, orphan and the counters."""

from collections.abc import Iterator
from typing import Final

from storjfs.integrity.findings import Finding
from storjfs.integrity.values import LIMIT
from storjfs.integrity.view import View, readable
from storjfs.store import ROOT_INODE

_TYPE: Final = "{}.mode & 61440"
_DIRECTORY: Final = 0o040000
_SYMLINK: Final = 0o120000
_FILE: Final = 0o100000
_TYPES: Final = (0o140000, _SYMLINK, _FILE, 0o060000, _DIRECTORY, 0o020000, 0o010000)
NAME_MAX: Final = 255
SIZE_MAX: Final = (1 << 63) - 1

_UP: Final = """
WITH RECURSIVE up(ino) AS (
    SELECT i.parent UNION SELECT p.parent FROM up JOIN inode p ON p.ino = up.ino WHERE up.ino <> 1
)
"""


def check_names(view: View) -> Iterator[Finding]:
    """Findings about names. Makes `named`, which other checks use as well."""
    view.step("names")
    view.gather_names()
    yield from _root(view)
    yield from _counters(view)
    view.step("names", 1, 4)
    yield from _entries(view)
    view.step("names", 2, 4)
    yield from _inodes(view)
    view.step("names", 3, 4)
    yield from _directories(view)
    yield from _tables(view)


def _root(view: View) -> Iterator[Finding]:
    if view.one("SELECT mode & 61440 FROM inode WHERE ino = 1 AND parent = 1") != _DIRECTORY:
        yield Finding("root-missing", "inode 1 is no directory that is its own parent", ino=ROOT_INODE)


def _counters(view: View) -> Iterator[Finding]:
    inodes = (
        f"SELECT MAX(ino) AS used FROM inode WHERE ino <= {LIMIT} "
        f"UNION ALL SELECT MAX(ino) FROM extent WHERE ino <= {LIMIT}"
    )
    yield from check_counter(view, "next_ino", f"SELECT MAX(used) FROM ({inodes})")
    yield from check_counter(view, "next_dentry", f"SELECT MAX(id) FROM dentry WHERE id <= {LIMIT}")


def check_counter(view: View, key: str, used: str) -> Iterator[Finding]:
    """Whether the counter is above all that the query `used` finds in use."""
    highest = view.one(used) or 0
    value = view.one("SELECT value FROM counters WHERE key = ?", (key,))
    if not isinstance(value, int) or value <= highest or value > LIMIT:
        yield Finding("counter-behind", f"{key} is {value}; {highest} is in use", (key, highest + 1))


def _entries(view: View) -> Iterator[Finding]:
    """What can be said of each name by itself."""
    rows = view.rows(
        f"""
        SELECT d.parent, d.name, d.ino, d.id, i.ino, {_TYPE.format("i")}, i.parent, {_TYPE.format("p")}
        FROM dentry d LEFT JOIN inode i ON i.ino = d.ino LEFT JOIN inode p ON p.ino = d.parent
        WHERE i.ino IS NULL OR p.ino IS NULL OR {_TYPE.format("p")} <> {_DIRECTORY} OR d.ino = 1
           OR ({_TYPE.format("i")} = {_DIRECTORY} AND i.parent <> d.parent)
           OR typeof(d.name) <> 'blob' OR length(d.name) NOT BETWEEN 1 AND {NAME_MAX}
           OR d.name IN (x'2e', x'2e2e') OR instr(d.name, x'2f') OR instr(d.name, x'00')
        """
    )
    for parent, name, ino, number, found, kind, its_parent, parent_kind in rows:
        row = (parent, name, ino, number)
        said = f"{readable(name)!r} in inode {parent}"
        if found is None:
            yield Finding("entry-dangling", f"{said} leads to inode {ino}, which does not exist", row, ino)
            continue
        if ino == ROOT_INODE:
            yield Finding("directory-loop", f"{said} leads to the root directory", row, ino)
            continue
        if _bad(name):
            yield Finding("entry-bad-name", said, row, ino)
        if parent_kind != _DIRECTORY:
            yield Finding("entry-nowhere", f"{said}, which is no directory", row, ino)
        elif kind == _DIRECTORY and its_parent != parent:
            text = f"{said}: inode {ino} names inode {its_parent} as its parent"
            yield Finding("directory-wrong-parent", text, row, ino)


def _bad(name: object) -> bool:
    return (
        not isinstance(name, bytes)
        or not 0 < len(name) <= NAME_MAX
        or name in (b".", b"..")
        or b"/" in name
        or b"\0" in name
    )


def _inodes(view: View) -> Iterator[Finding]:
    """What can be said of each inode with its names and attributes counted."""
    rows = view.rows(
        f"""
        SELECT i.ino, i.nlink, COALESCE(n.names, 0), {_TYPE.format("i")},
               EXISTS (SELECT 1 FROM extent e WHERE e.ino = i.ino)
                   OR EXISTS (SELECT 1 FROM dentry d WHERE d.parent = i.ino)
        FROM inode i LEFT JOIN named n ON n.ino = i.ino
        WHERE i.ino <> 1 AND ((n.ino IS NULL AND (i.nlink <> 0 OR i.ino NOT IN (SELECT ino FROM orphan)))
           OR (n.ino IS NOT NULL AND {_TYPE.format("i")} <> {_DIRECTORY} AND i.nlink <> n.names)
           OR ({_TYPE.format("i")} = {_DIRECTORY} AND n.names > 1))
        """
    )
    for ino, nlink, names, kind, holds in rows:
        # What holds something is kept: a name may be lost as well as a note of its removal.
        if not names and (nlink or holds):
            yield Finding(
                "inode-unnamed", f"inode {ino} has a count of {nlink}, and no name", (ino, kind), ino
            )
        elif not names:
            yield Finding("inode-leaked", f"inode {ino} is unlinked and not noted for removal", (ino,), ino)
        elif kind == _DIRECTORY:
            yield Finding("directory-many-names", f"{view.path(ino)} has {names} names", (ino,), ino)
        else:
            text = f"{view.path(ino)} has a count of {nlink}, and {names} names"
            yield Finding("links-wrong", text, (ino, names, nlink), ino)
    kinds = ", ".join(map(str, _TYPES))
    rows = view.rows(
        f"""
        SELECT i.ino FROM inode i
        WHERE {_TYPE.format("i")} NOT IN ({kinds}) OR i.size NOT BETWEEN 0 AND {SIZE_MAX}
           OR ({_TYPE.format("i")} = {_SYMLINK} AND i.size <> length(i.target))
           OR ({_TYPE.format("i")} = {_SYMLINK}) <> (i.target IS NOT NULL)
           OR ({_TYPE.format("i")} = {_DIRECTORY} AND i.size <> 0)
           OR ({_TYPE.format("i")} <> {_DIRECTORY} AND i.parent <> 0)
        """
    )
    for (ino,) in rows:
        yield Finding("inode-invalid", f"{view.path(ino)} contradicts itself", (ino,), ino)
    rows = view.rows(
        "SELECT i.ino, i.flags & 1 FROM inode i "
        "WHERE i.flags & 1 <> EXISTS (SELECT 1 FROM xattr x WHERE x.ino = i.ino)"
    )
    for ino, flag in rows:
        text = f"{view.path(ino)} " + ("claims attributes it has not" if flag else "has attributes unseen")
        yield Finding("xattr-flag-wrong", text, (ino, 0 if flag else 1), ino)


def _directories(view: View) -> Iterator[Finding]:
    counted = f"""
        SELECT COUNT(*) FROM dentry d JOIN inode c ON c.ino = d.ino
        WHERE d.parent = i.ino AND c.ino <> 1 AND {_TYPE.format("c")} = {_DIRECTORY}
    """
    rows = view.rows(
        f"""
        SELECT i.ino, i.nlink, 2 + ({counted}) FROM inode i
        WHERE {_TYPE.format("i")} = {_DIRECTORY} AND i.nlink <> 2 + ({counted})
          AND (i.ino = 1 OR EXISTS (SELECT 1 FROM named n WHERE n.ino = i.ino))
        """
    )
    for ino, nlink, right in rows:
        text = f"{view.path(ino)} has a count of {nlink} instead of {right}"
        yield Finding("directory-links-wrong", text, (ino, right, nlink), ino)
    # The lowest of those that lie in one another stands for the loop.
    rows = view.rows(
        f"""
        SELECT i.ino FROM inode i WHERE i.ino <> 1 AND {_TYPE.format("i")} = {_DIRECTORY}
          AND i.ino = ({_UP} SELECT MIN(ino) FROM up)
          AND EXISTS ({_UP} SELECT 1 FROM up WHERE up.ino = i.ino)
        """
    )
    for (ino,) in rows:
        yield Finding("directory-loop", f"inode {ino} lies in itself", (None, None, ino, None), ino)


def _tables(view: View) -> Iterator[Finding]:
    for (ino,) in view.rows("SELECT ino FROM orphan WHERE ino NOT IN (SELECT ino FROM inode)"):
        yield Finding("orphan-missing", f"inode {ino} is to be removed and does not exist", (ino,), ino)
    sql = "SELECT DISTINCT x.ino FROM xattr x LEFT JOIN inode i ON i.ino = x.ino WHERE i.ino IS NULL"
    for (ino,) in view.rows(sql):
        yield Finding("xattr-nowhere", f"attributes of inode {ino}, which does not exist", (ino,), ino)
