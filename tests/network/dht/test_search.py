"""The search by itself: whom it asks, when it ends, and what strangers cannot make of it."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storjfs.network.dht.krpc import Answer, Endpoint, Found
from storjfs.network.dht.node_ids import follows_from
from storjfs.network.dht.search import COPIES, MOST_ASKED, MOST_KNOWN, Search
from storjfs.protocol.hosts import network_of, on_the_internet

TARGET = bytes(20)
HONEST = [
    ("124.31.75.21", "5fbfbff10c5d6a4ec8a88e4c6ab4c28b95eee401"),
    ("21.75.31.124", "5a3ce9c14e7a08645677bbd1cfe7d8f956d53256"),
    ("65.23.51.170", "a5d43220bc8f112a3d426c84764f8c2a1150e616"),
    ("84.124.73.14", "1b0321dd1bb1fe518101ceef99462b947a01ff41"),
    ("43.213.53.83", "e56f6cbf5b7c4be0237986d5243b87aa6d51305a"),
]
"""The addresses and ids that BEP 42 gives as an example."""


def answer(id_: bytes, nodes: list[Found]) -> Answer:
    return Answer(b"abcd", id_, tuple(nodes), token=b"token")


def found(number: int, id_: bytes) -> Found:
    return Found(id_, (f"{9 + number // 65536}.{number // 256 % 256}.{number % 256}.1", 6881))


@given(st.integers(0, 2**32), st.integers(1, 300))
def test_it_finds_the_nearest_of_a_network_in_which_each_knows_some(seed: int, size: int) -> None:
    chance = random.Random(seed)
    nodes = [found(number, chance.randbytes(20)) for number in range(size)]
    ids = {node.endpoint: node.id for node in nodes}
    by_nearness = sorted(nodes, key=lambda node: node.id)

    def nearest_to(own: bytes) -> list[Found]:
        """What a node of Kademlia answers: the nearest to the target of those it knows."""
        known = sorted(nodes, key=lambda node: int.from_bytes(node.id) ^ int.from_bytes(own))[:8]
        known += chance.sample(nodes, min(30, size))
        return sorted(known, key=lambda node: node.id)[:8]

    search = Search(TARGET, [nodes[0].endpoint], version=4, private=True)
    while not search.finished:
        endpoint = search.next()
        assert endpoint is not None
        search.answered(endpoint, answer(ids[endpoint], nearest_to(ids[endpoint])))
    got = [endpoint for endpoint, _ in search.nearest()]
    assert got[:1] == [by_nearness[0].endpoint]
    assert got == sorted(got, key=lambda one: ids[one])


def test_nodes_that_do_not_answer_are_passed_over() -> None:
    alive = [found(number, bytes([0, number]) + bytes(18)) for number in range(1, 30)]
    dead = [found(1000 + number, bytes([0, 0, number]) + bytes(17)) for number in range(1, 10)]
    search = Search(TARGET, [alive[0].endpoint], version=4, private=False)
    ids = {node.endpoint: node.id for node in alive}
    while not search.finished:
        endpoint = search.next()
        assert endpoint is not None
        if endpoint in ids:
            search.answered(endpoint, answer(ids[endpoint], [*alive, *dead]))
        else:
            search.failed(endpoint)
    assert [one for one, _ in search.nearest()] == [node.endpoint for node in alive[:COPIES]]


def test_it_ends_though_each_answer_names_nodes_ever_nearer() -> None:
    numbers = iter(range(1, 10**9))
    search = Search(TARGET, [("8.8.8.8", 1)], version=4, private=True)
    asked = 0
    distance = 1 << 159
    while not search.finished:
        endpoint = search.next()
        assert endpoint is not None
        asked += 1
        distance -= 1 << 150
        nodes = [found(next(numbers), (distance - n).to_bytes(20)) for n in range(16)]
        search.answered(endpoint, answer(distance.to_bytes(20), nodes))
    assert asked <= MOST_ASKED
    assert search.next() is None


def test_it_ends_though_nobody_named_exists() -> None:
    numbers = iter(range(1, 10**9))
    search = Search(TARGET, [("8.8.8.8", 1)], version=4, private=True)
    first = search.next()
    assert first is not None
    search.answered(
        first, answer(b"\xff" * 20, [found(next(numbers), random.randbytes(20)) for _ in range(4000)])
    )
    asked = 0
    while not search.finished:
        endpoint = search.next()
        assert endpoint is not None
        search.failed(endpoint)
        asked += 1
    assert asked < min(MOST_ASKED, MOST_KNOWN)
    assert [endpoint for endpoint, _ in search.nearest()] == [first]


def test_of_one_24_only_one_node_is_asked() -> None:
    crowd = [Found(bytes(19) + bytes([number]), (f"93.184.216.{number}", 6881)) for number in range(1, 200)]
    others = [found(number, random.randbytes(20)) for number in range(1, 30)]
    search = Search(TARGET, [others[0].endpoint], version=4, private=False)
    asked: list[Endpoint] = []
    while not search.finished:
        endpoint = search.next()
        assert endpoint is not None
        asked.append(endpoint)
        search.answered(endpoint, answer(random.randbytes(20), [*crowd, *others]))
    groups = [network_of(host) for host, _ in asked]
    assert len(groups) == len(set(groups))
    assert any(host.startswith("93.") for host, _ in asked)


@pytest.mark.parametrize(("host", "id_"), HONEST)
def test_ids_follow_from_addresses_as_bep_42_says(host: str, id_: str) -> None:
    assert follows_from(host, bytes.fromhex(id_))
    assert not follows_from("8.8.8.8", bytes.fromhex(id_))
    assert not follows_from(host, bytes([int(id_[:2], 16) ^ 1]) + bytes.fromhex(id_[2:]))
    assert not follows_from("2a00:1450:4001::1", bytes.fromhex(id_))


def honest(number: int, chance: random.Random) -> Found:
    """A node with an id that follows from its address: one of those in BEP 42, at an address like it."""
    host, id_ = HONEST[number % len(HONEST)]
    # Of the first two bytes of an address not all bits count.
    first, second, *rest = (int(part) for part in host.split("."))
    high, middle = number // len(HONEST) % 16, number // len(HONEST) // 16 % 8
    like = ".".join(map(str, ((first & 3) | (4 * (high + 2)), (second & 15) | (16 * middle), *rest)))
    return Found(bytes.fromhex(id_[:6]) + chance.randbytes(16) + bytes.fromhex(id_[-2:]), (like, 6881))


def test_who_chooses_ids_near_a_target_does_not_become_all_of_its_neighbourhood() -> None:
    """A hundred nodes in as many networks sit around the target; the honest ones nearby are still told."""
    chance = random.Random(7)
    crowd = [found(number, bytes(18) + bytes([0, number])) for number in range(1, 100)]
    others = [
        node for node in (honest(number, chance) for number in range(60)) if on_the_internet(node.endpoint[0])
    ]
    assert all(follows_from(node.endpoint[0], node.id) for node in others)
    ids = {node.endpoint: node.id for node in (*crowd, *others)}
    search = Search(TARGET, [others[0].endpoint], version=4, private=False)
    while not search.finished:
        endpoint = search.next()
        assert endpoint is not None
        named = crowd if endpoint in {node.endpoint for node in crowd} else [*crowd, *others]
        search.answered(endpoint, answer(ids[endpoint], named))
    told = {endpoint for endpoint, _ in search.nearest()}
    nearest = sorted(others, key=lambda node: node.id)
    assert {node.endpoint for node in crowd[:COPIES]} <= told
    assert len(told & {node.endpoint for node in others}) == COPIES
    assert nearest[0].endpoint in told


def test_private_addresses_are_asked_in_private_networks_only() -> None:
    for host in ("127.0.0.1", "10.0.0.1", "192.168.0.1"):
        assert Search(TARGET, [(host, 1)], version=4, private=False).next() is None
        assert Search(TARGET, [(host, 1)], version=4, private=True).next() == (host, 1)
    assert Search(TARGET, [("8.8.8.8", 0)], version=4, private=False).next() is None


def test_each_ip_version_is_searched_by_itself() -> None:
    both = [("8.8.8.8", 1), ("2a00:1450:4001::1", 2)]
    assert Search(TARGET, both, version=4, private=False).next() == both[0]
    assert Search(TARGET, both, version=6, private=False).next() == both[1]


def test_without_anybody_to_begin_with_it_is_over() -> None:
    assert Search(TARGET, [], version=4, private=False).finished
