"""Numbers as people read and write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storjfs.volume.wording import duration, money, size


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1536, "1.50 KiB"),
        (20 << 30, "20.0 GiB"),
        (300 << 20, "300 MiB"),
        (1 << 50, "1.00 PiB"),
    ],
)
def test_sizes_have_three_figures(count: int, said: str) -> None:
    assert size(count) == said


@pytest.mark.parametrize(
    ("seconds", "said"), [(0, "0 s"), (59.9, "59 s"), (3600, "1 h"), (90061, "1 d 1 h"), (-5, "0 s")]
)
def test_durations_have_two_units(seconds: float, said: str) -> None:
    assert duration(seconds) == said


@given(st.integers(0, 1 << 60))
def test_every_size_can_be_said_shortly(count: int) -> None:
    assert len(size(count)) <= 10


def test_small_sums_are_not_shown_as_nothing() -> None:
    assert money(1000) == "0.000001"
    assert money(254) == "0.000000254"
    assert money(2_500_000_000) == "2.500"
    assert money(None) == "-"
