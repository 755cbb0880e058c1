"""Amounts as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storjfs.settlement import CREDIT, UNITS_PER_CREDIT, AmountError, Currency


@given(st.integers(0, (1 << 63) - 1))
def test_what_is_shown_can_be_read(amount: int) -> None:
    assert CREDIT.parse(CREDIT.format(amount).split()[0]) == amount


@pytest.mark.parametrize(
    ("text", "units"), [("1", UNITS_PER_CREDIT), ("0.000000001", 1), (" 2.50 ", 2_500_000_000), ("0", 0)]
)
def test_amounts_are_exact(text: str, units: int) -> None:
    assert CREDIT.parse(text) == units


@pytest.mark.parametrize("text", ["", "x", "-1", "0.0000000001", "inf", "nan", "1e30", "9223372037"])
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(AmountError):
        CREDIT.parse(text)


@pytest.mark.parametrize(
    ("amount", "places", "text"),
    [
        (UNITS_PER_CREDIT, None, "1 credit"),
        (1, None, "0.000000001 credits"),
        (-1_500_000_000, 2, "-1.50 credits"),
        (1_999_999_999, 1, "1.9 credits"),
    ],
)
def test_amounts_are_shown(amount: int, places: int | None, text: str) -> None:
    assert CREDIT.format(amount, places=places) == text


def test_currencies_without_decimals() -> None:
    assert Currency("stone", "stones", 0).format(3) == "3 stones"
