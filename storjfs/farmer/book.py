"""The farmer's contracts and lanes in memory, equal to what farmer.db holds.

Only contracts that are not over are kept in memory, and over ones whose shards are still being removed. Every
change is committed first and taken into memory then; changes of one contract or lane take turns by its lock.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import trio

from storjfs.farmer.account import LaneAccount, egress_parts
from storjfs.farmer.history import History
from storjfs.farmer.records import Records, Statement
from storjfs.farmer.shelf import reserve_for
from storjfs.protocol.contracts import RESERVES_CAPACITY, Event, State, next_state
from storjfs.protocol.failures import ErrorCode, RequestFailed
from storjfs.protocol.ids import ContractId, LaneId, NodeId, PublicKey, ShardId
from storjfs.protocol.signing import Signed
from storjfs.protocol.terms import Contract, Proposal, Terms

Clock = Callable[[], float]
"""Seconds since 1970."""

_CONTRACT_COLUMNS: Final = (
    "contract, contract_id, renter, lane, state, signed, shards, used, footprint, unpaid_since"
)
_LANE_COLUMNS: Final = "lane, payer, deposit, claimed, expiry, open, account, voucher"
_PUT_LANE: Final = f"INSERT OR REPLACE INTO lane({_LANE_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"


@dataclass(slots=True, eq=False)
class LaneEntry:
    """One lane. `pending_*` is egress that is not in the committed account yet."""

    lane_id: LaneId
    payer: PublicKey
    deposit: int = 0
    claimed: int = 0
    expiry: int = 0
    open: bool = False
    account: LaneAccount = field(default_factory=LaneAccount)
    voucher: Signed | None = None
    pending_parts: int = 0
    pending_bytes: int = 0
    turn: trio.Lock = field(default_factory=trio.Lock)
    auditing: trio.Lock = field(default_factory=trio.Lock)

    @property
    def now(self) -> LaneAccount:
        """The account with the egress of this moment."""
        if not self.pending_bytes:
            return self.account
        return self.account.with_egress(self.pending_parts, self.pending_bytes)

    def sent(self, terms: Terms, count: int) -> None:
        """`count` bytes go out."""
        self.pending_parts += egress_parts(terms, count)
        self.pending_bytes += count

    @property
    def unclaimed(self) -> int:
        """What the best voucher would bring at the settlement."""
        return self.account.paid - self.claimed if self.open and self.voucher is not None else 0


@dataclass(slots=True, eq=False)
class ContractEntry:
    """One contract; sizes in bytes."""

    number: int
    contract_id: ContractId
    renter: NodeId
    lane: LaneEntry
    state: State
    signed: Contract
    terms: Terms
    shards: int = 0
    used: int = 0
    footprint: int = 0
    unpaid_since: int | None = None
    arriving: int = 0
    """Sealed bytes of shards on their way in ..."""
    arrivals: set[ShardId] = field(default_factory=set)
    """... and which these are."""
    turn: trio.Lock = field(default_factory=trio.Lock)

    @property
    def reserved(self) -> int:
        """Bytes of the farmer's limit that this contract takes."""
        if self.state in RESERVES_CAPACITY:
            return max(reserve_for(self.terms.capacity), self.footprint)
        return self.footprint


class Book:
    """All contracts and lanes of a farmer."""

    def __init__(self, records: Records, clock: Clock) -> None:
        self.records = records
        self.clock = clock
        self.history = History(records, clock)
        self.contracts: dict[ContractId, ContractEntry] = {}
        self.lanes: dict[LaneId, LaneEntry] = {}
        for row in records.read(
            f"SELECT {_CONTRACT_COLUMNS} FROM contract WHERE state <> ? OR shards > 0", State.ENDED.value
        ):
            self._keep(row)
        for (name,) in records.read("SELECT lane FROM lane WHERE open = 1"):
            self.lane(LaneId(name))

    @property
    def now(self) -> int:
        return int(self.clock())

    @property
    def stored(self) -> int:
        """Bytes of all shard files."""
        return sum(entry.footprint for entry in self.contracts.values())

    @property
    def reserved(self) -> int:
        """Bytes of the limit that are sold or taken."""
        return sum(entry.reserved for entry in self.contracts.values())

    def totals(self) -> tuple[int, int]:
        """What vouchers promised in all, and what of it was claimed: all lanes there ever were."""
        rows = self.records.read("SELECT account, claimed FROM lane")
        return sum(LaneAccount.from_bytes(row[0]).paid for row in rows), sum(row[1] for row in rows)

    def earned(self) -> int:
        """By proofs and egress since the first day, promised or not: all lanes there ever were."""
        accounts = (LaneAccount.from_bytes(row[0]) for row in self.records.read("SELECT account FROM lane"))
        return sum(account.proofs.amount + account.egress.amount for account in accounts)

    # --- finding ---

    def find(self, contract_id: ContractId, renter: NodeId) -> ContractEntry:
        """The contract, over or not. Raises RequestFailed where there is none or it is another renter's."""
        entry = self.contracts.get(contract_id)
        if entry is None:
            rows = self.records.read(
                f"SELECT {_CONTRACT_COLUMNS} FROM contract WHERE contract_id = ?", contract_id
            )
            if not rows:
                raise RequestFailed(ErrorCode.UNKNOWN_CONTRACT)
            entry = self._entry(rows[0])
        if entry.renter != renter:
            raise RequestFailed(ErrorCode.NOT_YOURS)
        return entry

    def proposed_as(self, proposal: Proposal) -> ContractEntry | None:
        """The contract whose newest revision came from exactly this proposal."""
        rows = self.records.read(
            "SELECT contract_id, renter FROM contract WHERE proposal = ?", proposal_digest(proposal)
        )
        return self.find(ContractId(rows[0][0]), NodeId(rows[0][1])) if rows else None

    def lane(self, lane_id: LaneId) -> LaneEntry | None:
        """The lane, None if it was never seen."""
        entry = self.lanes.get(lane_id)
        if entry is None:
            rows = self.records.read(f"SELECT {_LANE_COLUMNS} FROM lane WHERE lane = ?", lane_id)
            if rows:
                entry = self.lanes[lane_id] = _lane_of(rows[0])
        return entry

    def lanes_of(self, renter: NodeId) -> list[LaneEntry]:
        """All lanes a renter ever paid through, newest contract first, 64 at most."""
        rows = self.records.read(
            "SELECT lane FROM contract WHERE renter = ? GROUP BY lane ORDER BY max(contract) DESC LIMIT 64",
            renter,
        )
        found = (self.lane(LaneId(row[0])) for row in rows)
        return [lane for lane in found if lane is not None]

    def ids_of(self, renter: NodeId, after: ContractId, limit: int) -> tuple[ContractId, ...]:
        """Ids of this renter's contracts above `after`, ascending."""
        rows = self.records.read(
            "SELECT contract_id FROM contract WHERE renter = ? AND contract_id > ? "
            "ORDER BY contract_id LIMIT ?",
            renter,
            after,
            limit,
        )
        return tuple(ContractId(row[0]) for row in rows)

    def revision(self, entry: ContractEntry, revision: int) -> Terms:
        """The terms of one revision. Raises RequestFailed (STALE) for one that never was."""
        if revision == entry.terms.revision:
            return entry.terms
        rows = self.records.read(
            "SELECT signed FROM revision WHERE contract = ? AND revision = ?", entry.number, revision
        )
        if not rows:
            raise RequestFailed(ErrorCode.STALE, f"the newest revision is {entry.terms.revision}")
        return Contract.from_bytes(rows[0][0]).terms()

    def in_use(self, lane: LaneEntry) -> bool:
        """Whether a contract that is not over is paid through this lane."""
        return any(entry.lane is lane and entry.state is not State.ENDED for entry in self.contracts.values())

    # --- changing ---

    def has(self, contract_id: ContractId) -> bool:
        """Whether there is such a contract, over or not."""
        if contract_id in self.contracts:
            return True
        return bool(self.records.read("SELECT 1 FROM contract WHERE contract_id = ?", contract_id))

    async def add(self, proposal: Proposal, contract: Contract, terms: Terms) -> ContractEntry:
        """Both signatures are there: keep the contract, which is new, in state signed. One at a time."""
        contract_id = contract.contract_id
        lane = self.lane(terms.lane)
        statements: list[Statement] = []
        is_new = lane is None
        if lane is None:
            lane = self.lanes[terms.lane] = LaneEntry(terms.lane, terms.payer)
            statements.append(_lane_row(lane, lane.account))
        (number,) = self.records.read("SELECT coalesce(max(contract), 0) + 1 FROM contract")[0]
        number = max([number, *(entry.number + 1 for entry in self.contracts.values())])
        entry = ContractEntry(number, contract_id, terms.renter, lane, State.OFFERED, contract, terms)
        self.contracts[contract_id] = entry
        try:
            statements.append(
                (
                    "INSERT INTO contract(contract, contract_id, proposal, renter, lane, state, signed, "
                    "shards, used, footprint) VALUES (?, ?, ?, ?, ?, ?, ?, 0, 0, 0)",
                    (
                        number,
                        contract_id,
                        proposal_digest(proposal),
                        terms.renter,
                        terms.lane,
                        State.OFFERED.value,
                        contract.to_bytes(),
                    ),
                )
            )
            statements.append(_revision_row(entry, contract, terms))
            await self.move(entry, Event.PROPOSE, Event.COUNTERSIGN, also=statements)
        except BaseException:
            del self.contracts[contract_id]
            if is_new:
                del self.lanes[terms.lane]  # it has no row
            raise
        return entry

    async def drop(self, entry: ContractEntry, event: Event) -> None:
        """A signed contract that nobody has funded ends by `event`, and nothing of it is kept: anybody can
        have any number of them signed. The caller holds `entry.turn`. Raises IllegalTransition."""
        state, lane = next_state(entry.state, event), entry.lane
        rows: list[Statement] = [
            (f"DELETE FROM {table} WHERE contract = ?", (entry.number,))
            for table in ("contract", "revision", "transition")
        ]
        del self.contracts[entry.contract_id]
        shared = lane.open or any(other.lane is lane for other in self.contracts.values())
        if not shared:
            # Before the commit: who needs it now makes it anew, and its row behind the end of this one.
            self.lanes.pop(lane.lane_id, None)
            rows.append(
                (
                    "DELETE FROM lane WHERE lane = ? AND open = 0 AND voucher IS NULL "
                    "AND lane NOT IN (SELECT lane FROM contract)",
                    (lane.lane_id,),
                )
            )
        try:
            await self.records.commit(rows)
        except BaseException:
            self.contracts[entry.contract_id] = entry
            self.lanes.setdefault(lane.lane_id, lane)
            raise
        entry.state = state

    async def revise(
        self, entry: ContractEntry, proposal: Proposal, contract: Contract, terms: Terms
    ) -> None:
        """The next revision is signed by both and holds from now on."""
        events = [Event.RENEW] if entry.state is State.RENEWING else [Event.START_RENEWAL, Event.RENEW]
        row = (
            "UPDATE contract SET signed = ?, proposal = ? WHERE contract = ?",
            (contract.to_bytes(), proposal_digest(proposal), entry.number),
        )
        await self.move(entry, *events, also=[row, _revision_row(entry, contract, terms)])
        entry.signed, entry.terms = contract, terms

    async def move(self, entry: ContractEntry, *events: Event, also: Iterable[Statement] = ()) -> None:
        """Take the contract through `events`. Raises IllegalTransition and changes nothing."""
        state = entry.state
        statements = list(also)
        for event in events:
            state = next_state(state, event)
            statements.append(
                (
                    "INSERT INTO transition(contract, time, event, state) VALUES (?, ?, ?, ?)",
                    (entry.number, self.now, event.value, state.value),
                )
            )
        statements.append(("UPDATE contract SET state = ? WHERE contract = ?", (state.value, entry.number)))
        await self.records.commit(statements)
        entry.state = state

    async def update_lane(
        self,
        lane: LaneEntry,
        change: Callable[[LaneAccount], LaneAccount] = lambda account: account,
        *,
        also: Sequence[Statement] = (),
        **seen: Any,
    ) -> None:
        """Commit a changed account, the egress so far, and what else was `seen` of the lane.

        The caller holds `lane.turn`.
        """
        parts, count = lane.pending_parts, lane.pending_bytes
        account = change(lane.now)
        await self.records.commit([_lane_row(lane, account, **seen), *also])
        lane.account = account
        lane.pending_parts -= parts
        lane.pending_bytes -= count
        for name, value in seen.items():
            setattr(lane, name, value)

    def forget(self, entry: ContractEntry) -> None:
        """The contract is over and its shards are gone: it needs no memory any more."""
        self.contracts.pop(entry.contract_id, None)

    def _keep(self, row: tuple[Any, ...]) -> None:
        entry = self._entry(row)
        self.contracts[entry.contract_id] = entry

    def _entry(self, row: tuple[Any, ...]) -> ContractEntry:
        number, contract_id, renter, name, state, signed, shards, used, footprint, unpaid_since = row
        lane = self.lane(LaneId(name))
        assert lane is not None
        contract = Contract.from_bytes(signed)
        return ContractEntry(
            number,
            ContractId(contract_id),
            NodeId(renter),
            lane,
            State(state),
            contract,
            contract.terms(),
            shards,
            used,
            footprint,
            unpaid_since,
        )


def proposal_digest(proposal: Proposal) -> bytes:
    """What a repeated proposal is recognised by."""
    return hashlib.sha256(proposal.to_bytes()).digest()


def _revision_row(entry: ContractEntry, contract: Contract, terms: Terms) -> Statement:
    sql = "INSERT INTO revision(contract, revision, signed) VALUES (?, ?, ?)"
    return sql, (entry.number, terms.revision, contract.to_bytes())


def _lane_row(lane: LaneEntry, account: LaneAccount, **seen: Any) -> Statement:
    def value(name: str) -> Any:
        return seen.get(name, getattr(lane, name))

    voucher: Signed | None = value("voucher")
    return _PUT_LANE, (
        lane.lane_id,
        lane.payer,
        value("deposit"),
        value("claimed"),
        value("expiry"),
        int(value("open")),
        account.to_bytes(),
        voucher.to_bytes() if voucher is not None else None,
    )


def _lane_of(row: tuple[Any, ...]) -> LaneEntry:
    name, payer, deposit, claimed, expiry, is_open, account, voucher = row
    return LaneEntry(
        LaneId(name),
        PublicKey(payer),
        deposit,
        claimed,
        expiry,
        bool(is_open),
        LaneAccount.from_bytes(account),
        Signed.from_bytes(voucher) if voucher is not None else None,
    )
