"""Mends of values that cannot be: each becomes one from which the other checks can put things right.

No row goes but a name that leads nowhere. A part of a file whose place in its segment is unknown is pointed
at segment 0, which never is one, so that reading it is an error, never zeros.
"""

from typing import Any, Final

from storjfs.filesystem.windows import WINDOW
from storjfs.integrity.tables import Row, Tables
from storjfs.integrity.values import AMOUNT, INTEGERS, wrong_in

NOWHERE: Final = 0
"""A segment number that is never given out."""

_DEFAULTS: Final[dict[str, dict[str, Any]]] = {
    "inode": {"mode": 0, "uid": 0, "gid": 0, "nlink": 1, "size": 0, "rdev": 0, "parent": 0, "flags": 0,
              "stored": 0},
    # Too many live bytes keep a segment from being deleted until they are added up.
    "segment": {"size": 0, "live": AMOUNT, "plain": AMOUNT, "created": 0},
}  # fmt: skip
_FARTHEST: Final = (1 << 63) - WINDOW
_TIMES: Final = ("atime", "mtime", "ctime")


def _value(tables: Tables, row: Row) -> None:
    table, columns, key = row
    {"counters": _counter, "inode": _inode, "dentry": _entry, "xattr": _xattr, "extent": _extent}.get(
        table, _segment
    )(tables, columns, key)


def _counter(tables: Tables, columns: tuple[str, ...], key: Row) -> None:
    """Without a row it is found to be behind."""
    tables.run(f"DELETE FROM counters WHERE key = ? AND {wrong_in('counters', 'value')}", *key)


def _inode(tables: Tables, columns: tuple[str, ...], key: Row) -> None:
    (ino,) = key
    for column in columns:
        if column == "target":
            tables.run("UPDATE inode SET target = CAST(target AS BLOB) WHERE ino = ?", ino)
        elif column in _TIMES:
            tables.run(f"UPDATE inode SET {column} = ? WHERE ino = ?", tables.now, ino)
        elif column != "ino":
            tables.run(f"UPDATE inode SET {column} = ? WHERE ino = ?", _DEFAULTS["inode"][column], ino)
    if "mode" in columns or "parent" in columns:
        _type_by_contents(tables, ino)
    if "ino" in columns:
        _renumber(tables, ino)


def _type_by_contents(tables: Tables, ino: int) -> None:
    """A directory has entries and a parent; what else an inode is, its own mends know."""
    if tables.one("SELECT 1 FROM dentry WHERE parent = ? LIMIT 1", ino):
        tables.run(
            "UPDATE inode SET mode = CASE mode WHEN 0 THEN 16832 ELSE mode END, parent = COALESCE("
            "(SELECT MIN(d.parent) FROM dentry d WHERE d.ino = inode.ino), 0) WHERE ino = ?",
            ino,
        )


def _renumber(tables: Tables, ino: int) -> None:
    """All that goes by this number, which cannot be, gets another."""
    new = tables.next("next_ino")
    for table in ("inode", "dentry", "xattr", "extent", "run", "orphan"):
        tables.run(f"UPDATE {table} SET ino = ? WHERE ino = ?", new, ino)
    for table in ("inode", "dentry"):
        tables.run(f"UPDATE {table} SET parent = ? WHERE parent = ?", new, ino)


def _entry(tables: Tables, columns: tuple[str, ...], key: Row) -> None:
    for parent, name, ino, _ in tables.rows("SELECT * FROM dentry WHERE parent IS ? AND name IS ?", *key):
        if "ino" in columns and isinstance(ino, int):
            _renumber(tables, ino)
        elif "parent" in columns and isinstance(parent, int):
            _renumber(tables, parent)
        else:
            tables.run("DELETE FROM dentry WHERE parent IS ? AND name IS ?", *key)
            if not {"ino", "parent"} & set(columns):
                tables.enter(parent, name if isinstance(name, bytes) else str(name).encode(), ino)


def _xattr(tables: Tables, columns: tuple[str, ...], key: Row) -> None:
    sql = "UPDATE OR IGNORE xattr SET {0} = CAST({0} AS BLOB) WHERE ino IS ? AND name IS ?"
    for column in sorted(columns, reverse=True):  # the value first, while the name is still the old one
        tables.run(sql.format(column), *key)


def _segment(tables: Tables, columns: tuple[str, ...], key: Row) -> None:
    for column in columns:
        if column in _DEFAULTS["segment"]:
            tables.run(f"UPDATE segment SET {column} = ? WHERE seg = ?", _DEFAULTS["segment"][column], *key)


def _extent(tables: Tables, columns: tuple[str, ...], key: Row) -> None:
    ino, off = key
    if "ino" in columns:
        _renumber(tables, ino)
        return
    if "off" in columns:
        off = _put_in_place(tables, ino, off)
    if off is not None and set(columns) - {"off"}:
        unreadable(tables, ino, off)


def _put_in_place(tables: Tables, ino: int, off: Any) -> int | None:
    """Move a part of a file to where the way back says; its new place, None where that is not known or not
    free."""
    ((length, seg, pos, run, skip),) = tables.rows(
        "SELECT len, seg, pos, run, skip FROM extent WHERE ino = ? AND off IS ?", ino, off
    )
    place = _place_by_run(tables, ino, seg, pos, skip)
    if place is None or tables.one("SELECT 1 FROM extent WHERE ino = ? AND off = ?", ino, place):
        return None
    tables.run("DELETE FROM extent WHERE ino = ? AND off IS ?", ino, off)
    tables.run("INSERT INTO extent VALUES (?, ?, ?, ?, ?, ?, ?)", ino, place, length, seg, pos, run, skip)
    return place


def _place_by_run(tables: Tables, ino: int, seg: object, pos: object, skip: object) -> int | None:
    start = tables.one("SELECT off FROM run WHERE seg IS ? AND pos IS ? AND ino = ?", seg, pos, ino)
    low, high = INTEGERS["extent"]["off"]
    if isinstance(start, int) and isinstance(skip, int) and low <= start + skip <= high:
        return start + skip
    return None


def unreadable(tables: Tables, ino: int, off: int) -> None:
    """The part of a file that begins at `off` reads as an error, up to where the next one begins."""
    end = (off // WINDOW + 1) * WINDOW
    following = tables.one("SELECT MIN(off) FROM extent WHERE ino = ? AND off > ?", ino, off)
    size = tables.one("SELECT size FROM inode WHERE ino = ?", ino)
    if isinstance(following, int):
        end = min(end, following)
    if isinstance(size, int) and size > off:
        end = min(end, size)
    tables.run(
        "INSERT OR REPLACE INTO extent VALUES (?, ?, ?, ?, 0, ?, 0)", ino, off, end - off, NOWHERE, end - off
    )


def _invalid(tables: Tables, row: Row) -> None:
    """Put where the way back says; where that is not known, nobody may take it for a hole."""
    ino, off = row
    if not tables.one("SELECT 1 FROM extent WHERE ino = ? AND off = ?", ino, off):
        return
    if not 0 <= off < _FARTHEST:
        _put_in_place(tables, ino, off)
    else:
        unreadable(tables, ino, off)


MENDS: Final = {"value-impossible": _value, "extent-invalid": _invalid}
