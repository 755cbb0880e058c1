"""The DHT as one of the ways in which farmers are looked for."""

import random
import sys
from typing import Any

import pytest
import trio

from storjfs.network.dht import Dht, DhtSettings, DhtSource
from storjfs.network.dht.dht import farmers_named
from storjfs.network.dht.krpc import Endpoint
from storjfs.network.dht.source import NobodyNamed
from storjfs.network.identity import Identity
from storjfs.network.meeting import Meeting
from storjfs.network.service import serve_peer
from storjfs.network.sources import Found
from storjfs.network.streams import serve
from storjfs.network.tls import TlsStream
from storjfs.protocol.directory import WAITING, Directory
from storjfs.protocol.failures import ErrorCode, RequestFailed
from storjfs.protocol.messages import GetOffer, OfferAnswer
from storjfs.protocol.terms import Address, sign_offer
from tests.network.dht.swarm import Swarm, swarm
from tests.network.farm import Farmer
from tests.protocol import values

NETWORK = "test"


def source(nodes: Swarm, network: str = NETWORK) -> DhtSource:
    return DhtSource(nodes.settings(), network)


async def announced(nodes: Swarm) -> Address:
    """Where somebody announces a farmer, that need not be there."""
    dht: Dht = await nodes.join()
    assert await dht.announce(NETWORK, 7420)
    return Address(dht.settings.listen[0].host, 7420)


async def test_those_who_announce_themselves_are_named_again_and_again() -> None:
    async with swarm() as nodes:
        there = {await announced(nodes) for _ in range(3)}
        looking = source(nodes)
        assert looking.private
        for _ in range(2):
            found = [one async for one in looking.find()]
            assert {one.addresses[0] for one in found} == there
            assert all(one == Found((one.addresses[0],)) for one in found)


async def test_no_more_are_named_than_may_wait_for_a_visit(monkeypatch: pytest.MonkeyPatch) -> None:
    async with swarm() as nodes:
        asked: list[int] = []

        async def noting(*given: Any, most: int, **more: Any) -> tuple[list[Address], list[Endpoint]]:
            asked.append(most)
            return await farmers_named(*given, most=most, **more)

        monkeypatch.setattr("storjfs.network.dht.source.farmers_named", noting)
        await announced(nodes)
        assert len([one async for one in source(nodes).find()]) == 1
        assert asked == [WAITING]


async def test_where_nobody_is_named_it_says_so() -> None:
    async with swarm() as nodes:
        await announced(nodes)
        with pytest.raises(NobodyNamed, match="'elsewhere'"):
            [one async for one in source(nodes, "elsewhere").find()]


async def test_a_renter_has_no_node_of_the_dht_in_its_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor needs it what a node consists of: there are the keys of its volume."""
    async with swarm() as nodes:
        there = await announced(nodes)
        monkeypatch.setitem(sys.modules, "libtorrent", None)
        assert [one async for one in source(nodes).find()] == [Found((there,))]


async def test_the_next_search_begins_with_what_the_last_one_found() -> None:
    async with swarm() as nodes:
        there = await announced(nodes)
        looking = source(nodes)
        assert [one async for one in looking.find()] == [Found((there,))]
        looking._settings = DhtSettings(looking._settings.listen, ())
        assert [one async for one in looking.find()] == [Found((there,))]


async def test_where_there_is_no_address_to_ask_from_it_says_so() -> None:
    looking = DhtSource(DhtSettings((Address("192.0.2.77", 0),), ()), NETWORK)
    with pytest.raises(OSError, match="assign requested address"):
        [one async for one in looking.find()]


async def test_a_renter_who_knows_nobody_meets_a_farmer() -> None:
    identity = Identity(bytes(range(32)))

    async def answer(request: object) -> OfferAnswer:
        if isinstance(request, GetOffer):
            offer = values.offer(farmer=identity.node_id, expires=2**31, addresses=(where,))
            return OfferAnswer(sign_offer(identity.signing, offer))
        raise RequestFailed(ErrorCode.UNSUPPORTED)

    async def handle(stream: TlsStream) -> None:
        await serve_peer(stream, stream.peer, Farmer(answering=answer))

    met = trio.Event()
    async with swarm() as nodes, trio.open_nursery() as nursery:
        dht = await nodes.join()
        (where,) = await nursery.start(serve, identity, dht.settings.listen[0].host, 0, handle)
        assert await dht.announce(NETWORK, where.port)
        rng = random.Random(1)
        meeting = Meeting(
            Directory(),
            {"dht": source(nodes)},
            now=lambda: 2**31 - 1000,
            rng=rng,
            identity=lambda: Identity(rng.randbytes(32)),
            peers=False,
            news=met.set,
        )
        nursery.start_soon(meeting.run)
        with trio.fail_after(60):
            await met.wait()
        (known,) = meeting.directory
        assert (known.node_id, known.sources, known.answered_at) == (identity.node_id, {"dht"}, where)
        assert meeting.problems == {}
        nursery.cancel_scope.cancel()
