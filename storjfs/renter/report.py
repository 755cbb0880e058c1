"""What `storjfs status` and `storjfs contracts` show of the contracts."""

from collections.abc import Sequence
from dataclasses import dataclass

from storjfs.protocol.contracts import State
from storjfs.protocol.ids import short
from storjfs.renter.book import Entry
from storjfs.renter.local_records import Standing
from storjfs.renter.pay import Lane


@dataclass(frozen=True, slots=True)
class ContractReport:
    """One row. Sizes in bytes, money in nanocredits, times in seconds (since 1970 where a moment)."""

    contract: int
    contract_id: str
    farmer: str
    """The first eight hex digits of its node id."""
    node_id: str
    operator: str
    state: State
    online: bool
    contained: bool
    """It owes an answer to an audit."""
    unproven_since: float | None
    """From when on shards that were due for an audit are not proven."""
    shards: int
    used: int
    capacity: int
    price: int
    last_audit: float | None
    last_result: str
    """passed, failed, offline, or empty before the first audit."""
    passed: int
    failed: int
    offline: int
    paid: int
    owed: int
    """Earned and not yet in a voucher."""
    deposit: int
    deposit_left: int
    score: float
    end: int
    end_in: float
    frozen: bool
    """Nothing can be paid until the lane's highest voucher is known."""
    full: bool = False
    """Its farmer had no room for the last shard that it was sent."""


@dataclass(frozen=True, slots=True)
class RenterReport:
    """Contracts that are not over first; `problems` are sentences for a person, `warnings` too, of what works
    and could be better."""

    contracts: list[ContractReport]
    problems: list[str]
    balance: int | None
    deposits: int
    warnings: Sequence[str] = ()


def contract_report(
    entry: Entry,
    standing: Standing,
    lane: Lane | None,
    *,
    shards: int,
    used: int,
    online: bool,
    contained: bool,
    unproven_since: float | None,
    full: bool,
    now: float,
) -> ContractReport:
    """The row of one contract."""
    return ContractReport(
        contract=entry.number,
        contract_id=short(entry.contract_id),
        farmer=short(entry.node_id),
        node_id=entry.node_id.hex(),
        operator=standing.operator,
        state=entry.state,
        online=online,
        contained=contained,
        unproven_since=unproven_since,
        shards=shards,
        used=used,
        capacity=entry.terms.capacity,
        price=entry.terms.price,
        last_audit=standing.last_audit or None,
        last_result=standing.last_result,
        passed=standing.passed,
        failed=standing.failed,
        offline=standing.offline,
        paid=lane.signed if lane else 0,
        owed=max(lane.tally.amount - lane.signed, 0) if lane else 0,
        deposit=lane.deposit if lane else 0,
        deposit_left=lane.left if lane else 0,
        score=standing.score,
        end=entry.terms.end,
        end_in=entry.terms.end - now,
        frozen=lane.frozen if lane else False,
        full=full,
    )
