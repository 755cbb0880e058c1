"""The books of a served ledger: who may order what, that it happens once, and that a change to them shows."""

from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import pytest

from storjfs.protocol.ids import ContractId, LaneId, NodeId, PublicKey, lane_id
from storjfs.protocol.ledger import (
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
    RefusalCode,
    TopUp,
    Transfer,
    Wanted,
    sign_order,
)
from storjfs.protocol.signing import Signed, SigningKey
from storjfs.protocol.vouchers import Voucher, sign_voucher
from storjfs.settlement import Ledger, SettlementError, shared
from storjfs.settlement.shared import Outcome, SharedLedger

NOW = 1_000_000
NODE = NodeId(b"n" * 32)
SOURCE, PAYER, FARMER, OTHER = (SigningKey(letter * 32) for letter in (b"s", b"p", b"f", b"o"))


class Books:
    """A ledger, its clock, and a way to hand in orders."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.time = NOW
        self.count = 0
        self.ledger = SharedLedger(path, NODE, clock=lambda: self.time)

    def signed(
        self, key: SigningKey, wanted: Wanted, order: bytes | None = None
    ) -> tuple[LedgerOrder, Signed]:
        self.count += 1
        made = LedgerOrder(NODE, key.public, order or b"%d" % self.count, wanted)
        return made, sign_order(key, made)

    def order(self, key: SigningKey, wanted: Wanted, order: bytes | None = None) -> Outcome:
        (outcome,), _ = self.ledger.answer([self.signed(key, wanted, order)])
        return outcome

    def lane(self) -> LaneId:
        return lane_id(self.ledger.name, PAYER.public, FARMER.public)

    def open(self, deposit: int = 100, order: bytes | None = None) -> Outcome:
        return self.order(SOURCE, OpenLane(PAYER.public, FARMER.public, deposit, NOW + 10), order)

    def voucher(self, amount: int, key: SigningKey = PAYER) -> Signed:
        return sign_voucher(key, Voucher(self.lane(), ContractId(bytes(32)), 0, amount, amount))

    def balance(self, key: SigningKey) -> int:
        return self.order(key, AskBalance()).balance


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    books = Books(tmp_path / "ledger.db")
    books.ledger.issue(SOURCE.public, 1000, memo="welcome")
    yield books
    books.ledger.close_file()


def code(outcome: Outcome) -> RefusalCode | None:
    return outcome.refused.code if outcome.refused else None


def test_a_lane_from_its_opening_to_its_end(books: Books) -> None:
    (lane,) = books.open().lanes
    assert lane == LaneFacts(
        books.lane(), PAYER.public, FARMER.public, SOURCE.public, 100, 0, NOW + 10, "open"
    )
    assert books.order(SOURCE, TopUp(books.lane(), 50)).lanes[0].deposit == 150
    assert books.order(SOURCE, Extend(books.lane(), NOW + 20)).lanes[0].expiry == NOW + 20
    claimed = books.order(FARMER, Claim(books.voucher(60)))
    assert (claimed.balance, claimed.lanes[0].claimed) == (60, 60)
    closed = books.order(FARMER, CloseLane(books.lane(), books.voucher(70)))
    assert (closed.balance, closed.lanes[0].state) == (70, "closed")
    assert books.balance(SOURCE) == 930
    kinds = [one.kind for one in books.order(SOURCE, AskHistory()).movements]
    assert kinds == ["return", "top-up", "open", "issue"]
    assert books.ledger.check() == []


def test_a_refund_after_the_expiry(books: Books) -> None:
    books.open()
    assert code(books.order(SOURCE, Refund(books.lane()))) is RefusalCode.NOT_ALLOWED
    books.time = NOW + 11
    assert code(books.order(OTHER, Refund(books.lane()))) is RefusalCode.UNKNOWN_LANE
    assert books.order(SOURCE, Refund(books.lane())).lanes[0].state == "refunded"
    assert books.balance(SOURCE) == 1000
    assert books.ledger.check() == []


def test_nobody_orders_what_is_anothers(books: Books) -> None:
    books.open()
    lane = books.lane()
    for who in (PAYER, FARMER):
        assert code(books.order(who, TopUp(lane, 1))) is RefusalCode.NOT_ALLOWED
        assert code(books.order(who, Extend(lane, NOW + 99))) is RefusalCode.NOT_ALLOWED
    for who in (PAYER, SOURCE, OTHER):
        assert code(books.order(who, CloseLane(lane))) is RefusalCode.NOT_ALLOWED
    for wanted in (TopUp(lane, 1), Extend(lane, NOW + 99), Refund(lane), AskLane(lane)):
        assert code(books.order(OTHER, wanted)) is RefusalCode.UNKNOWN_LANE
    assert books.order(OTHER, AskLanes()).lanes == ()
    assert code(books.order(FARMER, Transfer(OTHER.public, 1))) is RefusalCode.BALANCE
    assert code(books.order(FARMER, Claim(books.voucher(5, FARMER)))) is RefusalCode.VOUCHER
    assert books.order(SOURCE, AskLane(lane)).lanes[0].deposit == 100
    assert books.ledger.check() == []


def test_who_funds_a_lane_is_told_to_nobody_else(books: Books) -> None:
    books.open()
    for who in (FARMER, PAYER):
        assert books.order(who, AskLane(books.lane())).lanes[0].source is None
        assert books.order(who, AskLanes()).lanes[0].source is None
    assert books.order(SOURCE, AskLane(books.lane())).lanes[0].source == SOURCE.public


@pytest.mark.parametrize("together", [False, True])
def test_an_order_repeated_has_the_effect_of_one(books: Books, together: bool) -> None:
    opening = books.signed(SOURCE, OpenLane(PAYER.public, FARMER.public, 100, NOW + 10))
    top_up = books.signed(SOURCE, TopUp(books.lane(), 7))
    pay = books.signed(SOURCE, Transfer(OTHER.public, 3))
    if together:
        books.ledger.answer([opening, opening, top_up, top_up, pay, pay])
    else:
        for one in (opening, opening, top_up, top_up, pay, pay, opening):
            (outcome,), _ = books.ledger.answer([one])
            assert outcome.refused is None
    assert books.balance(SOURCE) == 1000 - 107 - 3
    assert books.balance(OTHER) == 3


def test_a_closing_played_back_does_not_end_the_lane_that_was_opened_again(books: Books) -> None:
    books.open()
    closing = books.signed(FARMER, CloseLane(books.lane()))
    longer = books.signed(SOURCE, Extend(books.lane(), NOW + 1000))
    books.ledger.answer([longer, closing])
    books.open(50)
    (extended, closed), _ = books.ledger.answer([longer, closing])
    assert (extended.refused, closed.refused) == (None, None)
    (lane,) = books.order(FARMER, AskLane(books.lane())).lanes
    assert (lane.state, lane.deposit, lane.expiry) == ("open", 50, NOW + 10)


def test_another_order_under_the_same_id_is_refused_but_not_that_of_another_account(books: Books) -> None:
    books.ledger.issue(OTHER.public, 10)
    assert books.order(OTHER, Transfer(FARMER.public, 1), b"id").refused is None
    assert books.order(SOURCE, Transfer(FARMER.public, 2), b"id").refused is None
    assert code(books.order(SOURCE, Transfer(FARMER.public, 3), b"id")) is RefusalCode.ORDER
    assert books.balance(FARMER) == 3


def test_one_that_is_refused_takes_nothing_else_of_its_transaction_back(books: Books) -> None:
    orders = [
        books.signed(SOURCE, Transfer(OTHER.public, 600)),
        books.signed(SOURCE, Transfer(OTHER.public, 600)),
        books.signed(SOURCE, Transfer(FARMER.public, 300)),
    ]
    outcomes, head = books.ledger.answer(orders)
    assert [code(one) for one in outcomes] == [None, RefusalCode.BALANCE, None]
    assert [one.balance for one in outcomes] == [400, 400, 100]
    assert head == books.ledger.head()
    assert books.ledger.check() == []


def test_a_refused_order_may_succeed_later(books: Books) -> None:
    assert code(books.order(OTHER, Transfer(FARMER.public, 5), b"id")) is RefusalCode.BALANCE
    books.ledger.issue(OTHER.public, 5)
    assert books.order(OTHER, Transfer(FARMER.public, 5), b"id").refused is None
    assert books.balance(FARMER) == 5


def test_questions_change_nothing(books: Books) -> None:
    before = books.ledger.head()
    for wanted in (AskBalance(), AskHistory(), AskLanes(), AskLane(books.lane())):
        books.order(OTHER, wanted)
    assert books.ledger.head() == before


def test_history_comes_in_pages(books: Books) -> None:
    for number in range(1, 6):
        books.order(SOURCE, Transfer(OTHER.public, number))
    first = books.order(SOURCE, AskHistory(limit=3)).movements
    assert [one.amount for one in first] == [-5, -4, -3]
    rest = books.order(SOURCE, AskHistory(before=first[-1].transfer)).movements
    assert [one.amount for one in rest] == [-2, -1, 1000]


def _run(path: Path, sql: str) -> None:
    connection = apsw.Connection(str(path))
    connection.execute(sql)
    connection.close()


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("UPDATE entry SET amount = amount * 2 WHERE transfer = 2", "chain breaks at transfer 2"),
        ("UPDATE transfer SET memo = 'x' WHERE transfer = 1", "chain breaks at transfer 1"),
        ("UPDATE transfer SET time = time + 1 WHERE kind = 'claim'", "chain breaks"),
        ("UPDATE transfer SET evidence = NULL WHERE kind = 'open'", "chain breaks"),
        ("DELETE FROM chain WHERE transfer = 3", "chain breaks at transfer 3"),
        ("INSERT INTO chain VALUES (99, zeroblob(32))", "gone from the books"),
        ("UPDATE lane SET claimed = 1, deposit = 0", "paid out more"),
        ("UPDATE account SET balance = balance + 1 WHERE kind = 'person'", "not the sum"),
    ],
)
def test_a_change_behind_the_ledgers_back_shows(books: Books, sql: str, said: str) -> None:
    books.open()
    books.order(FARMER, Claim(books.voucher(10)))
    assert books.ledger.check() == []
    _run(books.path, f"PRAGMA ignore_check_constraints = 1; {sql}")
    assert any(said in one for one in books.ledger.check()), books.ledger.check()


@pytest.mark.parametrize(
    "forge",
    [
        lambda ledger: ledger.transfer(SOURCE.public, OTHER.public, 5),
        lambda ledger: ledger.top_up(lane_id(ledger.name, PAYER.public, FARMER.public), 5),
    ],
)
def test_what_nobody_has_signed_shows(books: Books, forge: Callable[[SharedLedger], object]) -> None:
    books.open()
    forge(books.ledger)
    assert any("nobody has signed it" in one for one in books.ledger.check())


def test_another_nodes_books_and_an_embedded_ledger_are_refused(books: Books, tmp_path: Path) -> None:
    with pytest.raises(SettlementError, match="belongs to the node"):
        SharedLedger(books.path, NodeId(b"x" * 32))
    with pytest.raises(SettlementError, match="is not a ledger"):
        Ledger(books.path)
    Ledger(tmp_path / "own.db").close_file()
    with pytest.raises(SettlementError, match="is not a ledger"):
        SharedLedger(tmp_path / "own.db", NODE)


def test_an_audit_looks_at_all_of_a_chain_that_it_reads_in_parts(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared, "AUDITED_AT_ONCE", 2)
    for number in range(1, 6):
        books.order(SOURCE, Transfer(OTHER.public, number))
    assert books.ledger.check() == []
    _run(books.path, "UPDATE transfer SET memo = 'x' WHERE transfer = 6")
    assert books.ledger.check() == ["the chain breaks at transfer 6: it or one before was changed"]


def test_two_processes_add_to_one_chain(books: Books) -> None:
    other = SharedLedger(books.path, NODE)
    other.issue(OTHER.public, 5)
    books.order(OTHER, Transfer(SOURCE.public, 5))
    other.issue(OTHER.public, 6)
    assert books.ledger.head() == other.head()
    assert books.ledger.head().number == 4
    assert books.ledger.check() == []
    other.close_file()


def test_its_name_is_that_of_its_node(books: Books) -> None:
    assert books.ledger.name == f"ledger:{NODE.hex()}"
    assert PublicKey(NODE) != books.ledger.operator
