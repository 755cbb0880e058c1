"""The embedded settlement: a double-entry ledger in one SQLite file, shared by processes of one machine.

Whoever may write the file (mode 0600) is trusted with the accounts; what it protects against is mistakes,
crashes and processes at the same time, and vouchers that were never signed. Money comes into being only by
`issue`, which needs the operator's seed, a file beside the ledger.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from storjfs.protocol.failures import ProtocolViolation
from storjfs.protocol.ids import LaneId, PublicKey, lane_id, short
from storjfs.protocol.signing import Signed
from storjfs.protocol.vouchers import Voucher, open_voucher
from storjfs.settlement.books import Books, positive
from storjfs.settlement.interface import (
    ClaimRefused,
    Lane,
    LaneClosed,
    LaneState,
    NotAllowed,
    SettlementError,
    UnknownLane,
)
from storjfs.settlement.money import Units, checked_amount


def unix_now() -> int:
    """Seconds since 1970."""
    return int(time.time())


class Ledger(Books):
    """A `Settlement` on the file at `path`, created if missing.

    Any number of processes, and any number of threads of each, may use one file; calls of one object queue up
    behind each other. Every call that changes something returns after an fsync. Raises SettlementError if
    the file is not a ledger or of a newer format.
    """

    def __init__(self, path: Path, *, clock: Callable[[], int] = unix_now) -> None:
        super().__init__(path, clock)

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
        source = source or payer
        name = lane_id(self.name, payer, payee)
        what = ("open", name, source, deposit, expiry)
        with self._writing():
            if self._repeated(order, *what):
                return name
            self._make_lane(name, payer, payee, source)
            lane = self._lane(name)
            if lane.source != source:
                if lane.state is LaneState.OPEN:
                    raise SettlementError("this lane is open already and funded from another account")
                self._run("UPDATE lane SET source = ? WHERE lane = ?", self._account("person", source), name)
            self._run(
                "UPDATE lane SET state = 'open', expiry = CASE state WHEN 'open' THEN max(expiry, ?) "
                "ELSE ? END WHERE lane = ?",
                expiry,
                expiry,
                name,
            )
            self._deposit(name, deposit, "open", order, what)
        return name

    def top_up(self, lane_id: LaneId, amount: int, *, order: bytes | None = None) -> Lane:
        positive(amount)
        what = ("top-up", lane_id, amount)
        with self._writing():
            if not self._repeated(order, *what):
                self._open_lane(lane_id)
                self._deposit(lane_id, amount, "top-up", order, what)
            return self._lane(lane_id)

    def extend(self, lane_id: LaneId, expiry: int) -> Lane:
        with self._writing():
            self._open_lane(lane_id)
            self._run("UPDATE lane SET expiry = max(expiry, ?) WHERE lane = ?", expiry, lane_id)
            return self._lane(lane_id)

    def lane(self, lane_id: LaneId) -> Lane:
        with self._reading():
            return self._lane(lane_id)

    def lanes(self, account: PublicKey) -> list[Lane]:
        with self._reading():
            rows = self._run(
                "SELECT lane FROM lane WHERE (SELECT account FROM account WHERE kind = 'person' AND key = ?) "
                "IN (payer, payee, source) ORDER BY number",
                account,
            )
            return [self._lane(LaneId(row[0])) for row in rows]

    def claim(self, voucher: Signed) -> Lane:
        with self._writing():
            return self._claim(voucher)

    def close(self, lane_id: LaneId, by: PublicKey, voucher: Signed | None = None) -> Lane:
        with self._writing():
            lane = self._lane(lane_id)
            if by != lane.payee:
                raise NotAllowed("only the payee can close a lane; the payer gets a refund after its expiry")
            if lane.state is not LaneState.OPEN:
                return lane
            if voucher is not None and self._claim(voucher).lane_id != lane_id:
                raise ClaimRefused("the voucher is for another lane")
            return self._end(lane_id, LaneState.CLOSED)

    def refund(self, lane_id: LaneId) -> Lane:
        with self._writing():
            lane = self._lane(lane_id)
            if lane.state is not LaneState.OPEN:
                return lane
            if self._clock() <= lane.expiry:
                raise NotAllowed("the deposit belongs to the lane until its expiry")
            return self._end(lane_id, LaneState.REFUNDED)

    def _claim(self, signed: Signed) -> Lane:
        try:
            name = signed.peek(Voucher).lane
            lane = self._open_lane(name)
            voucher = open_voucher(signed, lane.payer, name)
        except ProtocolViolation as error:
            raise ClaimRefused(str(error)) from error
        due = voucher.amount - lane.claimed
        if due < 0:
            raise ClaimRefused(f"{voucher.amount} units are less than the {lane.claimed} claimed before")
        if voucher.amount > lane.deposit:
            raise ClaimRefused(f"{voucher.amount} units are more than the deposit of {lane.deposit}")
        if due == 0:
            return lane
        self._run("UPDATE lane SET claimed = ? WHERE lane = ?", voucher.amount, name)
        entries = {self._reserve(name): -due, self._account("person", lane.payee): due}
        self._book("claim", entries, what=("claim", name, due), lane=name, evidence=signed.to_bytes())
        return self._lane(name)

    def _end(self, name: LaneId, state: LaneState) -> Lane:
        lane = self._lane(name)
        if lane.unclaimed:
            entries = {
                self._reserve(name): -lane.unclaimed,
                self._account("person", lane.source): int(lane.unclaimed),
            }
            self._book("return", entries, what=("return", name, lane.unclaimed), lane=name)
        self._run("UPDATE lane SET state = ?, deposit = claimed WHERE lane = ?", state.value, name)
        return self._lane(name)

    def _deposit(
        self, name: LaneId, amount: int, kind: str, order: bytes | None, what: tuple[Any, ...]
    ) -> None:
        lane = self._lane(name)
        checked_amount(lane.deposit + amount)
        self._run("UPDATE lane SET deposit = deposit + ? WHERE lane = ?", amount, name)
        entries = {self._account("person", lane.source): -amount, self._reserve(name): amount}
        self._book(kind, entries, order=order, what=what, lane=name)

    def _make_lane(self, name: LaneId, payer: PublicKey, payee: PublicKey, source: PublicKey) -> None:
        if self._run("SELECT 1 FROM lane WHERE lane = ?", name):
            return
        self._run(
            "INSERT INTO lane(lane, account, payer, payee, source, deposit, claimed, expiry, state, number) "
            "VALUES (?, ?, ?, ?, ?, 0, 0, 0, 'closed', (SELECT coalesce(max(number), 0) + 1 FROM lane))",
            name,
            self._account("lane", name),
            self._account("person", payer),
            self._account("person", payee),
            self._account("person", source),
        )

    def _lane(self, name: LaneId) -> Lane:
        rows = self._run(
            "SELECT l.lane, payer.key, payee.key, source.key, l.deposit, l.claimed, l.expiry, l.state "
            "FROM lane AS l JOIN account AS payer ON payer.account = l.payer "
            "JOIN account AS payee ON payee.account = l.payee "
            "JOIN account AS source ON source.account = l.source WHERE l.lane = ?",
            name,
        )
        if not rows:
            raise UnknownLane(f"the ledger has no lane {short(name)}")
        name, payer, payee, source, deposit, claimed, expiry, state = rows[0]
        return Lane(name, payer, payee, source, Units(deposit), Units(claimed), expiry, LaneState(state))

    def _open_lane(self, name: LaneId) -> Lane:
        lane = self._lane(name)
        if lane.state is not LaneState.OPEN:
            raise LaneClosed(f"the lane {short(name)} is {lane.state}")
        return lane

    def _reserve(self, name: LaneId) -> int:
        return self._account("lane", name)
