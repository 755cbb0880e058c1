"""Rates and times of day: what is written is read, and what they cover."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storjfs.farmer.schedule import DAYS, SLOWEST, Limit, Schedule, Span
from storjfs.volume.errors import SettingsError

BERLIN = ZoneInfo("Europe/Berlin")


def minutes(schedule: str, start: datetime, hours: int) -> int:
    """For how many minutes of so many real hours from `start` the schedule holds."""
    holds = Schedule.parse(schedule).holds
    moments = (start.astimezone(UTC) + timedelta(minutes=step) for step in range(hours * 60))
    return sum(holds(moment.astimezone(start.tzinfo).replace(tzinfo=None)) for moment in moments)


@pytest.mark.parametrize(
    ("text", "sent", "received"),
    [
        ("20Mbit", 2_500_000, 2_500_000),
        ("20 mbit", 2_500_000, 2_500_000),
        ("10Mbit/50Mbit", 1_250_000, 6_250_000),
        ("1.5MB / 1Gbit", 1_500_000, 125_000_000),
        ("1000kbit", 125_000, 125_000),
    ],
)
def test_rates(text: str, sent: int, received: int) -> None:
    assert Limit.parse(text) == Limit(sent, received)


@pytest.mark.parametrize(
    "text", ["", "20", "fast", "20Mbit/", "/20Mbit", "20Mbit/s", "-1Mbit", "999kbit", "1MiB"]
)
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match=r"rate|too low"):
        Limit.parse(text)


@given(st.integers(SLOWEST, 10**10), st.integers(SLOWEST, 10**10))
def test_shown_rates_are_read_as_they_were(sent: int, received: int) -> None:
    assert Limit.parse(str(Limit(sent, received))) == Limit(sent, received)


def test_without_a_schedule_the_limit_always_holds() -> None:
    assert Schedule().holds(datetime(2026, 1, 1, 3, 4))


@pytest.mark.parametrize(
    ("schedule", "covered"),
    [
        ("08:00-23:00", 15 * 60 * 7),
        ("00:00-24:00", 24 * 60 * 7),
        ("22:00-06:00", 8 * 60 * 7),
        ("23:59-24:00", 7),
        ("Mon-Fri 08:00-23:00", 15 * 60 * 5),
        ("Sat,Sun 22:00-06:00", 8 * 60 * 2),
        ("Fri-Mon 12:00-13:00", 60 * 4),
        ("sun 00:00-24:00; MON 01:00-02:00", 25 * 60),
        ("10:00-12:00; 11:00-13:00", 3 * 60 * 7),
    ],
)
def test_a_week_is_covered_as_written(schedule: str, covered: int) -> None:
    assert minutes(schedule, datetime(2026, 6, 1, tzinfo=UTC), 7 * 24) == covered


def test_over_midnight_the_day_is_the_one_on_which_it_begins() -> None:
    holds = Schedule.parse("Sun 22:00-06:00").holds
    sunday = datetime(2026, 11, 29)
    assert holds(sunday.replace(hour=23))
    assert holds(sunday + timedelta(hours=29, minutes=59))
    assert not holds(sunday + timedelta(hours=30))
    assert not holds(sunday.replace(hour=5))


def test_edges_belong_to_what_begins() -> None:
    holds = Schedule.parse("08:00-23:00").holds
    assert not holds(datetime(2026, 1, 1, 7, 59, 59))
    assert holds(datetime(2026, 1, 1, 8))
    assert holds(datetime(2026, 1, 1, 22, 59, 59))
    assert not holds(datetime(2026, 1, 1, 23))


def test_summer_time_follows_the_clock_on_the_wall() -> None:
    spring, autumn = datetime(2026, 3, 29, tzinfo=BERLIN), datetime(2026, 10, 25, tzinfo=BERLIN)
    # 02:00 to 03:00 does not exist in spring and comes twice in autumn.
    assert minutes("02:00-03:00", spring, 23) == 0
    assert minutes("02:00-03:00", autumn, 25) == 120
    assert minutes("01:00-04:00", spring, 23) == 120
    assert minutes("01:00-04:00", autumn, 25) == 240
    assert minutes("08:00-23:00", spring, 23) == minutes("08:00-23:00", autumn, 25) == 15 * 60


@pytest.mark.parametrize(
    "text",
    [
        "",
        "8-23",
        "08:00",
        "25:00-26:00",
        "24:00-01:00",
        "08:60-09:00",
        "08:00-08:00",
        "Mo 08:00-09:00",
        "Mon-Fri",
        "08:00-09:00;",
        "Mon Tue 08:00-09:00",
    ],
)
def test_what_is_no_schedule_is_refused(text: str) -> None:
    with pytest.raises(SettingsError):
        Schedule.parse(text)


SPANS = st.builds(
    Span,
    st.integers(0, 1439),
    st.integers(0, 1440),
    st.frozensets(st.integers(0, len(DAYS) - 1), min_size=1),
).filter(lambda span: span.start != span.end)


@given(st.lists(SPANS, min_size=1, max_size=4))
def test_shown_schedules_are_read_as_they_were(spans: list[Span]) -> None:
    schedule = Schedule(tuple(spans))
    assert Schedule.parse(str(schedule)) == schedule
