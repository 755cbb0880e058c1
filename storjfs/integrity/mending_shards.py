"""Mends of segments, shards, deletions and tallies. What is taken out is deleted at its farmer, in order."""

import os
from pathlib import Path
from typing import Final

from storjfs.coding.geometry import sealed_length, shard_length
from storjfs.integrity.shards import RUNS_END, SEGMENT_MAX, SHARD_LENGTH
from storjfs.integrity.tables import Row, Tables


def _doomed(tables: Tables, row: Row) -> None:
    """Kept as what it must have been before: stored where farmers have it, else closed."""
    (seg,) = row
    held = tables.one("SELECT COUNT(*) FROM shard WHERE seg = ? AND state IN (1, 2)", seg)
    tables.run(
        "UPDATE segment SET state = CASE WHEN k > 0 AND ? >= k THEN 2 ELSE 1 END WHERE seg = ?", held, seg
    )


def _senseless(tables: Tables, row: Row) -> None:
    """The size is where the last run ends; nothing else of a segment is known twice."""
    ((size, right),) = tables.rows(f"SELECT s.size, {RUNS_END} FROM segment s WHERE s.seg = ?", *row)
    if 0 < right <= SEGMENT_MAX and not right <= size <= SEGMENT_MAX:
        tables.run("UPDATE segment SET size = ? WHERE seg = ?", right, *row)


def _live(tables: Tables, row: Row) -> None:
    seg, right, _ = row
    tables.run("UPDATE segment SET live = ? WHERE seg = ?", right, seg)


def _plain(tables: Tables, row: Row) -> None:
    seg, right, _ = row
    tables.run("UPDATE segment SET plain = ? WHERE seg = ?", right, seg)


def _of_nothing(tables: Tables, row: Row) -> None:
    tables.take_out(row[0])


def _can_do_without(tables: Tables, seg: int, shard_id: bytes) -> bool:
    """Whether k other shards of the segment are there, whose rows are as they should be."""
    k = tables.one("SELECT k FROM segment WHERE seg = ?", seg)
    others = tables.one(
        "SELECT COUNT(DISTINCT h.idx) FROM shard h JOIN segment s ON s.seg = h.seg "
        "JOIN contract c ON c.contract = h.contract WHERE h.seg = ? AND h.shard_id <> ? "
        "AND h.state IN (1, 2) AND h.idx BETWEEN 0 AND s.n - 1 AND length(h.root) = 32 "
        f"AND h.length = {SHARD_LENGTH}",
        *(seg, shard_id),
    )
    return bool(others >= k > 0)


def _invalid(tables: Tables, row: Row) -> None:
    """Only where the segment does not depend on it: a good shard with a wrong row is better than none."""
    shard_id, seg, senseless = row
    if _can_do_without(tables, seg, shard_id):
        if senseless:
            tables.take_out(shard_id)
        else:
            tables.run("UPDATE shard SET state = 3 WHERE shard_id = ?", shard_id)


def _duplicate(tables: Tables, row: Row) -> None:
    sql = "SELECT shard_id FROM shard WHERE seg = ? AND idx = ? AND state IN (1, 2) ORDER BY state, shard_id"
    for (shard_id,) in tables.rows(sql, *row)[1:]:
        tables.take_out(shard_id)


def _no_contract(tables: Tables, row: Row) -> None:
    """Only where the segment does not depend on it: the contract may be found again."""
    shard_id, seg = row
    if not _can_do_without(tables, seg, shard_id):
        return
    tables.run("UPDATE shard SET state = 3, contract = 0 WHERE shard_id = ?", shard_id)


def _lost(tables: Tables, row: Row) -> None:
    """Only where the segment does not depend on it: a farmer's old disk may be put right."""
    shard_id, seg, _ = row
    if not _can_do_without(tables, seg, shard_id):
        return
    tables.run("UPDATE shard SET state = 3 WHERE shard_id = ? AND state IN (1, 2)", shard_id)


def _found(tables: Tables, row: Row) -> None:
    tables.run(
        "UPDATE shard SET state = 1 WHERE shard_id = ?1 AND state = 3 AND NOT EXISTS ("
        "SELECT 1 FROM shard h WHERE h.seg = ?2 AND h.idx = ?3 AND h.state IN (1, 2))",
        *row,
    )


def _row_missing(tables: Tables, row: Row) -> None:
    (seg,) = row
    ((k, n, size),) = tables.rows("SELECT k, n, size FROM segment WHERE seg = ?", seg)
    there = {idx for (idx,) in tables.rows("SELECT idx FROM shard WHERE seg = ?", seg)}
    length = sealed_length(shard_length(size, k))
    for idx in range(n):
        if idx not in there:
            tables.run(
                "INSERT INTO shard VALUES (?, ?, ?, 0, x'', x'', ?, 3)", os.urandom(32), seg, idx, length
            )


def _tally(tables: Tables, row: Row) -> None:
    tables.run("INSERT OR REPLACE INTO counters VALUES (?, ?)", *row[:2])


def _not_doomed(tables: Tables, row: Row) -> None:
    tables.run("DELETE FROM doomed WHERE shard_id = ?", row[0])


def _orphan(tables: Tables, row: Row) -> None:
    """Deleted at its farmer by the next mount; it never counted as held."""
    tables.run(
        "INSERT OR IGNORE INTO doomed SELECT ?1, ?2, 0 WHERE ?1 NOT IN (SELECT shard_id FROM shard)", *row
    )


def _stray(tables: Tables, row: Row) -> None:
    Path(row[0]).unlink(missing_ok=True)


MENDS: Final = {
    "segment-invalid": _senseless,
    "segment-doomed": _doomed,
    "live-wrong": _live,
    "plain-wrong": _plain,
    "shard-no-segment": _of_nothing,
    "shard-invalid": _invalid,
    "shard-duplicate": _duplicate,
    "shard-no-contract": _no_contract,
    "shard-row-missing": _row_missing,
    "tally-wrong": _tally,
    "doomed-needed": _not_doomed,
    "doomed-no-contract": _not_doomed,
    "journal-stray": _stray,
    "farmer-orphan": _orphan,
    "farmer-found": _found,
    "farmer-missing": _lost,
    "farmer-differs": _lost,
}
