"""Amounts of money: always whole numbers of a currency's smallest unit, never floats."""

from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import NewType

from storjfs.errors import StorjfsError

Units = NewType("Units", int)
"""An amount in the smallest unit of its currency."""

MAX_AMOUNT = (1 << 63) - 1
"""The largest amount that SQLite, and a voucher's u64, both hold."""


class AmountError(StorjfsError, ValueError):
    """A text that is no amount, or an amount that is negative, too large or finer than the smallest unit."""


@dataclass(frozen=True, slots=True)
class Currency:
    """What amounts on one settlement are counted in: `decimals` has its smallest unit."""

    name: str
    plural: str
    decimals: int

    def parse(self, text: str) -> Units:
        """`"1.5"` to units. Raises AmountError; never rounds."""
        try:
            value = Decimal(text.strip())
            scaled = value.scaleb(self.decimals)
            whole = int(scaled)
        except (InvalidOperation, ValueError, OverflowError):
            raise AmountError(f"{text!r} is not an amount of {self.plural}") from None
        if scaled != whole:
            raise AmountError(f"{text!r} has more than {self.decimals} decimals")
        return checked_amount(whole)

    def format(self, amount: int, *, places: int | None = None) -> str:
        """Units to text with the currency's name.

        Without `places` the text is exact and without trailing zeros; with it, cut (not rounded) to so many.
        """
        sign = "-" if amount < 0 else ""
        whole, rest = divmod(abs(amount), 10**self.decimals)
        decimals = f"{rest:0{self.decimals}d}" if self.decimals else ""
        decimals = decimals.rstrip("0") if places is None else decimals[:places]
        number = f"{sign}{whole}.{decimals}" if decimals else f"{sign}{whole}"
        return f"{number} {self.name if number == '1' else self.plural}"


CREDIT = Currency("credit", "credits", 9)
"""The ledger's own currency: 1 credit = 10^9 units."""

UNITS_PER_CREDIT = 10**CREDIT.decimals


def checked_amount(amount: int) -> Units:
    """The amount itself; raises AmountError if it is negative or too large for ledger and vouchers."""
    if not 0 <= amount <= MAX_AMOUNT:
        raise AmountError(f"{amount} units is not an amount: it must lie between 0 and {MAX_AMOUNT}")
    return Units(amount)
