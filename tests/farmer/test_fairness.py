"""Fair queue and token bucket: shares and averages, by arithmetic alone."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from storjfs.farmer.fairness import DEPTH, REMEMBERED, Bucket, FairQueue

KIB = 1 << 10


def served(connections: dict[str, int], sizes: dict[str, int], rounds: int) -> Counter[str]:
    """What each owner got when each of its connections queues its next item once the last one was popped."""
    queue: FairQueue[str, str] = FairQueue()
    for owner, count in connections.items():
        for _ in range(count):
            queue.push(owner, sizes[owner], owner)
    got: Counter[str] = Counter()
    for _ in range(rounds):
        ticket = queue.pop()
        got[ticket.owner] += int(ticket.size)
        queue.push(ticket.owner, ticket.size, ticket.item)
    return got


def test_sixteen_connections_get_no_more_than_one() -> None:
    got = served({"many": 16, "one": 1}, {"many": 64 * KIB, "one": 64 * KIB}, 1000)
    assert abs(got["many"] - got["one"]) <= 64 * KIB


def test_small_items_get_as_many_bytes_as_large_ones() -> None:
    got = served({"large": 16, "small": 1}, {"large": 64 * KIB, "small": KIB}, 10_000)
    assert abs(got["large"] - got["small"]) <= 2 * 64 * KIB


@given(
    st.dictionaries(
        st.sampled_from("abcdef"), st.tuples(st.integers(1, 20), st.integers(1, 64 * KIB)), min_size=2
    )
)
def test_shares_differ_by_less_than_two_items_however_many_connections(
    owners: dict[str, tuple[int, int]],
) -> None:
    sizes = {owner: size for owner, (_, size) in owners.items()}
    got = served({owner: count for owner, (count, _) in owners.items()}, sizes, 2000)
    largest = max(sizes.values())
    assert max(got.values()) - min(got[owner] for owner in owners) <= 2 * largest


def test_who_was_away_gets_nothing_for_the_time_before() -> None:
    queue: FairQueue[str, int] = FairQueue()
    for number in range(100):
        queue.push("here", 1, number)
    for _ in range(50):
        queue.pop()
    for number in range(100):
        queue.push("late", 1, number)
    got = Counter(queue.pop().owner for _ in range(40))
    assert abs(got["late"] - got["here"]) <= 2


def test_items_of_an_owner_keep_their_order_and_withdrawn_ones_never_come() -> None:
    queue: FairQueue[str, int] = FairQueue()
    tickets = [queue.push("a", 1, number) for number in range(5)]
    queue.withdraw(tickets[0])
    queue.withdraw(tickets[3])
    queue.withdraw(tickets[3])
    assert len(queue) == 3
    assert [queue.pop().item for _ in range(3)] == [1, 2, 4]
    assert not queue
    queue.withdraw(tickets[1])
    assert not queue


def test_who_gave_up_waiting_has_paid_nothing() -> None:
    queue: FairQueue[str, int] = FairQueue()
    for _ in range(100):
        queue.withdraw(queue.push("unlucky", 64 * KIB, 0))
    assert queue._heap == []
    for _ in range(20):
        queue.push("other", KIB, 0)
        queue.push("unlucky", KIB, 0)
    assert Counter(queue.pop().owner for _ in range(20)) == {"other": 10, "unlucky": 10}


def test_strangers_that_come_once_do_not_fill_the_memory() -> None:
    queue: FairQueue[int, None] = FairQueue()
    for stranger in range(5 * REMEMBERED):
        queue.push(stranger, 64 * KIB, None)
        queue.pop()
    assert len(queue._finish) <= REMEMBERED + 1


@given(st.lists(st.tuples(st.floats(0, 5), st.integers(1, 100_000)), min_size=1, max_size=50))
def test_bucket_never_lets_more_through_than_its_rate_and_one_item(takes: list[tuple[float, int]]) -> None:
    rate = 125_000.0
    bucket, now, total, largest = Bucket(rate, 0.0), 0.0, 0, 0
    for pause, amount in takes:
        now += max(pause, bucket.wait(now))
        while (wait := bucket.wait(now)) > 0:
            now += wait
        bucket.take(amount, now)
        total, largest = total + amount, max(largest, amount)
    assert total <= rate * now + rate * DEPTH + largest + 1


def test_bucket_gives_its_rate_to_who_always_waits() -> None:
    bucket, now, total = Bucket(1000.0, 0.0), 0.0, 0
    while now < 100:
        wait = bucket.wait(now)
        if wait:
            now += wait
        else:
            bucket.take(64, now)
            total += 64
    assert abs(total - 100 * 1000 - 1000 * DEPTH) < 200


def test_changed_rate_holds_at_once() -> None:
    bucket = Bucket(1000.0, 0.0)
    bucket.take(1250, 0.0)
    assert bucket.wait(0.0) == 1.0
    bucket.change(10_000.0, 0.0)
    assert bucket.wait(0.0) == 0.1
    bucket.change(1.0, 100.0)
    bucket.take(0.25, 100.0)
    assert bucket.wait(100.0) == 0.0  # empty, not in debt: the next one may go
