"""Prices are exact, and of several vouchers the right one counts."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storjfs.protocol.failures import BadSignature, ProtocolViolation
from storjfs.protocol.ids import LaneId
from storjfs.protocol.terms import GIB, MONTH
from storjfs.protocol.vouchers import (
    PARTS,
    Tally,
    Voucher,
    better,
    may_follow,
    open_voucher,
    price_of_audit,
    price_of_term,
    sign_voucher,
)
from tests.protocol import values

OTHER_LANE = LaneId(bytes(32))


def voucher(amount: int, counter: int, lane: LaneId = values.LANE) -> Voucher:
    return Voucher(lane, values.CONTRACT_ID, 0, counter, amount)


vouchers = st.builds(voucher, st.integers(0, 5), st.integers(0, 5))


@given(vouchers, vouchers, vouchers)
def test_better_does_not_depend_on_order(a: Voucher, b: Voucher, c: Voucher) -> None:
    assert better(a, b) == better(b, a)
    assert better(better(a, b), c) == better(a, better(b, c))
    assert better(a, a) == a


@given(vouchers, vouchers)
def test_better_never_pays_less(a: Voucher, b: Voucher) -> None:
    assert better(a, b).amount == max(a.amount, b.amount)


@given(st.lists(vouchers, min_size=1))
def test_what_a_payer_may_sign_one_after_the_other_is_always_the_better(offered: list[Voucher]) -> None:
    newest: Voucher | None = None
    for candidate in offered:
        if may_follow(newest, candidate):
            if newest is not None:
                assert better(newest, candidate) is candidate
            newest = candidate


def test_vouchers_of_two_lanes_do_not_compare() -> None:
    assert not may_follow(voucher(1, 1), voucher(2, 2, OTHER_LANE))
    with pytest.raises(ValueError):
        better(voucher(1, 1), voucher(2, 2, OTHER_LANE))


def test_a_voucher_is_for_its_lane_and_by_its_payer() -> None:
    signed = sign_voucher(values.PAYER, voucher(7, 1))
    assert open_voucher(signed, values.PAYER.public, values.LANE) == voucher(7, 1)
    with pytest.raises(BadSignature):
        open_voucher(signed, values.STRANGER.public, values.LANE)
    with pytest.raises(ProtocolViolation):
        open_voucher(signed, values.PAYER.public, OTHER_LANE)


@given(st.lists(st.tuples(st.integers(0, 1 << 30), st.integers(0, 1 << 30)), max_size=30))
def test_the_sum_of_many_small_prices_is_the_price_of_the_sum(steps: list[tuple[int, int]]) -> None:
    terms = values.terms()
    tally, exact = Tally(), Fraction(0)
    for proved, sent in steps:
        tally = tally.with_proofs(terms, proved).with_egress(terms, sent)
        exact += Fraction(terms.price * proved * terms.audit_period, GIB * MONTH)
        exact += Fraction(terms.egress_price * sent, GIB)
        assert 0 <= tally.carry < PARTS
    assert tally.amount + Fraction(tally.carry, PARTS) == exact


@given(st.integers(1, 1 << 32), st.integers(1, 50))
def test_audits_one_by_one_cost_what_they_cost_together(size: int, audits: int) -> None:
    terms = values.terms()
    total = carry = 0
    for _ in range(audits):
        amount, carry = price_of_audit(terms, size, 1, carry)
        total += amount
    assert (total, carry) == price_of_audit(terms, size, audits)


def test_a_gib_for_a_month_costs_the_price() -> None:
    terms = values.terms(end=1_800_000_000 + MONTH)
    assert price_of_audit(terms, GIB, 30) == (terms.price, 0)
    assert price_of_term(terms, GIB) == terms.price
    assert price_of_term(terms, 1) == 1  # rounded up: a deposit must suffice
