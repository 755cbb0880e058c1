"""How many data connections to one peer there are: as many as bring something."""

import random

import pytest

from storjfs.network.width import FIRST, LEAST, MOST, Width

MIB = 1 << 20


class Line:
    """A peer that gives `each` bytes per second to a connection, `most` to all of them."""

    def __init__(self, each: float, most: float, noise: float = 0.0) -> None:
        self.each, self.most, self.noise = each, most, noise
        self.now = 0.0
        self.width = Width()
        self.random = random.Random(1)
        self.counts: list[int] = []

    def transfer(self, count: int, *, waiting: bool = True) -> None:
        for _ in range(count):
            rate = min(self.each * self.width.count, self.most)
            rate *= 1 + self.random.uniform(-self.noise, self.noise)
            self.now += MIB / rate
            self.width.done(self.now, MIB, waiting=waiting)
            self.counts.append(self.width.count)


def test_a_long_line_gets_as_many_as_fill_it() -> None:
    line = Line(each=2 * MIB, most=12 * MIB)
    line.transfer(2000)
    late = line.counts[-500:]
    assert sum(late) / len(late) > 5.5
    assert max(line.counts) <= MOST


def test_a_short_line_that_one_connection_fills_gets_no_more_for_long() -> None:
    line = Line(each=100 * MIB, most=100 * MIB)
    line.transfer(20_000)
    assert max(line.counts) == FIRST + 1
    # Tried ever more seldom.
    late = line.counts[-10_000:]
    assert late.count(FIRST + 1) < len(late) / 20


def test_without_a_wait_for_a_connection_nothing_changes() -> None:
    line = Line(each=MIB, most=100 * MIB)
    line.transfer(5000, waiting=False)
    assert set(line.counts) == {FIRST}


def test_noise_does_not_drive_it_to_the_end() -> None:
    line = Line(each=100 * MIB, most=100 * MIB, noise=0.5)
    line.transfer(20_000)
    late = line.counts[-10_000:]
    assert sum(late) / len(late) < FIRST + 1


def test_a_stall_halves_it_down_to_one_and_it_climbs_again() -> None:
    line = Line(each=2 * MIB, most=100 * MIB)
    line.transfer(3000)
    assert line.width.count == MOST
    halves = []
    for _ in range(5):
        line.width.stalled()
        halves.append(line.width.count)
    assert halves == [4, 2, LEAST, LEAST, LEAST]
    line.transfer(3000)
    assert line.width.count == MOST


@pytest.mark.parametrize("first", [1, 2, 8])
def test_it_begins_where_it_is_told(first: int) -> None:
    assert Width(first).count == first
