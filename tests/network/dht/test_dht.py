"""Announcing, publishing and finding in a DHT of real nodes, some of which lie."""

import os
import random
import socket
from dataclasses import replace
from typing import Any

import pytest
import trio

from storjfs.network.dht import Dht, DhtSettings, DhtUnavailable, FarmerRecord, Item, Outdated, make_record
from storjfs.network.dht.bencode import Value
from storjfs.network.dht.client import Refused
from storjfs.network.dht.dht import in_turn
from storjfs.network.dht.items import put_arguments
from storjfs.network.dht.krpc import pack
from storjfs.network.dht.node import LARGEST_STATE
from storjfs.network.dht.records import info_hash, record_salt
from storjfs.protocol.failures import BadSignature
from storjfs.protocol.ids import PublicKey, Signature
from storjfs.protocol.signing import SigningKey
from storjfs.protocol.terms import Address
from tests.network.dht.liar import Liar
from tests.network.dht.swarm import Swarm, asking, swarm

HERE = FarmerRecord((Address("127.0.0.1", 7420),), ("cancel",))
ELSEWHERE = FarmerRecord((Address("127.0.0.2", 7421),), ("cancel",))


def new_key() -> SigningKey:
    return SigningKey(os.urandom(32))


async def found(dht: Dht, network: str = "test", **bounds: int) -> set[str]:
    return {str(address) async for address in dht.find(network, **bounds)}


async def refused_everywhere(swarm: Swarm, item: Item) -> set[int]:
    """The codes with which the nodes refuse an item that is put without a look at it."""
    codes = set()
    own_id = random.randbytes(20)
    async with asking(swarm.host()) as client:
        for endpoint in swarm.endpoints:
            answer = await client.ask(endpoint, own_id, b"get", {b"target": item.target})
            assert answer.token is not None
            try:
                await client.ask(endpoint, own_id, b"put", {**put_arguments(item), b"token": answer.token})
                codes.add(0)
            except Refused as error:
                codes.add(error.code)
    return codes


async def test_a_renter_finds_farmers_that_announced_themselves_and_not_those_of_other_networks() -> None:
    async with swarm() as nodes:
        assert await nodes.dhts[2].announce("test", 7001) >= 8
        assert await nodes.dhts[3].announce("test", 7002) >= 8
        assert await nodes.dhts[4].announce("other", 7003) >= 8
        first, second = (nodes.addresses[number].host for number in (2, 3))
        assert await found(nodes.dhts[9]) == {f"{first}:7001", f"{second}:7002"}
        renter = await nodes.join()
        assert await found(renter) == {f"{first}:7001", f"{second}:7002"}
        assert await found(renter, "nobody") == set()


async def test_a_record_is_found_by_its_farmers_key_alone() -> None:
    farmer, stranger = new_key(), new_key()
    async with swarm() as nodes:
        assert await nodes.dhts[1].put(make_record(farmer, "test", 7, HERE)) >= 8
        assert await nodes.dhts[10].record(farmer.node_id, "test") == HERE
        assert await nodes.dhts[10].record(farmer.node_id, "other") is None
        assert await nodes.dhts[10].record(stranger.node_id, "test") is None


async def test_the_higher_number_wins_and_a_lower_one_is_refused() -> None:
    farmer = new_key()
    old, new = make_record(farmer, "test", 7, HERE), make_record(farmer, "test", 8, ELSEWHERE)
    async with swarm() as nodes:
        await nodes.dhts[1].put(old)
        await nodes.dhts[2].put(new)
        assert await nodes.dhts[10].record(farmer.node_id, "test") == ELSEWHERE
        with pytest.raises(Outdated) as outdated:
            await nodes.dhts[3].put(old)
        assert outdated.value.newest == new
        async with asking(nodes.host()) as client:
            for endpoint in nodes.endpoints:  # so that all have it, whoever is nearest
                own_id = random.randbytes(20)
                answer = await client.ask(endpoint, own_id, b"get", {b"target": new.target})
                token = answer.token or b""
                await client.ask(endpoint, own_id, b"put", {**put_arguments(new), b"token": token})
        assert await refused_everywhere(nodes, old) == {302}
        assert await nodes.dhts[10].record(farmer.node_id, "test") == ELSEWHERE


async def test_the_same_record_may_be_put_again_and_by_somebody_who_has_not_its_key() -> None:
    record = make_record(new_key(), "test", 7, HERE)
    async with swarm() as nodes:
        assert await nodes.dhts[1].put(record) >= 8
        assert await nodes.dhts[5].put(record) >= 8
        assert await nodes.dhts[10].get(record.key, record.salt) == record


async def test_a_forged_record_is_refused_by_us_and_by_the_nodes() -> None:
    farmer = new_key()
    real = make_record(farmer, "test", 7, HERE)
    forged = replace(real, value=ELSEWHERE.to_value(), number=8)
    async with swarm() as nodes:
        await nodes.dhts[1].put(real)
        with pytest.raises(BadSignature):
            await nodes.dhts[1].put(forged)
        assert await refused_everywhere(nodes, forged) == {206}
        assert await nodes.dhts[10].record(farmer.node_id, "test") == HERE


async def test_nodes_that_lie_about_a_record_change_nothing() -> None:
    farmer, other = new_key(), new_key()
    real = make_record(farmer, "test", 7, HERE)
    others = Item.make(other, real.salt, 9, ELSEWHERE.to_value())

    def item_of(key: PublicKey, number: int, value: bytes, signature: Signature) -> dict[bytes, Value]:
        return {b"k": key, b"seq": number, b"v": value, b"sig": signature, b"token": b"t"}

    lies = [
        item_of(real.key, 9, real.value, real.signature),
        item_of(real.key, 7, ELSEWHERE.to_value(), real.signature),
        item_of(others.key, 9, others.value, others.signature),
        item_of(real.key, 9, others.value, others.signature),
        item_of(real.key, -1, real.value, Signature(b"short")),
        item_of(real.key, 1 << 63, b"x" * 2000, real.signature),
    ]
    async with swarm() as nodes, trio.open_nursery() as nursery:
        await nodes.dhts[1].put(real)
        near = []
        for number, lie in enumerate(lies):
            id_ = real.target[:-1] + bytes([number])  # nearer to it than anybody else
            near.append(Liar(nodes.host(), lambda method, arguments, lie=lie: lie, id_))  # type: ignore[misc]
            await nursery.start(near[-1].run)
        settings = nodes.settings()
        first = (*settings.bootstrap, *(Address(*liar.endpoint) for liar in near))
        renter = await nodes.join(replace(settings, bootstrap=first))
        assert await renter.record(farmer.node_id, "test") == HERE
        assert all(liar.asked for liar in near)
        nursery.cancel_scope.cancel()


async def test_garbage_from_peers_is_borne() -> None:
    garbage = [
        b"",
        b"d",
        b"le",
        b"i5e",
        b"d1:rd2:id20:" + bytes(20) + b"e1:t4:abcd1:y1:re",
        b"d1:rde1:t4:abcd1:y1:re",
        b"l" * 4000,
        os.urandom(1000),
    ]
    bodies: list[dict[bytes, Value]] = [
        {b"nodes": os.urandom(777), b"values": [b"x", 5, [], b"\0" * 6], b"token": 7},
        {b"nodes": [1, 2], b"nodes6": os.urandom(4000), b"values": b"no list", b"token": b"t" * 3000},
        {b"id": b"short"},
        {b"values": [os.urandom(6) for _ in range(300)], b"nodes": b""},
    ]
    async with swarm() as nodes, trio.open_nursery() as nursery:
        await nodes.dhts[1].announce("test", 7001)
        real = f"{nodes.addresses[1].host}:7001"
        liars = [
            Liar(nodes.host(), lambda method, arguments, answer=answer: answer)  # type: ignore[misc]
            for answer in (*garbage, *bodies)
        ]
        for liar in liars:
            await nursery.start(liar.run)
        settings = nodes.settings()
        first = (*settings.bootstrap, *(Address(*liar.endpoint) for liar in liars))
        renter = await nodes.join(replace(settings, bootstrap=first))
        assert real in await found(renter)
        assert await renter.announce("test", 7002) >= 8
        nursery.cancel_scope.cancel()


async def test_who_names_many_farmers_does_not_crowd_out_those_that_others_name() -> None:
    target = info_hash("test")

    def flood(method: bytes, arguments: dict[bytes, Value]) -> dict[bytes, Value]:
        hosts = [f"127.250.{random.randrange(256)}.{random.randrange(1, 255)}" for _ in range(100)]
        return {b"values": [pack((host, 1000)) for host in hosts], b"token": b"t"}

    async with swarm() as nodes, trio.open_nursery() as nursery:
        for number in range(5):
            await nodes.dhts[number].announce("test", 7001)
        liars = [Liar(nodes.host(), flood, target[:-1] + bytes([number])) for number in range(4)]
        for liar in liars:
            await nursery.start(liar.run)
        settings = nodes.settings()
        first = (*settings.bootstrap, *(Address(*liar.endpoint) for liar in liars))
        renter = await nodes.join(replace(settings, bootstrap=first))
        few = await found(renter, most=40)
        assert {f"{address.host}:7001" for address in nodes.addresses[:5]} <= few
        assert len(few) <= 40
        nursery.cancel_scope.cancel()


async def test_a_node_that_starts_again_finds_its_neighbours_by_what_it_knew() -> None:
    async with swarm() as nodes:
        await nodes.dhts[1].announce("test", 7001)
        settings = nodes.settings()
        async with trio.open_nursery() as nursery:
            dht = Dht(settings)
            await nursery.start(dht.run)
            await dht.node.ready.wait()
            state = await dht.state()
            nursery.cancel_scope.cancel()
        assert 0 < len(state) <= LARGEST_STATE
        assert await dht.state() == b""
        async with trio.open_nursery() as nursery:
            again = Dht(replace(settings, bootstrap=()), state)
            await nursery.start(again.run)
            assert await found(again) == {f"{nodes.addresses[1].host}:7001"}
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "state",
    [b"garbage", b"d9:dht statei5ee", b"d9:dht stated5:nodesl3:abcei5eee", os.urandom(LARGEST_STATE + 1)],
)
async def test_a_spoiled_state_counts_for_nothing(state: bytes) -> None:
    async with swarm(3) as nodes, trio.open_nursery() as nursery:
        await nodes.dhts[1].announce("test", 7001)
        dht = Dht(nodes.settings(), state)
        await nursery.start(dht.run)
        assert await found(dht) == {f"{nodes.addresses[1].host}:7001"}
        nursery.cancel_scope.cancel()


class Named(DhtSettings):
    """A private network whose first nodes have names."""

    @property
    def private(self) -> bool:
        return True


class NameServer(trio.abc.HostnameResolver):
    """Knows no name until it is told to."""

    def __init__(self, host: str) -> None:
        self.host = host
        self.works = False

    async def getaddrinfo(self, host: Any, port: Any, *_: Any, **__: Any) -> Any:
        if not self.works:
            raise socket.gaierror("no network yet")
        return [(socket.AF_INET, socket.SOCK_DGRAM, 17, "", (self.host, port))]

    async def getnameinfo(self, sockaddr: Any, flags: int) -> tuple[str, str]:
        raise NotImplementedError


async def test_started_without_a_network_it_works_once_there_is_one() -> None:
    async with swarm() as nodes, trio.open_nursery() as nursery:
        await nodes.dhts[1].announce("test", 7001)
        names = NameServer(nodes.addresses[0].host)
        before = trio.socket.set_custom_hostname_resolver(names)
        try:
            first = (Address("node.example.org", nodes.addresses[0].port),)
            dht = Dht(Named(listen=nodes.settings().listen, bootstrap=first))
            await nursery.start(dht.run)
            assert await found(dht) == set()
            names.works = True
            assert await found(dht) == {f"{nodes.addresses[1].host}:7001"}
            assert await dht.announce("test", 7002) >= 8
        finally:
            trio.socket.set_custom_hostname_resolver(before)
        nursery.cancel_scope.cancel()


def test_of_what_nodes_name_private_addresses_and_crowds_are_left_out() -> None:
    named = [
        [("93.184.216.1", 1), ("93.184.216.2", 1), ("93.184.216.3", 1), ("10.0.0.1", 1), ("127.0.0.1", 1)],
        [("93.184.216.1", 1), ("1.1.1.1", 0), ("1.1.1.1", 53), ("2002:a00:1::1", 5)],
    ]
    got = in_turn(named, private=False, most=10, per_group=2)
    assert got.count(Address("1.1.1.1", 53)) == 1
    assert sum(address.host.startswith("93.184.216.") for address in got) == 2
    assert len(got) == 3
    assert len(in_turn(named, private=True, most=4, per_group=9)) == 4
    assert in_turn([], private=False, most=10, per_group=2) == []


async def test_alone_it_finds_nothing_and_says_so() -> None:
    async with swarm(1) as nodes:
        assert await found(nodes.dhts[0]) == set()
        assert await nodes.dhts[0].announce("test", 7001) == 0
        assert await nodes.dhts[0].put(make_record(new_key(), "test", 1, HERE)) == 0


async def test_a_port_that_is_taken_is_an_error_that_names_it() -> None:
    async with swarm(1) as nodes:
        with pytest.RaisesGroup(
            pytest.RaisesExc(DhtUnavailable, match=str(nodes.addresses[0])), flatten_subgroups=True
        ):
            await Dht(DhtSettings(listen=(nodes.addresses[0],), bootstrap=())).run()


async def test_it_ends_at_once_though_many_ask_it_and_it_asks_many() -> None:
    record = make_record(new_key(), "test", 7, HERE)

    async def busy(dht: Dht) -> None:
        while True:
            await dht.announce("test", 7001)
            await dht.record(new_key().node_id, "test")
            await dht.put(record)

    async with swarm() as nodes:
        async with trio.open_nursery() as others:
            for dht in nodes.dhts:
                others.start_soon(busy, dht)
            async with trio.open_nursery() as nursery:
                leaver = Dht(nodes.settings())
                await nursery.start(leaver.run)
                await leaver.node.ready.wait()
                for _ in range(8):
                    nursery.start_soon(busy, leaver)
                while (await leaver.get(record.key, record_salt("test"))) is None:
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
            assert await leaver.state() == b""
            others.cancel_scope.cancel()
