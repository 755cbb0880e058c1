"""Placement: who gets the shards of a segment."""

import random
from collections import Counter
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storjfs.renter.client import LOOKED_AT, ShardClient
from storjfs.renter.placement import Candidate, choose, code_for, stripes

GIB = 1 << 30


def farmer(number: int, **changes: Any) -> Candidate:
    values: dict[str, Any] = {
        "contract": number,
        "node_id": number.to_bytes(32, "big"),
        "operator": "",
        "capacity": GIB,
        "used": 0,
        "waiting": 0,
        "score": 1.0,
        "passed": 1000,
    }
    return Candidate(**(values | changes))


@given(st.integers(0, 300))
def test_a_code_never_needs_more_farmers_than_there_are(farmers: int) -> None:
    k, n = code_for(farmers)
    assert 1 <= k <= n <= max(farmers, 1)


@pytest.mark.parametrize(
    ("farmers", "code"),
    [(1, (1, 1)), (2, (1, 2)), (3, (2, 3)), (4, (2, 4)), (5, (3, 5)), (6, (3, 5)), (11, (3, 5)),
     (12, (3, 10)), (17, (5, 15)), (22, (8, 20)), (52, (20, 50)), (500, (20, 50))],
)  # fmt: skip
def test_the_code_follows_the_number_of_farmers(farmers: int, code: tuple[int, int]) -> None:
    assert code_for(farmers) == code


@given(
    st.lists(
        st.builds(
            farmer,
            st.integers(1, 40),
            operator=st.sampled_from(["", "a", "b"]),
            used=st.integers(0, GIB),
            score=st.floats(0, 1),
            passed=st.integers(0, 40),
            resting=st.booleans(),
            online=st.booleans(),
        ),
        unique_by=lambda one: one.contract,
    ),
    st.integers(0, 12),
    st.sets(st.integers(1, 40)),
    st.integers(),
)
def test_choice_is_distinct_fits_and_takes_as_many_as_it_can(
    farmers: list[Candidate], count: int, exclude: set[int], seed: int
) -> None:
    size = 4 << 20
    chosen = choose(farmers, count, size, exclude, rng=random.Random(seed))
    able = {
        one.contract
        for one in farmers
        if one.free >= size and not one.resting and one.contract not in exclude
    }
    assert len(set(chosen)) == len(chosen) == min(count, len(able))
    assert set(chosen) <= able


def test_a_preferred_farmer_gets_more_and_the_others_something() -> None:
    farmers = [farmer(1, preferred=True), *(farmer(number) for number in range(2, 9))]
    rng = random.Random(5)
    drawn = Counter(choose(farmers, 1, 1, rng=rng)[0] for _ in range(4000))
    # Four chances among eleven.
    assert 0.30 < drawn[1] / 4000 < 0.43
    assert len(drawn) == 8


def test_two_contracts_of_one_farmer_never_hold_one_segment() -> None:
    twins = [farmer(1), farmer(2, node_id=farmer(1).node_id)]
    assert len(choose(twins, 2, 1, rng=random.Random(0))) == 1


def test_an_operator_group_gets_a_second_shard_only_where_groups_run_out() -> None:
    farmers = [farmer(1, operator="x"), farmer(2, operator="x"), farmer(3, operator="y"), farmer(4)]
    rng = random.Random(0)
    for _ in range(50):
        assert {1, 2} - set(choose(farmers, 3, 1, rng=rng))
    assert sorted(choose(farmers, 4, 1, rng=rng)) == [1, 2, 3, 4]
    assert all(choose(farmers, 1, 1, [1], taken_groups=["x"], rng=rng)[0] != 2 for _ in range(50))


def test_new_farmers_get_a_small_share_while_known_ones_are_left() -> None:
    farmers = [farmer(n) for n in range(1, 11)] + [farmer(n, passed=0) for n in range(11, 31)]
    rng = random.Random(0)
    for _ in range(50):
        assert sum(number > 10 for number in choose(farmers, 5, 1, rng=rng)) <= 1


def test_a_bad_score_is_the_last_choice_but_better_than_nobody() -> None:
    farmers = [farmer(n) for n in range(1, 5)] + [farmer(5, score=0.1), farmer(6, online=False)]
    rng = random.Random(0)
    assert all(set(choose(farmers, 4, 1, rng=rng)) == {1, 2, 3, 4} for _ in range(20))
    assert set(choose(farmers, 5, 1, rng=rng)) == {1, 2, 3, 4, 5}
    assert set(choose(farmers, 6, 1, rng=rng)) == {1, 2, 3, 4, 5, 6}


def test_load_goes_where_there_is_room() -> None:
    farmers = [farmer(1, used=GIB * 9 // 10), farmer(2)]
    rng = random.Random(0)
    first = Counter(choose(farmers, 1, 1, rng=rng)[0] for _ in range(1000))
    assert first[2] > 5 * first[1]


@given(st.lists(st.integers(0, 12), max_size=7), st.integers(1, 6))
def test_stripes_are_as_many_as_can_be_placed_one_by_one(free: list[int], n: int) -> None:
    left = sorted(free)
    n_here = min(n, len(left))
    placed = 0
    # Taking always the emptiest farmers places as many as there can be.
    while n_here and left[-n_here] > 0:
        left[-n_here:] = [one - 1 for one in left[-n_here:]]
        left.sort()
        placed += 1
    assert stripes(free, n) == placed


def test_what_one_farmer_has_beyond_the_others_is_no_room() -> None:
    assert stripes([10, 10, 10, 10, 1000], 5) == 10
    assert stripes([10, 10, 10, 10, 10, 10], 5) == 12
    assert stripes([], 5) == 0
    assert stripes([7, 9], 5) == 7


class ManyFarmers(ShardClient):
    """What `choose` needs of a client, with candidates that are there already."""

    def __init__(self, farmers: list[Candidate]) -> None:
        self._book: Any = Book(farmers)
        self._rng = random.Random(1)
        self.preferred = ()
        self.looked_at = 0

    def _warn(self) -> None:
        """Not what this is about."""

    def candidate(self, entry: Any) -> Candidate:
        self.looked_at += 1
        return cast(Candidate, entry.one)


class Book:
    """Contracts with these farmers."""

    def __init__(self, farmers: list[Candidate]) -> None:
        self.entries = {
            one.contract: SimpleNamespace(number=one.contract, node_id=one.node_id, one=one)
            for one in farmers
        }

    def __iter__(self) -> Iterator[Any]:
        return iter(self.entries.values())

    def get(self, number: int) -> Any:
        return self.entries.get(number)

    def takes(self, entry: Any) -> bool:
        return True


def test_a_choice_does_not_go_through_all_of_very_many_farmers() -> None:
    client = ManyFarmers([farmer(number, preferred=number == 7) for number in range(1, 2001)])
    client.preferred = {farmer(7).node_id}
    seen: Counter[int] = Counter()
    for _ in range(100):
        before = client.looked_at
        seen.update(client.choose(50, 1, [1]))
        assert client.looked_at - before <= LOOKED_AT + 2
    assert len(seen) > 1000
    assert seen[7] > 30
    assert 1 not in seen


def test_it_does_where_those_drawn_are_not_all_well() -> None:
    bad = [farmer(number, lagging=True) for number in range(1, 1951)]
    client = ManyFarmers([*bad, *(farmer(number) for number in range(1951, 2001))])
    assert sorted(client.choose(50, 1)) == list(range(1951, 2001))
