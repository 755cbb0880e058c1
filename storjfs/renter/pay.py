"""pay.db: what is owed on each lane, and the newest voucher signed for it.

The rules that hold at every instant, crash or not:

- a voucher is on disk before anybody else sees it;
- its amount is never above the lane's deposit, never below the one before, its counter always higher;
- what is owed grows by exactly the passed proofs' price and the egress received, each batch once;
- a lane of which an older life is possible is frozen until its highest voucher is known.

Amounts in nanocredits; `carry` in parts of one (protocol.vouchers.Tally): rounding loses and gains nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import trio

from storjfs.protocol.failures import ProtocolViolation
from storjfs.protocol.ids import ContractId, LaneId, NodeId
from storjfs.protocol.signing import Signed, SigningKey
from storjfs.protocol.terms import Proposal, Terms
from storjfs.protocol.vouchers import EGRESS_CREDIT, Tally, Voucher, open_voucher, sign_voucher
from storjfs.renter.durable import DurableDatabase, Statement
from storjfs.renter.errors import LaneFrozen
from storjfs.store import StoreError

EGRESS_STEP = EGRESS_CREDIT // 4
"""After so many bytes a voucher for them is signed, long before the farmer's credit runs out."""

PAY_VERSION = 1
PAY_SCHEMA = """
CREATE TABLE lane (
    lane_id   BLOB NOT NULL PRIMARY KEY,
    node_id   BLOB NOT NULL,              -- the farmer that is paid
    deposit   INTEGER NOT NULL,           -- as last seen in the settlement; vouchers stay below it
    expiry    INTEGER NOT NULL,           -- seconds since 1970
    frozen    INTEGER NOT NULL,           -- 1: no signature until the highest voucher is known
    amount    INTEGER NOT NULL,           -- owed in all since the lane's first day
    carry     INTEGER NOT NULL,           -- parts of the next nanocredit
    counter   INTEGER NOT NULL,           -- of the newest voucher, 0 before the first
    signed    INTEGER NOT NULL,           -- amount of the newest voucher
    voucher   BLOB                        -- its exact bytes
) WITHOUT ROWID;

CREATE TABLE settled (                    -- audit batches already added up, until their outcome is recorded
    nonce     BLOB NOT NULL PRIMARY KEY,
    lane_id   BLOB NOT NULL
) WITHOUT ROWID;

CREATE TABLE proposal (                   -- signed, not yet answered: sent again as stored, never re-made
    node_id   BLOB NOT NULL PRIMARY KEY,
    body      BLOB NOT NULL
) WITHOUT ROWID;

CREATE TABLE revision (                   -- every doubly signed revision of every contract
    contract_id  BLOB NOT NULL,
    revision     INTEGER NOT NULL,
    contract     BLOB NOT NULL,
    PRIMARY KEY (contract_id, revision)
) WITHOUT ROWID;
"""

_LANE_COLUMNS = "lane_id, node_id, deposit, expiry, frozen, amount, carry, counter, signed, voucher"
_PUT_LANE = f"INSERT OR REPLACE INTO lane ({_LANE_COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,?)"


@dataclass(slots=True)
class Lane:
    """One lane as pay.db has it. Change it through PayBook only."""

    lane_id: LaneId
    node_id: NodeId
    deposit: int
    expiry: int
    frozen: bool = False
    tally: Tally = field(default_factory=Tally)
    counter: int = 0
    signed: int = 0
    voucher: Signed | None = None
    egress: int = 0
    """Bytes received and not yet in the tally; gone after a crash, see `PayBook.received`."""
    delivered: int = 0
    """Counter of the newest voucher that this process knows the farmer to have."""
    doubtful: int = 0
    """Bytes asked for that never came whole: the farmer may have sent them, see `PayBook.concede`."""

    @property
    def left(self) -> int:
        """Of the deposit, not yet owed."""
        return max(self.deposit - self.tally.amount, 0)


class PayBook:
    """The only user of pay.db. `payment_seed(farmer)` gives the Ed25519 seed of a farmer's lane."""

    def __init__(
        self,
        path: Path,
        key: bytes | None,
        payment_seed: Callable[[bytes], bytes],
        crash_point: Callable[[str], None] = lambda name: None,
    ) -> None:
        self._db = DurableDatabase(path, key, PAY_SCHEMA, version=PAY_VERSION)
        self._payment_seed = payment_seed
        self._crash_point = crash_point
        # Held from reading a lane until its changed row is on disk.
        self._turn = trio.Lock()
        self.lanes: dict[LaneId, Lane] = {}
        self.proposals: dict[NodeId, Proposal] = {}
        for row in self._db.read(f"SELECT {_LANE_COLUMNS} FROM lane"):
            lane = _lane_of(row)
            # What the process before this one had received and not added up.
            lane.doubtful = EGRESS_STEP
            self.lanes[lane.lane_id] = lane
        for node_id, body in self._db.read("SELECT node_id, body FROM proposal"):
            self.proposals[NodeId(node_id)] = Proposal.from_bytes(body)

    @property
    def problem(self) -> StoreError | None:
        """Why pay.db was not written the last time, None if it was."""
        return self._db.problem

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def payer(self, farmer: NodeId) -> SigningKey:
        """The key that pays `farmer`."""
        return SigningKey(self._payment_seed(farmer))

    # --- lanes ---

    async def know_lane(
        self, lane_id: LaneId, farmer: NodeId, deposit: int, expiry: int, *, used_before: bool
    ) -> Lane:
        """Take over what the settlement says of a lane; begin to keep it if it is new.

        `used_before`: the lane existed before we first heard of it, so vouchers may exist that this database
        has forgotten: it is frozen until `adopt` has been told the highest one.
        """
        async with self._turn:
            lane = self.lanes.get(lane_id)
            if lane is None:
                lane = Lane(lane_id, farmer, deposit, expiry, frozen=used_before)
            elif (lane.deposit, lane.expiry) == (deposit, expiry):
                return lane
            await self._change(lane, deposit=deposit, expiry=expiry)
            self.lanes[lane_id] = lane
            return lane

    async def adopt(self, lane: Lane, shown: Signed | None, *, claimed: int = 0) -> None:
        """Learn of a voucher that the farmer has shown us, and of what was claimed; unfreezes the lane.

        One that is higher than ours was signed by an earlier life of this volume: it becomes the newest, and
        what is owed is at least that. `shown` None: they know of none.

        Raises BadSignature, ProtocolViolation.
        """
        async with self._turn:
            changes: dict[str, Any] = {"frozen": False} if lane.frozen else {}
            if shown is not None and self._is_higher(lane, shown):
                voucher = shown.peek(Voucher)
                changes |= {
                    "counter": max(voucher.counter, lane.counter),
                    "signed": voucher.amount,
                    "voucher": shown,
                }
            owed = max(changes.get("signed", 0), claimed)
            if owed > lane.tally.amount:
                changes["tally"] = Tally(owed, 0)
            if changes:
                await self._change(lane, **changes)

    def _is_higher(self, lane: Lane, shown: Signed) -> bool:
        if shown == lane.voucher:
            return False
        voucher = open_voucher(shown, self.payer(lane.node_id).public, lane.lane_id)
        return (voucher.amount, voucher.counter) > (lane.signed, lane.counter)

    # --- earning and signing ---

    def received(self, lane: Lane, count: int) -> None:
        """`count` bytes of shards came from the farmer: owed with the next voucher.

        Kept in memory only (a write per read would cost more than the read), for EGRESS_STEP bytes at most.
        """
        lane.egress += count

    def doubted(self, lane: Lane, count: int) -> None:
        """`count` bytes were asked for, but the transfer was cancelled or broke.

        All of them together are EGRESS_CREDIT at most: no honest farmer is without more than that before it
        says so.
        """
        lane.doubtful = min(lane.doubtful + count, EGRESS_CREDIT)

    def concede(self, lane: Lane) -> bool:
        """Owe the doubtful bytes too; False if there are none.

        For a farmer that refuses service although all that we counted is paid: both counts may differ by
        transfers that broke, and by what a crash here made us forget. More than we asked for is never paid.
        """
        conceded, lane.doubtful = lane.doubtful, 0
        lane.egress += conceded
        return conceded > 0

    def is_settled(self, nonce: bytes) -> bool:
        """Whether the batch with this nonce has been added up."""
        return bool(self._db.read("SELECT 1 FROM settled WHERE nonce = ?", (nonce,)))

    async def settle(
        self, lane: Lane, terms: Terms, contract_id: ContractId, nonce: bytes | None, passed_bytes: int
    ) -> Signed:
        """The voucher for a verified batch: what was owed, plus the passed proofs, plus egress until now.

        Exactly once per `nonce`, however often it is called; None for egress alone. The voucher is on disk
        when this returns, and may be sent. What the deposit does not cover stays owed and comes with a later
        voucher. Raises LaneFrozen.
        """
        async with self._turn:
            if lane.frozen:
                raise LaneFrozen("the lane is frozen until its highest voucher is known")
            if nonce is not None and lane.voucher is not None and self.is_settled(nonce):
                return lane.voucher
            self._crash_point("pay: before persisting")
            egress = lane.egress
            tally = lane.tally if nonce is None else lane.tally.with_proofs(terms, passed_bytes)
            tally = tally.with_egress(terms, egress)
            amount = max(min(tally.amount, lane.deposit), lane.signed)
            voucher = Voucher(lane.lane_id, contract_id, terms.revision, lane.counter + 1, amount)
            signed = sign_voucher(self.payer(lane.node_id), voucher)
            also: tuple[Statement, ...] = ()
            if nonce is not None:
                also = (("INSERT INTO settled VALUES (?,?)", (nonce, lane.lane_id)),)
            await self._change(
                lane, *also, tally=tally, counter=voucher.counter, signed=amount, voucher=signed
            )
            # Not set to 0: more may have arrived while the row was written.
            lane.egress -= egress
            self._crash_point("pay: after persisting")
            return signed

    async def _change(self, lane: Lane, *also: Statement, **changes: Any) -> None:
        """Disk first, then the object that everybody holds."""
        await self._db.write(_row_of(replace(lane, **changes)), *also)
        for name, value in changes.items():
            setattr(lane, name, value)

    async def forget_settled(self, nonce: bytes) -> None:
        """The outcome of this batch stands in local.db: its nonce will not come again."""
        await self._db.write(("DELETE FROM settled WHERE nonce = ?", (nonce,)))

    # --- what was signed ---

    async def keep_proposal(self, farmer: NodeId, proposal: Proposal) -> None:
        """Store a signed proposal before it is sent; it replaces an older one to the same farmer."""
        await self._db.write(
            ("INSERT OR REPLACE INTO proposal VALUES (?,?)", (farmer, proposal.to_bytes())),
        )
        self.proposals[farmer] = proposal

    async def drop_proposal(self, farmer: NodeId) -> None:
        """It was answered, or can no longer be accepted."""
        await self._db.write(("DELETE FROM proposal WHERE node_id = ?", (farmer,)))
        self.proposals.pop(farmer, None)

    async def keep_revision(self, contract_id: ContractId, revision: int, contract: bytes) -> None:
        """File a doubly signed revision for ever."""
        sql = "INSERT OR IGNORE INTO revision VALUES (?,?,?)"
        await self._db.write((sql, (contract_id, revision, contract)))

    def revisions(self, contract_id: ContractId) -> list[bytes]:
        """All revisions of a contract, oldest first."""
        sql = "SELECT contract FROM revision WHERE contract_id = ? ORDER BY revision"
        return [row[0] for row in self._db.read(sql, (contract_id,))]

    def promised(self) -> int:
        """The sum of all deposits."""
        return sum(lane.deposit for lane in self.lanes.values())


def _lane_of(row: Sequence[Any]) -> Lane:
    lane_id, node_id, deposit, expiry, frozen, amount, carry, counter, signed, voucher = row
    newest = Signed.from_bytes(voucher) if voucher is not None else None
    if newest is not None and newest.peek(Voucher).amount != signed:
        raise ProtocolViolation("pay.db contradicts itself: a lane's voucher has another amount")
    tally = Tally(amount, carry)
    owner = NodeId(node_id)
    return Lane(LaneId(lane_id), owner, deposit, expiry, bool(frozen), tally, counter, signed, newest)


def _row_of(lane: Lane) -> Statement:
    voucher = lane.voucher.to_bytes() if lane.voucher is not None else None
    return _PUT_LANE, (
        lane.lane_id,
        lane.node_id,
        lane.deposit,
        lane.expiry,
        int(lane.frozen),
        lane.tally.amount,
        lane.tally.carry,
        lane.counter,
        lane.signed,
        voucher,
    )
