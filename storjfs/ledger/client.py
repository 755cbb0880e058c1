"""A served ledger as a `Settlement`: each call is a signed order, each answer a signed statement."""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from storjfs.errors import StorjfsError
from storjfs.ledger.line import Line
from storjfs.ledger.memory import Memory
from storjfs.network.failures import PeerUnreachable, RequestTimeout
from storjfs.protocol.failures import ErrorCode, ProtocolViolation, RequestFailed, plain
from storjfs.protocol.ids import LaneId, PublicKey, lane_id
from storjfs.protocol.ledger import (
    PAGE,
    AskBalance,
    AskHistory,
    AskLane,
    AskLanes,
    Claim,
    CloseLane,
    Extend,
    LaneFacts,
    LedgerOrder,
    OpenLane,
    Refund,
    Statement,
    TopUp,
    Transfer,
    Wanted,
    open_statement,
    sign_order,
)
from storjfs.protocol.messages import Settle
from storjfs.protocol.signing import Signed, SigningKey
from storjfs.settlement import (
    CREDIT,
    Currency,
    Lane,
    LaneState,
    Movement,
    NotAllowed,
    ServedAt,
    SettlementError,
    SettlementFull,
    SettlementUnreachable,
    Units,
)
from storjfs.settlement.books import positive
from storjfs.settlement.shared import CODES

PAUSE: Final = 2.0
"""Seconds after a question without an answer in which others fail at once."""
_KINDS: Final = {code: kind for kind, code in CODES.items()}
_LAST: Final = 2**63 - 1


class ServedLedger:
    """The ledger at `at`, for the account of `key`. A `Settlement`; nothing is dialled before it is asked.

    It does for that account alone: whatever would be another's raises NotAllowed. Raises
    SettlementUnreachable where no answer comes.
    """

    currency: Currency = CREDIT

    def __init__(
        self,
        at: ServedAt,
        key: SigningKey,
        memory: Path | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`memory`: a file in which the newest statement is kept."""
        self.at = at
        self.account = key.public
        self._key = key
        self._clock = clock
        self._line = Line(at)
        self._turn = threading.Lock()
        self._memory = Memory(at.node_id, memory)
        self._trouble = ""
        self._pause_until = float("-inf")

    @property
    def name(self) -> str:
        return self.at.name

    def close_file(self) -> None:
        """Hang up."""
        self._line.close()
        self._memory.keep()

    # --- accounts ---

    def balance(self, account: PublicKey) -> Units:
        self._own(account)
        return Units(self._ask(AskBalance()).balance)

    def history(self, account: PublicKey, *, limit: int = 100, before: int | None = None) -> list[Movement]:
        self._own(account)
        found: list[Movement] = []
        last = _LAST if before is None else before
        while len(found) < limit:
            size = min(limit - len(found), PAGE)
            page = self._ask(AskHistory(last, size)).movements
            found += [
                Movement(one.transfer, one.time, one.kind, one.amount, one.lane, one.memo) for one in page
            ]
            if len(page) < size:
                break
            last = page[-1].transfer
        return found

    def transfer(
        self, source: PublicKey, target: PublicKey, amount: int, *, memo: str = "", order: bytes | None = None
    ) -> None:
        positive(amount)
        self._own(source)
        self._ask(Transfer(target, amount, memo[:256]), order)

    # --- lanes ---

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
        positive(deposit)
        self._own(source or payer)
        self._ask(OpenLane(payer, payee, deposit, expiry), order)
        return lane_id(self.name, payer, payee)

    def top_up(self, lane_id: LaneId, amount: int, *, order: bytes | None = None) -> Lane:
        positive(amount)
        return self._lane(TopUp(lane_id, amount), order)

    def extend(self, lane_id: LaneId, expiry: int) -> Lane:
        return self._lane(Extend(lane_id, expiry))

    def lane(self, lane_id: LaneId) -> Lane:
        return self._lane(AskLane(lane_id))

    def lanes(self, account: PublicKey) -> list[Lane]:
        self._own(account)
        found: list[Lane] = []
        while True:
            page = self._ask(AskLanes(len(found))).lanes
            found += map(_lane_of, page)
            if len(page) < PAGE:
                return found

    def claim(self, voucher: Signed) -> Lane:
        return self._lane(Claim(voucher))

    def close(self, lane_id: LaneId, by: PublicKey, voucher: Signed | None = None) -> Lane:
        self._own(by)
        return self._lane(CloseLane(lane_id, voucher))

    def refund(self, lane_id: LaneId) -> Lane:
        return self._lane(Refund(lane_id))

    # --- asking ---

    def _lane(self, wanted: Wanted, order: bytes | None = None) -> Lane:
        lanes = self._ask(wanted, order).lanes
        if len(lanes) != 1:
            raise SettlementError("the ledger's answer tells of no lane")
        return _lane_of(lanes[0])

    def _own(self, account: PublicKey) -> None:
        if account != self.account:
            raise NotAllowed("a served ledger lets nobody act for another account")

    def _ask(self, wanted: Wanted, order: bytes | None = None) -> Statement:
        order = os.urandom(16) if order is None else order
        signed = sign_order(self._key, LedgerOrder(self.at.node_id, self.account, order, wanted))
        before = self._memory.newest
        with self._turn:
            if self._clock() < self._pause_until:
                raise SettlementUnreachable(self._trouble)
        try:
            answer = self._line.ask(Settle(signed))
            statement = open_statement(answer.statement, self.at.node_id, signed)
        except (PeerUnreachable, RequestTimeout, RequestFailed, ProtocolViolation) as error:
            failure = self._failure(error)
            with self._turn:
                if isinstance(failure, SettlementUnreachable):
                    self._trouble = str(failure)
                    self._pause_until = self._clock() + PAUSE
            raise failure from error
        self._memory.take(before, statement, answer.statement)
        if statement.refused is not None:
            raise _KINDS[statement.refused.code](f"the ledger refuses: {plain(statement.refused.text)}")
        return statement

    def _failure(self, error: StorjfsError) -> SettlementError:
        if isinstance(error, RequestFailed):
            if error.code == ErrorCode.NO_SPACE:
                return SettlementFull(
                    f"the ledger at {self.at.address} has no room left on its disk",
                    hint="Its operator has to free some; nothing is lost.",
                )
            # A defect of the ledger's at one order says nothing of others: they need not wait.
            if error.code not in (ErrorCode.BUSY, ErrorCode.CANCELLED):
                return SettlementError(f"the ledger at {self.at.address} cannot be used: {error}")
        return SettlementUnreachable(
            f"the ledger at {self.at.address} cannot be asked: {error}",
            hint="Is it running, and is its address right? Whatever waits for it is done when it answers.",
        )


def _lane_of(facts: LaneFacts) -> Lane:
    # Who funds a lane is told to nobody else; for others it is as good as the payer.
    return Lane(
        facts.lane,
        facts.payer,
        facts.payee,
        facts.source or facts.payer,
        Units(facts.deposit),
        Units(facts.claimed),
        facts.expiry,
        LaneState(facts.state),
    )
