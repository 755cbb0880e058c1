"""Vouchers: signed, cumulative promises to pay on a lane, of which only the newest counts; and prices.

Prices are exact. An amount is earned in parts of 1 / (GiB * month) nanocredits; what does not make up a whole
nanocredit is carried to the next sum (`Tally.carry`), so that no rounding is ever lost or gained.
"""

from msgspec import Struct

from storjfs.protocol.encoding import encode
from storjfs.protocol.failures import ProtocolViolation
from storjfs.protocol.ids import ContractIdField, LaneId, LaneIdField, PublicKey, Unsigned
from storjfs.protocol.signing import Kind, Signed, SigningKey
from storjfs.protocol.terms import GIB, MONTH, Terms

PARTS = GIB * MONTH
"""A price per GiB and month, times bytes, times seconds, counts in parts of this."""

UNPAID_AUDITS_LIMIT = 2
"""A farmer stops serving after this many audits without a voucher for them."""
EGRESS_CREDIT = 64 << 20
"""Bytes that a farmer sends ahead of the voucher for them."""


class Voucher(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A promise to pay `amount` in all on `lane`, signed with the payer's key (`Kind.VOUCHER`)."""

    lane: LaneIdField
    contract_id: ContractIdField
    """The contract whose audit raised the amount."""
    revision: Unsigned
    counter: Unsigned
    """Grows by one with every voucher of the lane: the audit counter."""
    amount: Unsigned
    """Nanocredits since the lane was opened first; never resets, never falls."""


def sign_voucher(key: SigningKey, voucher: Voucher) -> Signed:
    """Sign with the payment key. Persist the result before sending it."""
    return Signed.make(key, Kind.VOUCHER, voucher)


def open_voucher(signed: Signed, payer: PublicKey, lane: LaneId) -> Voucher:
    """The voucher, if `payer` signed it for `lane`. Raises BadSignature, ProtocolViolation."""
    voucher = signed.open(payer, Kind.VOUCHER, Voucher)
    if voucher.lane != lane:
        raise ProtocolViolation("the voucher is for another lane")
    return voucher


def better(a: Voucher, b: Voucher) -> Voucher:
    """The one that counts: the higher amount, then the higher counter; `a` if they are equal.

    Raises ValueError for vouchers of two lanes.
    """
    if a.lane != b.lane:
        raise ValueError("vouchers of different lanes cannot be compared")
    return b if (b.amount, b.counter) > (a.amount, a.counter) else a


def may_follow(before: Voucher | None, after: Voucher) -> bool:
    """Whether a payer that has signed `before` may sign `after`: counter up, amount not down, same lane."""
    if before is None:
        return True
    return after.lane == before.lane and after.counter > before.counter and after.amount >= before.amount


class Tally(Struct, frozen=True, array_like=True):
    """What was earned on a lane: whole nanocredits, and `carry` parts (under PARTS) of the next one."""

    amount: int = 0
    carry: int = 0

    def plus(self, parts: int) -> "Tally":
        """This tally and `parts` more, `parts` >= 0."""
        whole, carry = divmod(self.carry + parts, PARTS)
        return Tally(self.amount + whole, carry)

    def with_proofs(self, terms: Terms, sealed_bytes: int) -> "Tally":
        """After passed proofs of shards of `sealed_bytes` in all, each worth one audit period."""
        return self.plus(terms.price * sealed_bytes * terms.audit_period)

    def with_egress(self, terms: Terms, sent: int) -> "Tally":
        """After `sent` bytes of shards went to the renter."""
        return self.plus(terms.egress_price * sent * MONTH)

    def to_bytes(self) -> bytes:
        return encode(self)


def price_of_audit(terms: Terms, sealed_bytes: int, audits: int = 1, carry: int = 0) -> tuple[int, int]:
    """`(nanocredits, carry)` for `audits` passed proofs of shards of `sealed_bytes` in all.

    `carry` is what the call before returned, so that the sum over many calls is exact.
    """
    tally = Tally(0, carry).plus(terms.price * sealed_bytes * terms.audit_period * audits)
    return tally.amount, tally.carry


def price_of_term(terms: Terms, sealed_bytes: int) -> int:
    """Nanocredits, rounded up, that `sealed_bytes` kept from start to end can cost without egress."""
    parts = terms.price * sealed_bytes * (terms.end - terms.start)
    return -(-parts // PARTS)
