"""Those who lie about whom they know, and how little that costs: nobody is kept out, no victim is flooded."""

import itertools
import logging
from collections.abc import AsyncIterator
from hashlib import sha256
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from storjfs.network.failures import PeerUnreachable
from storjfs.network.identity import Identity
from storjfs.network.meeting import (
    AT_ONCE,
    HOST_BURST,
    HOST_RATE,
    PER_SECOND,
    SAME_ADDRESS,
)
from storjfs.network.sources import Found, Given, Source
from storjfs.network.visits import PLACES, VISIT_TIMEOUT, visit
from storjfs.protocol.signing import Signed
from storjfs.protocol.terms import Address, sign_offer
from tests.network.village import NOW, Node, Village, given_at, look
from tests.protocol import values


class Heard(Source):
    """A farmer of the local network."""

    private = True

    def __init__(self, node: Node) -> None:
        self.node = node

    async def find(self) -> AsyncIterator[Found]:
        yield Found((self.node.address,), self.node.node_id)


class Ports(Source):
    """Names ever more ports of one host."""

    async def find(self) -> AsyncIterator[Found]:
        for port in itertools.count(1):
            yield Found((Address("9.9.9.9", port),))
            if port % 10 == 0:
                await trio.sleep(1)


class Flood(Source):
    """Names ever more addresses, as fast as it can."""

    def __init__(self) -> None:
        self.named = 0

    async def find(self) -> AsyncIterator[Found]:
        while True:
            for _ in range(500):
                self.named += 1
                high, low = divmod(self.named, 60_000)
                yield Found((Address(f"8.77.{high}.1", low + 1),))
            await trio.sleep(1)


async def test_who_lies_brings_nobody_in_and_keeps_nobody_out(
    autojump_clock: MockClock, village: Village
) -> None:
    liar, honest, victim = village.add(1), village.add(2), village.add(3)
    stranger = Identity(b"s" * 32)
    changed = Signed(honest.offer().body[:-1] + b"\0", honest.offer().signature)
    elsewhere = honest.offer(victim.address)
    swapped = sign_offer(stranger.signing, values.offer(farmer=honest.node_id, expires=int(NOW) + 9000))
    old = sign_offer(liar.identity.signing, values.offer(farmer=liar.node_id, expires=int(NOW) - 1))
    # The last one is the farmer's own word, though an odd one: its address is another's.
    liar.knows = [changed, swapped, old, Signed(b"", old.signature), elsewhere]
    truthful = village.add(4)
    truthful.knows = [honest.offer()]
    found = await look(village.meeting(given_at([liar, truthful])), 60)
    assert found == {liar.node_id, truthful.node_id} | ({honest.node_id} & found)
    assert victim.node_id not in found


async def test_who_shows_the_offer_of_another_is_not_entered(
    autojump_clock: MockClock, village: Village
) -> None:
    thief, owner = village.add(1), village.add(2)
    thief.shows = owner.offer(thief.address)
    meeting = village.meeting(given_at([thief]))
    assert await look(meeting, 60) == set()
    assert len(meeting.directory) == 0
    assert "another" in meeting.unanswered[thief.address]


async def test_a_victim_is_dialled_now_and_then_however_many_are_said_to_be_there(
    autojump_clock: MockClock, village: Village
) -> None:
    liar = village.add(1)
    victim = Address("9.9.9.9", 443)
    fakes = [Node(victim, Identity(sha256(b"fake %d" % number).digest())) for number in range(32)]
    liar.knows = [one.offer() for one in fakes]
    seconds = 600
    await look(village.meeting(given_at([liar]), every=lambda: 60.0), seconds)
    assert village.dials[victim] <= seconds / SAME_ADDRESS + 1


async def test_a_victim_is_dialled_no_more_often_because_another_address_is_said_to_work_too(
    autojump_clock: MockClock, village: Village
) -> None:
    liar = village.add(1)
    victim = Address("9.9.9.9", 443)
    fakes = [Node(victim, Identity(sha256(b"fake %d" % number).digest())) for number in range(32)]
    liar.knows = [
        one.offer(Address(f"8.8.{number}.1", 1), victim, Address(f"8.9.{number}.1", 1))
        for number, one in enumerate(fakes)
    ]
    seconds = 600
    await look(village.meeting(given_at([liar]), every=lambda: 60.0), seconds)
    assert village.dials[victim] <= seconds / SAME_ADDRESS + 1
    assert sum(village.dials.values()) > 2 * len(fakes)


async def test_an_offer_with_many_addresses_costs_as_much_as_many_offers(
    autojump_clock: MockClock, village: Village
) -> None:
    liars = [village.add(number) for number in range(1, 5)]
    for number, liar in enumerate(liars):
        liar.knows = [
            Node(liar.address, Identity(sha256(b"fake %d %d" % (number, fake)).digest())).offer(
                *(Address(f"9.{number}.{fake}.{one}", 1) for one in range(16))
            )
            for fake in range(32)
        ]
    seconds = 60
    await look(village.meeting(given_at(liars), every=lambda: 60.0), seconds)
    dials = sum(village.dials.values())
    assert AT_ONCE < dials <= AT_ONCE + seconds * PER_SECOND + 8 * 16


async def test_a_name_that_has_hundreds_of_addresses_is_dialled_at_a_few(
    autojump_clock: MockClock, village: Village, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def look_up(host: str, port: int, **more: Any) -> list[tuple[Any, ...]]:
        await trio.lowlevel.checkpoint()
        return [(2, 1, 6, "", (f"9.9.9.{number}", port)) for number in range(200)]

    monkeypatch.setattr(trio.socket, "getaddrinfo", look_up)
    with pytest.raises(PeerUnreachable):
        named = [Address("many.example.org", 443)]
        await visit(Identity(b"v" * 32), None, named, village.connect, ask=True, public=True)
    assert sum(village.dials.values()) == PLACES


@pytest.mark.parametrize("elsewhere", [False, True])
async def test_an_honest_farmer_does_not_look_dead_because_others_are_said_to_be_at_its_address(
    autojump_clock: MockClock, village: Village, elsewhere: bool
) -> None:
    """`elsewhere`: it names another address too, where nobody is: only that one is dialled at times."""
    liar, honest = village.add(1), village.add(2)
    if elsewhere:
        honest.shows = honest.offer(Address("8.8.4.4", 1), honest.address)
    liar.knows = [
        Node(honest.address, Identity(sha256(b"fake %d" % number).digest())).offer() for number in range(32)
    ]
    meeting = village.meeting(given_at([liar, honest]), every=lambda: 60.0)
    assert honest.node_id in await look(meeting, 3600)
    known = meeting.directory.get(honest.node_id)
    assert known
    assert known.failures == 0


async def test_nobody_outside_makes_us_dial_into_our_own_network(
    autojump_clock: MockClock, village: Village
) -> None:
    liar = village.add(1)
    inside = village.add(2, "192.168.1.1")
    mapped = Node(Address("::ffff:192.168.1.1", 7420), Identity(b"m" * 32))
    liar.knows = [
        inside.offer(),
        mapped.offer(),
        mapped.offer(Address("localhost", 1), Address("nas.local", 1)),
        mapped.offer(inside.address.through(), Address("localhost", 1).through()),
    ]
    await look(village.meeting(given_at([liar])), 600)
    assert set(village.dials) == {liar.address}
    # From within it is another matter.
    neighbour = village.add(3, "192.168.1.7")
    neighbour.knows = [inside.offer()]
    assert inside.node_id in await look(village.meeting(given_at([neighbour])), 60)


async def test_a_neighbour_may_name_others_in_our_network_and_nothing_on_this_machine(
    autojump_clock: MockClock, village: Village, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def look_up(host: str, port: int, **more: Any) -> list[tuple[Any, ...]]:
        await trio.lowlevel.checkpoint()
        return [(2, 1, 6, "", ({"trap.local": "127.0.0.1"}.get(host, host), port))]

    monkeypatch.setattr(trio.socket, "getaddrinfo", look_up)
    neighbour, inside, far = village.add(1, "192.168.1.7"), village.add(2, "192.168.1.8"), village.add(3)
    traps = [Address(host, 22) for host in ("127.0.0.1", "localhost", "169.254.1.1", "0.0.0.0", "::1")]
    names = Address("trap.local", 22)
    liar = Node(Address("192.168.1.9", 7420), Identity(b"l" * 32))
    neighbour.knows = [inside.offer(*traps, inside.address), liar.offer(names)]
    heard: dict[str, Source] = {"lan": Heard(neighbour)}
    found = await look(village.meeting(heard, near=lambda host: host.startswith("192.168.")), 600)
    assert found == {neighbour.node_id, inside.node_id}
    assert not {*traps, names, Address("127.0.0.1", 22)} & set(village.dials)
    # One that is reached under a private address elsewhere, as over a tunnel, is not in our network.
    village.dials.clear()
    neighbour.knows = [inside.offer(), far.offer()]
    found = await look(village.meeting(heard, near=lambda _: False), 600)
    assert found == {neighbour.node_id, far.node_id}
    assert set(village.dials) == {neighbour.address, far.address}


async def test_one_host_is_dialled_now_and_then_however_many_ports_are_named(
    autojump_clock: MockClock, village: Village
) -> None:
    good = [village.add(number) for number in range(5)]
    seconds = 600
    ports: dict[str, Source] = {"dht": Ports()}
    found = await look(village.meeting({**ports, **given_at(good)}), seconds)
    assert found == {one.node_id for one in good}
    dials = sum(count for address, count in village.dials.items() if address.host == "9.9.9.9")
    assert HOST_BURST <= dials <= HOST_BURST + HOST_RATE * seconds + 1


async def test_a_name_that_leads_into_a_private_network_is_not_dialled_as_a_relay_either(
    autojump_clock: MockClock, village: Village, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts = {"home.example.org": "192.168.1.1", "relay.example.org": "8.8.4.4"}

    async def look_up(host: str, port: int, **more: Any) -> list[tuple[Any, ...]]:
        await trio.lowlevel.checkpoint()
        return [(2, 1, 6, "", (hosts[host], port))]

    monkeypatch.setattr(trio.socket, "getaddrinfo", look_up)
    liar = village.add(1)
    behind = Node(Address("8.2.1.1", 7420), Identity(b"b" * 32))
    liar.knows = [behind.offer(*(Address(host, 7420).through() for host in hosts))]
    outside = Address("8.8.4.4", 7420).through()
    village.nodes[outside] = behind
    found = await look(village.meeting(given_at([liar])), 600)
    assert found == {liar.node_id, behind.node_id}
    assert set(village.dials) == {liar.address, outside}


NASTY = ("", ".", "a..b", "x" * 250, "\0", "é" * 100, "[::1", "8.8.8.8%eth0", "::ffff:8.8.8.8")
"""Hosts that nobody can have; none of them is looked up anywhere."""


async def test_no_address_however_odd_ends_the_looking(
    autojump_clock: MockClock, village: Village, caplog: pytest.LogCaptureFixture
) -> None:
    # Names are looked up in threads.
    autojump_clock.autojump_threshold = 0.2
    liar, honest = village.add(1), village.add(2)
    liar.knows = [
        Node(Address("8.8.9.9", 1), Identity(sha256(host.encode()).digest())).offer(Address(host, 7420))
        for host in NASTY
    ]
    liar.knows.append(honest.offer())
    found = {"lan": Given(lambda: [Found((Address(host, 7420),)) for host in NASTY])}
    meeting = village.meeting(given_at([liar]) | found)
    assert await look(meeting, 120) == {liar.node_id, honest.node_id}
    assert not [one for one in caplog.records if one.levelno >= logging.ERROR]


async def test_black_holes_hold_nobody_up(autojump_clock: MockClock, village: Village) -> None:
    holes = [village.add(number) for number in range(20)]
    for one in holes:
        one.silent = True
    good = [village.add(number) for number in range(40, 45)]
    found = await look(village.meeting(given_at([*holes, *good])), 4 * VISIT_TIMEOUT)
    assert found == {one.node_id for one in good}


async def test_a_flood_costs_no_more_than_so_many_visits_and_others_are_heard(
    autojump_clock: MockClock, village: Village
) -> None:
    good = [village.add(number) for number in range(5)]
    flood = Flood()
    seconds = 60
    meeting = village.meeting({"dht": flood, **given_at(good)})
    found = await look(meeting, seconds)
    assert flood.named >= 500 * seconds
    assert found == {one.node_id for one in good}
    assert sum(village.dials.values()) <= AT_ONCE + PER_SECOND * seconds + 1
    assert len(meeting.unanswered) <= 1024


async def test_a_flood_does_not_keep_us_from_those_we_know(
    autojump_clock: MockClock, village: Village
) -> None:
    good = [village.add(number) for number in range(5)]
    meeting = village.meeting({"dht": Flood(), **given_at(good)}, every=lambda: 60.0)
    await look(meeting, 600)
    for one in good:
        known = meeting.directory.get(one.node_id)
        assert known
        assert known.confirmed >= NOW + 600 - 2 * 60
