"""A farmer announces itself in a DHT of real nodes: its record, its number, its trouble."""

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from storjfs.farmer.announcing import RECORD, STATE, Announcer, Heard, dht_settings, takes_part
from storjfs.farmer.settings import FarmerSettings
from storjfs.network.dht import Dht, DhtSettings, FarmerRecord, make_record
from storjfs.network.dht.node import Node
from storjfs.network.dht.records import read_record, record_salt
from storjfs.protocol.signing import SigningKey
from storjfs.protocol.terms import Address
from tests.network.dht.swarm import Swarm, swarm

NETWORK = "test"


class Scene:
    """A farmer in a DHT, and what can happen to it."""

    def __init__(self, nodes: Swarm, folder: Path) -> None:
        self.nodes = nodes
        self.folder = folder
        self.key = SigningKey(os.urandom(32))
        self.addresses: tuple[Address, ...] = (Address("127.0.0.1", 7420),)
        self.now = 1_700_000_000.0
        # The same place in each run: others go on knowing it, and nobody waits for a node that is gone.
        self.settings = nodes.settings(port=7421)

    @property
    def renter(self) -> Dht:
        return self.nodes.dhts[-1]

    @asynccontextmanager
    async def running(
        self, settings: DhtSettings | None = None, heard: Heard | None = None
    ) -> AsyncIterator[Announcer]:
        """One run of the farmer, that has tried once when this is entered."""
        announcer = Announcer(
            self.folder,
            self.key,
            settings or self.settings,
            NETWORK,
            lambda: self.addresses,
            heard=heard,
            clock=lambda: self.now,
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(announcer.run)
            await announcer.next_round()
            yield announcer
            nursery.cancel_scope.cancel()

    async def found(self) -> tuple[int, FarmerRecord]:
        """The record that renters find, with its number."""
        item = await self.renter.get(self.key.public, record_salt(NETWORK))
        assert item is not None
        return item.number, read_record(self.key.node_id, NETWORK, item, private=True)

    async def record(self) -> FarmerRecord | None:
        return await self.renter.record(self.key.node_id, NETWORK)


@asynccontextmanager
async def scene(folder: Path) -> AsyncIterator[Scene]:
    async with swarm() as nodes:
        yield Scene(nodes, folder)


async def test_strangers_find_a_farmer_that_announces_itself(tmp_path: Path) -> None:
    async with scene(tmp_path) as one:
        async with one.running() as announcer:
            assert announcer.facts.announced == one.now
            assert announcer.facts.nodes >= 8
            assert announcer.facts.problem == ""
            assert await one.record() == FarmerRecord(one.addresses)
            found = [str(address) async for address in one.renter.find(NETWORK)]
            assert found == [f"{one.settings.listen[0].host}:7420"]


async def test_it_hears_of_other_farmers_there_and_not_of_itself(tmp_path: Path) -> None:
    named: list[tuple[Address, bool]] = []
    found = trio.Event()

    def heard(address: Address, *, private: bool) -> None:
        named.append((address, private))
        found.set()

    async with scene(tmp_path) as one:
        one.addresses = (Address(one.settings.listen[0].host, 7420),)
        other = Address(one.renter.settings.listen[0].host, 7777)
        async with one.running():
            """It has announced itself: what it looks for next has its own address in it."""
        assert await one.renter.announce(NETWORK, other.port)
        async with one.running(heard=heard):
            with trio.fail_after(60):
                await found.wait()
        assert named == [(other, True)]


async def test_a_restart_puts_the_same_record_there_again(tmp_path: Path) -> None:
    async with scene(tmp_path) as one:
        async with one.running():
            first = await one.found()
            kept = (tmp_path / RECORD).read_bytes()
        one.now += 1000
        async with one.running():
            assert await one.found() == first
        assert (tmp_path / RECORD).read_bytes() == kept
        assert (tmp_path / STATE).stat().st_size > 100


async def test_the_number_rises_with_each_change_whatever_the_clock_does(tmp_path: Path) -> None:
    async with scene(tmp_path) as one:
        numbers = []
        for turn, now in enumerate((1_700_000_000, 4_000_000_000, 5, 1_700_000_001)):
            one.now = float(now)
            one.addresses = (Address("127.0.0.1", 8000 + turn),)
            async with one.running():
                number, record = await one.found()
                assert record == FarmerRecord(one.addresses)
                numbers.append(number)
        assert numbers == [1_700_000_000, 4_000_000_000, 4_000_000_001, 4_000_000_002]


async def test_a_changed_address_is_announced_without_a_restart(tmp_path: Path) -> None:
    async with scene(tmp_path) as one, one.running() as announcer:
        one.addresses = (Address("127.0.0.1", 9999),)
        announcer.again()
        await announcer.next_round()
        assert await one.record() == FarmerRecord(one.addresses)


async def test_a_farmer_whose_files_are_lost_goes_above_what_the_network_has(tmp_path: Path) -> None:
    async with scene(tmp_path) as one:
        await one.nodes.dhts[0].put(
            make_record(one.key, NETWORK, 5_000_000_000, FarmerRecord((Address("127.0.0.1", 1),)))
        )
        async with one.running() as announcer:
            assert announcer.facts.problem == ""
            assert await one.found() == (5_000_000_001, FarmerRecord(one.addresses))


async def test_a_spoiled_record_on_the_disk_is_made_anew(tmp_path: Path) -> None:
    async with scene(tmp_path) as one:
        for spoiled in (b"garbage", os.urandom(5000)):
            (tmp_path / RECORD).write_bytes(spoiled)
            async with one.running() as announcer:
                assert announcer.facts.problem == ""
                assert await one.record() == FarmerRecord(one.addresses)


async def test_the_record_of_another_identity_is_not_taken_for_its_own(tmp_path: Path) -> None:
    async with scene(tmp_path) as one:
        async with one.running():
            pass
        one.key = SigningKey(os.urandom(32))
        async with one.running() as announcer:
            assert announcer.facts.problem == ""
            assert await one.record() == FarmerRecord(one.addresses)


async def test_without_an_address_that_others_can_dial_it_says_so(tmp_path: Path) -> None:
    async with scene(tmp_path) as one:
        one.addresses = ()
        async with one.running() as announcer:
            assert announcer.facts.announced is None
            assert "no address that others could dial" in announcer.facts.problem
            one.addresses = (Address("127.0.0.1", 7420),)
            announcer.again()
            await announcer.next_round()
            assert announcer.facts.problem == ""


async def test_a_farmer_behind_a_relay_has_a_record_and_is_not_announced_at_an_address_of_its_own(
    tmp_path: Path,
) -> None:
    async with scene(tmp_path) as one:
        one.addresses = (Address("127.0.0.1", 7420).through(), Address("127.0.0.1", 7421))
        async with one.running() as announcer:
            assert "only a relay" in announcer.facts.problem
            assert await one.record() == FarmerRecord(one.addresses)
            assert [address async for address in one.renter.find(NETWORK)] == []


async def test_where_nobody_answers_it_says_so(tmp_path: Path) -> None:
    async with swarm(1) as nodes:
        one = Scene(nodes, tmp_path)
        alone = DhtSettings(listen=(Address(nodes.host(), 0),), bootstrap=())
        async with one.running(alone) as announcer:
            assert announcer.facts.announced is None
            assert "no node of the DHT answers" in announcer.facts.problem


async def test_a_fault_of_the_library_does_not_end_the_farmer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def faulty(node: Node) -> None:
        raise RuntimeError("a fault")

    async with swarm(1) as nodes:
        monkeypatch.setattr(Node, "_parameters", faulty)
        async with Scene(nodes, tmp_path).running() as announcer:
            assert announcer.facts.problem == "a fault"


async def test_a_port_that_is_taken_does_not_end_the_farmer(tmp_path: Path) -> None:
    async with scene(tmp_path) as one:
        taken = DhtSettings(listen=(one.nodes.addresses[0],), bootstrap=())
        async with one.running(taken) as announcer:
            assert "cannot listen" in announcer.facts.problem


def test_a_farmer_takes_part_where_others_can_reach_it_unless_it_is_told_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    local = FarmerSettings(capacity=1 << 30, ledger=Path("l"))
    everywhere = local.changed(listen=Address("::", 7424))
    assert not takes_part(local)
    assert not takes_part(local.changed(listen=Address("127.0.0.9", 7420)))
    assert takes_part(local.changed(dht=True))
    assert takes_part(everywhere)
    assert not takes_part(everywhere.changed(dht=False))
    assert dht_settings(everywhere).listen == (Address("0.0.0.0", 7425), Address("::", 7425))
    monkeypatch.setitem(sys.modules, "libtorrent", None)
    assert not takes_part(everywhere), "where the extra is not installed"
