"""Values that no row may have: of the wrong type, or so large that sums of them would overflow.

They are looked for first, because SQLite gives them to other checks without a word, and those would fail.
"""

from collections.abc import Iterator
from typing import Final

from storjfs.integrity.findings import Finding
from storjfs.integrity.view import View

LIMIT: Final = 1 << 61
"""Numbers that are given out stay below it."""
AMOUNT: Final = 1 << 44
"""Lengths and sums within one segment or run stay far below it."""
_TIME: Final = (-(1 << 63), (1 << 63) - 1)
_ANY: Final = (-LIMIT, LIMIT)
_BYTES: Final = (-AMOUNT, AMOUNT)
_WORD: Final = (0, (1 << 32) - 1)

INTEGERS: Final[dict[str, dict[str, tuple[int, int]]]] = {
    "counters": {"value": _ANY},
    "inode": {
        "ino": (1, LIMIT),
        "mode": (0, 0o177777),
        "uid": _WORD,
        "gid": _WORD,
        "nlink": _ANY,
        "size": _TIME,
        "atime": _TIME,
        "mtime": _TIME,
        "ctime": _TIME,
        "rdev": _WORD,
        "parent": _ANY,
        "flags": _ANY,
        "stored": _ANY,
    },
    "dentry": {"parent": (1, LIMIT), "ino": (1, LIMIT), "id": (1, LIMIT)},
    "extent": {
        "ino": (1, LIMIT),
        "off": (0, (1 << 63) - 1),
        "len": (1, AMOUNT),
        "seg": (0, LIMIT),
        "pos": (0, AMOUNT),
        "run": (1, AMOUNT),
        "skip": (0, AMOUNT),
    },
    "segment": {
        "seg": (1, LIMIT),
        "state": _BYTES,
        "algorithm": _BYTES,
        "k": _BYTES,
        "n": _BYTES,
        "size": _BYTES,
        "live": _BYTES,
        "created": _TIME,
        "plain": _BYTES,
    },
}
"""By table and column: what a value lies between. Where a check of its own tells more, it is wider here."""

BLOBS: Final[dict[str, tuple[str, ...]]] = {
    "inode": ("target",),
    "xattr": ("name", "value"),
    "dentry": ("name",),
    "segment": ("segment_id",),
}
"""Columns that hold byte strings, or nothing."""

KEYS: Final[dict[str, tuple[str, ...]]] = {
    "counters": ("key",),
    "inode": ("ino",),
    "dentry": ("parent", "name"),
    "extent": ("ino", "off"),
    "xattr": ("ino", "name"),
    "segment": ("seg",),
}


def wrong_in(table: str, column: str) -> str:
    """An SQL condition: the value of this column cannot be."""
    if column in INTEGERS.get(table, {}):
        low, high = INTEGERS[table][column]
        return f"(typeof({column}) <> 'integer' OR {column} NOT BETWEEN {low} AND {high})"
    return f"(typeof({column}) NOT IN ('blob', 'null'))"


def _perhaps(table: str) -> str:
    """An SQL condition that all wrong rows fulfil, and hardly any other, without asking for each type.

    Texts and blobs are larger than any number, and one that is not whole makes the sum so.
    """
    bounds = INTEGERS.get(table, {})
    parts = [f"typeof({column}) NOT IN ('blob', 'null')" for column in BLOBS.get(table, ())]
    if bounds:
        between = " AND ".join(f"{name} BETWEEN {low} AND {high}" for name, (low, high) in bounds.items())
        parts += [f"NOT ({between})", f"typeof({' + '.join(bounds)}) <> 'integer'"]
    return " OR ".join(parts)


def check_values(view: View) -> Iterator[Finding]:
    """One finding per row with such values; its `row` is (table, columns, key). Reads all rows once."""
    for table, key in KEYS.items():
        view.step("values")
        columns = [*INTEGERS.get(table, {}), *BLOBS.get(table, ())]
        flags = [wrong_in(table, column) for column in columns]
        sql = f"SELECT {', '.join(key)}, {', '.join(flags)} FROM {table} WHERE {_perhaps(table)}"
        for row in view.rows(sql):
            names = tuple(name for name, wrong in zip(columns, row[len(key) :], strict=True) if wrong)
            if not names:
                continue
            where = ", ".join(f"{name} {value!r}" for name, value in zip(key, row[: len(key)], strict=True))
            text = f"{', '.join(names)} of the row in {table} with {where}"
            yield Finding("value-impossible", text, (table, names, row[: len(key)]))
