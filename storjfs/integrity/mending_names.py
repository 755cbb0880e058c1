"""Mends of names, inodes and counters. What can be saved is kept under a name, if need be in lost+found."""

import os
from typing import Final

from storjfs.integrity.tables import DIRECTORY, FILE, SYMLINK, TYPE, Row, Tables
from storjfs.integrity.values import LIMIT
from storjfs.store import ROOT_INODE

_TYPES: Final = (0o140000, SYMLINK, FILE, 0o060000, DIRECTORY, 0o020000, 0o010000)
_SIZE_MAX: Final = (1 << 63) - 1


def _counter(tables: Tables, row: Row) -> None:
    key, right = row
    tables.run(
        "INSERT INTO counters VALUES (?, ?) "
        "ON CONFLICT (key) DO UPDATE SET value = excluded.value "
        f"WHERE value NOT BETWEEN excluded.value AND {LIMIT}",
        key,
        right,
    )


def _root(tables: Tables, row: Row) -> None:
    if tables.kind(ROOT_INODE) is None:
        tables.make_inode(ROOT_INODE, DIRECTORY | 0o755, parent=ROOT_INODE, nlink=2)
        tables.run("UPDATE inode SET uid = ?, gid = ? WHERE ino = 1", os.getuid(), os.getgid())
    else:
        tables.run(
            "UPDATE inode SET mode = ? | (mode & 4095), size = 0, parent = 1, target = NULL WHERE ino = 1",
            DIRECTORY,
        )


def _dangling(tables: Tables, row: Row) -> None:
    """Where content or entries show what the inode was, it is made again, with new attributes."""
    parent, _, ino, number = row
    if tables.kind(ino) is not None:
        return
    if tables.one("SELECT 1 FROM dentry WHERE parent = ? LIMIT 1", ino):
        tables.make_inode(ino, DIRECTORY | 0o700, parent=parent, nlink=2)
    elif tables.one("SELECT 1 FROM extent WHERE ino = ? LIMIT 1", ino):
        tables.make_inode(ino, FILE | 0o600)
    else:
        tables.run("DELETE FROM dentry WHERE parent = ? AND id = ?", parent, number)


def _bad_name(tables: Tables, row: Row) -> None:
    parent, _, ino, number = row
    tables.run("DELETE FROM dentry WHERE parent = ? AND id = ?", parent, number)
    tables.enter(parent, b"#%d" % ino, ino)


def _nowhere(tables: Tables, row: Row) -> None:
    """A directory that is gone is made again with its entries; what is none gives them up."""
    parent, _, ino, number = row
    kind = tables.kind(parent)
    if kind == DIRECTORY:
        return
    if kind is None:
        tables.make_inode(parent, DIRECTORY | 0o700, nlink=2)
        tables.keep(parent)
        return
    tables.run("DELETE FROM dentry WHERE parent = ? AND id = ?", parent, number)
    tables.keep(ino)


def _wrong_parent(tables: Tables, row: Row) -> None:
    parent, _, ino, number = row
    by_itself = (
        "SELECT 1 FROM dentry d JOIN inode i ON i.ino = d.ino JOIN inode p ON p.ino = i.parent "
        f"WHERE d.parent = i.parent AND d.ino = ? AND i.ino = ? AND p.mode & {TYPE} = {DIRECTORY}"
    )
    if tables.one(by_itself, ino, ino):
        tables.run("DELETE FROM dentry WHERE parent = ? AND id = ?", parent, number)
    else:
        tables.run("UPDATE inode SET parent = ? WHERE ino = ?", parent, ino)


def _many_names(tables: Tables, row: Row) -> None:
    """Those in the directory that it names itself; others are directory-wrong-parent."""
    (ino,) = row
    parent = tables.one("SELECT parent FROM inode WHERE ino = ?", ino)
    names = tables.rows("SELECT id FROM dentry WHERE parent = ? AND ino = ? ORDER BY id", parent, ino)
    for (number,) in names[1:]:
        tables.run("DELETE FROM dentry WHERE parent = ? AND id = ?", parent, number)


def _loop(tables: Tables, row: Row) -> None:
    parent, _, ino, number = row
    if ino == ROOT_INODE:
        tables.run("DELETE FROM dentry WHERE parent = ? AND id = ?", parent, number)
        return
    its_parent = tables.one("SELECT parent FROM inode WHERE ino = ?", ino)
    tables.run("DELETE FROM dentry WHERE parent = ? AND ino = ?", its_parent, ino)
    tables.keep(ino)


def _unnamed(tables: Tables, row: Row) -> None:
    tables.keep(row[0])


def _leaked(tables: Tables, row: Row) -> None:
    tables.run("INSERT OR IGNORE INTO orphan VALUES (?)", row[0])


def _orphan(tables: Tables, row: Row) -> None:
    tables.run("DELETE FROM orphan WHERE ino = ? AND ino NOT IN (SELECT ino FROM inode)", row[0])


def _invalid(tables: Tables, row: Row) -> None:
    """The type is believed where it can be, else what else is known of the inode tells it."""
    (ino,) = row
    ((mode, size, target, parent),) = tables.rows(
        "SELECT mode, size, target, parent FROM inode WHERE ino = ?", ino
    )
    end = tables.one("SELECT MAX(off + len) FROM extent WHERE ino = ?", ino)
    kind = mode & TYPE
    if target is not None and end is None and size == len(target) and kind in (FILE, 0):
        kind = SYMLINK
    if kind not in _TYPES or (kind == SYMLINK and target is None):
        has_entries = tables.one("SELECT 1 FROM dentry WHERE parent = ? LIMIT 1", ino)
        kind = DIRECTORY if has_entries else FILE
    if kind == SYMLINK:
        size = len(target)
    elif kind == DIRECTORY:
        size = 0
    else:
        size = max(min(size, _SIZE_MAX), end or 0, 0)
    tables.run(
        "UPDATE inode SET mode = ?, size = ?, target = ?, parent = ? WHERE ino = ?",
        *(kind | mode & 0o7777, size, target if kind == SYMLINK else None),
        *(parent if kind == DIRECTORY else 0, ino),
    )


def _xattrs(tables: Tables, row: Row) -> None:
    if tables.kind(row[0]) is None:
        tables.run("DELETE FROM xattr WHERE ino = ?", row[0])


def _links(tables: Tables, row: Row) -> None:
    ino, right, _ = row
    tables.run("UPDATE inode SET nlink = ? WHERE ino = ?", right, ino)


def _flag(tables: Tables, row: Row) -> None:
    ino, flag = row
    tables.run("UPDATE inode SET flags = flags & ~1 | ? WHERE ino = ?", flag, ino)


MENDS: Final = {
    "counter-behind": _counter,
    "root-missing": _root,
    "entry-bad-name": _bad_name,
    "entry-dangling": _dangling,
    "entry-nowhere": _nowhere,
    "directory-wrong-parent": _wrong_parent,
    "directory-many-names": _many_names,
    "directory-loop": _loop,
    "inode-unnamed": _unnamed,
    "inode-leaked": _leaked,
    "orphan-missing": _orphan,
    "inode-invalid": _invalid,
    "xattr-nowhere": _xattrs,
    "links-wrong": _links,
    "directory-links-wrong": _links,
    "xattr-flag-wrong": _flag,
}
