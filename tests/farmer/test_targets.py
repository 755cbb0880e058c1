"""Whom a farmer dials because somebody asked, and which strangers it asks itself."""

import random
from collections.abc import Sequence
from hashlib import sha256
from ipaddress import ip_network

import pytest

from storjfs.farmer.targets import NEARBY, candidates, may_dial_back
from storjfs.protocol.directory import Known
from storjfs.protocol.ids import NodeId
from storjfs.protocol.terms import Address, sign_offer
from storjfs.volume import StaticFarmer
from tests.protocol import values

HOME = (ip_network("192.168.1.0/24"), ip_network("fd00:1::/64"), ip_network("127.0.0.0/8"))
ROUTER = "192.168.1.1"


@pytest.mark.parametrize(
    ("host", "may"),
    [
        ("8.8.8.8", True),
        ("2001:db8::7", True),
        ("192.168.1.20", True),
        ("fd00:1::20", True),
        # A network that this machine is not in: somebody came through a tunnel, or a proxy on our side.
        ("192.168.2.20", False),
        ("10.0.0.7", False),
        ("172.17.0.1", False),
        ("fd00:2::20", False),
        # Whoever the router translates, and its own ports.
        (ROUTER, False),
        # A proxy on this machine that lets others in.
        ("127.0.0.1", False),
        ("::1", False),
    ],
)
def test_only_who_asks_is_dialled_and_no_network_that_others_cannot_reach(host: str, may: bool) -> None:
    assert may_dial_back(host, HOME, ROUTER) is may


def known(number: int, *addresses: str, private: bool = False) -> Known:
    """A farmer that answered at the first of these."""
    key = values.key(f"known {number}")
    there = tuple(map(Address.parse, addresses))
    offer = values.offer(farmer=key.node_id, addresses=there)
    return Known(
        node_id=key.node_id,
        signed=sign_offer(key, offer),
        offer=offer,
        private=private,
        confirmed=1.0,
        answered_at=there[0],
    )


def asked(found: Sequence[Known], *peers: str, count: int = 8, using: Sequence[Known] = ()) -> list[str]:
    named = tuple(map(StaticFarmer.parse, peers))
    chosen = candidates(named, found, [one.node_id for one in using], count, random.Random(1))
    return [str(one.addresses[0]) for one in chosen]


def test_those_named_are_asked_first_and_strangers_up_to_the_number() -> None:
    found = [known(number, f"8.8.{number}.1:7420") for number in range(20)]
    chosen = asked(found, "farm.example.org:7420", "8.9.1.1:7420")
    assert chosen[:2] == ["farm.example.org:7420", "8.9.1.1:7420"]
    assert len(chosen) == len(set(chosen)) == 8
    assert asked(found, count=1, using=found[13:14]) == ["8.8.13.1:7420"], "a relay in use is asked again"


def test_nobody_has_many_votes_by_many_names() -> None:
    one_network = [known(number, f"8.8.8.{number}:7420") for number in range(1, 200)]
    assert len(asked(one_network)) == 1
    assert asked(one_network, "8.8.8.250:7420") == ["8.8.8.250:7420"]


def test_few_are_asked_at_home_for_they_say_nothing_of_the_outside() -> None:
    at_home = [known(number, f"192.168.1.{number}:7420", private=True) for number in range(1, 9)]
    outside = [known(number, f"8.8.{number}.1:7420") for number in range(10, 13)]
    chosen = asked([*at_home, *outside])
    assert sum(one.startswith("192.168.") for one in chosen) == NEARBY
    assert sum(one.startswith("8.8.") for one in chosen) == 3


def test_who_is_away_or_behind_a_relay_or_asked_already_is_not_asked() -> None:
    away, behind, named = known(1, "8.8.1.1:7420"), known(2, "relay+8.8.2.1:7420"), known(3, "8.8.3.1:7420")
    away.failures = 9
    assert asked([away, behind, named], f"farm.example.org:7420/{named.node_id.hex()}") == [
        "farm.example.org:7420"
    ]


def test_it_is_asked_by_both_kinds_of_address() -> None:
    both = known(1, "8.8.1.1:7420", "relay+8.8.2.2:7420", "[2a00::7]:7420", "[2a00::8]:7420")
    named = known(2, "farm.example.org:7420", "[2a00::9]:7420")
    inside = known(3, "8.8.3.1:7420", "[fd00::3]:7420")
    found = candidates((), [both, named, inside], (), 8, random.Random(1))
    assert {tuple(map(str, one.addresses)) for one in found} == {
        ("8.8.1.1:7420", "[2a00::7]:7420"),
        ("farm.example.org:7420",),
        ("8.8.3.1:7420",),
    }
    assert not any(one.named or one.private for one in found)


def test_ids_of_peers_are_kept() -> None:
    node_id = sha256(b"somebody").digest()
    (one,) = candidates((StaticFarmer(Address("8.8.1.1", 7420), node_id),), (), (), 8, random.Random(1))
    assert (one.node_id, one.named, one.private) == (NodeId(node_id), True, True)
