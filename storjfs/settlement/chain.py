"""The chain over the transfers of a served ledger, and the evidence that each of them carries. Pure.

A link is SHA-256 over a domain, the link before, and the row with its entries by key: docs/formats/ledger.md.
"""

from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey

from storjfs.protocol.encoding import encode
from storjfs.protocol.failures import ProtocolViolation
from storjfs.protocol.ids import Digest, LaneId, NodeId, PublicKey
from storjfs.protocol.ledger import (
    CloseLane,
    Extend,
    LedgerOrder,
    OpenLane,
    Refund,
    TopUp,
    Transfer,
    open_order,
)
from storjfs.protocol.signing import Signed
from storjfs.protocol.vouchers import Voucher, open_voucher
from storjfs.settlement.books import issue_message

_FIRST: Final = b"storjfs/1 ledger chain\0"
_LINK: Final = b"storjfs/1 ledger entry\0"
_ORDER: Final = b"storjfs/1 ledger order id\0"
_WANTED: Final = {
    "open": (OpenLane,),
    "top-up": (TopUp,),
    "extend": (Extend,),
    "transfer": (Transfer,),
    "close": (CloseLane,),
    "refund": (Refund,),
    "return": (CloseLane, Refund),
}


@dataclass(frozen=True, slots=True)
class Row:
    """One transfer as it stands in the books, with its entries `(kind, key, amount)` by kind and key."""

    transfer: int
    time: int
    kind: str
    order_id: bytes | None
    digest: bytes
    lane: LaneId | None
    memo: str
    evidence: bytes | None
    entries: tuple[tuple[str, bytes, int], ...]

    @property
    def amount(self) -> int:
        """What moved."""
        return sum(amount for _, _, amount in self.entries if amount > 0)

    def key(self, sign: int) -> bytes | None:
        """The account of its only entry above (1) or below (-1) zero."""
        keys = [key for _, key, amount in self.entries if amount * sign > 0]
        return keys[0] if len(keys) == 1 else None


@dataclass(frozen=True, slots=True)
class LaneParties:
    """Who may order what of a lane."""

    payer: PublicKey
    payee: PublicKey


@dataclass(slots=True)
class Witness:
    """Looks at the evidence of all rows in their order, for the ledger `node_id` of that operator."""

    node_id: NodeId
    ledger_id: bytes
    operator: PublicKey
    claimed: dict[LaneId, int] = field(default_factory=dict)

    def objection(self, row: Row, parties: LaneParties | None) -> str:
        """What is wrong with the evidence of a row; empty if nothing is."""
        if row.evidence is None:
            return "nobody has signed it"
        try:
            if row.kind == "issue":
                return self._issue(row, row.evidence)
            signed = Signed.from_bytes(row.evidence)
            if row.kind == "claim":
                return self._claim(row, signed, parties)
            return self._ordered(row, open_order(signed, self.node_id), parties)
        except (ProtocolViolation, BadSignatureError, ValueError) as error:
            return f"its signature is not good: {error}"

    def _issue(self, row: Row, signature: bytes) -> str:
        target = PublicKey(row.key(1) or bytes(32))
        message = issue_message(self.ledger_id, target, row.amount, row.order_id)
        VerifyKey(self.operator).verify(message, signature)
        return ""

    def _claim(self, row: Row, signed: Signed, parties: LaneParties | None) -> str:
        if parties is None or row.lane is None:
            return "it is for no lane"
        voucher: Voucher = open_voucher(signed, parties.payer, row.lane)
        self.claimed[row.lane] = self.claimed.get(row.lane, 0) + row.amount
        if self.claimed[row.lane] != voucher.amount:
            return "its voucher promises another amount"
        return "" if row.key(1) == parties.payee else "it was paid to somebody else"

    def _ordered(self, row: Row, order: LedgerOrder, parties: LaneParties | None) -> str:
        wanted = order.wanted
        if not isinstance(wanted, _WANTED.get(row.kind, ())):
            return "something else was ordered"
        if row.order_id not in (None, order_key(order.account, order.order)):
            return "its order has another id"
        if not isinstance(wanted, OpenLane | Transfer) and getattr(wanted, "lane", None) != row.lane:
            return "another lane was ordered"
        if isinstance(wanted, OpenLane | TopUp | Transfer):
            amount = wanted.deposit if isinstance(wanted, OpenLane) else wanted.amount
            if (row.key(-1), row.amount) != (order.account, amount):
                return "another amount, or from another account, was ordered"
        if isinstance(wanted, Transfer) and row.key(1) != wanted.target:
            return "it was paid to somebody else"
        if isinstance(wanted, CloseLane) and (parties is None or order.account != parties.payee):
            return "it was not for who ordered it to close the lane"
        return ""


def first_link(node_id: NodeId, operator: PublicKey, ledger_id: bytes) -> Digest:
    """The end of the chain before the first transfer."""
    return Digest(sha256(_FIRST + node_id + operator + ledger_id).digest())


def next_link(before: bytes, row: Row) -> Digest:
    """The link of `row` behind `before`."""
    body = encode(
        (
            *(row.transfer, row.time, row.kind, row.order_id, row.digest, row.lane, row.memo, row.evidence),
            row.entries,
        )
    )
    return Digest(sha256(_LINK + before + body).digest())


def order_key(account: PublicKey, order: bytes) -> bytes:
    """The order id as the books have it: nobody can use up another account's ids."""
    return sha256(_ORDER + account + order).digest()
