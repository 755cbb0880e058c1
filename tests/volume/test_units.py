import pytest
from hypothesis import given
from hypothesis import strategies as st

from storjfs.volume import SettingsError, parse_credits, parse_duration, parse_size
from storjfs.volume.units import show_credits, show_duration, show_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("4k", 4096),
        ("4 KiB", 4096),
        ("1.5GiB", 3 << 29),
        (" 2 TB ", 2 * 10**12),
        (17, 17),
        ("9 b", 9),
    ],
)
def test_sizes_are_read_as_people_write_them(text: str | int, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1", 1), ("90 s", 90), ("10min", 600), ("24 h", 86400), ("1 day", 86400), ("2 weeks", 1209600)],
)
def test_durations_are_read_as_people_write_them(text: str, seconds: int) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "nanocredits"),
    [("0", 0), ("1", 10**9), ("0.005", 5 * 10**6), ("0.000000001", 1), (3, 3 * 10**9), (0.25, 25 * 10**7)],
)
def test_credits_are_exact(text: str | int, nanocredits: int) -> None:
    assert parse_credits(text) == nanocredits


@pytest.mark.parametrize("text", ["", "GiB", "-1", "1 mile", "1,5 GiB", "1e3", "ten", "1 2", "٣", "nan"])
def test_nonsense_is_refused_and_shown(text: str) -> None:
    for parse in (parse_size, parse_duration, parse_credits):
        with pytest.raises(SettingsError) as caught:
            parse(text)
        assert repr(text) in str(caught.value)
        assert caught.value.hint


def test_parts_of_a_nanocredit_are_refused() -> None:
    with pytest.raises(SettingsError):
        parse_credits("0.0000000001")


@given(st.integers(0, 2**63))
def test_what_is_shown_is_read_back_exactly(number: int) -> None:
    number = min(number, 10**18 - 1)
    assert parse_size(show_size(number)) == number
    assert parse_duration(show_duration(number)) == number
    assert parse_credits(show_credits(number)) == number


def test_shown_values_use_the_largest_whole_unit() -> None:
    assert show_size(10 << 30) == "10 GiB"
    assert show_size(1500) == "1500 B"
    assert show_size(1536) == "1536 B"
    assert show_size(20 * 10**9) == "20 GB"
    assert show_size(256 << 20) == "256 MiB"
    assert show_duration(90 * 86400) == "90 d"
    assert show_credits(5 * 10**6) == "0.005"
    assert show_credits(1000 * 10**9) == "1000"
