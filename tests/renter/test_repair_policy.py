"""Repair policy: when a segment is rebuilt, and which first."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storjfs.renter.repair_policy import Health, SegmentHealth, Urgency, health, repair_order, urgency

shapes = st.tuples(st.integers(1, 30), st.integers(0, 40)).map(lambda kn: (kn[0], kn[0] + kn[1]))


@pytest.mark.parametrize(
    ("k", "n", "healthy", "wanted"),
    [
        (3, 5, 5, Urgency.NONE),
        (3, 5, 4, Urgency.AT_ONCE),
        (3, 5, 3, Urgency.AT_ONCE),
        (3, 5, 2, Urgency.TOO_LATE),
        (8, 20, 17, Urgency.NONE),
        (8, 20, 16, Urgency.ROUTINE),
        (8, 20, 9, Urgency.AT_ONCE),
        (20, 50, 41, Urgency.NONE),
        (20, 50, 40, Urgency.ROUTINE),
        (1, 1, 0, Urgency.TOO_LATE),
    ],
)
def test_a_third_of_the_spares_lost_is_repaired_and_near_death_at_once(
    k: int, n: int, healthy: int, wanted: Urgency
) -> None:
    assert urgency(k, n, healthy) is wanted


@given(shapes, st.data())
def test_losing_a_shard_never_makes_a_segment_healthier(shape: tuple[int, int], data: st.DataObject) -> None:
    k, n = shape
    healthy = data.draw(st.integers(1, n))
    assert urgency(k, n, healthy - 1) >= urgency(k, n, healthy)
    assert health(k, n, healthy - 1) <= health(k, n, healthy)
    assert (health(k, n, healthy) is Health.LOST) == (healthy < k)
    assert (urgency(k, n, healthy) is Urgency.TOO_LATE) == (healthy < k)


def test_the_most_endangered_segment_comes_first_and_the_lost_ones_are_left_out() -> None:
    fine, lost = SegmentHealth(1, 3, 5, 5), SegmentHealth(2, 3, 5, 2)
    near, nearer = SegmentHealth(3, 3, 5, 4), SegmentHealth(4, 3, 5, 3)
    silent = SegmentHealth(5, 3, 5, 4, contained=1)
    assert repair_order([fine, lost, near, nearer, silent]) == [nearer, silent, near]


def test_silence_alone_moves_no_data() -> None:
    assert repair_order([SegmentHealth(1, 3, 5, 5, contained=2)]) == []
