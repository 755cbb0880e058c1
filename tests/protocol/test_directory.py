"""The directory believes only what is signed or shown in TLS, and no source pushes out what others know."""

import random
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storjfs.protocol.directory import (
    ADDRESSES,
    ASKED_EVERY,
    FORGOTTEN_AFTER,
    FRESH,
    LONGEST_OFFER,
    PEER_SOURCES,
    WAITING,
    Directory,
    Hint,
    peer_source,
    quota_of,
)
from storjfs.protocol.failures import ProtocolViolation
from storjfs.protocol.hosts import is_private, network_of
from storjfs.protocol.ids import NodeId
from storjfs.protocol.signing import Kind, Signed
from storjfs.protocol.terms import Address, sign_offer
from tests.protocol import values

NOW = 1_800_000_000.0
DAY = 86400
ABROAD = Address("8.8.4.4", 7420)
AT_HOME = Address("192.168.1.5", 7420)


@cache
def who(number: int) -> NodeId:
    return values.key(f"farmer {number}").node_id


@cache
def offer(number: int, expires: int = int(NOW) + DAY, at: Address = ABROAD, price: int = 1) -> Signed:
    key = values.key(f"farmer {number}")
    return sign_offer(
        key,
        values.offer(farmer=key.node_id, payee=key.public, expires=expires, addresses=(at,), price=price),
    )


def answered(directory: Directory, source: str, number: int, **more: Any) -> None:
    assert directory.answered(source, ABROAD, offer(number), more.get("now", NOW), 0.05, private=False)


# --- what counts ---


def test_only_what_the_farmer_signed_is_entered() -> None:
    directory = Directory()
    good = offer(1)
    forged = Signed(good.body, offer(2).signature)
    stranger = Signed.make(values.STRANGER, Kind.OFFER, values.offer(expires=int(NOW) + DAY))
    other_kind = Signed(good.body, values.key("farmer 1").sign(Kind.RECEIPT, good.body))
    changed = Signed(bytes([good.body[0], *good.body[1:-1], good.body[-1] ^ 1]), good.signature)
    for bad in (
        forged,
        stranger,
        other_kind,
        changed,
        Signed(b"", good.signature),
        Signed(b"\x90", good.signature),
    ):
        assert directory.learn("lan", bad, NOW) is None
    assert len(directory) == 0
    assert directory.learn("lan", good, NOW) is not None


def test_offers_that_have_ended_that_never_end_or_are_too_large_are_not() -> None:
    directory = Directory()
    key = values.key("farmer 1")
    large = sign_offer(
        key,
        values.offer(
            farmer=key.node_id,
            expires=int(NOW) + DAY,
            addresses=tuple(Address("x" * 250, port) for port in range(1, 17)),
        ),
    )
    for bad in (offer(1, int(NOW)), offer(1, int(NOW) + LONGEST_OFFER + 1), large):
        assert directory.learn("lan", bad, NOW) is None
    assert len(directory) == 0


def test_a_newer_offer_replaces_and_an_older_one_does_not() -> None:
    directory = Directory()
    newer, older = offer(1, int(NOW) + DAY + 9, price=7), offer(1, price=5)
    for one in (older, newer, older):
        assert directory.learn("lan", one, NOW)
    known = directory.get(who(1))
    assert known is not None
    assert known.offer.price == 7
    assert known.signed == newer


def test_a_directory_does_not_enter_its_owner() -> None:
    directory = Directory(who(1))
    assert directory.learn("lan", offer(1), NOW) is None
    directory.hint(Hint("lan", (ABROAD,), who(1)))
    assert directory.take_hints(9) == []


def test_farmers_behind_one_relay_wait_each_for_a_visit() -> None:
    directory = Directory()
    relay = ABROAD.through()
    for number in (1, 2, 2, 3):
        directory.hint(Hint("lan", (relay,), who(number)))
    for number in (4, 5):
        directory.hint(Hint("lan", (ABROAD,), who(number)))
    waiting = directory.take_hints(9)
    assert [one.node_id for one in waiting if one.addresses == (relay,)] == [who(1), who(2), who(3)]
    assert len(waiting) == 4, "where a farmer listens itself, there is one"


def test_private_addresses_count_only_from_within() -> None:
    directory = Directory()
    inside = offer(1, at=AT_HOME)
    assert directory.learn(peer_source("8.8.8.8"), inside, NOW) is None
    directory.hint(Hint("peers 8.8.8.0/24", (AT_HOME, Address("localhost", 1))))
    assert directory.take_hints(9) == []
    known = directory.learn("lan", inside, NOW, private=True)
    assert known is not None
    assert known.addresses == (AT_HOME,)
    # Named from outside before, a private address of a farmer that has both is not dialled.
    both = sign_offer(
        values.key("farmer 2"),
        values.offer(farmer=who(2), expires=int(NOW) + DAY, addresses=(AT_HOME, ABROAD)),
    )
    known = directory.learn(peer_source("8.8.8.8"), both, NOW)
    assert known is not None
    assert known.addresses == (ABROAD,)


@pytest.mark.parametrize(
    ("host", "private", "network"),
    [
        ("127.0.0.1", True, "127.0.0.0/24"),
        ("10.1.2.3", True, "10.1.2.0/24"),
        ("100.64.0.1", True, "100.64.0.0/24"),
        ("169.254.9.9", True, "169.254.9.0/24"),
        ("fe80::1%eth0", True, "fe80::/48"),
        ("fd00::1", True, "fd00::/48"),
        ("::1", True, "::/48"),
        ("::ffff:8.8.4.4", False, "8.8.4.0/24"),
        ("::ffff:10.0.0.1", True, "10.0.0.0/24"),
        ("0.0.0.0", True, "0.0.0.0/24"),
        ("8.8.4.4", False, "8.8.4.0/24"),
        ("224.0.0.1", True, "224.0.0.0/24"),
        ("ff02::1", True, "ff02::/48"),
        ("fec0::1", True, "fec0::/48"),
        ("::127.0.0.1", True, "::/48"),
        ("2002:a00:1::1", True, "2002:a00:1::/48"),
        ("64:ff9b::a00:1", True, "10.0.0.0/24"),
        ("64:ff9b::808:404", False, "8.8.4.0/24"),
        ("nas.lan", True, "nas.lan"),
        ("127.1", True, "127.1"),
        ("2130706433", True, "2130706433"),
        ("0x7f.0.0.1", True, "0.1"),
        ("0x7f000001", True, "0x7f000001"),
        ("127.0.0.1.", True, "0.1"),
        ("farm7.example.org", False, "example.org"),
        ("2600:1:2:3::4", False, "2600:1:2::/48"),
        ("localhost", True, "localhost"),
        ("nas.local", True, "nas.local"),
        ("a.b.Example.org.", False, "example.org"),
    ],
)
def test_networks_and_private_ranges(host: str, private: bool, network: str) -> None:
    assert network_of(host) == network
    assert is_private(host) is private
    relayed = Address(host, 7420).through().host
    assert (network_of(relayed), is_private(relayed)) == (network, private)


# --- bounds ---


@dataclass(frozen=True)
class Act:
    source: str
    number: int
    answers: bool


SOURCES = ["settings", "lan", "dht", "contracts", *(peer_source(f"8.8.{n}.1") for n in range(3))]
acts = st.lists(
    st.builds(Act, st.sampled_from(SOURCES), st.integers(0, 60), st.booleans()), min_size=1, max_size=150
)


def do(directory: Directory, act: Act) -> None:
    if act.answers:
        answered(directory, act.source, act.number)
    else:
        directory.learn(act.source, offer(act.number), NOW)


def held(directory: Directory) -> dict[NodeId, set[str]]:
    return {one.node_id: set(one.sources) for one in directory}


@settings(max_examples=60, deadline=None)
@given(acts, st.sampled_from(SOURCES), st.integers(0, 2**32))
def test_a_flood_pushes_out_only_what_its_source_alone_named(
    before: list[Act], flooding: str, seed: int
) -> None:
    directory = Directory()
    for act in before:
        do(directory, act)
    others = {one for one, sources in held(directory).items() if sources != {flooding}}
    rng = random.Random(seed)
    for _ in range(120):
        do(directory, Act(flooding, rng.randrange(0, 200), rng.random() < 0.5))
    assert others <= held(directory).keys()


@settings(max_examples=60, deadline=None)
@given(acts)
def test_no_source_holds_more_than_its_share(done: list[Act]) -> None:
    directory = Directory()
    for act in done:
        do(directory, act)
        counted = [source for sources in held(directory).values() for source in sources]
        assert all(counted.count(source) <= quota_of(source) for source in counted)
        assert all(held(directory).values())


def test_who_answers_is_let_go_last() -> None:
    directory = Directory()
    source = peer_source("8.8.8.8")
    quota = quota_of(source)
    for number in range(4):
        answered(directory, source, number)
    for number in range(100, 100 + 3 * quota):
        assert directory.learn(source, offer(number), NOW)
    assert all(directory.get(who(number)) for number in range(4))
    assert directory.get(who(100 + 3 * quota - 1))
    assert len(directory) == quota


def test_there_are_only_so_many_networks_of_peers() -> None:
    directory = Directory()
    for number in range(PEER_SOURCES):
        answered(directory, peer_source(f"8.{number}.1.1"), number)
    directory.learn(peer_source("8.200.1.1"), offer(500), NOW)
    directory.learn(peer_source("8.201.1.1"), offer(501), NOW)
    directory.learn("lan", offer(1), NOW)
    sources = {source for one in directory for source in one.sources}
    assert len(sources) <= PEER_SOURCES + 1
    # A network of which nobody answers makes way for the next.
    assert directory.get(who(500)) is None
    assert directory.get(who(501))


def test_hints_are_bounded_and_taken_in_turn() -> None:
    directory = Directory()
    for number in range(3 * WAITING):
        directory.hint(Hint("lan", (Address("8.8.4.4", number + 1),)))
    directory.hint(Hint("settings", (ABROAD,)))
    for number in range(3 * PEER_SOURCES):
        directory.hint(Hint(f"peers {number}", tuple(Address(f"8.8.4.{n}", 1) for n in range(9))))
    directory.hint(Hint("dht", (ABROAD,)))
    first = directory.take_hints(2)
    assert [one.source for one in first] == ["lan", "settings"]
    assert first[0].addresses == (Address("8.8.4.4", 2 * WAITING + 1),)
    rest = directory.take_hints(10_000)
    assert len(rest) == WAITING - 1 + PEER_SOURCES + 1
    assert all(len(one.addresses) <= ADDRESSES for one in rest)
    assert directory.take_hints(1) == []


# --- time ---


def test_visits_become_due_and_rarer_where_nobody_answers() -> None:
    directory = Directory()
    directory.learn("lan", offer(1), NOW)
    assert [one.node_id for one in directory.due(NOW, 5)] == [who(1)]
    assert directory.due(NOW, 5, {who(1)}) == []
    waits = []
    now = NOW
    for _ in range(12):
        directory.missed(who(1), now)
        known = directory.get(who(1))
        assert known
        waits.append(known.due() - now)
        now = known.due()
    assert waits == sorted(waits)
    assert waits[0] <= 60
    assert waits[-1] == ASKED_EVERY
    answered(directory, "lan", 1, now=NOW)
    assert directory.due(NOW + ASKED_EVERY - 1, 5) == []
    assert directory.due(NOW + ASKED_EVERY, 5)
    assert directory.due(NOW + 60, 5, every=60)


def test_old_ones_are_forgotten() -> None:
    directory = Directory()
    answered(directory, "lan", 1)
    directory.forget_old(NOW + DAY + FORGOTTEN_AFTER - 1)
    assert len(directory) == 1
    directory.forget_old(NOW + DAY + FORGOTTEN_AFTER + 1)
    assert len(directory) == 0


def test_only_who_answered_lately_is_passed_on() -> None:
    directory, rng = Directory(), random.Random(1)
    directory.learn("lan", offer(1), NOW)
    for number in (2, 3, 4):
        answered(directory, "lan", number)
    assert directory.answered("lan", AT_HOME, offer(5, at=AT_HOME), NOW, 0.1, private=True)
    for _ in range(3):
        directory.missed(who(4), NOW)
    told = directory.tell(NOW, 10, rng, private=False)
    assert set(told) == {offer(2), offer(3)}
    assert set(directory.tell(NOW, 10, rng, private=True)) == {offer(2), offer(3), offer(5, at=AT_HOME)}
    assert directory.tell(NOW, 10, rng, private=False, besides={who(2)}) == (offer(3),)
    assert len(directory.tell(NOW, 1, rng, private=True)) == 1
    assert directory.tell(NOW + FRESH, 10, rng, private=True) == ()


def test_who_asks_again_and_again_has_not_all_looked_at_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """With thousands of farmers a few hundred questions a second would take all of a farmer's time."""
    directory, rng, looked = Directory(), random.Random(1), []
    for number in range(20):
        answered(directory, "dht", number)

    def counting(host: str) -> bool:
        looked.append(host)
        return False

    monkeypatch.setattr("storjfs.protocol.directory.is_private", counting)
    for _ in range(100):
        assert len(directory.tell(NOW, 5, rng, private=False)) == 5
    assert len(looked) == 20
    directory.missed(who(3), NOW)
    directory.tell(NOW, 5, rng, private=False)
    assert len(looked) == 40


# --- keeping ---


@settings(max_examples=30, deadline=None)
@given(acts)
def test_what_is_kept_comes_back(done: list[Act]) -> None:
    directory = Directory()
    for act in done:
        do(directory, act)
    again = Directory.from_bytes(directory.to_bytes(), NOW + 1)
    assert held(again) == held(directory)
    for one in directory:
        other = again.get(one.node_id)
        assert other is not None
        assert (other.signed, other.confirmed, other.answered_at) == (
            one.signed,
            one.confirmed,
            one.answered_at,
        )


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 5000), st.integers(1, 255))
def test_spoiled_bytes_bring_nothing_that_is_not_signed(at: int, flip: int) -> None:
    directory = Directory()
    for number in range(4):
        answered(directory, "lan", number)
    data = bytearray(directory.to_bytes())
    data[at % len(data)] ^= flip
    try:
        again = Directory.from_bytes(bytes(data), NOW)
    except ProtocolViolation:
        return
    for one in again:
        assert one.signed in {offer(number) for number in range(4)}
        assert one.confirmed <= NOW
