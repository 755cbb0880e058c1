"""What a renter owes on one lane, as the farmer counts it, and when service stops. Pure.

Both sides count for themselves, and both may lose a little (a renter that crashed forgets egress that no
voucher covered yet; an audit answered too late is not paid). So that such a difference does not stop a pair
for ever, a bounded part is forgiven: of audits two batches and an eighth of what was ever paid for audits, of
egress four times the credit and a quarter of what was ever paid for it.
"""

from typing import Self

from msgspec import Struct
from msgspec.structs import replace

from storjfs.protocol.encoding import decode, encode
from storjfs.protocol.terms import MONTH, Terms
from storjfs.protocol.vouchers import EGRESS_CREDIT, PARTS, UNPAID_AUDITS_LIMIT, Tally

ROUNDING = 1
"""Nanocredits by which the two sides' sums may differ: they carry parts of one at different places."""


class Bill(Struct, frozen=True, array_like=True):
    """An answered audit batch that no voucher has covered yet."""

    contract: int
    epoch: int
    price: int


class LaneAccount(Struct, frozen=True, array_like=True):
    """Amounts in nanocredits since the lane's first day, egress in bytes."""

    proofs: Tally = Tally()
    """Earned by proofs."""
    egress: Tally = Tally()
    """Earned by egress."""
    paid: int = 0
    """Amount of the best voucher."""
    counter: int = 0
    """Counter of the best voucher."""
    credit: int = 0
    """Part of `paid` that no bill has used up."""
    proofs_paid: int = 0
    egress_paid: int = 0
    forgiven: int = 0
    largest: int = 0
    """The largest bill there was."""
    bills: tuple[Bill, ...] = ()
    sent: int = 0
    """Bytes sent since the best voucher came."""

    @property
    def unpaid_audits(self) -> int:
        return len(self.bills)

    @property
    def serving(self) -> bool:
        """Whether the renter has paid enough to be served."""
        return len(self.bills) < UNPAID_AUDITS_LIMIT

    @property
    def egress_owed(self) -> int:
        return self.egress.amount - self.egress_paid

    def may_send(self, terms: Terms, count: int) -> bool:
        """Whether `count` more bytes may go out before the next voucher."""
        if terms.egress_price == 0:
            return True
        leeway = egress_price(terms, 4 * EGRESS_CREDIT) + self.egress_paid // 4
        owed = self.egress_owed + egress_price(terms, count)
        within_credit = self.sent + count <= EGRESS_CREDIT
        return within_credit and owed <= egress_price(terms, EGRESS_CREDIT) + leeway

    def with_audit(self, terms: Terms, contract: int, epoch: int, proved: int) -> tuple[Self, int]:
        """After a batch was answered that proves `proved` sealed bytes; and its price."""
        proofs = self.proofs.with_proofs(terms, proved)
        price = proofs.amount - self.proofs.amount
        if terms.price == 0 or proved == 0:
            return replace(self, proofs=proofs), price
        bills = (*self.bills, Bill(contract, epoch, price))
        return replace(self, proofs=proofs, bills=bills, largest=max(self.largest, price)), price

    def with_egress(self, parts: int, count: int) -> Self:
        """After `count` bytes went out, worth `parts` (protocol.vouchers.PARTS)."""
        return replace(self, egress=self.egress.plus(parts), sent=self.sent + count)

    def with_voucher(self, amount: int, counter: int) -> Self:
        """After a better voucher than the best came: `amount` not below `paid`."""
        if amount < self.paid:
            raise ValueError("a voucher's amount never falls")
        credit = self.credit + amount - self.paid
        proofs_paid, bills = self.proofs_paid, list(self.bills)
        while bills and credit + ROUNDING >= bills[0].price:
            price = bills.pop(0).price
            credit = max(credit - price, 0)
            proofs_paid += price
        forgiven = self.forgiven
        rest = sum(bill.price for bill in bills)
        if len(bills) < len(self.bills) and forgiven + rest <= 2 * self.largest + proofs_paid // 8:
            forgiven, bills = forgiven + rest, []
        for_egress = min(credit, self.egress_owed)
        return replace(
            self,
            paid=amount,
            counter=counter,
            credit=credit - for_egress,
            proofs_paid=proofs_paid,
            egress_paid=self.egress_paid + for_egress,
            forgiven=forgiven,
            bills=tuple(bills),
            sent=0,
        )

    def without_contract(self, contract: int) -> Self:
        """After a contract of the lane has ended: its bills are given up."""
        return replace(self, bills=tuple(bill for bill in self.bills if bill.contract != contract))

    def to_bytes(self) -> bytes:
        return encode(self)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        return decode(data, cls)


def egress_parts(terms: Terms, count: int) -> int:
    """What `count` bytes sent are worth, in parts of a nanocredit (protocol.vouchers.PARTS)."""
    return terms.egress_price * count * MONTH


def egress_price(terms: Terms, count: int) -> int:
    """The same in nanocredits, rounded down."""
    return egress_parts(terms, count) // PARTS
