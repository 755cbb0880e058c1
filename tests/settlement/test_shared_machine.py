"""Random orders, in transactions of several, at a served ledger; and any of them played back at any time."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from storjfs.protocol.ids import ContractId, LaneId, NodeId, lane_id
from storjfs.protocol.ledger import (
    AskBalance,
    AskLanes,
    Claim,
    CloseLane,
    Extend,
    LedgerOrder,
    OpenLane,
    Refund,
    TopUp,
    Transfer,
    Wanted,
    open_order,
    sign_order,
)
from storjfs.protocol.signing import Signed, SigningKey
from storjfs.protocol.vouchers import Voucher, sign_voucher
from storjfs.settlement.shared import SharedLedger

NODE = NodeId(b"n" * 32)
PEOPLE = [SigningKey(bytes([number]) * 32) for number in range(1, 5)]
FIRST = 100
PERSON = st.integers(0, len(PEOPLE) - 1)
AMOUNT = st.integers(1, 60)


def name(payer: int, payee: int) -> LaneId:
    return lane_id(f"ledger:{NODE.hex()}", PEOPLE[payer].public, PEOPLE[payee].public)


def voucher(payer: int, payee: int, amount: int, signer: int) -> Signed:
    return sign_voucher(PEOPLE[signer], Voucher(name(payer, payee), ContractId(bytes(32)), 0, amount, amount))


LANE = st.builds(name, PERSON, PERSON)
WANTED: st.SearchStrategy[Wanted] = st.one_of(
    st.builds(
        lambda payer, payee, amount, expiry: OpenLane(
            PEOPLE[payer].public, PEOPLE[payee].public, amount, expiry
        ),
        *(PERSON, PERSON, AMOUNT, st.integers(0, 20)),
    ),
    st.builds(TopUp, LANE, AMOUNT),
    st.builds(Extend, LANE, st.integers(0, 20)),
    st.builds(Claim, st.builds(voucher, PERSON, PERSON, st.integers(0, 150), PERSON)),
    st.builds(CloseLane, LANE, st.none() | st.builds(voucher, PERSON, PERSON, AMOUNT, PERSON)),
    st.builds(Refund, LANE),
    st.builds(lambda target, amount: Transfer(PEOPLE[target].public, amount), PERSON, AMOUNT),
)
ORDERS = st.lists(st.tuples(PERSON, st.integers(0, 30), WANTED), min_size=1, max_size=6)


class SharedMachine(RuleBasedStateMachine):
    """`done`: orders that were carried out."""

    @initialize()
    def found(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.time = 0
        self.ledger = SharedLedger(self.folder / "ledger.db", NODE, clock=lambda: self.time)
        self.done: list[Signed] = []
        for person in PEOPLE:
            self.ledger.issue(person.public, FIRST)

    def hand_in(self, orders: list[Signed]) -> list[Any]:
        outcomes, head = self.ledger.answer([(open_order(one, NODE), one) for one in orders])
        assert head == self.ledger.head()
        return outcomes

    @rule(orders=ORDERS)
    def new_orders(self, orders: list[tuple[int, int, Wanted]]) -> None:
        signed = [
            sign_order(PEOPLE[who], LedgerOrder(NODE, PEOPLE[who].public, b"%d" % number, wanted))
            for who, number, wanted in orders
        ]
        for one, outcome in zip(signed, self.hand_in(signed), strict=True):
            if outcome.refused is None:
                self.done.append(one)

    @rule(data=st.data())
    def orders_played_back(self, data: st.DataObject) -> None:
        if self.done:
            before = self.state()
            self.hand_in(data.draw(st.lists(st.sampled_from(self.done), min_size=1, max_size=6)))
            assert self.state() == before

    @rule(seconds=st.integers(1, 6))
    def time_passes(self, seconds: int) -> None:
        self.time += seconds

    @rule()
    def started_again(self) -> None:
        self.ledger.close_file()
        self.ledger = SharedLedger(self.folder / "ledger.db", NODE, clock=lambda: self.time)

    def state(self) -> object:
        asked = [
            sign_order(person, LedgerOrder(NODE, person.public, b"?", wanted))
            for person in PEOPLE
            for wanted in (AskBalance(), AskLanes())
        ]
        return self.hand_in(asked), self.ledger.head()

    @invariant()
    def books_balance(self) -> None:
        assert self.ledger.check() == []

    @invariant()
    def no_money_came_or_went(self) -> None:
        balances = sum(self.ledger.balance(person.public) for person in PEOPLE)
        lanes = {one.lane_id: one for person in PEOPLE for one in self.ledger.lanes(person.public)}
        assert all(0 <= one.claimed <= one.deposit for one in lanes.values())
        assert balances + sum(one.unclaimed for one in lanes.values()) == FIRST * len(PEOPLE)

    def teardown(self) -> None:
        self.ledger.close_file()
        shutil.rmtree(self.folder)


TestSharedMachine = SharedMachine.TestCase
TestSharedMachine.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
