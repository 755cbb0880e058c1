"""Who lags: far slower than the others, or waited for in vain; and how that ends."""

from storjfs.renter.speed import FIRST_REST, LONGEST_REST, Speeds, Way

MIB = 1 << 20


class Clock:
    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time


def node(number: int) -> bytes:
    return number.to_bytes(4, "big")


def some(count: int = 5) -> tuple[Speeds, Clock]:
    """Farmers 0 to count - 1 that take 4 MiB in 0.2 seconds."""
    clock = Clock()
    speeds = Speeds(clock)
    for number in range(count):
        for way in Way:
            speeds.took(node(number), way, 4 * MIB, 0.2)
    return speeds, clock


SLOW = b"slow"


def test_nobody_lags_who_is_not_known() -> None:
    speeds, _ = some()
    assert not any(speeds.lagging(node(number), way) for number in (0, 1) for way in Way)


def test_a_farmer_far_slower_than_the_others_lags_that_way_only() -> None:
    speeds, _ = some()
    speeds.took(SLOW, Way.PUT, 4 * MIB, 80.0)
    assert speeds.lagging(SLOW, Way.PUT)
    assert not speeds.lagging(SLOW, Way.GET)
    rate, usual = speeds.rate(SLOW, Way.PUT), speeds.rate(node(0), Way.PUT)
    assert rate is not None
    assert usual is not None
    assert rate < usual / 100


def test_where_all_are_slow_nobody_lags() -> None:
    clock = Clock()
    speeds = Speeds(clock)
    for number in range(6):
        speeds.took(node(number), Way.PUT, 4 * MIB, 60.0 + 10 * number)
    assert not any(speeds.lagging(node(number), Way.PUT) for number in range(6))


def test_a_short_pause_is_no_sign_however_fast_the_others_are() -> None:
    speeds, _ = some()
    for number in range(5):
        speeds.took(node(number), Way.GET, 65536, 0.001)
    speeds.took(SLOW, Way.GET, 65536, 0.5)
    assert not speeds.lagging(SLOW, Way.GET)


def test_waiting_in_vain_adds_up_and_an_answer_between_ends_it() -> None:
    speeds, _ = some()
    for _ in range(5):
        speeds.late(SLOW, Way.GET, MIB, 0.3)
        speeds.took(SLOW, Way.GET, MIB, 0.1)
    assert not speeds.lagging(SLOW, Way.GET)
    for _ in range(3):
        speeds.late(SLOW, Way.GET, MIB, 0.3)
    assert speeds.lagging(SLOW, Way.GET)


def test_it_is_tried_again_later_and_later_and_believed_at_once() -> None:
    speeds, clock = some()
    rests = []
    for _ in range(12):
        speeds.late(SLOW, Way.PUT, MIB, 5.0)
        speeds.late(SLOW, Way.PUT, MIB, 5.0)  # of the same time: counts once
        before = clock.time
        while speeds.lagging(SLOW, Way.PUT):
            clock.time += 1.0
        rests.append(clock.time - before)
    assert rests[0] == FIRST_REST
    assert rests == sorted(rests)
    assert rests[-1] == LONGEST_REST
    speeds.late(SLOW, Way.PUT, MIB, 5.0)
    speeds.took(SLOW, Way.PUT, 4 * MIB, 0.2)
    assert not speeds.lagging(SLOW, Way.PUT)


def test_of_many_farmers_the_usual_rate_is_not_made_anew_each_time() -> None:
    speeds, _ = some(1000)
    speeds.took(SLOW, Way.PUT, 4 * MIB, 80.0)
    assert speeds.lagging(SLOW, Way.PUT)
    usual = speeds._usual[Way.PUT]
    assert usual.changes < 1000
