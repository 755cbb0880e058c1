"""Every request and its answer, on control and on data connections.

A request class names its answer in its type (`Request[Answer]`) and its number in `METHODS`. Fields may be
added at the end with a default; readers skip those they do not know. Signed values travel as exact bytes.
"""

import enum
from typing import Annotated, Any, Generic, TypeVar

from msgspec import Meta, Struct

from storjfs.protocol.contracts import State
from storjfs.protocol.ids import (
    ContractIdField,
    DigestField,
    LaneIdField,
    NodeIdField,
    NonceField,
    ShardIdField,
    ShortText,
    Unsigned,
)
from storjfs.protocol.receipts import MAX_SHARD, ShardLength
from storjfs.protocol.signing import Signed
from storjfs.protocol.terms import PROTOCOL_VERSION, Contract, Proposal, Terms

A_co = TypeVar("A_co", covariant=True)

MAX_VOUCHERS = 64
MAX_LISTED = 2048
"""Shards in one list."""
MAX_DAMAGED = 256
"""Damaged shards that one answer to an audit tells of."""
MAX_TOLD = 32
"""Offers in one answer to `GetFarmers`."""
CANCEL_CAPABILITY = "cancel"
"""Said by a side that understands `framing.encode_cancel`; it is sent to no other."""
RELAY_CAPABILITY = "relay"
"""Said by a farmer that relays others: it understands Attach, and Through and Arrive on relay connections."""
DIAL_BACK_CAPABILITY = "dial back"
"""Said by a farmer that understands DialBack."""
LEDGER_CAPABILITY = "ledger"
"""Said by a ledger: it understands Settle."""


class Request(Struct, Generic[A_co], frozen=True, array_like=True):
    """Base of all requests; the type argument is the answer's type."""


class Role(enum.StrEnum):
    """What a peer is on this connection."""

    RENTER = "renter"
    FARMER = "farmer"
    BRIDGE = "bridge"
    LEDGER = "ledger"


class Purpose(enum.StrEnum):
    """What a connection is for."""

    CONTROL = "control"
    DATA = "data"
    RELAY = "relay"
    """To become one of the two halves of a relayed connection; only to who said RELAY_CAPABILITY."""


Capabilities = Annotated[tuple[ShortText, ...], Meta(max_length=32)]
Vouchers = Annotated[tuple[Signed, ...], Meta(max_length=MAX_VOUCHERS)]


class Done(Struct, frozen=True, array_like=True):
    """The answer that says nothing but that it was done."""


class Failure(Struct, frozen=True, array_like=True):
    """The answer that says why not: an `ErrorCode` and some words."""

    code: Unsigned
    detail: ShortText = ""


class HelloAnswer(Struct, frozen=True, array_like=True):
    """What the answering side is, and which version both will speak (`greeting`)."""

    version: Unsigned
    role: Role
    capabilities: Capabilities = ()
    software: ShortText = ""
    vouchers: Vouchers = ()
    """The best voucher the farmer has from this peer, one per lane."""
    version_max: Unsigned = 0
    """The highest version the answering side speaks; 0 from one that does not say."""


class Hello(Request[HelloAnswer], frozen=True, array_like=True):
    """First request on every connection, by the side that dialled. Any other first request ends it."""

    purpose: Purpose
    role: Role
    version_min: Unsigned = PROTOCOL_VERSION
    version_max: Unsigned = PROTOCOL_VERSION
    capabilities: Capabilities = ()
    software: ShortText = ""
    vouchers: Vouchers = ()
    """The newest voucher the renter has signed for this farmer, one per lane."""


class Ping(Request[Done], frozen=True, array_like=True):
    """Asks for a sign of life."""


class OfferAnswer(Struct, frozen=True, array_like=True):
    """The farmer's newest offer, signed (`terms.open_offer`)."""

    offer: Signed


class GetOffer(Request[OfferAnswer], frozen=True, array_like=True):
    """Asks for the farmer's offer."""


class ProposeAnswer(Struct, frozen=True, array_like=True):
    """Either the contract, or a counter-offer the farmer would accept; `reason` says why not as proposed."""

    contract: Contract | None = None
    counter: Terms | None = None
    reason: ShortText = ""


class Propose(Request[ProposeAnswer], frozen=True, array_like=True):
    """A first contract or a revision. Repeated bytes get the same contract again."""

    proposal: Proposal


class ContractAnswer(Struct, frozen=True, array_like=True):
    """A contract as the farmer sees it."""

    contract: Contract
    state: State
    shards: Unsigned = 0
    used: Unsigned = 0
    """Sealed bytes held."""
    unpaid_audits: Unsigned = 0
    serving: bool = True
    """False while the farmer waits for a voucher."""
    voucher: Signed | None = None
    """The best one the farmer has."""


class FundNotice(Request[ContractAnswer], frozen=True, array_like=True):
    """The lane is open and holds `deposit`. The farmer looks it up, reserves, and answers: active."""

    contract_id: ContractIdField
    lane: LaneIdField
    deposit: Unsigned


class GetContract(Request[ContractAnswer], frozen=True, array_like=True):
    """Asks for a contract's state; only the renter it belongs to gets an answer."""

    contract_id: ContractIdField


class ContractList(Struct, frozen=True, array_like=True):
    """Ids of contracts, in ascending order."""

    contract_ids: Annotated[tuple[ContractIdField, ...], Meta(max_length=1024)]


class ListContracts(Request[ContractList], frozen=True, array_like=True):
    """Asks which contracts this renter has; ids above `after` only, so that a longer list can be paged."""

    after: ContractIdField


class HeldShard(Struct, frozen=True, array_like=True):
    """A shard as the farmer's index has it."""

    shard_id: ShardIdField
    root: DigestField
    length: ShardLength


class ShardList(Struct, frozen=True, array_like=True):
    """Shards held under a contract, in ascending order of their ids."""

    shards: Annotated[tuple[HeldShard, ...], Meta(max_length=MAX_LISTED)]


class ListShards(Request[ShardList], frozen=True, array_like=True):
    """Asks which shards are held under a contract: the first `limit` of those from id `start` on.

    Only the renter the contract belongs to gets an answer. Fewer than `limit` mean that there are no more.
    """

    contract_id: ContractIdField
    start: ShardIdField
    limit: Annotated[int, Meta(ge=1, le=MAX_LISTED)] = MAX_LISTED


class AuditAnswer(Struct, frozen=True, array_like=True):
    """The signed `audits.AuditReply`, and the best voucher the farmer has on the lane."""

    reply: Signed
    voucher: Signed | None = None
    damaged: Annotated[tuple[ShardIdField, ...], Meta(max_length=MAX_DAMAGED)] = ()
    """Shards under this contract that were not asked for and that the farmer found damaged by itself."""


class Audit(Request[AuditAnswer], frozen=True, array_like=True):
    """A signed `audits.AuditRequest`, and the newest voucher of the lane."""

    request: Signed
    voucher: Signed | None = None


class VoucherAnswer(Struct, frozen=True, array_like=True):
    """The best voucher the farmer has on the lane, this one included if it is valid."""

    voucher: Signed


class Pay(Request[VoucherAnswer], frozen=True, array_like=True):
    """A signed `vouchers.Voucher`."""

    voucher: Signed


class DeleteAnswer(Struct, frozen=True, array_like=True):
    """None of the shards is held any more; `deleted` of them were until now."""

    deleted: Unsigned


class Delete(Request[DeleteAnswer], frozen=True, array_like=True):
    """A signed `receipts.DeleteOrder`."""

    order: Signed


class End(Request[ContractAnswer], frozen=True, array_like=True):
    """One side leaves the contract (`Event.GIVE_NOTICE`); either side may send it."""

    contract_id: ContractIdField
    reason: ShortText = ""


class PutAnswer(Struct, frozen=True, array_like=True):
    """The farmer's signed `receipts.Receipt`."""

    receipt: Signed


class FarmerList(Struct, frozen=True, array_like=True):
    """Offers of other farmers, each signed by its own; the asking side checks them (`directory`)."""

    offers: Annotated[tuple[Signed, ...], Meta(max_length=MAX_TOLD)] = ()


class GetFarmers(Request[FarmerList], frozen=True, array_like=True):
    """Asks which farmers the other side knows: at most `limit`, drawn at random.

    A farmer that asks may say of itself by its own offer.
    """

    limit: Annotated[int, Meta(ge=1, le=MAX_TOLD)] = MAX_TOLD
    own: Signed | None = None


class Put(Request[PutAnswer], frozen=True, array_like=True):
    """On a data connection; `length` sealed bytes follow at once, whatever the answer will be."""

    contract_id: ContractIdField
    shard_id: ShardIdField
    length: ShardLength


class GetAnswer(Struct, frozen=True, array_like=True):
    """On a data connection; `length` bytes follow: as many as were asked for."""

    length: ShardLength


class Get(Request[GetAnswer], frozen=True, array_like=True):
    """On a data connection: `length` sealed bytes of a shard from `offset`."""

    contract_id: ContractIdField
    shard_id: ShardIdField
    offset: Annotated[int, Meta(ge=0, le=MAX_SHARD)]
    length: ShardLength


class AttachAnswer(Struct, frozen=True, array_like=True):
    """The farmer has a place at the relay while this control connection lasts."""

    streams: Unsigned
    """Relayed connections at a time that it may have."""
    seen: ShortText = ""
    """The IP address from which the farmer has come."""


class Attach(Request[AttachAnswer], frozen=True, array_like=True):
    """By a farmer that cannot be dialled, to a relay: who dials you and names me is to be joined with me."""


class Call(Request[Done], frozen=True, array_like=True):
    """By a relay to an attached farmer: somebody is here for you. Dial me and show the token (Arrive)."""

    token: NonceField


class Through(Request[Done], frozen=True, array_like=True):
    """On a relay connection, right behind the hello: to the farmer with this key, please.

    What follows the answer, on the TCP connection below TLS, is what the farmer sends and gets.
    """

    farmer: NodeIdField


class Arrive(Request[Done], frozen=True, array_like=True):
    """On a relay connection, right behind the hello: a called farmer is here. Goes on as Through does."""

    token: NonceField


class Reached(enum.StrEnum):
    """What a dial to somebody led to."""

    YES = "yes"
    """The key that had asked answers there."""
    OTHER = "other"
    """Something else does."""
    REFUSED = "refused"
    """The connection was refused."""
    SILENT = "silent"
    """Nothing came back."""


class DialBackAnswer(Struct, frozen=True, array_like=True):
    """What came of it, and which address was dialled: that from which the question came."""

    reached: Reached
    seen: ShortText


class DialBack(Request[DialBackAnswer], frozen=True, array_like=True):
    """Dial the address that this connection comes from, at `port`: does the key that asks answer there?"""

    port: Annotated[int, Meta(ge=1024, le=65535)]


class SettleAnswer(Struct, frozen=True, array_like=True):
    """The signed `ledger.Statement`."""

    statement: Signed


class Settle(Request[SettleAnswer], frozen=True, array_like=True):
    """A signed `ledger.LedgerOrder`, to a ledger that said LEDGER_CAPABILITY."""

    order: Signed


METHODS: dict[type[Request[Any]], tuple[int, type[Struct]]] = {
    Hello: (2, HelloAnswer),
    Ping: (3, Done),
    GetOffer: (4, OfferAnswer),
    Propose: (5, ProposeAnswer),
    FundNotice: (6, ContractAnswer),
    GetContract: (7, ContractAnswer),
    Audit: (8, AuditAnswer),
    Pay: (9, VoucherAnswer),
    Delete: (10, DeleteAnswer),
    End: (11, ContractAnswer),
    ListContracts: (12, ContractList),
    ListShards: (13, ShardList),
    GetFarmers: (15, FarmerList),
    Attach: (19, AttachAnswer),
    Call: (20, Done),
    Through: (21, Done),
    Arrive: (22, Done),
    DialBack: (23, DialBackAnswer),
    Put: (32, PutAnswer),
    Get: (33, GetAnswer),
    Settle: (34, SettleAnswer),
}
"""The number of each request on the wire, and the type of its answer. 0 and 1 are the answers themselves."""

ANSWER = 0
FAILURE = 1
CANCEL = 14
"""No request: it has the number of one that is no longer wanted, and no answer of its own."""
REQUESTS: dict[int, type[Request[Any]]] = {number: request for request, (number, _) in METHODS.items()}
