"""From the rooms' own reports to the facts of the status report."""

import contextlib
import dataclasses
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import apsw

from storjfs.errors import StorjfsError
from storjfs.filesystem.paths import paths_of
from storjfs.keys import VolumeKeys
from storjfs.protocol.contracts import State
from storjfs.renter.report import ContractReport, RenterReport
from storjfs.segments import SegmentsReport
from storjfs.store import open_meta
from storjfs.volume import EmbeddedFarm, VolumeSettings

from .status import MOST_LOST_FILES, ContractFacts, Facts

MOST_UNWELL = 100_000

_UNWELL = """
SELECT s.seg, s.k, s.n, (SELECT COUNT(*) FROM shard h WHERE h.seg = s.seg AND h.state IN (1, 2)) AS held
FROM segment s
WHERE s.state = 2 AND s.seg IN (SELECT DISTINCT seg FROM shard WHERE state IN (0, 3))
ORDER BY s.seg LIMIT ?
"""

_UNREADABLE = """
WITH held AS (
    SELECT s.k AS k, COUNT(DISTINCT h.idx) AS all_of_them,
        COUNT(DISTINCT CASE WHEN h.contract NOT IN ({}) THEN h.idx END) AS here
    FROM segment s JOIN shard h ON h.seg = s.seg AND h.state IN (1, 2)
    WHERE s.state = 2 GROUP BY s.seg
)
SELECT COUNT(*) FROM held WHERE here < k AND all_of_them >= k
"""


@dataclasses.dataclass(frozen=True, slots=True)
class Trouble:
    """What is looked up only where something is wrong: stored segments that lack shards, by spare ones; the
    names of files with lost parts."""

    by_spare: Mapping[int, int]
    lost_files: Sequence[str]


NO_TROUBLE = Trouble({}, ())
NO_CONTRACTS = RenterReport([], [], None, 0)


def gather(
    volume: str,
    settings: VolumeSettings,
    cache_limit: int,
    code: tuple[int, int],
    segments: SegmentsReport,
    renter: RenterReport,
    trouble: Trouble,
    *,
    addresses: Mapping[str, Sequence[str]],
    waiting_segments: int,
    running: bool,
    disk_problems: Sequence[str] = (),
    unwritten: bool = False,
    free: int | None = None,
    unreadable: int = 0,
    usable: int | None = None,
    waiting_code: tuple[int, int] | None = None,
    bare: int = 0,
) -> Facts:
    """`addresses`: by node id in hex. `running`: whether the renter has been through its first round, so that
    a farmer without a connection is one that does not answer."""
    k, n = code
    by_spare = dict(trouble.by_spare)
    by_spare[n - k] = by_spare.get(n - k, 0) + segments.full
    return Facts(
        volume=volume,
        k=k,
        n=n,
        all_on_this_machine=isinstance(settings.farmers, EmbeddedFarm),
        stored=segments.stored_bytes,
        waiting=segments.waiting_bytes,
        cached=segments.cached_bytes,
        room=segments.room_bytes,
        cache_limit=cache_limit,
        segments_waiting=waiting_segments,
        segments_full=segments.full,
        segments_degraded=segments.degraded,
        segments_at_risk=segments.at_risk,
        segments_lost=segments.lost,
        segments_damaged=len(segments.damaged),
        segments_by_spare=by_spare,
        contracts=[_contract(row, addresses.get(row.node_id, ()), running) for row in renter.contracts],
        balance=renter.balance,
        audit_period=settings.audit_period,
        segment_problems=segments.problems,
        renter_problems=renter.problems,
        warnings=renter.warnings,
        lost_files=trouble.lost_files,
        disk_problems=disk_problems,
        unwritten=unwritten,
        free=free,
        segments_unreadable=unreadable,
        usable=usable,
        waiting_code=waiting_code,
        segments_bare=bare,
    )


def of_silent_ledger(error: StorjfsError) -> str:
    """A sentence for who pays through a ledger that cannot be asked."""
    return (
        "The ledger does not answer: farmers are paid from what is deposited already, and nothing new can be "
        f"deposited until it does ({error})."
    )


def without(silent: Collection[bytes], report: RenterReport) -> RenterReport:
    """The report, with these farmers, by node id, as being away."""
    absent = {node_id.hex() for node_id in silent}
    rows = [
        dataclasses.replace(row, online=row.online and row.node_id not in absent) for row in report.contracts
    ]
    return dataclasses.replace(report, contracts=rows)


def _contract(row: ContractReport, addresses: Sequence[str], running: bool) -> ContractFacts:
    return ContractFacts(
        contract=row.contract_id,
        farmer=row.node_id,
        addresses=addresses,
        state=str(row.state),
        condition=condition_of(row, running),
        shards=row.shards,
        used=row.used,
        capacity=row.capacity,
        last_audit=row.last_audit or 0.0,
        unproven_since=row.unproven_since,
        full=row.full,
        last_outcome=str(row.last_result),
        passed=row.passed,
        failed=row.failed,
        offline=row.offline,
        paid=row.paid,
        deposit_left=row.deposit_left,
        ends_at=float(row.end),
    )


def condition_of(row: ContractReport, running: bool) -> str:
    """One word for how the farmer behaves; see the schema."""
    if row.state is State.BREACHED:
        return "gone"
    if row.state is State.ENDED:
        return "good"
    if row.contained:
        return "contained"
    if running and not row.online:
        return "offline"
    if row.last_result == "failed":
        return "failing"
    return "good"


# --- what needs a database connection of its own, in a worker thread ---


def unwell_segments(meta_db: Path, keys: VolumeKeys) -> list[int]:
    """Stored segments that lack shards, as committed."""
    with contextlib.closing(_reading(meta_db, keys)) as connection:
        return [seg for seg, _, n, held in _unwell(connection) if held < n]


def _unwell(connection: apsw.Connection) -> Iterator[tuple[int, int, int, int]]:
    """(seg, k, n, shards held) of segments with rows of lost or unfinished shards."""
    for row in connection.execute(_UNWELL, (MOST_UNWELL,)):
        yield cast(tuple[int, int, int, int], row)


def away(report: RenterReport) -> list[int]:
    """Numbers of the contracts with farmers that do not answer now."""
    return [
        row.contract
        for row in report.contracts
        if not row.online and row.state not in (State.ENDED, State.BREACHED)
    ]


def unreadable_segments(meta_db: Path, keys: VolumeKeys, absent: Sequence[int]) -> int:
    """Stored segments that have k shards, but not without those under the contracts `absent`.

    Reads the shards of all segments once.
    """
    with contextlib.closing(_reading(meta_db, keys)) as connection:
        marks = ", ".join("?" * len(absent))
        found: list[Any] = connection.execute(_UNREADABLE.format(marks), list(absent)).fetchall()
    return int(found[0][0])


def look_at_trouble(
    meta_db: Path, keys: VolumeKeys, name_files: bool, damaged: Sequence[int] = ()
) -> Trouble:
    """What lacks shards, and which files are hurt, those with parts in `damaged` segments included. Naming
    files reads all names once."""
    by_spare: dict[int, int] = {}
    lost = list(damaged)
    with contextlib.closing(_reading(meta_db, keys)) as connection:
        for seg, k, n, held in _unwell(connection):
            if held < n:
                by_spare[held - k] = by_spare.get(held - k, 0) + 1
            if held < k:
                lost.append(seg)
        names = _files_in(connection, lost) if name_files else []
    return Trouble(by_spare, names)


def _files_in(connection: apsw.Connection, segments: Sequence[int]) -> list[str]:
    """Names of files that have extents in these segments."""
    inodes: set[int] = set()
    for seg in segments:
        rows = connection.execute(
            "SELECT DISTINCT r.ino FROM run r WHERE r.seg = ? "
            "AND EXISTS (SELECT 1 FROM extent e WHERE e.ino = r.ino AND e.seg = r.seg)",
            (seg,),
        )
        inodes.update(ino for (ino,) in rows)
        if len(inodes) >= MOST_LOST_FILES:
            break
    chosen = sorted(inodes)[:MOST_LOST_FILES]
    if not chosen:
        return []
    paths = paths_of(connection, chosen, 2 * MOST_LOST_FILES)
    return [os.fsdecode(path).encode("utf-8", "replace").decode() for path in paths]


def _reading(meta_db: Path, keys: VolumeKeys) -> apsw.Connection:
    return open_meta(meta_db, keys.metadata_key, read_only=True)
