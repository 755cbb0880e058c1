"""Files of which rows of the extent table are gone, told by sums that no longer agree, and their mend.

A file's sum is larger than its extents, and so are the live bytes of segments that its runs lie in. One of
the two alone is a miscount. As long as both are so, neither is lowered: a segment that seems to have no live
byte would be deleted, and with it what could be put back.
"""

from collections.abc import Iterator
from typing import Final

from storjfs.filesystem.windows import WINDOW, WINDOW_BITS, Extent, place, splice, touching
from storjfs.integrity.findings import Finding
from storjfs.integrity.tables import FILE, Row, Tables
from storjfs.integrity.view import View
from storjfs.segments import Run

_SUM: Final = "(SELECT COALESCE(SUM(len), 0) FROM extent e WHERE e.ino = i.ino)"
_UNPOINTED_RUNS: Final = """
    WITH mine AS MATERIALIZED (SELECT off, seg, pos, length FROM run WHERE ino = ?),
         pointed AS MATERIALIZED (
            SELECT seg, SUM(len) AS live FROM extent WHERE seg IN (SELECT seg FROM mine) GROUP BY seg
         )
    SELECT m.off, m.seg, m.pos, m.length FROM mine m JOIN segment s ON s.seg = m.seg
    LEFT JOIN pointed p ON p.seg = m.seg
    WHERE s.state <> 3 AND s.live > COALESCE(p.live, 0) ORDER BY m.seg, m.pos
"""
"""Of one inode, those in segments with more live bytes than extents point to. Reads both tables once: neither
has an index by what is asked."""


def gather_missing(view: View) -> None:
    """Make the temporary tables `lacking` (ino, bytes) and `doubted` (seg). Needs `pointed`."""
    view.run("CREATE TEMP TABLE unpointed (seg INTEGER PRIMARY KEY)")
    view.run(
        "INSERT INTO unpointed SELECT s.seg FROM segment s LEFT JOIN pointed p ON p.seg = s.seg "
        "WHERE s.live > COALESCE(p.live, 0) AND s.live <= s.plain"
    )
    view.run("CREATE TEMP TABLE lacking (ino INTEGER PRIMARY KEY, bytes INTEGER)")
    view.run("CREATE TEMP TABLE doubted (seg INTEGER PRIMARY KEY)")
    if view.one("SELECT 1 FROM unpointed LIMIT 1") is None:
        return
    view.run(
        f"INSERT INTO lacking SELECT i.ino, i.stored - {_SUM} FROM inode i "
        f"WHERE i.mode & 61440 = {FILE} AND i.stored > {_SUM}"
    )
    both = "unpointed u JOIN run r ON r.seg = u.seg JOIN lacking l ON l.ino = r.ino"
    view.run(f"INSERT INTO doubted SELECT DISTINCT u.seg FROM {both}")
    view.run(f"DELETE FROM lacking WHERE ino NOT IN (SELECT r.ino FROM {both})")


def check_missing(view: View) -> Iterator[Finding]:
    """One finding per file. Needs what `gather_missing` makes."""
    for ino, count in view.rows("SELECT ino, bytes FROM lacking ORDER BY ino"):
        yield Finding("extent-missing", f"{view.path(ino)} lacks {count} bytes of content", (ino,), ino)


def put_back(tables: Tables, row: Row) -> None:
    """Into the gaps of the file, if what the runs have for them is exactly what is missing.

    Else all that runs have is made a file of its own in lost+found, the last written on top, and the file
    itself stays as it is.
    """
    (ino,) = row
    found = tables.rows(f"SELECT i.size, i.stored - {_SUM} FROM inode i WHERE i.ino = ?", ino)
    if not found or found[0][1] <= 0:
        return
    size, missing = found[0]
    runs: list[tuple[int, int, int, int]] = tables.rows(_UNPOINTED_RUNS, ino)
    written: dict[int, list[Extent]] = {}
    for off, seg, pos, length in runs:
        for index, several in place(off, [Run(seg, pos, length)]):
            last = several[-1]
            splice(written.setdefault(index, []), several[0][0], last[0] + last[1], several)
    if not written:
        return
    gaps = [one for index in sorted(written) for one in _in_gaps(tables, ino, size, index, written[index])]
    if sum(one[1] for one in gaps) == missing:
        _insert(tables, ino, gaps)
        return
    copy = tables.next("next_ino")
    _insert(tables, copy, [one for index in sorted(written) for one in written[index]])
    tables.make_inode(copy, FILE | 0o600)
    tables.keep(copy)
    tables.run(f"UPDATE inode AS i SET stored = {_SUM} WHERE i.ino = ?", ino)


def _in_gaps(tables: Tables, ino: int, size: int, index: int, written: list[Extent]) -> list[Extent]:
    """What of `written`, the extents of one window, lies in gaps of the file."""
    start, end = index << WINDOW_BITS, min((index << WINDOW_BITS) + WINDOW, size)
    there: list[tuple[int, int]] = tables.rows(
        "SELECT off, len FROM extent WHERE ino = ? AND off >= ? AND off < ? ORDER BY off", ino, start, end
    )
    found: list[Extent] = []
    at = start
    for off, length in [*there, (end, 0)]:
        for one in touching(written, at, off) if off > at else ():
            low, high = max(one[0], at), min(one[0] + one[1], off)
            found.append((low, high - low, one[2], one[3], one[4], one[5] + low - one[0]))
        at = max(at, off + length)
    return found


def _insert(tables: Tables, ino: int, extents: list[Extent]) -> None:
    for one in extents:
        tables.run("INSERT INTO extent VALUES (?, ?, ?, ?, ?, ?, ?)", ino, *one)
