"""Content: what must hold between extents, their inodes, their segments and the runs that lead back."""

from collections.abc import Iterator
from typing import Any, Final

from storjfs.integrity.findings import Finding
from storjfs.integrity.missing import check_missing, gather_missing
from storjfs.integrity.view import View

_FILE: Final = 0o100000
_WINDOW_BITS: Final = 20

# storjfs.coding.geometry.run_end in SQL; tested against it.
RUN_END: Final = """(CASE
    WHEN e.run <= 0 THEN e.pos
    WHEN e.run <= 65508 - e.pos % 65536 THEN e.pos + e.run + 28
    ELSE e.pos + 65536 - e.pos % 65536
        + (e.run - (65508 - e.pos % 65536) - 1) / 65508 * 65536
        + (e.run - (65508 - e.pos % 65536) - 1) % 65508 + 29
END)"""

_IMPOSSIBLE: Final = (
    "(e.len <= 0 OR e.off < 0 OR e.off > 9223372036854775807 - e.len OR e.skip < 0 OR e.skip + e.len > e.run "
    "OR e.pos < 0)"
)
_CROSSING: Final = f"(e.off >> {_WINDOW_BITS} <> (e.off + e.len - 1) >> {_WINDOW_BITS})"
_NEXT: Final = "(SELECT MIN(n.off) FROM extent n WHERE n.ino = e.ino AND n.off > e.off)"
_HERE: Final = "(e.ino, e.off) >= (?, ?) AND (e.ino, e.off) < (?, ?)"

_PLACES: Final = f"""
SELECT e.ino, e.off, e.len, {_IMPOSSIBLE}, {_CROSSING}, i.mode & 61440, i.size, {_NEXT}
FROM extent e LEFT JOIN inode i ON i.ino = e.ino
WHERE {_HERE} AND ({_IMPOSSIBLE} OR {_CROSSING} OR i.ino IS NULL OR i.mode & 61440 <> {_FILE}
    OR (e.off + e.len > i.size AND e.ino NOT IN (SELECT ino FROM orphan)) OR {_NEXT} < e.off + e.len)
ORDER BY e.ino, e.off
"""

_SOURCES: Final = f"""
SELECT e.ino, e.off, e.len, e.seg, e.pos, e.run, e.skip, s.seg, {RUN_END} > s.size,
       r.seg, r.length, r.ino, r.off
FROM extent e LEFT JOIN segment s ON s.seg = e.seg LEFT JOIN run r ON r.seg = e.seg AND r.pos = e.pos
WHERE {_HERE} AND NOT {_IMPOSSIBLE} AND (s.seg IS NULL OR {RUN_END} > s.size
    OR r.seg IS NULL OR r.length <> e.run OR r.ino <> e.ino OR r.off <> e.off - e.skip)
ORDER BY e.ino, e.off
"""

_ADD_UP: Final = f"""
INSERT INTO pointed SELECT e.seg, SUM(e.len) FROM extent e WHERE {_HERE} AND e.len > 0 GROUP BY e.seg
ON CONFLICT (seg) DO UPDATE SET live = live + excluded.live
"""


def check_content(view: View, *, segments: bool = True) -> Iterator[Finding]:
    """Findings about extents. Needs `named`; makes `pointed` (seg, live), which others use.

    `segments`: whether the tables segment and run are what extents point to; False where only names and
    extents are kept (tests of the filesystem room alone).
    """
    view.run("CREATE TEMP TABLE pointed (seg INTEGER PRIMARY KEY, live INTEGER)")
    last = view.one("SELECT MAX(ino) FROM extent") or 1
    homeless: Any = None
    for chunk in view.extent_chunks():
        view.step("content", max(chunk[0], 0), last)
        for finding in _places(view, chunk):
            # All the extents of an inode that is gone are one thing to tell.
            if finding.code in ("extent-no-file", "extent-not-a-file", "extent-beyond-size"):
                if (finding.code, finding.ino) == homeless:
                    continue
                homeless = (finding.code, finding.ino)
            yield finding
        if segments:
            yield from _sources(view, chunk)
            view.run(_ADD_UP, chunk)
    view.step("content", last, last)
    if segments:
        gather_missing(view)
        yield from check_missing(view)
    yield from _sums(view, segments)
    if segments:
        # As long as files point to a segment whose row is lost, its runs are what it can be found again by.
        sql = (
            "SELECT DISTINCT r.seg FROM run r LEFT JOIN segment s ON s.seg = r.seg "
            "WHERE s.seg IS NULL AND r.seg NOT IN (SELECT seg FROM pointed)"
        )
        for (seg,) in view.rows(sql):
            yield Finding("run-no-segment", f"runs of segment {seg}, which does not exist", (seg,), seg=seg)


def _places(view: View, chunk: tuple[int, int, int, int]) -> Iterator[Finding]:
    """Whether extents lie in their files as they may."""
    for ino, off, length, impossible, crossing, kind, size, following in view.rows(_PLACES, chunk):
        said = f"{view.path(ino)}, bytes {off} to {off + length}"
        if kind is None:
            yield Finding("extent-no-file", f"content of inode {ino}, which does not exist", (ino,), ino)
        elif kind != _FILE:
            yield Finding("extent-not-a-file", said, (ino,), ino)
        if impossible:
            yield Finding("extent-invalid", said, (ino, off), ino)
            continue
        if crossing:
            yield Finding("extent-crosses-window", said, (ino, off), ino)
        if following is not None and following < off + length:
            yield Finding("extent-overlap", f"{said}, and others from {following}", (ino, off), ino)
        if size is not None and off + length > size and kind == _FILE and not _is_orphan(view, ino):
            yield Finding("extent-beyond-size", f"{said}, behind its end at {size}", (ino,), ino)


def _is_orphan(view: View, ino: int) -> bool:
    return view.one("SELECT 1 FROM orphan WHERE ino = ?", (ino,)) is not None


def _sources(view: View, chunk: tuple[int, int, int, int]) -> Iterator[Finding]:
    """Whether what extents point to is there."""
    for row in view.rows(_SOURCES, chunk):
        ino, off, length, seg, pos, run, skip, known, beyond, way, way_length, way_ino, way_off = row
        said = f"{view.path(ino)}, bytes {off} to {off + length}, in segment {seg}"
        if known is None:
            yield Finding("extent-no-segment", said, (ino, off, seg), ino, seg)
            continue
        if beyond:
            yield Finding("extent-beyond-segment", said, (ino, off), ino, seg)
            continue
        if way is None:
            place = (seg, pos, run, ino, off - skip)
            yield Finding("extent-run-missing", said, place, ino, seg)
        elif (way_length, way_ino, way_off) != (run, ino, off - skip):
            yield Finding("extent-run-differs", said, (ino, off), ino, seg)


def _sums(view: View, segments: bool) -> Iterator[Finding]:
    but = "AND i.ino NOT IN (SELECT ino FROM lacking)" if segments else ""
    sql = f"""
        SELECT i.ino, i.stored, (SELECT COALESCE(SUM(len), 0) FROM extent e WHERE e.ino = i.ino) FROM inode i
        WHERE i.stored <> (SELECT COALESCE(SUM(len), 0) FROM extent e WHERE e.ino = i.ino) {but}
    """
    for ino, stored, right in view.rows(sql):
        text = f"{view.path(ino)} has {right} bytes of content, its inode says {stored}"
        yield Finding("stored-wrong", text, (ino, right, stored), ino)
