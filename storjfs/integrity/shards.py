"""Segments, shards and contracts: what must hold between their tables and the tallies."""

from collections.abc import Iterator
from typing import Final

import msgspec

from storjfs.errors import StorjfsError
from storjfs.integrity.content import RUN_END
from storjfs.integrity.findings import Finding
from storjfs.integrity.names import check_counter
from storjfs.integrity.values import LIMIT
from storjfs.integrity.view import View
from storjfs.protocol.ids import short
from storjfs.protocol.terms import Contract
from storjfs.renter.book import STATE_NUMBERS
from storjfs.renter.repair_policy import Health, health
from storjfs.segments.holdings import COUNT_HELD, right_counters

SEGMENT_MAX: Final = 32 << 20
_SHARD_STATES: Final = "(0, 1, 2, 3)"
_HELD: Final = "(1, 2)"

# Of storjfs.coding.geometry: segment_capacity, and sealed_length of shard_length; tested against them.
CAPACITY: Final = "(MIN(MAX(1, s.k) * 4194304, 33554432) / (MAX(1, s.k) * 65536) * (MAX(1, s.k) * 65536))"
SHARD_LENGTH: Final = "(MAX(1, (s.size + s.k * 65536 - 1) / (s.k * 65536)) * 65552)"

# Where the last run of a segment ends, by the way back.
RUNS_END: Final = (
    f"COALESCE((SELECT {RUN_END} FROM (SELECT r.pos AS pos, r.length AS run FROM run r WHERE r.seg = s.seg "
    f"AND r.pos BETWEEN 0 AND {SEGMENT_MAX} AND r.length BETWEEN 1 AND {SEGMENT_MAX} "
    "ORDER BY r.pos DESC LIMIT 1) e), 0)"
)

_HELD_COUNT: Final = f"(SELECT COUNT(DISTINCT h.idx) FROM shard h WHERE h.seg = s.seg AND h.state IN {_HELD})"
_ROW_COUNT: Final = (
    "(SELECT COUNT(DISTINCT h.idx) FROM shard h WHERE h.seg = s.seg AND h.idx BETWEEN 0 AND s.n - 1)"
)

TALLIES: Final = {
    Health.LOST: "segments_lost",
    Health.AT_RISK: "segments_at_risk",
    Health.DEGRADED: "segments_degraded",
    Health.FULL: "segments_full",
}


SUMS: Final = ("segments_stored_bytes", "segments_small", "segments_garbage")


def check_segments(view: View) -> Iterator[Finding]:
    """Findings about segments. Needs `pointed` and `doubted`."""
    view.step("segments", 0, 4)
    used = (
        f"SELECT MAX(seg) AS used FROM segment WHERE seg <= {LIMIT} "
        f"UNION ALL SELECT MAX(seg) FROM run WHERE seg <= {LIMIT}"
    )
    yield from check_counter(view, "next_seg", f"SELECT MAX(used) FROM ({used})")
    sql = f"""
        SELECT s.seg FROM segment s WHERE s.state NOT IN (0, 1, 2, 3) OR s.algorithm NOT IN (1, 2)
           OR length(s.segment_id) <> 16 OR s.size NOT BETWEEN 0 AND {SEGMENT_MAX}
           OR s.k < 0 OR s.n < s.k OR s.n > 256 OR (s.state = 2 AND s.k = 0) OR s.size < {RUNS_END}
    """
    for (seg,) in view.rows(sql):
        yield Finding("segment-invalid", f"segment {seg}", (seg,), seg=seg)
    sql = """
        SELECT s.seg, s.state, s.live, COALESCE(p.live, 0) FROM segment s LEFT JOIN pointed p ON p.seg = s.seg
        WHERE (s.live <> COALESCE(p.live, 0) OR (s.state = 3 AND p.live > 0)
           OR (s.state = 2 AND COALESCE(p.live, 0) = 0)) AND s.seg NOT IN (SELECT seg FROM doubted)
    """
    for seg, state, live, right in view.rows(sql):
        if state == 3 and right:
            yield Finding("segment-doomed", f"{right} bytes of files lie in segment {seg}", (seg,), seg=seg)
        if live != right:
            text = f"segment {seg} has {right} live bytes, its row says {live}"
            yield Finding("live-wrong", text, (seg, right, live), seg=seg)
        elif state == 2 and not right:
            yield Finding("segment-dead", f"segment {seg}", (seg,), seg=seg)
    sql = """
        SELECT s.seg, s.plain, (SELECT COALESCE(SUM(r.length), 0) FROM run r WHERE r.seg = s.seg)
        FROM segment s WHERE s.plain <> (SELECT COALESCE(SUM(r.length), 0) FROM run r WHERE r.seg = s.seg)
    """
    for seg, plain, right in view.rows(sql):
        text = f"segment {seg} has {right} bytes of plaintext, its row says {plain}"
        yield Finding("plain-wrong", text, (seg, right, plain), seg=seg)
    view.step("segments", 1, 4)
    sql = f"""
        SELECT s.seg, s.k, s.n, {_HELD_COUNT}, {_ROW_COUNT} FROM segment s
        WHERE s.state = 2 AND s.k > 0 AND ({_HELD_COUNT} < s.k OR {_ROW_COUNT} < s.n)
    """
    for seg, k, n, held, rows in view.rows(sql):
        if held < k:
            yield Finding("segment-lost", f"segment {seg}: {held} of {k} needed shards", (seg,), seg=seg)
        if rows < n:
            text = f"segment {seg}: {n - rows} of {n} shards are neither held nor noted as lost"
            yield Finding("shard-row-missing", text, (seg,), seg=seg)
    view.step("segments", 2, 4)
    yield from _tallies(view)


def right_tallies(view: View) -> dict[str, int]:
    """What the counters about segments should say."""
    found = dict.fromkeys([*TALLIES.values(), *SUMS], 0)
    sql = f"""
        SELECT k, n, held, COUNT(*), SUM(size), SUM(small), SUM(garbage) FROM (
            SELECT s.k AS k, s.n AS n, s.size AS size, {_HELD_COUNT} AS held,
                   4 * s.size < {CAPACITY} AS small, s.plain - s.live AS garbage
            FROM segment s WHERE s.state = 2
        ) GROUP BY k, n, held
    """
    for k, n, held, count, *sums in view.rows(sql):
        found[TALLIES[health(k, n, held)]] += count
        for key, value in zip(SUMS, sums, strict=True):
            found[key] += value
    return found


def _tallies(view: View) -> Iterator[Finding]:
    counters = dict(view.rows("SELECT key, value FROM counters"))
    right_held = right_counters(view.rows(COUNT_HELD), counters)
    for key, right in (right_tallies(view) | right_held).items():
        said = counters.get(key, 0)
        if said != right:
            yield Finding("tally-wrong", f"{key} is {said} instead of {right}", (key, right, said))


def check_shards(view: View, *, contracts: bool = True) -> Iterator[Finding]:
    """Findings about shards, doomed ones and contracts.

    `contracts`: whether the contract table says which there are; False where farmers stand in for the renter
    (tests of the segments room alone).
    """
    view.step("shards", 0, 3)
    known = "c.contract" if contracts else "h.contract"
    sql = f"""
        SELECT h.shard_id, h.seg, h.idx, h.state, h.contract, s.seg, {known},
               h.idx NOT BETWEEN 0 AND s.n - 1 OR h.state NOT IN {_SHARD_STATES},
               h.state IN {_HELD} AND (length(h.root) <> 32 OR length(h.checksum) <> 32
                                       OR h.length <> {SHARD_LENGTH})
        FROM shard h LEFT JOIN segment s ON s.seg = h.seg LEFT JOIN contract c ON c.contract = h.contract
        WHERE s.seg IS NULL OR h.state NOT IN {_SHARD_STATES} OR h.idx NOT BETWEEN 0 AND s.n - 1
           OR (h.state <> 3 AND ({known} IS NULL OR h.contract = 0))
           OR (h.state IN {_HELD} AND s.k > 0 AND (length(h.root) <> 32 OR length(h.checksum) <> 32
                                                   OR h.length <> {SHARD_LENGTH}))
    """
    for shard_id, seg, idx, state, contract, segment, found, senseless, unlike in view.rows(sql):
        said = f"shard {idx} of segment {seg} ({short(shard_id)})"
        if segment is None:
            # What files point to may be found again; until then nothing of it is thrown away.
            if not view.one("SELECT 1 FROM pointed WHERE seg = ?", (seg,)):
                yield Finding("shard-no-segment", said, (shard_id, contract), seg=seg)
        elif senseless or unlike:
            yield Finding("shard-invalid", said, (shard_id, seg, bool(senseless)), seg=seg)
        elif state != 3 and (found is None or contract == 0):
            yield Finding("shard-no-contract", f"{said}, contract {contract}", (shard_id, seg), seg=seg)
    view.step("shards", 1, 3)
    sql = f"""
        SELECT seg, idx, COUNT(*) FROM shard WHERE state IN {_HELD} GROUP BY seg, idx HAVING COUNT(*) > 1
    """
    for seg, idx, count in view.rows(sql):
        text = f"segment {seg} has {count} shards with index {idx}"
        yield Finding("shard-duplicate", text, (seg, idx), seg=seg)
    sql = "SELECT d.shard_id FROM doomed d JOIN shard h ON h.shard_id = d.shard_id WHERE h.state <> 3"
    for (shard_id,) in view.rows(sql):
        yield Finding("doomed-needed", f"shard {short(shard_id)}", (shard_id,))
    if contracts:
        yield from _contracts(view)


def _contracts(view: View) -> Iterator[Finding]:
    sql = "SELECT shard_id, contract FROM doomed WHERE contract NOT IN (SELECT contract FROM contract)"
    for shard_id, contract in view.rows(sql):
        text = f"shard {short(shard_id)}, contract {contract}"
        yield Finding("doomed-no-contract", text, (shard_id,))
    view.step("shards", 2, 3)
    sql = "SELECT contract, contract_id, node_id, state, terms, addresses FROM contract ORDER BY contract"
    for number, contract_id, node_id, state, stored, addresses in view.rows(sql):
        try:
            msgspec.msgpack.decode(addresses, type=list[str])
            contract = Contract.from_bytes(bytes(stored))
            terms = contract.open()
            wrong = (contract.contract_id, terms.farmer) != (contract_id, node_id)
            reason = "its id or farmer is not that of its terms" if wrong else ""
        except (StorjfsError, TypeError, ValueError) as error:
            reason = str(error)
        if state not in STATE_NUMBERS.values():
            reason = f"its state is {state}"
        if reason:
            yield Finding("contract-invalid", f"contract {number}: {reason}", (number,))
