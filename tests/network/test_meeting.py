"""Looking for farmers: who is found, by which ways, and how often each is visited."""

import itertools
from collections.abc import AsyncIterator
from hashlib import sha256

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from storjfs.network.failures import PeerUnreachable, RequestTimeout
from storjfs.network.identity import Identity
from storjfs.network.meeting import (
    RELAY_BURST,
    RELAY_RATE,
)
from storjfs.network.sources import Found, Given, Source
from storjfs.network.visits import VISIT_TIMEOUT, visit
from storjfs.protocol.directory import peer_source
from storjfs.protocol.ids import NodeId
from storjfs.protocol.terms import Address
from tests.network.village import Node, Village, given_at, look


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


async def test_a_visit_has_an_end(autojump_clock: MockClock, village: Village) -> None:
    node = village.add(1)
    node.silent = True
    with pytest.raises((RequestTimeout, PeerUnreachable)):
        await visit(Identity(b"v" * 32), None, [node.address], village.connect, ask=True)
    assert trio.current_time() <= VISIT_TIMEOUT + 1


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
