"""Which farmers are chosen for what is wanted, what that costs, and how safe it is."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storjfs.protocol.terms import CREDIT, GIB, Offer
from storjfs.renter.durability import in_words, lost_in_a_year, lost_within
from storjfs.renter.needs import AIM, Bidder, Wanted, choose, missing, objection, plan, room, sealed
from storjfs.renter.placement import code_for
from storjfs.volume import Needs, Spread
from tests.protocol import values

NOW = 1_800_000_000.0


def offer(number: int, **changes: Any) -> Offer:
    fields = {
        "farmer": values.key(f"farmer {number}").node_id,
        "group": "",
        "price": CREDIT // 200 + number,
        "egress_price": CREDIT // 100,
        "settlement": "ours",
        "expires": int(NOW) + 3600,
        "region": "EU",
    }
    return values.offer(**(fields | changes))


def bidder(number: int, *, bid: dict[str, Any] | None = None, **changes: Any) -> Bidder:
    made = offer(number, **(bid or {}))
    return Bidder(node_id=made.farmer, offer=made, **changes)


def wanted(needs: Needs | None = None, **changes: Any) -> Wanted:
    fields: dict[str, Any] = {
        "needs": needs or Needs(),
        "price_max": CREDIT // 100,
        "egress_price_max": CREDIT // 20,
        "settlement": "ours",
        "code": None,
        "audit_period": 86400,
        "now": NOW,
    }
    return Wanted(**(fields | changes))


@pytest.mark.parametrize(
    ("bid", "changes", "said"),
    [
        ({"settlement": "theirs"}, {}, "ledger"),
        ({"price": CREDIT // 100 + 1}, {}, "price_max"),
        ({"egress_price": CREDIT}, {}, "egress"),
        ({"region": "US"}, {"needs": Needs(regions=("EU",))}, "US"),
        ({"region": ""}, {"needs": Needs(regions=("EU",))}, "does not say"),
        ({"period_min": 86401}, {}, "audits"),
        ({"capacity": 1 << 20}, {}, "space"),
        ({"expires": int(NOW)}, {}, "ended"),
        ({"settlement": "theirs"}, {"settlement": None}, ""),
        ({}, {}, ""),
    ],
)
def test_who_does_not_fit_is_told_why(bid: dict[str, Any], changes: dict[str, Any], said: str) -> None:
    reason = objection(bidder(1, bid=bid), wanted(**changes))
    assert said in reason
    assert bool(said) == bool(reason)


def test_who_is_silent_or_blocked_is_not_used() -> None:
    silent, blocked = bidder(1, answers=False), bidder(2, blocked=True, used=True)
    choice = choose([silent, blocked], wanted())
    assert choice.chosen == ()
    assert "answer" in choice.refused[silent.node_id]
    assert "blocked" in choice.refused[blocked.node_id]


def test_as_many_as_are_wanted_the_cheapest_first_but_preferred_ones_before() -> None:
    bidders = [bidder(number) for number in range(30)]
    dear = bidder(40, preferred=True)
    choice = choose([*reversed(bidders), dear], wanted())
    assert choice.chosen == (dear.node_id, *(one.node_id for one in bidders[: AIM - 1]))
    assert "not needed" in choice.refused[bidders[20].node_id]
    assert len(choose(bidders, wanted(code=(4, 9))).chosen) == 11


def test_who_is_used_already_stays_whatever_it_asks() -> None:
    dear = bidder(50, bid={"price": CREDIT}, used=True)
    unknown = Bidder(node_id=values.key("nobody").node_id, offer=None, used=True)
    choice = choose([*(bidder(number) for number in range(30)), dear, unknown], wanted())
    assert dear.node_id in choice.chosen
    assert unknown.node_id in choice.chosen
    assert len(choice.chosen) == AIM


def test_more_are_taken_where_room_is_wanted() -> None:
    small = [bidder(number, bid={"capacity": 10 * GIB}) for number in range(40)]
    choice = choose(small, wanted(Needs(size=60 * GIB)))
    offers = [one.offer for one in small if one.node_id in choice.chosen and one.offer]
    k, n = code_for(len(offers))
    assert len(offers) > AIM
    assert room([one.capacity for one in offers], k, n) >= 60 * GIB
    assert not missing(choice, offers, wanted(Needs(size=60 * GIB)))


def test_one_of_each_operator_unless_said_otherwise() -> None:
    bidders = [bidder(number, bid={"group": f"group {number % 3}"}) for number in range(9)]
    alone = [bidder(number) for number in range(20, 23)]
    choice = choose([*bidders, *alone], wanted())
    assert len(choice.chosen) == 6
    assert "operator" in choice.refused[bidders[8].node_id]
    assert len(choose(bidders, wanted(Needs(spread=Spread.FARMERS))).chosen) == 9


@given(
    st.lists(
        st.tuples(
            st.integers(0, 200),
            st.integers(0, CREDIT // 50),
            st.sampled_from(["", "a", "b"]),
            st.booleans(),
            st.booleans(),
        ),
        max_size=40,
        unique_by=lambda one: one[0],
    ),
    st.sampled_from(list(Spread)),
)
def test_every_farmer_is_either_chosen_or_told_why_not(
    drawn: list[tuple[int, int, str, bool, bool]], spread: Spread
) -> None:
    bidders = [
        bidder(number, bid={"price": price, "group": group}, used=used, blocked=blocked)
        for number, price, group, used, blocked in drawn
    ]
    goal = wanted(Needs(spread=spread))
    choice = choose(bidders, goal)
    assert set(choice.chosen) | choice.refused.keys() == {one.node_id for one in bidders}
    assert not set(choice.chosen) & choice.refused.keys()
    chosen = [one for one in bidders if one.node_id in choice.chosen]
    assert not any(one.blocked for one in chosen)
    assert all(one.used or (one.offer and one.offer.price <= goal.price_max) for one in chosen)
    taken = [one.group for one in chosen if not one.used]
    assert spread is Spread.FARMERS or len(taken) == len(set(taken))


def test_the_plan_says_what_all_of_it_costs() -> None:
    offers = [offer(number, price=CREDIT // 100, egress_price=CREDIT // 10) for number in range(5)]
    planned = plan(offers, wanted(Needs(size=300 * GIB)), 64 * GIB)
    assert (planned.k, planned.n) == (3, 5)
    # 5/3 of 300 GiB at 0.01 credits, and what the seals add.
    assert 5 * CREDIT <= planned.month <= 5.01 * CREDIT
    assert planned.year == pytest.approx(planned.month * 365 / 30, abs=2)
    assert 30 * CREDIT <= planned.read_back <= 30.1 * CREDIT
    assert planned.capacity * 5 >= sealed(300 * GIB, 3, 5)
    assert room([planned.capacity] * 5, 3, 5) >= 300 * GIB
    assert planned.loss == lost_in_a_year(3, 5, 5)


def test_what_is_missing_is_said() -> None:
    offers = [offer(number) for number in range(3)]
    choice = choose([Bidder(node_id=one.farmer, offer=one) for one in offers], wanted())
    assert "3 farmers that fit were found, and 5 are needed" in missing(choice, offers, wanted())
    goal = wanted(Needs(size=1 << 50), code=(2, 3))
    assert "room for" in missing(choice, offers, goal)


def test_the_model_is_that_of_the_explanation() -> None:
    """The table in docs/explanation/durability.md."""
    day = 86400.0
    for code, figures in {
        (3, 5): (4.9e-07, 4.0e-05, 1.0e-08),
        (3, 10): (2.0e-21, 2.6e-16, 2.5e-27),
        (5, 15): (5.9e-29, 6.0e-22, 2.1e-37),
    }.items():
        found = (
            lost_in_a_year(*code),
            lost_in_a_year(*code, loss=0.2),
            lost_in_a_year(*code, repair=day),
        )
        assert found == pytest.approx(figures, rel=0.05)


def test_more_sets_of_farmers_are_more_ways_to_lose() -> None:
    assert lost_in_a_year(3, 5, 6) == pytest.approx(6 * lost_in_a_year(3, 5), rel=0.01)
    assert lost_in_a_year(1, 1) == pytest.approx(0.05)
    assert lost_in_a_year(3, 5, 5, loss=1 - 1e-12) > 0.99


@given(st.integers(1, 20), st.integers(0, 20), st.floats(0, 1))
def test_a_probability_is_one(k: int, spare: int, p: float) -> None:
    assert -1e-9 <= lost_within(k, k + spare, p) <= 1 + 1e-9


def test_words_promise_no_more_than_can_be_known() -> None:
    assert in_words(1e-21) == "less than 1 in 1,000,000"
    assert in_words(4.9e-5) == "about 1 in 20,000"
    assert in_words(0.05) == "about 1 in 20"
    assert in_words(0.9) == "more likely than not"
