"""The ledger that is served: the same books, with orders that are signed by accounts, chained one by one.

Formats and who may order what: docs/formats/ledger.md, decision 17.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from storjfs.protocol.ids import Digest, LaneId, NodeId, PublicKey, short
from storjfs.protocol.ledger import (
    PAGE,
    QUESTIONS,
    AskBalance,
    AskHistory,
    AskLane,
    AskLanes,
    Claim,
    CloseLane,
    Extend,
    LaneFacts,
    LedgerOrder,
    MovementFacts,
    OpenLane,
    Refund,
    Refusal,
    RefusalCode,
    TopUp,
    Transfer,
)
from storjfs.protocol.signing import Signed
from storjfs.settlement import schema
from storjfs.settlement.chain import LaneParties, Row, Witness, first_link, next_link, order_key
from storjfs.settlement.interface import (
    ClaimRefused,
    InsufficientBalance,
    Lane,
    LaneClosed,
    Movement,
    NotAllowed,
    OrderConflict,
    SettlementError,
    SettlementFull,
    UnknownLane,
)
from storjfs.settlement.ledger import Ledger, unix_now
from storjfs.settlement.money import AmountError
from storjfs.settlement.place import served_name

CODES: Final[dict[type[Exception], RefusalCode]] = {
    InsufficientBalance: RefusalCode.BALANCE,
    UnknownLane: RefusalCode.UNKNOWN_LANE,
    LaneClosed: RefusalCode.LANE_CLOSED,
    ClaimRefused: RefusalCode.VOUCHER,
    NotAllowed: RefusalCode.NOT_ALLOWED,
    OrderConflict: RefusalCode.ORDER,
    SettlementError: RefusalCode.OTHER,
}
"""How refusals are named on the wire."""
AUDITED_AT_ONCE: Final = 1000
"""Transfers that an audit reads before others may have the file."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one order."""

    balance: int
    refused: Refusal | None = None
    lanes: tuple[LaneFacts, ...] = ()
    movements: tuple[MovementFacts, ...] = ()


@dataclass(frozen=True, slots=True)
class Head:
    """The newest transfer and the end of the chain there."""

    number: int
    link: Digest


class SharedLedger(Ledger):
    """The books behind `storjfs ledger serve`, whose node id names them. Made if missing.

    Its transfers come from signed orders (`answer`) and from the operator (`issue`). Raises SettlementError
    where the file is another node's or an embedded ledger.
    """

    _application_id = schema.SERVED_APPLICATION_ID

    def __init__(self, path: Path, node_id: NodeId, *, clock: Callable[[], int] = unix_now) -> None:
        self.node_id = node_id
        self._within: int | None = None  # the thread in whose transaction everything happens
        self._evidence: bytes | None = None
        super().__init__(path, clock=clock)

    @property
    def name(self) -> str:
        return served_name(self.node_id)

    # --- orders ---

    def answer(self, orders: Sequence[tuple[LedgerOrder, Signed]]) -> tuple[list[Outcome], Head]:
        """Carry out orders whose signatures were checked, in one transaction; durable when this returns.

        One that is refused takes back only itself. Raises SettlementError, SettlementFull where none of them
        happened.
        """
        asked = all(isinstance(order.wanted, QUESTIONS) for order, _ in orders)
        with self._reading() if asked else self._writing():
            self._within = threading.get_ident()
            try:
                outcomes = [self._outcome(order, signed) for order, signed in orders]
                return outcomes, self.head()
            finally:
                self._within = None

    def _outcome(self, order: LedgerOrder, signed: Signed) -> Outcome:
        self._evidence = signed.to_bytes()
        refused: Refusal | None = None
        lanes: list[Lane | None] = []
        movements: list[Movement] = []
        try:
            if isinstance(order.wanted, QUESTIONS):
                lanes, movements = self._asked(order)
            else:
                lanes = [self._ordered(order)]
        except SettlementFull:
            raise
        except (SettlementError, AmountError) as error:
            code = CODES.get(type(error), RefusalCode.OTHER)
            refused = Refusal(code, str(error)[:256])
        finally:
            self._evidence = None
        return Outcome(
            int(self.balance(order.account)),
            refused,
            tuple(self._facts(lane, order.account) for lane in lanes if lane is not None),
            tuple(map(_movement, movements)),
        )

    def _asked(self, order: LedgerOrder) -> tuple[list[Lane | None], list[Movement]]:
        match order.wanted:
            case AskLane(name):
                return [self._party(name, order.account)], []
            case AskLanes(skip):
                return [*self._page(order.account, skip)], []
            case AskHistory(before, limit):
                return [], self.history(order.account, limit=limit, before=before)
        assert isinstance(order.wanted, AskBalance)
        return [], []

    def _ordered(self, order: LedgerOrder) -> Lane | None:
        account, wanted = order.account, order.wanted
        key = order_key(account, order.order)
        match wanted:
            case OpenLane(payer, payee, deposit, expiry):
                return self._lane(self.open_lane(payer, payee, deposit, expiry, source=account, order=key))
            case TopUp(name, amount):
                self._source(name, account)
                return self.top_up(name, amount, order=key)
            case Extend(name, expiry):
                self._source(name, account)
                return self._once("extend", name, key, expiry, lambda: self.extend(name, expiry))
            case Claim(voucher):
                return self.claim(voucher)
            case CloseLane(name, last):
                said = None if last is None else last.to_bytes()
                return self._once("close", name, key, said, lambda: self.close(name, account, last))
            case Refund(name):
                self._party(name, account)
                return self._once("refund", name, key, None, lambda: self.refund(name))
        assert isinstance(wanted, Transfer)
        self.transfer(account, wanted.target, wanted.amount, memo=wanted.memo, order=key)
        return None

    def _once(self, kind: str, name: LaneId, order: bytes, said: object, change: Callable[[], Lane]) -> Lane:
        """What moves nothing, or not for sure: a transfer without entries remembers that it was done."""
        what = (kind, name, said)
        with self._writing():
            if self._repeated(order, *what):
                return self._lane(name)
            lane = change()
            self._book(kind, {}, what=what, order=order, lane=name)
            return lane

    def _party(self, name: LaneId, account: PublicKey) -> Lane:
        lane = self._lane(name)
        if account not in (lane.source, lane.payer, lane.payee):
            raise UnknownLane(f"the ledger has no lane {short(name)} of this account")
        return lane

    def _source(self, name: LaneId, account: PublicKey) -> None:
        if self._party(name, account).source != account:
            raise NotAllowed("only the account that funds a lane can add to it or bind it for longer")

    def _page(self, account: PublicKey, skip: int) -> list[Lane]:
        rows = self._run(
            "SELECT lane FROM lane WHERE (SELECT account FROM account WHERE kind = 'person' AND key = ?) "
            "IN (payer, payee, source) ORDER BY number LIMIT ? OFFSET ?",
            account,
            PAGE,
            skip,
        )
        return [self._lane(LaneId(row[0])) for row in rows]

    @staticmethod
    def _facts(lane: Lane, account: PublicKey) -> LaneFacts:
        return LaneFacts(
            lane.lane_id,
            lane.payer,
            lane.payee,
            lane.source if lane.source == account else None,
            int(lane.deposit),
            int(lane.claimed),
            lane.expiry,
            lane.state.value,
        )

    # --- for its operator ---

    def people(self) -> list[tuple[PublicKey, int]]:
        """All accounts with what they hold, in the order in which they came."""
        rows = self._read("SELECT key, balance FROM account WHERE kind = 'person' ORDER BY account")
        return [(PublicKey(key), balance) for key, balance in rows]

    def all_lanes(self) -> list[Lane]:
        """In the order of their first opening."""
        with self._reading():
            return [self._lane(LaneId(row[0])) for row in self._run("SELECT lane FROM lane ORDER BY number")]

    # --- the chain ---

    def head(self) -> Head:
        """The newest transfer."""
        rows = self._read("SELECT transfer, link FROM chain ORDER BY transfer DESC LIMIT 1")
        if not rows:
            return Head(0, first_link(self.node_id, self.operator, self._ledger_id))
        return Head(rows[0][0], Digest(rows[0][1]))

    def _book(self, kind: str, entries: dict[int, int], **rest: Any) -> None:
        if rest.get("evidence") is None:
            rest["evidence"] = self._evidence
        within, self._within = self._within, threading.get_ident()
        try:
            super()._book(kind, entries, **rest)
            head = self.head()
            (newest,) = self._rows("WHERE transfer = (SELECT max(transfer) FROM transfer)")
            self._run("INSERT INTO chain VALUES (?, ?)", newest.transfer, next_link(head.link, newest))
        finally:
            self._within = within

    def _rows(self, where: str, *values: Any) -> Iterator[Row]:
        sql = f"SELECT transfer, time, kind, order_id, digest, lane, memo, evidence FROM transfer {where}"
        found: Any = self._connection.execute(sql, values)
        for number, when, kind, order, digest, lane, memo, evidence in found:
            entries: Any = self._run(
                "SELECT a.kind, a.key, e.amount FROM entry AS e JOIN account AS a USING (account) "
                "WHERE e.transfer = ? ORDER BY a.kind, a.key",
                number,
            )
            yield Row(number, when, kind, order, digest, lane, memo, evidence, tuple(entries))

    def check(self) -> list[str]:
        """As of any ledger; and the chain, link by link, and that each transfer was signed by who could.

        Others may go on meanwhile: what they add is looked at too.
        """
        return super().check() + self._check_chain()

    def _check_chain(self) -> list[str]:
        link = first_link(self.node_id, self.operator, self._ledger_id)
        witness = Witness(self.node_id, self._ledger_id, self.operator)
        last = 0
        while page := self._links(last):
            for row, found, parties in page:
                link, last = next_link(link, row), row.transfer
                if found != link:
                    return [f"the chain breaks at transfer {row.transfer}: it or one before was changed"]
                if objection := witness.objection(row, parties):
                    return [f"transfer {row.transfer} ({row.kind}): {objection}"]
        sql = "SELECT min(transfer) FROM chain WHERE transfer NOT IN (SELECT transfer FROM transfer)"
        ((missing,),) = self._read(sql)
        return [] if missing is None else [f"transfer {missing} is in the chain and gone from the books"]

    def _links(self, after: int) -> list[tuple[Row, bytes | None, LaneParties | None]]:
        """The next transfers with their links and who is a party to their lanes."""
        with self._reading():
            page = []
            for row in self._rows("WHERE transfer > ? ORDER BY transfer LIMIT ?", after, AUDITED_AT_ONCE):
                links = self._run("SELECT link FROM chain WHERE transfer = ?", row.transfer)
                lane = None if row.lane is None else self._lane(row.lane)
                parties = None if lane is None else LaneParties(lane.payer, lane.payee)
                page.append((row, links[0][0] if links else None, parties))
            return page

    # --- the file ---

    @contextmanager
    def _writing(self) -> Iterator[None]:
        if self._within != threading.get_ident():
            with super()._writing():
                yield
            return
        self._run("SAVEPOINT one")
        try:
            yield
        except BaseException:
            if self._connection.in_transaction:  # else the disk has failed, and all of it is taken back
                self._run("ROLLBACK TO one")
                self._run("RELEASE one")
            raise
        self._run("RELEASE one")

    @contextmanager
    def _reading(self) -> Iterator[None]:
        if self._within == threading.get_ident():
            yield
        else:
            with super()._reading():
                yield

    def _founded(self) -> tuple[bytes, PublicKey]:
        found = super()._founded()
        self._run(schema.CHAIN)
        rows = self._run("SELECT node_id FROM served")
        if not rows:
            self._run("INSERT INTO served VALUES (1, ?)", self.node_id)
        elif rows[0][0] != self.node_id:
            raise SettlementError(
                f"{self.path} belongs to the node {short(rows[0][0])}, not to {short(self.node_id)}",
                hint="Put back the identity file that was beside it.",
            )
        return found


def _movement(one: Movement) -> MovementFacts:
    return MovementFacts(one.transfer, one.time, one.kind, one.amount, one.lane_id, one.memo[:256])
