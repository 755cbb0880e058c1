"""A short run of the fuzzer, always with the same inputs; `scripts/fuzz` makes long ones."""

import pytest
from hypothesis import HealthCheck, given, seed, settings

from tests.fuzz.__main__ import fuzz_round
from tests.fuzz.targets import TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_random_inputs_break_nothing(name: str) -> None:
    fuzz_round(TARGETS[name], 20_000, 300)


@pytest.mark.parametrize("name", TARGETS)
def test_inputs_that_hypothesis_thinks_of_break_nothing(name: str) -> None:
    target = TARGETS[name]
    chosen = settings(max_examples=200, database=None, suppress_health_check=list(HealthCheck))
    strategies = [one.strategy for one in target.inputs]
    seed(20_000)(chosen(given(*strategies)(target.run)))()
