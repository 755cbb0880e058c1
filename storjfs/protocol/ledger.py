"""What is said to a ledger that is served: signed orders and questions, answered by signed statements."""

import enum
from hashlib import sha256
from typing import Annotated, Final

from msgspec import Meta, Struct

from storjfs.protocol.failures import ProtocolViolation
from storjfs.protocol.ids import (
    Digest,
    DigestField,
    LaneIdField,
    NodeId,
    NodeIdField,
    PublicKeyField,
    ShortText,
    Unsigned,
)
from storjfs.protocol.signing import Kind, Signed, SigningKey

PAGE: Final = 256
"""Lanes or movements in one statement."""
MAX_ORDER: Final = 2048
"""Bytes of an order's body: it is kept for ever."""

Amount = Annotated[int, Meta(ge=1, le=2**63 - 1)]
OrderId = Annotated[bytes, Meta(min_length=1, max_length=64)]
LaneStateText = Annotated[str, Meta(pattern=r"\A(open|closed|refunded)\Z")]
PageSize = Annotated[int, Meta(ge=1, le=PAGE)]


class _Wanted(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Base of what can be wanted; the tag comes first on the wire."""


class OpenLane(_Wanted, frozen=True, tag="open"):
    """Reserve `deposit` of the signing account for vouchers of `payer` to `payee`."""

    payer: PublicKeyField
    payee: PublicKeyField
    deposit: Amount
    expiry: Unsigned


class TopUp(_Wanted, frozen=True, tag="top up"):
    """Add to the deposit, by its source."""

    lane: LaneIdField
    amount: Amount


class Extend(_Wanted, frozen=True, tag="extend"):
    """Move the expiry later, by the source."""

    lane: LaneIdField
    expiry: Unsigned


class Claim(_Wanted, frozen=True, tag="claim"):
    """Pay out what the voucher promises, by anyone."""

    voucher: Signed


class CloseLane(_Wanted, frozen=True, tag="close"):
    """End the lane, by the payee; a voucher is claimed first."""

    lane: LaneIdField
    voucher: Signed | None = None


class Refund(_Wanted, frozen=True, tag="refund"):
    """End the lane after its expiry."""

    lane: LaneIdField


class Transfer(_Wanted, frozen=True, tag="transfer"):
    """Pay from the signing account."""

    target: PublicKeyField
    amount: Amount
    memo: ShortText = ""


class AskBalance(_Wanted, frozen=True, tag="balance"):
    """What the account can spend. Every statement says it."""


class AskHistory(_Wanted, frozen=True, tag="history"):
    """The account's newest movements, of transfers below `before`."""

    before: Unsigned = 2**63 - 1
    limit: PageSize = PAGE


class AskLane(_Wanted, frozen=True, tag="lane"):
    """One lane, by one of its parties."""

    lane: LaneIdField


class AskLanes(_Wanted, frozen=True, tag="lanes"):
    """The account's lanes in the order of their opening, without the first `skip`."""

    skip: Unsigned = 0


Wanted = (
    OpenLane
    | TopUp
    | Extend
    | Claim
    | CloseLane
    | Refund
    | Transfer
    | AskBalance
    | AskHistory
    | AskLane
    | AskLanes
)
QUESTIONS: Final = (AskBalance, AskHistory, AskLane, AskLanes)
"""Those that change nothing."""


class LedgerOrder(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Something wanted of one ledger, signed with the key of `account` (`Kind.LEDGER_ORDER`)."""

    ledger: NodeIdField
    account: PublicKeyField
    order: OrderId
    """Repeated with the same content it has the effect of one; a question has a random one."""
    wanted: Wanted


class LaneFacts(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A lane as the ledger has it. `source` is told to the source alone."""

    lane: LaneIdField
    payer: PublicKeyField
    payee: PublicKeyField
    source: PublicKeyField | None
    deposit: Unsigned
    claimed: Unsigned
    expiry: Unsigned
    state: LaneStateText


class MovementFacts(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One line of an account's history."""

    transfer: Unsigned
    time: Unsigned
    kind: ShortText
    amount: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
    lane: LaneIdField | None
    memo: ShortText


class RefusalCode(enum.StrEnum):
    """Why the ledger did not do it. Nothing was changed."""

    BALANCE = "balance"
    UNKNOWN_LANE = "unknown lane"
    LANE_CLOSED = "lane closed"
    VOUCHER = "voucher"
    NOT_ALLOWED = "not allowed"
    ORDER = "order"
    OTHER = "other"


class Refusal(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A refusal in the ledger's words."""

    code: RefusalCode
    text: ShortText


class Statement(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The answer to one order, signed with the ledger's key (`Kind.LEDGER_STATEMENT`)."""

    ledger: NodeIdField
    order: DigestField
    """`order_digest` of what is answered."""
    time: Unsigned
    number: Unsigned
    """The newest transfer; what is answered is among those up to it."""
    head: DigestField
    """The end of the chain there."""
    balance: Unsigned
    """Of the account that asked."""
    refused: Refusal | None = None
    lanes: Annotated[tuple[LaneFacts, ...], Meta(max_length=PAGE)] = ()
    movements: Annotated[tuple[MovementFacts, ...], Meta(max_length=PAGE)] = ()


def sign_order(key: SigningKey, order: LedgerOrder) -> Signed:
    """The account's signature under an order."""
    return Signed.make(key, Kind.LEDGER_ORDER, order)


def open_order(signed: Signed, ledger: NodeId) -> LedgerOrder:
    """The order, if the account that it names signed it for this `ledger`.

    Raises BadSignature, ProtocolViolation.
    """
    if len(signed.body) > MAX_ORDER:
        raise ProtocolViolation(f"an order of {len(signed.body)} bytes, allowed are {MAX_ORDER}")
    order = signed.open(signed.peek(LedgerOrder).account, Kind.LEDGER_ORDER, LedgerOrder)
    if order.ledger != ledger:
        raise ProtocolViolation("the order is for another ledger")
    return order


def order_digest(signed: Signed) -> Digest:
    """What a statement names the order by."""
    return Digest(sha256(signed.body).digest())


def sign_statement(key: SigningKey, statement: Statement) -> Signed:
    """The ledger's signature under a statement."""
    return Signed.make(key, Kind.LEDGER_STATEMENT, statement)


def open_statement(signed: Signed, ledger: NodeId, order: Signed) -> Statement:
    """The statement, if `ledger` signed it in answer to `order`. Raises BadSignature, ProtocolViolation."""
    statement = signed.open(ledger, Kind.LEDGER_STATEMENT, Statement)
    if statement.ledger != ledger or statement.order != order_digest(order):
        raise ProtocolViolation("the statement answers something else")
    return statement
