"""The status report: what is known about a volume, judged and put into the documented form.

Schema: docs/reference/status.md. Pure: facts in, plain values for JSON out.
"""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any

from storjfs.volume import wording

from .redundancy import of_bare, of_code, of_waiting, stored_with

SCHEMA = 1
MONEY_UNIT = "nanocredit"
MOST_LOST_FILES = 100


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ContractFacts:
    """One contract. Ids as hexadecimal, sizes in bytes, times since 1970, money in nanocredits.

    condition: good, offline, contained, failing or gone, as the schema says. last_outcome is empty before
    the first audit.
    """

    contract: str
    farmer: str
    addresses: Sequence[str]
    state: str
    condition: str
    shards: int
    used: int
    capacity: int
    last_audit: float
    last_outcome: str
    passed: int
    failed: int
    offline: int
    paid: int
    deposit_left: int
    ends_at: float
    unproven_since: float | None = None
    """From when on shards that were due for an audit are not proven."""
    full: bool = False
    """The farmer had no room for the last shard that it was sent."""

    @property
    def over(self) -> bool:
        """Whether nothing is expected of it any more."""
        return self.state in ("ended", "breached")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """All that the report is made of. segments_by_spare counts stored segments by shards beyond k; a segment
    with fewer than k counts as lost."""

    volume: str
    k: int
    n: int
    all_on_this_machine: bool
    stored: int
    waiting: int
    cached: int
    cache_limit: int
    room: int
    segments_waiting: int
    segments_full: int
    segments_degraded: int
    segments_at_risk: int
    segments_lost: int
    segments_by_spare: Mapping[int, int]
    contracts: Sequence[ContractFacts]
    balance: int | None
    audit_period: float
    segment_problems: Sequence[str] = ()
    renter_problems: Sequence[str] = ()
    warnings: Sequence[str] = ()
    lost_files: Sequence[str] | None = None
    segments_damaged: int = 0
    disk_problems: Sequence[str] = ()
    segments_unreadable: int = 0
    """Stored segments of which fewer than k shards lie with farmers that answer now, but k are held."""
    unwritten: bool = False
    """Whether something that programs wrote is in memory only, and cannot be written to the disk."""
    usable: int | None = None
    """Farmers that new segments can be with, by settings and contracts; None without a running mount."""
    waiting_code: tuple[int, int] | None = None
    """Of the segment that waits and needs the most farmers."""
    segments_bare: int = 0
    """Stored segments of which every shard is needed."""
    free: int | None = None
    """What df shows as available; None without a running mount."""


def health_of(facts: Facts) -> str:
    """healthy, degraded or at_risk.

    At risk is what one more bad day could lose; degraded is what repair is busy with, and farmers that do not
    keep up.
    """
    if facts.segments_lost or facts.segments_at_risk or facts.segments_damaged or out_of_reach(facts):
        return "at_risk"
    if facts.unwritten or facts.segments_unreadable:
        return "at_risk"
    if (
        bool(facts.disk_problems)
        or facts.segments_degraded
        or (facts.waiting and (nobody_serves(facts) or without_room(facts)))
        or too_few_named(facts)
        or any(row.condition != "good" and row.shards and not row.over for row in facts.contracts)
    ):
        return "degraded"
    return "healthy"


def too_few_named(facts: Facts) -> bool:
    """Whether data cannot be stored because its code needs more farmers than there are."""
    codes = [(facts.k, facts.n), *([facts.waiting_code] if facts.waiting_code else [])]
    return facts.usable is not None and any(facts.usable < stored_with(*code) for code in codes)


def nobody_serves(facts: Facts) -> bool:
    """Whether no contract is there under which anything could be stored."""
    return all(row.over for row in facts.contracts)


def out_of_reach(facts: Facts) -> bool:
    """Whether so few of the farmers that hold shards answer that only what is cached can be read."""
    holding = [row for row in facts.contracts if row.shards and not row.over]
    answering = [row for row in holding if row.condition not in ("offline", "contained")]
    return len(answering) < facts.k <= len(holding)


def few_answer(facts: Facts) -> bool:
    """Whether so few of the farmers answer that nothing more can be stored with enough of them."""
    serving = [row for row in facts.contracts if not row.over]
    answering = [row for row in serving if row.condition not in ("offline", "contained")]
    return len(answering) < stored_with(facts.k, facts.n) <= len(serving)


def without_room(facts: Facts) -> list[str]:
    """Node ids of farmers that have no room, where too few others answer to store anything with."""
    serving = [row for row in facts.contracts if not row.over]
    full = {row.farmer for row in serving if row.full}
    answering = {row.farmer for row in serving if row.condition not in ("offline", "contained")}
    return sorted(full) if len(answering - full) < stored_with(facts.k, facts.n) else []


def problems_of(facts: Facts) -> list[str]:
    """Sentences for a person, worst first."""
    said = []
    if facts.segments_lost:
        said.append(f"Segments that cannot be read, too many shards are gone: {facts.segments_lost}.")
    if facts.segments_damaged:
        said.append(f"Segments damaged on this machine, of which parts are lost: {facts.segments_damaged}.")
    said += facts.disk_problems
    if facts.segments_unreadable:
        away = ", ".join(
            row.farmer[:8]
            for row in facts.contracts
            if not row.over and row.condition in ("offline", "contained")
        )
        said.append(
            f"Segments that cannot be read now but for what is cached here, until more farmers answer: "
            f"{facts.segments_unreadable} (away: {away or 'none at this moment'})."
        )
    if facts.segments_at_risk:
        said.append(f"Segments with few spare shards left, rebuilt first: {facts.segments_at_risk}.")
    if facts.segments_degraded:
        said.append(f"Segments that miss spare shards, all data is there: {facts.segments_degraded}.")
    if out_of_reach(facts):
        said.append(
            f"Fewer than {facts.k} farmers answer: only what is cached here can be read until they do."
        )
    if facts.waiting and few_answer(facts):
        said.append(
            f"{wording.size(facts.waiting)} are on this machine only, until more farmers answer; "
            + (
                f"there is room for {wording.size(facts.room)} more."
                if facts.room
                else "there is no room for more."
            )
        )
    if facts.waiting and (full := without_room(facts)):
        said.append(
            f"{wording.size(facts.waiting)} are on this machine only: {wording.without_room(full)}. They go "
            "out once these share more, or there are other farmers."
        )
    if facts.waiting and nobody_serves(facts):
        said.append("There is no contract with any farmer; new data is on this machine only.")
    if facts.usable is not None and facts.k < facts.n:
        said += filter(None, [of_code((facts.k, facts.n), facts.usable)])
    if facts.usable is not None and facts.waiting_code is not None:
        said += filter(None, [of_waiting(facts.waiting_code, facts.usable)])
    said += [
        f"Farmer {row.farmer[:8]} {_CONDITIONS[row.condition]}."
        for row in facts.contracts
        if row.condition in _CONDITIONS and not row.over
    ]
    # What the rooms noted in passing stays noted when it is over: it explains only what is still so.
    if said or facts.waiting:
        said += facts.segment_problems
    said += facts.renter_problems
    if facts.segments_bare:
        said.append(of_bare(facts.segments_bare))
    return said


_CONDITIONS = {
    "offline": "does not answer",
    "contained": "owes the answer to an audit; its shards count as there for a while",
    "failing": "failed its last audit; it was not paid, and what it lost is rebuilt elsewhere",
}


def report(facts: Facts, mount: Mapping[str, Any] | None) -> dict[str, Any]:
    """The report as the schema says; `mount` is its member of that name."""
    now = time.time()
    contracts = [_contract(row, now) for row in facts.contracts]
    unproven = [row.unproven_since for row in facts.contracts if row.unproven_since is not None]
    last = max((row.last_audit for row in facts.contracts), default=0.0)
    spare = {str(count): number for count, number in sorted(facts.segments_by_spare.items()) if number}
    stored = facts.segments_full + facts.segments_degraded + facts.segments_at_risk + facts.segments_lost
    return {
        "schema": SCHEMA,
        "health": health_of(facts),
        "problems": problems_of(facts),
        "warnings": list(facts.warnings),
        "volume": {
            "name": facts.volume,
            "k": facts.k,
            "n": facts.n,
            "all_on_this_machine": facts.all_on_this_machine,
        },
        "mount": mount,
        "dead_mount": None,
        "data": {
            "stored": facts.stored,
            "waiting": facts.waiting,
            "cached": facts.cached,
            "cache_limit": facts.cache_limit,
            "room": facts.room,
            "free": facts.free,
        },
        "segments": {
            "total": stored + facts.segments_waiting,
            "waiting": facts.segments_waiting,
            "full": facts.segments_full,
            "degraded": facts.segments_degraded,
            "at_risk": facts.segments_at_risk,
            "lost": facts.segments_lost,
            "unreadable": facts.segments_unreadable,
            "by_spare": spare,
        },
        "contracts": contracts,
        "money": {
            "unit": MONEY_UNIT,
            "balance": facts.balance,
            "paid": sum(row.paid for row in facts.contracts),
            "deposit_left": sum(row.deposit_left for row in facts.contracts),
        },
        "audits": {
            "period": facts.audit_period,
            "last": last or None,
            "unproven": len(unproven),
            "unproven_since": min(unproven, default=None),
        },
        "lost_files": None if facts.lost_files is None else list(facts.lost_files[:MOST_LOST_FILES]),
    }


def _contract(row: ContractFacts, now: float) -> dict[str, Any]:
    made = {field.name: getattr(row, field.name) for field in dataclasses.fields(row)}
    last_audit, outcome = made.pop("last_audit"), made.pop("last_outcome")
    made["last_audit"] = {"at": last_audit, "outcome": outcome} if outcome else None
    made["addresses"] = list(row.addresses)
    made["ends_in"] = max(0.0, row.ends_at - now)
    return made
