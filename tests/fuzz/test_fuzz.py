"""A short run of the fuzzer, always with the same inputs; `scripts/fuzz` makes long ones."""

import pytest

from tests.fuzz.__main__ import fuzz_round
from tests.fuzz.targets import TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_a_few_hundred_inputs_break_nothing(name: str) -> None:
    fuzz_round(TARGETS[name], 20_000, 300)
