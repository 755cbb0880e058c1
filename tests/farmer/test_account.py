"""What is owed, when service stops, and how much may be forgiven."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storjfs.farmer.account import LaneAccount, egress_parts, egress_price
from storjfs.protocol.terms import CREDIT, GIB, MONTH, Terms
from storjfs.protocol.vouchers import EGRESS_CREDIT, Tally

TERMS = Terms(
    farmer=b"f" * 32,  # type: ignore[arg-type]
    renter=b"r" * 32,  # type: ignore[arg-type]
    payer=b"p" * 32,  # type: ignore[arg-type]
    payee=b"q" * 32,  # type: ignore[arg-type]
    settlement="s",
    lane=b"l" * 32,  # type: ignore[arg-type]
    capacity=GIB,
    price=CREDIT,
    egress_price=CREDIT,
    start=0,
    end=MONTH,
    audit_period=MONTH // 10,
    samples=4,
    answer_deadline=10,
    payment_grace=10,
    offline_grace=10,
    end_grace=10,
    accept_by=10,
)
PRICE = CREDIT // 10  # of an audit of one GiB


def audited(account: LaneAccount, *epochs: int, size: int = GIB) -> LaneAccount:
    for epoch in epochs:
        account, _ = account.with_audit(TERMS, 1, epoch, size)
    return account


def sent(account: LaneAccount, count: int) -> LaneAccount:
    return account.with_egress(egress_parts(TERMS, count), count)


def test_one_unpaid_audit_is_borne_two_are_not() -> None:
    account = audited(LaneAccount(), 1)
    assert account.serving
    account = audited(account, 2)
    assert not account.serving
    assert account.with_voucher(2 * PRICE, 1).serving


def test_vouchers_pay_the_oldest_bill_first() -> None:
    account = audited(LaneAccount(), 1, size=GIB)
    account = audited(account, 2, size=8 * GIB).with_voucher(PRICE, 1)
    assert (account.proofs_paid, account.forgiven) == (PRICE, 8 * PRICE)
    account = audited(account, 3, size=GIB)
    account = audited(account, 4, size=9 * GIB).with_voucher(2 * PRICE, 2)
    assert account.forgiven == 17 * PRICE
    account = audited(account, 5, size=GIB)
    account = audited(account, 6, size=2 * GIB).with_voucher(3 * PRICE, 3)
    assert [bill.epoch for bill in account.bills] == [6]


def test_voucher_that_pays_nothing_clears_nothing() -> None:
    account = audited(LaneAccount(), 1, 2)
    for counter in range(1, 100):
        account = account.with_voucher(counter, counter)
    assert not account.serving


def test_an_audit_that_the_renter_does_not_owe_is_forgiven_now_and_then_only() -> None:
    account, paid, served = LaneAccount(), 0, 0
    for epoch in range(1, 200, 2):
        account = audited(account, epoch, epoch + 1)
        paid += PRICE  # one of the two
        account = account.with_voucher(paid, epoch)
        if not account.serving:
            break
        served += 1
    assert 2 <= served <= 4
    assert account.forgiven <= 2 * PRICE + account.proofs_paid // 8


def test_prepaid_amounts_are_credit() -> None:
    account = LaneAccount().with_voucher(5 * PRICE, 1)
    account = audited(account, 1, 2).with_voucher(5 * PRICE, 2)
    assert account.serving
    assert not account.bills


def test_free_contracts_have_no_bills() -> None:
    free = Terms(**{**{name: getattr(TERMS, name) for name in TERMS.__struct_fields__}, "price": 0})
    account = LaneAccount()
    for epoch in range(5):
        account, price = account.with_audit(free, 1, epoch, GIB)
        assert price == 0
    assert account.serving


def test_proofs_of_nothing_are_no_bill() -> None:
    account, price = LaneAccount().with_audit(TERMS, 1, 1, 0)
    assert (price, account.bills) == (0, ())


def test_bill_under_a_nanocredit_must_be_acknowledged_all_the_same() -> None:
    account = audited(LaneAccount(), 1, 2, size=1)
    assert not account.serving
    assert account.with_voucher(0, 1).serving


def test_egress_credit_is_renewed_by_any_voucher() -> None:
    account = sent(LaneAccount(), EGRESS_CREDIT)
    assert not account.may_send(TERMS, 1)
    assert account.with_voucher(0, 1).may_send(TERMS, EGRESS_CREDIT)


def test_egress_that_is_never_paid_ends() -> None:
    account, total = LaneAccount(), 0
    for counter in range(1, 100):
        if not account.may_send(TERMS, EGRESS_CREDIT):
            break
        account = sent(account, EGRESS_CREDIT).with_voucher(0, counter)
        total += EGRESS_CREDIT
    assert total == 5 * EGRESS_CREDIT


@given(lost=st.lists(st.integers(0, EGRESS_CREDIT // 8), min_size=100, max_size=100))
def test_small_differences_never_stop_the_egress(lost: list[int]) -> None:
    """A renter that forgets up to an eighth of what it got, each time, is served for ever."""
    account, tally = LaneAccount(), Tally()
    for counter, missing in enumerate(lost, 1):
        assert account.may_send(TERMS, EGRESS_CREDIT)
        account = sent(account, EGRESS_CREDIT)
        tally = tally.with_egress(TERMS, EGRESS_CREDIT - missing)
        account = account.with_voucher(tally.amount, counter)


@given(st.lists(st.tuples(st.sampled_from(["audit", "send", "pay"]), st.integers(1, 3 * GIB)), max_size=60))
def test_renter_that_pays_what_both_count_owes_nothing(steps: list[tuple[str, int]]) -> None:
    account, tally, counter = LaneAccount(), Tally(), 0
    for epoch, (what, size) in enumerate(steps):
        if what == "audit":
            account = audited(account, epoch, size=size)
            tally = tally.with_proofs(TERMS, size)
        elif what == "send":
            size = min(size, EGRESS_CREDIT - account.sent)
            assert account.may_send(TERMS, size)
            account = sent(account, size)
            tally = tally.with_egress(TERMS, size)
        if what == "pay" or not account.serving or account.sent > EGRESS_CREDIT // 2:
            counter += 1
            account = account.with_voucher(tally.amount, counter)
            assert account.serving
            assert account.unpaid_audits == 0
            assert account.egress_owed <= 2
            assert account.forgiven == 0
            assert account.credit <= 2
    assert abs(tally.amount - account.proofs.amount - account.egress.amount) <= 1
    assert LaneAccount.from_bytes(account.to_bytes()) == account


def test_amounts_never_fall() -> None:
    with pytest.raises(ValueError):
        LaneAccount().with_voucher(5, 1).with_voucher(4, 2)


def test_bills_of_a_contract_that_is_over_are_dropped() -> None:
    account = audited(LaneAccount(), 1, 2).without_contract(1)
    assert account.serving


def test_price_of_egress() -> None:
    assert egress_price(TERMS, GIB) == CREDIT
    assert egress_price(TERMS, 1) == 0
