"""Offers, terms and contracts as values: what a farmer sells, what was agreed, and who signed it.

All amounts are integers in nanocredits (1 credit = 10**9), sizes in bytes, times in seconds since 1970 (UTC)
or in seconds. Lengths of time and sizes in terms are bounded, so that sums of them cannot overflow.
"""

import hashlib
from typing import Annotated, Self

from msgspec import Meta, Struct

from storjfs.protocol.encoding import decode, encode
from storjfs.protocol.failures import ProtocolViolation, plain
from storjfs.protocol.ids import (
    NO_CONTRACT,
    NO_PREDECESSOR,
    ContractId,
    ContractIdField,
    Digest,
    DigestField,
    LaneIdField,
    NodeIdField,
    PublicKeyField,
    ShortText,
    SignatureField,
    Unsigned,
)
from storjfs.protocol.signing import Kind, Signed, SigningKey, verify

PROTOCOL_VERSION = 1

CREDIT = 10**9
GIB = 1 << 30
MONTH = 30 * 86400
"""Thirty days, in seconds: what "per month" means in every price."""

Price = Annotated[int, Meta(ge=0, le=10**15)]
Seconds = Annotated[int, Meta(ge=1, le=10 * 366 * 86400)]
SampleCount = Annotated[int, Meta(ge=1, le=64)]
MAX_ADDRESSES = 16


RELAYED = "relay+"
"""Begins the host of an address that is a relay's: no name of a host begins so."""


class Address(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Where a farmer listens: a host name or IP address, and a TCP port; or a relay that leads to it."""

    host: ShortText
    port: Annotated[int, Meta(ge=1, le=65535)]

    def __str__(self) -> str:
        if self.relay is not None:
            return f"{RELAYED}{self.relay}"
        host = plain(self.host)
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"

    @property
    def relay(self) -> "Address | None":
        """The relay to dial, None where the farmer itself listens here."""
        if not self.host.startswith(RELAYED):
            return None
        return Address(self.host.removeprefix(RELAYED), self.port)

    def through(self) -> "Address":
        """The address of a farmer that is attached to the relay which listens here."""
        return Address(RELAYED + self.host, self.port)

    @classmethod
    def parse(cls, text: str) -> Self:
        """`host:port` or `[v6]:port`, with `relay+` before it for a relay. Raises ValueError."""
        if text.startswith(RELAYED):
            relay = cls.parse(text.removeprefix(RELAYED))
            if relay.relay is not None:
                raise ValueError(f"a relay is not reached through a relay: {text!r}")
            return cls(RELAYED + relay.host, relay.port)
        host, separator, port = text.rpartition(":")
        if not separator or not host or not port.isdigit() or not 0 < int(port) < 65536:
            raise ValueError(f"not an address of the form host:port: {text!r}")
        return cls(host.removeprefix("[").removesuffix("]"), int(port))


Addresses = Annotated[tuple[Address, ...], Meta(max_length=MAX_ADDRESSES)]


class Offer(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True):
    """What a farmer sells, signed with its node key (`Kind.OFFER`)."""

    version: Unsigned = PROTOCOL_VERSION
    farmer: NodeIdField
    payee: PublicKeyField
    """Who is paid: an account in the settlement."""
    capacity: Unsigned
    """Bytes (sealed) that are still for sale."""
    price: Price
    """Nanocredits per GiB and month."""
    egress_price: Price
    """Nanocredits per GiB sent to the renter."""
    term_min: Seconds
    term_max: Seconds
    period_min: Seconds
    """Bounds of the audit period."""
    period_max: Seconds
    grace_max: Seconds
    """Longest payment grace (see `Terms.payment_grace`) that the farmer grants."""
    settlement: ShortText
    addresses: Addresses
    group: ShortText
    """Who operates it: farmers of one group are taken to fail together."""
    expires: Unsigned
    """Proposals that refer to this offer are welcome until then."""
    region: ShortText = ""
    """Where it stands, as the farmer says; a part may follow behind a dash (`EU-DE`)."""


class Terms(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True):
    """What renter and farmer agree upon; both sign the same bytes (`Kind.TERMS_RENTER`, `TERMS_FARMER`)."""

    version: Unsigned = PROTOCOL_VERSION
    contract_id: ContractIdField = NO_CONTRACT
    """`NO_CONTRACT` in revision 0."""
    revision: Unsigned = 0
    predecessor: DigestField = NO_PREDECESSOR
    """`Contract.digest` of the revision before; `NO_PREDECESSOR` in revision 0."""
    farmer: NodeIdField
    renter: NodeIdField
    """The renter as this farmer knows it, derived for this farmer alone."""
    payer: PublicKeyField
    """Signs the vouchers."""
    payee: PublicKeyField
    settlement: ShortText
    lane: LaneIdField
    """`ids.lane_id(settlement, payer, payee)`."""
    capacity: Unsigned
    price: Price
    egress_price: Price
    start: Unsigned
    end: Unsigned
    audit_period: Seconds
    samples: SampleCount
    """Leaves asked for per shard and audit."""
    answer_deadline: Seconds
    """How long the farmer may take to answer an audit."""
    payment_grace: Seconds
    """Data stays this long after the second unpaid audit, then the contract is breached."""
    offline_grace: Seconds
    """A farmer may stay away this long before its shards count as lost."""
    end_grace: Seconds
    """After `end` the farmer keeps the data this long, so that a renter may fetch it or renew."""
    accept_by: Unsigned
    """The renter is not bound if it has not received the farmer's signature by then."""


class Proposal(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Terms signed by the renter and not yet by the farmer. Stored before sent, sent again as stored."""

    body: bytes
    renter_signature: SignatureField

    @classmethod
    def make(cls, key: SigningKey, terms: Terms) -> Self:
        """Sign `terms` with the renter's identity for this farmer."""
        body = encode(terms)
        return cls(body, key.sign(Kind.TERMS_RENTER, body))

    def open(self) -> Terms:
        """The terms, if the renter they name signed them. Raises BadSignature, ProtocolViolation."""
        terms = decode(self.body, Terms)
        verify(terms.renter, Kind.TERMS_RENTER, self.body, self.renter_signature)
        check_form(terms)
        return terms

    def countersign(self, key: SigningKey) -> "Contract":
        """The contract that the farmer's signature makes of it."""
        return Contract(self.body, self.renter_signature, key.sign(Kind.TERMS_FARMER, self.body))

    def to_bytes(self) -> bytes:
        return encode(self)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        return decode(data, cls)


class Contract(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Doubly signed terms: one revision of a contract, as both sides store it."""

    body: bytes
    renter_signature: SignatureField
    farmer_signature: SignatureField

    def open(self) -> Terms:
        """The terms, if both parties they name signed them. Raises BadSignature, ProtocolViolation."""
        terms = Proposal(self.body, self.renter_signature).open()
        verify(terms.farmer, Kind.TERMS_FARMER, self.body, self.farmer_signature)
        return terms

    def terms(self) -> Terms:
        """The terms without a look at the signatures: for what `open` has accepted before."""
        return decode(self.body, Terms)

    @property
    def digest(self) -> Digest:
        """What the next revision names as its predecessor."""
        head = b"storjfs/1 contract\0" + self.renter_signature + self.farmer_signature
        return Digest(hashlib.sha256(head + self.body).digest())

    @property
    def contract_id(self) -> ContractId:
        """The same for all revisions: the digest of the first."""
        named = self.terms().contract_id
        return ContractId(self.digest) if named == NO_CONTRACT else named

    def to_bytes(self) -> bytes:
        return encode(self)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        return decode(data, cls)


def sign_offer(key: SigningKey, offer: Offer) -> Signed:
    """The farmer's signature under its offer."""
    return Signed.make(key, Kind.OFFER, offer)


def open_offer(signed: Signed) -> Offer:
    """The offer, if the farmer it names signed it. Raises BadSignature, ProtocolViolation."""
    return signed.open(signed.peek(Offer).farmer, Kind.OFFER, Offer)


def check_form(terms: Terms) -> None:
    """Raise ProtocolViolation for terms that contradict themselves, whoever signed them."""
    if terms.version != PROTOCOL_VERSION:
        raise ProtocolViolation(f"terms of protocol version {terms.version}, known is {PROTOCOL_VERSION}")
    first = terms.revision == 0
    if first != (terms.contract_id == NO_CONTRACT) or first != (terms.predecessor == NO_PREDECESSOR):
        raise ProtocolViolation("revision, contract id and predecessor of the terms do not fit together")
    if terms.end <= terms.start:
        raise ProtocolViolation("the term ends before it starts")


def objections(offer: Offer, terms: Terms, now: int) -> list[str]:
    """Why `terms` are not what `offer` sells at `now`; empty if they are. In words for a person."""
    term = terms.end - terms.start
    checks = (
        (terms.farmer == offer.farmer, "another farmer is named"),
        (terms.payee == offer.payee, "another payee is named"),
        (terms.settlement == offer.settlement, "another settlement is named"),
        (now <= offer.expires, "the offer has expired"),
        (terms.price >= offer.price, f"the price is under {offer.price}"),
        (terms.egress_price >= offer.egress_price, f"the egress price is under {offer.egress_price}"),
        (terms.capacity <= offer.capacity, f"only {offer.capacity} bytes are for sale"),
        (offer.term_min <= term <= offer.term_max, "the term is too short or too long"),
        (offer.period_min <= terms.audit_period <= offer.period_max, "the audit period is out of bounds"),
        (terms.payment_grace <= offer.grace_max, f"the payment grace is over {offer.grace_max} s"),
        (terms.end > now, "the term is over already"),
    )
    return [text for holds, text in checks if not holds]


def check_successor(before: Contract, terms: Terms) -> None:
    """Raise ProtocolViolation unless `terms` are the next revision of `before` between the same parties."""
    old = before.terms()
    if (
        terms.contract_id != before.contract_id
        or terms.revision != old.revision + 1
        or terms.predecessor != before.digest
    ):
        raise ProtocolViolation("the terms do not follow the contract's newest revision")
    same = ("farmer", "renter", "payer", "payee", "settlement", "lane")
    if any(getattr(old, name) != getattr(terms, name) for name in same):
        raise ProtocolViolation("a revision cannot change the parties or the lane")
