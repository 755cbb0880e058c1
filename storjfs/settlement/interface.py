"""What renters and farmers may ask of any settlement, whatever keeps the accounts behind it."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from storjfs.errors import StorjfsError
from storjfs.protocol.ids import LaneId, PublicKey
from storjfs.protocol.signing import Signed
from storjfs.settlement.money import Currency, Units


class SettlementError(StorjfsError):
    """The settlement refused, and nothing was changed; but see SettlementUnreachable."""


class SettlementUnreachable(SettlementError):
    """No answer came: what was asked may have happened or not. To be repeated, with the same order."""


class SettlementFull(SettlementError):
    """The disk that the accounts lie on is full, or a quota used up: the same may be asked again later."""


class InsufficientBalance(SettlementError):
    """The account holds less than what the transfer or deposit needs."""


class UnknownLane(SettlementError):
    """No lane of this id was ever opened."""


class LaneClosed(SettlementError):
    """The lane was closed or refunded already."""


class ClaimRefused(SettlementError):
    """A voucher that is wrongly signed, lower than one claimed before, or above the deposit."""


class NotAllowed(SettlementError):
    """This key may not do that (issue, close, refund), or not yet."""


class OrderConflict(SettlementError):
    """An order id was used before, for something else."""


class LaneState(StrEnum):
    """`OPEN` accepts vouchers; `CLOSED` (by the payee) and `REFUNDED` (after expiry) are final."""

    OPEN = "open"
    CLOSED = "closed"
    REFUNDED = "refunded"


@dataclass(frozen=True, slots=True)
class Lane:
    """One payment channel as the settlement sees it.

    Amounts are totals since the lane was opened first: vouchers up to `deposit` are covered, `claimed` of it
    went to the payee. Where a lane ends, `deposit` falls to `claimed`; opened again, it goes on from there.
    """

    lane_id: LaneId
    payer: PublicKey
    """Signs the vouchers."""
    payee: PublicKey
    source: PublicKey
    """The account that deposits are taken from and the rest returns to."""
    deposit: Units
    claimed: Units
    expiry: int
    """Until then the deposit is the payee's to claim; seconds since 1970."""
    state: LaneState

    @property
    def unclaimed(self) -> Units:
        """What vouchers can still move to the payee."""
        return Units(self.deposit - self.claimed)


@dataclass(frozen=True, slots=True)
class Movement:
    """One line of an account's history: `amount` units came in (or, if negative, went out) at `time`."""

    transfer: int
    time: int
    kind: str
    amount: int
    lane_id: LaneId | None
    memo: str


class Settlement(Protocol):
    """Accounts and lanes. All calls block (disk or network): call them in a worker thread.

    Every call either happens entirely and durably, or raises SettlementError and changes nothing (where it
    raises SettlementUnreachable it is not known which). `order` is an idempotency key of 1 to 64 bytes: a
    call repeated with the order of one that already happened (say, after a crash before the answer was
    stored) changes nothing and gives the same answer again. Times are seconds since 1970, UTC.
    """

    currency: Currency

    @property
    def name(self) -> str:
        """How offers, terms and lane ids name this settlement."""

    def balance(self, account: PublicKey) -> Units:
        """What the account can spend now; 0 for a key never seen. Deposits are not part of it."""

    def history(self, account: PublicKey, *, limit: int = 100, before: int | None = None) -> list[Movement]:
        """The newest movements first; `before` continues from the transfer number of the last one seen."""

    def transfer(
        self, source: PublicKey, target: PublicKey, amount: int, *, memo: str = "", order: bytes | None = None
    ) -> None:
        """Move `amount` units. Raises InsufficientBalance."""

    def open_lane(
        self,
        payer: PublicKey,
        payee: PublicKey,
        deposit: int,
        expiry: int,
        *,
        source: PublicKey | None = None,
        order: bytes | None = None,
    ) -> LaneId:
        """Reserve `deposit` units of `source` (default: the payer) for the payer's vouchers until `expiry`.

        The id is `ids.lane_id(name, payer, payee)`. Where that lane is open already this is a top-up and an
        extension; where it had ended it opens again, and its totals go on. Raises InsufficientBalance.
        """

    def top_up(self, lane_id: LaneId, amount: int, *, order: bytes | None = None) -> Lane:
        """Add `amount` units from the source to the deposit. Raises LaneClosed, InsufficientBalance."""

    def extend(self, lane_id: LaneId, expiry: int) -> Lane:
        """Move the expiry later; an earlier one than now agreed is ignored, so it never shortens."""

    def lane(self, lane_id: LaneId) -> Lane:
        """The lane's state now. Raises UnknownLane."""

    def lanes(self, account: PublicKey) -> list[Lane]:
        """All lanes that this key funds, signs for or is paid from, oldest first."""

    def claim(self, voucher: Signed) -> Lane:
        """Pay the payee what the voucher promises beyond what was claimed.

        A voucher of exactly the claimed amount changes nothing. Raises ClaimRefused, LaneClosed, UnknownLane.
        """

    def close(self, lane_id: LaneId, by: PublicKey, voucher: Signed | None = None) -> Lane:
        """The payee ends the lane: `voucher` is claimed first, the rest goes back to the payer."""

    def refund(self, lane_id: LaneId) -> Lane:
        """After the expiry: end the lane and return the rest to the payer. Raises NotAllowed before it."""

    def close_file(self) -> None:
        """Give up the file or the connection. The object cannot be used any further."""
