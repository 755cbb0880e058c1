"""Looking for farmers among liars, black holes and floods: what is found, what is not, and what it costs."""

import itertools
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import pytest
import trio
import trio.testing
from msgspec import Struct
from trio.testing import MockClock

from storjfs.network.failures import PeerUnreachable, RequestTimeout, WrongPeer
from storjfs.network.identity import Identity
from storjfs.network.meeting import (
    AT_ONCE,
    HOST_BURST,
    HOST_RATE,
    PER_SECOND,
    RELAY_BURST,
    RELAY_RATE,
    SAME_ADDRESS,
    Meeting,
)
from storjfs.network.service import serve_peer
from storjfs.network.sources import Found, Given, Source
from storjfs.network.visits import PLACES, VISIT_TIMEOUT, visit
from storjfs.protocol.directory import Directory, peer_source
from storjfs.protocol.failures import ErrorCode, ProtocolViolation, RequestFailed
from storjfs.protocol.ids import NodeId
from storjfs.protocol.messages import FarmerList, GetFarmers, GetOffer, OfferAnswer, Request
from storjfs.protocol.signing import Signed
from storjfs.protocol.terms import Address, sign_offer
from tests.network.farm import Farmer
from tests.protocol import values

NOW = 1_800_000_000.0
Answer = Callable[[Request[Any]], Awaitable[Struct]]


@dataclass
class Node:
    """A farmer at `address`; `knows` are the offers it passes on, `shows` the one it gives as its own."""

    address: Address
    identity: Identity
    knows: list[Signed] = field(default_factory=list)
    shows: Signed | None = None
    silent: bool = False
    old: bool = False
    """Of a version without peer exchange."""
    told: list[Signed | None] = field(default_factory=list)
    dialled: int = 0

    @property
    def node_id(self) -> NodeId:
        return self.identity.node_id

    def offer(self, *addresses: Address) -> Signed:
        """Its own, with other addresses than that where it is, if such are given."""
        made = values.offer(
            farmer=self.node_id, expires=int(NOW) + 86400, addresses=addresses or (self.address,)
        )
        return sign_offer(self.identity.signing, made)

    async def answer(self, request: Request[Any]) -> Struct:
        if self.silent:
            await trio.sleep_forever()
        if isinstance(request, GetOffer):
            return OfferAnswer(self.shows or self.offer())
        if isinstance(request, GetFarmers) and not self.old:
            self.told.append(request.own)
            return FarmerList(tuple(self.knows[: request.limit]))
        raise RequestFailed(ErrorCode.UNSUPPORTED)


class Village:
    """Nodes on memory streams; who is dialled is counted, also where nobody is."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        self.nodes: dict[Address, Node] = {}
        self.dials: dict[Address, int] = {}
        self.callers: set[NodeId] = set()

    def add(self, number: int, host: str | None = None) -> Node:
        node = Node(Address(host or f"8.{number}.1.1", 7420), Identity(sha256(b"node %d" % number).digest()))
        self.nodes[node.address] = node
        return node

    async def connect(
        self, identity: Identity, node_id: NodeId | None, addresses: Sequence[Address], seconds: float
    ) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        self.callers.add(identity.node_id)
        for address in addresses:
            self.dials[address] = self.dials.get(address, 0) + 1
            node = self.nodes.get(address)
            if node is None:
                continue
            if node_id not in (None, node.node_id):
                raise WrongPeer("another")
            ours, theirs = trio.testing.memory_stream_pair()
            ours.peer = node.node_id  # type: ignore[attr-defined]
            self.nursery.start_soon(self._serve, node, theirs, identity.node_id)
            return ours
        raise PeerUnreachable("nobody is there")

    async def _serve(self, node: Node, stream: trio.abc.Stream, peer: NodeId) -> None:
        try:
            await serve_peer(stream, peer, Farmer(answering=node.answer))
        except (trio.BrokenResourceError, trio.ClosedResourceError, ProtocolViolation):
            pass
        finally:
            await trio.aclose_forcefully(stream)

    def meeting(self, sources: dict[str, Source], **more: Any) -> Meeting:
        rng = random.Random(1)
        return Meeting(
            Directory(),
            sources,
            now=lambda: NOW + trio.current_time(),
            rng=rng,
            identity=lambda: Identity(rng.randbytes(32)),
            connector=self.connect,
            **{"peers": True, **more},
        )


def given_at(nodes: Iterable[Node]) -> dict[str, Source]:
    return {"settings": Given(lambda: [Found((one.address,)) for one in nodes])}


async def look(meeting: Meeting, seconds: float) -> set[NodeId]:
    """Who answers after so many (virtual) seconds of looking."""
    with trio.move_on_after(seconds):
        await meeting.run()
    return {one.node_id for one in meeting.directory if one.answers}


@pytest.fixture
async def village(nursery: trio.Nursery) -> Village:
    return Village(nursery)


async def test_one_farmer_leads_to_those_that_are_known_by_those_it_knows(
    autojump_clock: MockClock, village: Village
) -> None:
    nodes = [village.add(number) for number in range(12)]
    for one, other in itertools.pairwise(nodes):
        one.knows = [other.offer()]
    meeting = village.meeting(given_at(nodes[:1]))
    assert await look(meeting, 60) == {one.node_id for one in nodes}
    sources = {one.node_id: one.sources for one in meeting.directory}
    assert sources[nodes[0].node_id] == {"settings"}
    assert sources[nodes[1].node_id] == {peer_source(nodes[0].address.host)}


async def test_each_visit_is_made_under_a_key_of_its_own(autojump_clock: MockClock, village: Village) -> None:
    nodes = [village.add(number) for number in range(5)]
    await look(village.meeting(given_at(nodes)), 10)
    assert len(village.callers) == sum(village.dials.values()) == 5


async def test_nobody_is_asked_for_others_unless_wanted_and_old_ones_are_met_all_the_same(
    autojump_clock: MockClock,
    village: Village,
) -> None:
    one, other = village.add(1), village.add(2)
    one.knows = [other.offer()]
    assert await look(village.meeting(given_at([one]), peers=False), 30) == {one.node_id}
    assert one.told == []
    one.old = True
    assert await look(village.meeting(given_at([one])), 30) == {one.node_id}


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


async def test_a_farmer_of_which_not_all_addresses_were_dialled_does_not_look_dead(
    autojump_clock: MockClock, village: Village
) -> None:
    """Others are said to be at the one where it is, so that only the other one is dialled at times."""
    liar, honest = village.add(1), village.add(2)
    nowhere = Address("8.8.4.4", 1)
    honest.shows = honest.offer(nowhere, honest.address)
    liar.knows = [
        Node(honest.address, Identity(sha256(b"fake %d" % number).digest())).offer() for number in range(32)
    ]
    meeting = village.meeting(given_at([liar, honest]), every=lambda: 60.0)
    assert honest.node_id in await look(meeting, 3600)
    known = meeting.directory.get(honest.node_id)
    assert known
    assert known.failures == 0


async def test_an_honest_farmer_does_not_look_dead_because_others_are_said_to_be_at_its_address(
    autojump_clock: MockClock,
    village: Village,
) -> None:
    liar, honest = village.add(1), village.add(2)
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


async def test_a_visit_has_an_end(autojump_clock: MockClock, village: Village) -> None:
    node = village.add(1)
    node.silent = True
    with pytest.raises((RequestTimeout, PeerUnreachable)):
        await visit(Identity(b"v" * 32), None, [node.address], village.connect, ask=True)
    assert trio.current_time() <= VISIT_TIMEOUT + 1


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


class Broken(Source):
    """A way that does not work until it does."""

    def __init__(self, node: Node, error: Exception) -> None:
        self.node, self.error, self.tries = node, error, 0

    async def find(self) -> AsyncIterator[Found]:
        self.tries += 1
        if self.tries < 3:
            raise self.error
        yield Found((self.node.address,), self.node.node_id)


@pytest.mark.parametrize(
    "error", [OSError("no such device"), RuntimeError("no such device in some library")], ids=repr
)
async def test_a_way_that_fails_is_tried_again_and_told_of(
    autojump_clock: MockClock, village: Village, error: Exception
) -> None:
    node = village.add(1)
    broken = Broken(node, error)
    meeting = village.meeting({"lan": broken})
    assert await look(meeting, 30) == set()
    assert "no such device" in meeting.problems["lan"]
    assert await look(meeting, 3600) == {node.node_id}
    assert meeting.problems == {}


async def test_a_hint_that_names_the_wrong_farmer_is_dropped(
    autojump_clock: MockClock, village: Village
) -> None:
    node = village.add(1)
    source = Given(lambda: [Found((node.address,), NodeId(bytes(32)))])
    assert await look(village.meeting({"lan": source}), 10) == set()


async def test_a_farmer_says_of_itself_where_it_is(autojump_clock: MockClock, village: Village) -> None:
    node, me = village.add(1), Node(Address("8.9.1.1", 1), Identity(b"i" * 32))
    await look(village.meeting(given_at([node]), own=me.offer), 10)
    assert node.told == [me.offer()]


async def test_known_farmers_are_not_visited_again_for_every_hint(
    autojump_clock: MockClock, village: Village
) -> None:
    nodes = [village.add(number) for number in range(3)]
    sources = given_at(nodes) | {"lan": Given(lambda: [Found((one.address,), one.node_id) for one in nodes])}
    meeting = village.meeting(sources)
    await look(meeting, 10)
    assert all(count == 1 for count in village.dials.values())
    assert all(one.sources == {"settings", "lan"} for one in meeting.directory)
    await look(meeting, 3600)
    assert all(count == 1 for count in village.dials.values())
    assert all(one.sources == {"settings", "lan"} for one in meeting.directory)


async def test_all_farmers_behind_one_relay_are_visited_and_the_relay_is_not_flooded(
    autojump_clock: trio.testing.MockClock, village: Village
) -> None:
    relay = Address("8.9.9.9", 7420).through()
    few = [NodeId(sha256(b"behind %d" % number).digest()) for number in range(12)]
    many = [NodeId(sha256(b"named %d" % number).digest()) for number in range(200)]
    sources: dict[str, Source] = {"settings": Given(lambda: [Found((relay,), one) for one in few])}
    await look(village.meeting(sources), 4)
    assert village.dials[relay] == len(few), "though all have the same address"
    sources = {"settings": Given(lambda: [Found((relay,), one) for one in many])}
    village.dials.clear()
    await look(village.meeting(sources), 60)
    assert RELAY_BURST <= village.dials[relay] <= RELAY_BURST + 60 * RELAY_RATE + 1


async def test_some_hear_at_once_that_one_is_reached_elsewhere_now(
    autojump_clock: trio.testing.MockClock, village: Village
) -> None:
    nodes = [village.add(number) for number in range(1, 13)]
    me = village.add(99)
    mine = [me.offer()]
    meeting = village.meeting(given_at(nodes), own=lambda: mine[-1])
    async with trio.open_nursery() as inner:
        inner.start_soon(meeting.run)
        await trio.sleep(20)
        assert [one.told for one in nodes] == [[me.offer()]] * 12
        mine.append(me.offer(Address("8.100.1.1", 7420)))
        meeting.visit_again(8)
        await trio.sleep(5)
        assert sorted(len(one.told) for one in nodes) == [1] * 4 + [2] * 8
        assert all(one.told[-1] == mine[-1] for one in nodes if len(one.told) == 2)
        for _ in range(5):
            meeting.visit_again(8)
            await trio.sleep(1)
        assert sum(len(one.told) for one in nodes) == 20, "not more often than each half a minute"
        await trio.sleep(30)
        assert sum(len(one.told) for one in nodes) == 28
        inner.cancel_scope.cancel()
