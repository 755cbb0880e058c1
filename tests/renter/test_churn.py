"""Farmers come, go and vanish for weeks, and nothing is lost.

The same larger: python -m tests.renter.churn.
"""

import itertools
from pathlib import Path

import pytest

from storjfs.renter.clock import EverMoreSeldom
from tests.renter.churn import Plan, described, simulate

# Without trio's own loop around it: the simulation runs one of its own, on a clock that jumps.


def test_a_hundred_farmers_for_thirty_days(tmp_path: Path) -> None:
    plan = Plan(farmers=100, days=30)
    outcome = simulate(tmp_path, plan)
    print(described(plan, outcome))  # noqa: T201 - shown where the test fails
    assert outcome.lost == 0
    assert outcome.vanished >= 60
    assert outcome.repaired > 0
    # Each shard that is put anew was lost; what it takes to rebuild them is bounded by whole segments.
    k, n = outcome.code
    assert (k, n) == (20, 50)
    assert outcome.put <= outcome.stored * outcome.vanished / plan.farmers * 2


@pytest.mark.parametrize("seed", [1, 2])
def test_few_farmers_that_vanish_as_fast_as_the_code_bears(tmp_path: Path, seed: int) -> None:
    plan = Plan(farmers=12, days=20, segments=5, life=6.0, away=2.0, code=(3, 5), seed=seed)
    outcome = simulate(tmp_path, plan)
    print(described(plan, outcome))  # noqa: T201
    assert outcome.lost == 0
    assert outcome.fewest_spare == 0, "farmers vanish too slowly"
    assert outcome.repaired > 0


def test_what_hardly_changes_is_looked_at_ever_more_seldom() -> None:
    seldom = EverMoreSeldom(first=60.0, longest=1000.0)
    times = [now for now in range(0, 10_000, 10) if seldom.due(1, now)]
    pauses = [after - before for before, after in itertools.pairwise(times)]
    assert times[0] == 0
    assert pauses[0] == 60
    assert pauses == sorted(pauses)
    assert pauses[-1] == 1000
    assert seldom.due(2, 5.0)
