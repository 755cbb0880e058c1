"""The schedule: every shard once per period, at a moment that only the secret tells."""

import json
import random
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from storjfs.renter.schedule import Window, due_in_period, first_due_after, tick_length

SECRET = bytes(range(32))
periods = st.sampled_from([5.0, 60.0, 3600.0, 86400.0, 21 * 86400.0])
moments = st.floats(1.7e9, 2.1e9)


def shards(count: int) -> list[tuple[int, int, int, bytes]]:
    rng = random.Random(1)
    return [(n % 6, n // 5, n % 5, rng.randbytes(32)) for n in range(count)]


@given(periods, moments, st.binary(min_size=32, max_size=32))
def test_a_shard_is_due_once_in_each_period(period: float, now: float, shard_id: bytes) -> None:
    number = int(now // period)
    due = due_in_period(SECRET, shard_id, period, number)
    assert number * period <= due <= (number + 1) * period
    following = first_due_after(SECRET, shard_id, period, now)
    assert now < following <= now + 2 * period


def test_windows_that_follow_each_other_leave_nothing_out_and_nothing_double() -> None:
    rows, period, start = shards(400), 600.0, 1.8e9
    seen: list[bytes] = []
    at = start
    while at < start + 2 * period:
        window = Window(SECRET, period, at, min(at + 77.0, start + 2 * period), limit=16)
        window.consider(rows)
        due = window.due()
        assert len(due) <= 16
        assert window.end > at
        assert all(at < one.at <= window.end for one in due)
        seen += [one.shard_id for one in due]
        at = window.end
    expected = sum(
        start < due_in_period(SECRET, row[3], period, int(start // period) + shift) <= start + 2 * period
        for row in rows
        for shift in range(4)
    )
    assert len(seen) == expected
    assert {row[3] for row in rows} == set(seen)


def test_moments_are_spread_evenly_and_differ_between_periods_and_secrets() -> None:
    rows, period = shards(2000), 86400.0
    first = [due_in_period(SECRET, row[3], period, 20_000) % period for row in rows]
    second = [due_in_period(SECRET, row[3], period, 20_001) % period for row in rows]
    other = [due_in_period(bytes(32), row[3], period, 20_000) % period for row in rows]
    for times in (first, second, other):
        tenths = [sum(int(10 * t / period) == n for t in times) for n in range(10)]
        assert min(tenths) > 140
        assert max(tenths) < 260
    assert sum(abs(a - b) < 60 for a, b in zip(first, second, strict=True)) < 20
    assert sum(abs(a - b) < 60 for a, b in zip(first, other, strict=True)) < 20


@given(st.floats(1.0, 5e6))
@settings(max_examples=50)
def test_there_are_several_ticks_in_every_period(period: float) -> None:
    assert 0.25 <= tick_length(period) <= min(period / 4, 900)


def test_the_moments_of_the_test_vectors() -> None:
    vectors = json.loads((Path(__file__).parents[1] / "vectors" / "renter.json").read_text())
    for row in vectors["audit_due"]:
        secret, shard_id = bytes.fromhex(row["secret"]), bytes.fromhex(row["shard_id"])
        assert due_in_period(secret, shard_id, row["period"], row["number"]) == row["due"]
