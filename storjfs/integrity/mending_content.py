"""Mends of extents and runs. None of them makes bytes that cannot be read into zeros."""

from typing import Final

from storjfs.filesystem.windows import WINDOW, Extent, splice
from storjfs.integrity.tables import FILE, Row, Tables

_COLUMNS: Final = "off, len, seg, pos, run, skip"
_PUT: Final = "INSERT OR REPLACE INTO extent VALUES (?, ?, ?, ?, ?, ?, ?)"


def _no_file(tables: Tables, row: Row) -> None:
    (ino,) = row
    if tables.kind(ino) is None:
        tables.make_inode(ino, FILE | 0o600)
        tables.keep(ino)


def _overlap(tables: Tables, row: Row) -> None:
    """Lay all that lie over each other one after the other, in the order in which they were appended."""
    ino, off = row
    cluster: list[Extent] = []
    end = off + 1
    while True:
        after = cluster[-1][0] + 1 if cluster else off
        rows = tables.rows(
            f"SELECT {_COLUMNS} FROM extent WHERE ino = ? AND off >= ? AND off < ? ORDER BY off LIMIT 1",
            *(ino, after, end),
        )
        if not rows:
            break
        one: Extent = rows[0]
        cluster.append(one)
        end = max(end, one[0] + one[1])
    laid: list[Extent] = []
    for one in sorted(cluster, key=lambda extent: (extent[2], extent[3], extent[5])):
        splice(laid, one[0], one[0] + one[1], [one])
    for one in cluster:
        tables.run("DELETE FROM extent WHERE ino = ? AND off = ?", ino, one[0])
    for one in laid:
        tables.run(_PUT, ino, *one)


def _crossing(tables: Tables, row: Row) -> None:
    ino, off = row
    found = tables.rows(f"SELECT {_COLUMNS} FROM extent WHERE ino = ? AND off = ?", ino, off)
    for start, length, seg, pos, run, skip in found:
        at, end = start, start + length
        while at < end:
            until = min(end, (at // WINDOW + 1) * WINDOW)
            taken = tables.one("SELECT 1 FROM extent WHERE ino = ? AND off = ?", ino, at)
            if at == start or not taken:  # else they overlap, which is mended first
                tables.run(_PUT, ino, at, until - at, seg, pos, run, skip + at - start)
            at = until


def _beyond_size(tables: Tables, row: Row) -> None:
    (ino,) = row
    tables.run(
        "UPDATE inode SET size = (SELECT MAX(off + len) FROM extent e WHERE e.ino = inode.ino) WHERE ino = ?",
        ino,
    )


def _way_back(tables: Tables, row: Row) -> None:
    tables.run("INSERT OR IGNORE INTO run VALUES (?, ?, ?, ?, ?)", *row)


def _run_of_nothing(tables: Tables, row: Row) -> None:
    tables.run("DELETE FROM run WHERE seg = ? AND seg NOT IN (SELECT seg FROM segment)", row[0])


def _stored(tables: Tables, row: Row) -> None:
    ino, right, _ = row
    tables.run("UPDATE inode SET stored = ? WHERE ino = ?", right, ino)


MENDS: Final = {
    "extent-no-file": _no_file,
    "extent-overlap": _overlap,
    "extent-crosses-window": _crossing,
    "extent-beyond-size": _beyond_size,
    "extent-run-missing": _way_back,
    "run-no-segment": _run_of_nothing,
    "stored-wrong": _stored,
}
