"""Random orders at two ledgers on one file, beside a model that is nothing but numbers."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from storjfs.protocol.ids import ContractId, LaneId, lane_id
from storjfs.protocol.signing import SigningKey
from storjfs.protocol.vouchers import Voucher, sign_voucher
from storjfs.settlement import LaneState, Ledger, SettlementError

PEOPLE = [SigningKey(bytes([number]) * 32) for number in range(1, 5)]
PERSON = st.integers(0, len(PEOPLE) - 1)
AMOUNT = st.integers(1, 50)


class LedgerMachine(RuleBasedStateMachine):
    """`deposits`, `claimed`, `expiry` and `open` of each lane, and each person's balance."""

    @initialize()
    def found(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.time = 0
        self.ledgers = [Ledger(self.folder / "ledger.db", clock=lambda: self.time) for _ in range(2)]
        self.turn = 0
        self.balance = [100] * len(PEOPLE)
        self.lanes: dict[tuple[int, int], dict[str, Any]] = {}
        for person in PEOPLE:
            self.ledger.issue(person.public, 100)

    @property
    def ledger(self) -> Ledger:
        self.turn += 1
        return self.ledgers[self.turn % 2]

    def name(self, pair: tuple[int, int]) -> LaneId:
        return lane_id(self.ledger.name, PEOPLE[pair[0]].public, PEOPLE[pair[1]].public)

    def happens(self, expected: bool, order: Any) -> None:
        """`order()` succeeds exactly where the model says so."""
        try:
            order()
        except SettlementError:
            assert not expected
        else:
            assert expected

    @rule(source=PERSON, receiver=PERSON, amount=AMOUNT)
    def transfer(self, source: int, receiver: int, amount: int) -> None:
        if source == receiver:
            return
        able = self.balance[source] >= amount
        self.happens(
            able, lambda: self.ledger.transfer(PEOPLE[source].public, PEOPLE[receiver].public, amount)
        )
        if able:
            self.balance[source] -= amount
            self.balance[receiver] += amount

    @rule(payer=PERSON, payee=PERSON, amount=AMOUNT, life=st.integers(0, 5))
    def open_lane(self, payer: int, payee: int, amount: int, life: int) -> None:
        able = self.balance[payer] >= amount
        keys = PEOPLE[payer].public, PEOPLE[payee].public
        expiry = self.time + life
        self.happens(able, lambda: self.ledger.open_lane(*keys, amount, expiry))
        if not able:
            return
        self.balance[payer] -= amount
        new = {"deposit": 0, "claimed": 0, "expiry": 0, "open": False}
        lane = self.lanes.setdefault((payer, payee), new)
        lane["deposit"] += amount
        lane["expiry"] = max(lane["expiry"], expiry) if lane["open"] else expiry
        lane["open"] = True

    @rule(data=st.data(), amount=AMOUNT)
    def top_up(self, data: st.DataObject, amount: int) -> None:
        if not self.lanes:
            return
        pair = data.draw(st.sampled_from(sorted(self.lanes)))
        lane = self.lanes[pair]
        able = lane["open"] and self.balance[pair[0]] >= amount
        self.happens(able, lambda: self.ledger.top_up(self.name(pair), amount))
        if able:
            self.balance[pair[0]] -= amount
            lane["deposit"] += amount

    @rule(data=st.data(), amount=st.integers(0, 120), forged=st.booleans())
    def claim(self, data: st.DataObject, amount: int, forged: bool) -> None:
        if not self.lanes:
            return
        pair = data.draw(st.sampled_from(sorted(self.lanes)))
        lane = self.lanes[pair]
        signer = SigningKey(b"x" * 32) if forged else PEOPLE[pair[0]]
        signed = sign_voucher(signer, Voucher(self.name(pair), ContractId(bytes(32)), 0, 0, amount))
        able = lane["open"] and not forged and lane["claimed"] <= amount <= lane["deposit"]
        self.happens(able, lambda: self.ledger.claim(signed))
        if able:
            self.balance[pair[1]] += amount - lane["claimed"]
            lane["claimed"] = amount

    @rule(data=st.data(), by_payee=st.booleans())
    def close(self, data: st.DataObject, by_payee: bool) -> None:
        if not self.lanes:
            return
        pair = data.draw(st.sampled_from(sorted(self.lanes)))
        able = by_payee or pair[0] == pair[1]
        by = PEOPLE[pair[1] if by_payee else pair[0]].public
        self.happens(able, lambda: self.ledger.close(self.name(pair), by))
        if able:
            self.end(pair)

    @rule(data=st.data())
    def refund(self, data: st.DataObject) -> None:
        if not self.lanes:
            return
        pair = data.draw(st.sampled_from(sorted(self.lanes)))
        lane = self.lanes[pair]
        able = not lane["open"] or self.time > lane["expiry"]
        self.happens(able, lambda: self.ledger.refund(self.name(pair)))
        if able:
            self.end(pair)

    def end(self, pair: tuple[int, int]) -> None:
        lane = self.lanes[pair]
        if lane["open"]:
            self.balance[pair[0]] += lane["deposit"] - lane["claimed"]
            lane.update(deposit=lane["claimed"], open=False)

    @rule(seconds=st.integers(1, 3))
    def wait(self, seconds: int) -> None:
        self.time += seconds

    @invariant()
    def books_balance(self) -> None:
        assert self.ledger.check() == []

    @invariant()
    def it_is_as_the_model_says(self) -> None:
        for person, balance in zip(PEOPLE, self.balance, strict=True):
            assert self.ledger.balance(person.public) == balance
        for pair, lane in self.lanes.items():
            seen = self.ledger.lane(self.name(pair))
            assert (seen.deposit, seen.claimed) == (lane["deposit"], lane["claimed"])
            assert (seen.expiry, seen.state is LaneState.OPEN) == (lane["expiry"], lane["open"])

    def teardown(self) -> None:
        for ledger in self.ledgers:
            ledger.close_file()
        shutil.rmtree(self.folder)


TestLedgerMachine = LedgerMachine.TestCase
TestLedgerMachine.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
