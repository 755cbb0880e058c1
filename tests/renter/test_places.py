"""What an address says of where a farmer stands, and what placement makes of it."""

import random
from pathlib import Path
from typing import Any

import pytest
import trio.testing

from storjfs.protocol.terms import Address
from storjfs.renter.placement import Candidate, choose, spread
from storjfs.renter.places import HERE, Place, place_of
from tests.renter.test_placement import GIB, farmer
from tests.renter.world import a_world


@pytest.mark.parametrize(
    ("hosts", "place"),
    [
        (("198.51.100.7",), Place("198.51.100.0/24")),
        (("2001:db8:12:34::7",), Place("2001:db8:12::/48")),
        (("::ffff:198.51.100.7",), Place("198.51.100.0/24")),
        (("farm.example", "198.51.100.7"), Place("198.51.100.0/24")),
        (("192.168.1.9",), Place(vicinity="192.168.1.0/24")),
        (("10.4.3.2",), Place(vicinity="10.4.3.0/24")),
        (("100.64.1.1",), Place(vicinity="100.64.1.0/24")),
        (("fd12:3456:789a::1",), Place(vicinity="fd12:3456:789a::/48")),
        (("fe80::1%eth0",), Place(vicinity="fe80::/48")),
        (("127.0.0.1",), Place(vicinity=HERE)),
        (("::1",), Place(vicinity=HERE)),
        (("farm.example",), Place()),
        (("0.0.0.0",), Place()),
        ((), Place()),
    ],
)
def test_public_addresses_tell_a_network_and_local_ones_only_a_vicinity(
    hosts: tuple[str, ...], place: Place
) -> None:
    assert place_of(hosts) == place


def at(number: int, host: str, **changes: Any) -> Candidate:
    place = place_of((host,))
    return farmer(number, network=place.network, vicinity=place.vicinity, **changes)


def test_two_shards_of_a_segment_go_to_one_network_only_where_networks_run_out() -> None:
    farmers = [at(1, "198.51.100.1"), at(2, "198.51.100.2"), at(3, "203.0.113.3"), at(4, "192.0.2.4")]
    rng = random.Random(0)
    for _ in range(50):
        assert {1, 2} - set(choose(farmers, 3, 1, rng=rng))
    assert sorted(choose(farmers, 4, 1, rng=rng)) == [1, 2, 3, 4]
    taken = farmers[0].groups
    assert all(choose(farmers[1:], 1, 1, [1], taken_groups=taken, rng=rng) != [2] for _ in range(50))


def test_distance_counts_more_than_speed_and_less_than_a_good_score() -> None:
    near, far = at(2, "198.51.100.2"), at(3, "203.0.113.3", lagging=True)
    first = at(1, "198.51.100.1")
    rng = random.Random(0)
    assert sorted(choose([near, far], 1, 1, taken_groups=first.groups, rng=rng)) == [3]
    far = at(3, "203.0.113.3", score=0.2)
    assert sorted(choose([near, far], 1, 1, taken_groups=first.groups, rng=rng)) == [2]


def test_farmers_of_one_machine_or_local_network_are_no_group() -> None:
    for host in ("127.0.0.1", "192.168.1.5", "fd12::5"):
        farmers = [at(number, host) for number in range(1, 6)]
        rng = random.Random(0)
        seen = {frozenset(choose(farmers, 3, 1, rng=rng)) for _ in range(100)}
        assert len(seen) == 10


def test_whoever_lags_gets_shards_where_nobody_else_is_left() -> None:
    farmers = [farmer(n) for n in range(1, 6)] + [farmer(6, lagging=True)]
    rng = random.Random(0)
    assert all(6 not in choose(farmers, 5, 1, rng=rng) for _ in range(50))
    assert max(choose(farmers, 6, 1, rng=rng)) == 6


@pytest.mark.parametrize(
    "better",
    [{"rate": 40e6}, {"price": 10}, {"preferred": True}, {"capacity": 4 * GIB, "used": 0}],
)
def test_fast_cheap_preferred_and_empty_farmers_are_drawn_more_often_and_not_alone(
    better: dict[str, Any],
) -> None:
    usual = {"rate": 10e6, "price": 40, "used": GIB // 2}
    farmers = [farmer(number, **usual) for number in range(1, 6)] + [farmer(6, **(usual | better))]
    rng = random.Random(0)
    drawn = [choose(farmers, 1, 1, rng=rng)[0] for _ in range(2000)]
    assert 2000 / 6 * 1.3 < drawn.count(6) < 2000 / 2
    assert all(drawn.count(number) > 100 for number in range(1, 6))


def test_the_spread_tells_when_shards_lie_close_together() -> None:
    apart = [at(number, f"198.51.{number}.1") for number in range(1, 6)]
    assert spread(apart, 5).warning == ""
    crowded = spread([*apart[:4], at(5, "198.51.4.9")], 5)
    assert (crowded.apart, crowded.wanted) == (4, 5)
    assert "only 4 operators or networks" in crowded.warning
    one_operator = [at(number, f"198.51.{number}.1", operator="x") for number in range(1, 6)]
    assert spread(one_operator, 5).apart == 1
    # A sixth elsewhere makes it possible.
    assert spread([*apart[:4], at(5, "198.51.4.9"), at(6, "192.0.2.1")], 5).warning == ""


def test_farmers_of_one_local_network_are_worth_a_word() -> None:
    farmers = [at(number, "192.168.1.5") for number in range(1, 6)]
    found = spread(farmers, 5)
    assert (found.apart, found.places) == (5, 1)
    assert "only 1 place" in found.warning


def test_fewer_farmers_than_shards_are_no_matter_of_distance() -> None:
    assert spread([at(1, "198.51.100.1"), at(2, "203.0.113.1")], 5).warning == ""
    assert spread([], 5).warning == ""


@pytest.mark.parametrize(("hosts", "said"), [("198.51.100.{}", True), ("198.51.{}.1", False)])
async def test_status_and_log_tell_once_that_farmers_stand_close_together(
    tmp_path: Path,
    fast_clock: trio.testing.MockClock,
    caplog: pytest.LogCaptureFixture,
    hosts: str,
    said: bool,
) -> None:
    async with a_world(tmp_path, fast_clock, 5) as world:
        for number, site in enumerate(world.sites.values(), 1):
            site.address = Address(hosts.format(number), 7420)
        async with world.life() as (renter, catalogue):
            for _ in range(3):
                await catalogue.store_segment(renter)
            assert [bool(one) for one in renter.report().warnings] == [True] * said
    told = [record for record in caplog.records if "operators or networks" in record.getMessage()]
    assert len(told) == said
