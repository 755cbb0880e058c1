"""A renter that looks for farmers: whom it makes contracts with, and what the user says of them."""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from storjfs.network.identity import Identity
from storjfs.network.sources import Found, Given
from storjfs.protocol.contracts import State
from storjfs.protocol.directory import Hint
from storjfs.protocol.ids import NodeId
from storjfs.protocol.messages import Request
from storjfs.protocol.terms import Address, open_offer, sign_offer
from storjfs.renter import Renter
from storjfs.renter.farmers import PROBES
from storjfs.renter.needs import AIM
from storjfs.renter.settings import KnownFarmer
from tests.renter.world import KEYS, PRICE, Catalogue, Site, World, a_world, quick_settings, until

SELDOM = quick_settings(audit_period=10_000)


async def village(world: World, count: int, **changes: Any) -> list[Site]:
    """So many farmers whose offers say where they are."""
    made = []
    for _ in range(count):
        number = len(world.sites) + 1
        made.append(await world.add_farmer(announce=(Address(f"8.8.{number}.4", 7420),), **changes))
    return made


def looking_at(sites: Sequence[Site]) -> dict[str, Any]:
    """For `World.life`: nobody is named, these are found."""
    found = tuple(Found((site.address,), site.farmer.node_id) for site in sites)
    return {"named": False, "sources": {"lan": Given(lambda: found)}}


@contextlib.asynccontextmanager
async def settled(world: World, count: int) -> AsyncIterator[tuple[list[Site], Renter, Catalogue]]:
    """So many farmers, and a life in which they were found and a contract was made with each."""
    sites = await village(world, count)
    async with world.life(SELDOM, **looking_at(sites)) as (renter, catalogue):
        await until(lambda: contracted(renter) == ids(sites))
        yield sites, renter, catalogue


def contracted(renter: Renter) -> set[NodeId]:
    return {entry.node_id for entry in renter.book if entry.state is State.ACTIVE}


def ids(sites: Sequence[Site]) -> set[NodeId]:
    return {site.farmer.node_id for site in sites}


def reasons(renter: Renter) -> dict[str, str]:
    return {row.node_id: row.why_not for row in renter.seeking.report()}


async def test_contracts_are_made_with_those_that_fit_and_no_more_than_wanted(
    tmp_path: Path, fast_clock: trio.testing.MockClock
) -> None:
    async with a_world(tmp_path, fast_clock, 0) as world:
        good = await village(world, AIM, price=PRICE)
        dearer = await village(world, 2, price=PRICE + 1)
        too_dear = await village(world, 1, price=3 * PRICE)
        async with world.life(SELDOM, **looking_at([*too_dear, *dearer, *good])) as (renter, _):
            await until(lambda: len(renter.seeking.directory) == AIM + 3)
            await until(lambda: len(contracted(renter)) >= AIM)
            said = reasons(renter)
            # Who was met first may have been taken before a cheaper one was known.
            assert contracted(renter) <= ids(good) | ids(dearer)
            assert "price_max" in said[too_dear[0].farmer.node_id.hex()]
            left = (ids(good) | ids(dearer)) - contracted(renter)
            assert all("enough others" in said[one.hex()] for one in left)
            assert not world.sites[too_dear[0].farmer.node_id].farmer.book.contracts


async def test_nobody_is_visited_under_a_key_that_a_contract_knows(
    tmp_path: Path, fast_clock: trio.testing.MockClock, monkeypatch: Any
) -> None:
    seen: list[tuple[NodeId, NodeId | None]] = []
    connect = World.connect

    async def watched(
        world: World, identity: Identity, node_id: NodeId | None, addresses: Sequence[Address], seconds: float
    ) -> trio.abc.Stream:
        seen.append((identity.node_id, node_id))
        return await connect(world, identity, node_id, addresses, seconds)

    monkeypatch.setattr(World, "connect", watched)
    async with a_world(tmp_path, fast_clock, 0) as world, settled(world, 5) as (sites, _, _):
        pass
    ours = {Identity(KEYS.renter_identity(site.farmer.node_id)).node_id for site in sites}
    visits = [caller for caller, _ in seen if caller not in ours]
    assert len(visits) == len(set(visits)) >= 5


async def test_what_was_found_is_known_after_a_restart(
    tmp_path: Path, fast_clock: trio.testing.MockClock
) -> None:
    async with a_world(tmp_path, fast_clock, 0) as world:
        async with settled(world, 4) as (sites, renter, _):
            await renter.seeking.save()
        for site in sites:
            world.cut(site)
        async with world.life(SELDOM, named=False) as (renter, _):
            assert {one.node_id for one in renter.seeking.directory} == ids(sites)
            rows = renter.seeking.report()
            assert all(row.used and row.free and row.found_by == ("contracts", "lan") for row in rows)


async def test_a_blocked_farmer_is_emptied_and_left_and_not_taken_again(
    tmp_path: Path, fast_clock: trio.testing.MockClock
) -> None:
    async with a_world(tmp_path, fast_clock, 0) as world, settled(world, 6) as (_, renter, catalogue):
        for _ in range(3):
            await catalogue.store_segment(renter)
        who = next(entry.node_id for entry in renter.book if catalogue.held(entry.number))
        entry = renter.book.current(who)
        assert entry is not None
        renter.mark([who], [])
        problems = renter.report().problems
        assert any("was blocked: its" in problem for problem in problems), problems
        # Nothing new goes there; what is there is given up as far as others take it, one shard a segment.
        await until(lambda: not catalogue.held(entry.number))
        assert entry.number not in renter.choose(6, 1)
        forget = [row[0] for row in catalogue.store.read("SELECT shard_id FROM shard WHERE state = 3")]
        catalogue.store.write("DELETE FROM shard WHERE shard_id = ?", [(one,) for one in forget])
        await catalogue.store.sync()
        await until(lambda: who not in contracted(renter) and renter.book.current(who) is None)
        await trio.sleep(20)
        assert renter.book.current(who) is None
        assert reasons(renter)[who.hex()] == "you blocked it"
        renter.mark([], [])
        await until(lambda: who in contracted(renter))


async def test_a_farmer_that_is_blocked_before_it_is_met_gets_no_contract(
    tmp_path: Path, fast_clock: trio.testing.MockClock
) -> None:
    async with a_world(tmp_path, fast_clock, 0) as world:
        sites = await village(world, 4)
        who = sites[0].farmer.node_id
        async with world.life(SELDOM, marks=([who], []), **looking_at(sites)) as (renter, _):
            await until(lambda: len(renter.seeking.directory) == 4)
            await until(lambda: len(contracted(renter)) == 3)
            await trio.sleep(20)
            assert who not in contracted(renter)
            assert not sites[0].farmer.book.contracts


async def test_farmers_that_are_named_are_used_beside_those_that_are_found(
    tmp_path: Path, fast_clock: trio.testing.MockClock
) -> None:
    async with a_world(tmp_path, fast_clock, 0) as world:
        named = await village(world, 1)
        found = await village(world, 3)
        async with world.life(SELDOM, **looking_at(found)) as (renter, _):
            renter.update_addresses({site.farmer.node_id: (site.address,) for site in named})
            await until(lambda: contracted(renter) == ids([*named, *found]))


async def test_a_farmer_that_has_moved_is_followed_to_where_it_shows_its_key(
    tmp_path: Path, fast_clock: trio.testing.MockClock
) -> None:
    async with a_world(tmp_path, fast_clock, 0) as world, settled(world, 2) as (sites, renter, _):
        who, moved = sites[0].farmer.node_id, Address("8.8.77.4", 7420)
        await until(lambda: renter.seeking.meeting is not None)
        signed = sites[0].farmer.contracting.signed_offer()
        directory = renter.seeking.directory
        # While the old address works nothing changes.
        await renter.farmers.silent([who], 60)
        directory.answered("lan", moved, signed, world.now(), 0.1, private=True)
        renter.seeking.choose()
        assert moved not in renter.farmers.addresses(who)
        world.cut(sites[0])
        await until(lambda: not renter.farmers.connected(who))
        directory.answered("lan", moved, signed, world.now(), 0.1, private=True)
        renter.seeking.choose()
        assert renter.farmers.addresses(who)[0] == moved
        entry = renter.book.current(who)
        assert entry is not None
        assert entry.addresses[0] == moved


async def test_relays_that_a_farmer_names_itself_are_dialled_too(
    tmp_path: Path, fast_clock: trio.testing.MockClock
) -> None:
    """So that one of two relays may go. None in the renter's own network, which a stranger names."""
    relay, inside = Address("8.9.9.9", 7420).through(), Address("192.168.1.1", 443).through()
    async with a_world(tmp_path, fast_clock, 0) as world, settled(world, 1) as ((site,), renter, _):
        who = site.farmer.node_id
        before = renter.farmers.addresses(who)
        assert relay not in before
        offer = msgspec.structs.replace(
            open_offer(site.farmer.contracting.signed_offer()),
            addresses=(Address("8.8.1.4", 7420), inside, relay),
            expires=int(world.now()) + 2 * 86400,
        )
        signed = sign_offer(site.farmer.identity.signing, offer)
        renter.seeking.directory.answered("lan", site.address, signed, world.now(), 0.1, private=False)
        renter.seeking.choose()
        assert renter.farmers.addresses(who) == (*before, relay)
        renter.seeking.choose()
        assert renter.farmers.addresses(who) == (*before, relay)


async def test_too_few_farmers_are_a_problem_that_is_told(
    tmp_path: Path, fast_clock: trio.testing.MockClock
) -> None:
    async with a_world(tmp_path, fast_clock, 0) as world, settled(world, 2) as (sites, renter, _):
        assert any(
            "2 farmers that fit are known, and 5 are wanted" in one for one in renter.report().problems
        )
        for _ in range(3):
            sites += await village(world, 1)
        for site in sites:
            renter.seeking.meeting.hint(  # type: ignore[union-attr]
                Hint("lan", (site.address,), site.farmer.node_id, private=True)
            )
        await until(lambda: len(contracted(renter)) == 5)
        assert not any("are wanted" in one for one in renter.report().problems)


@pytest.mark.parametrize("dead", [5, 2 * PROBES])
async def test_addresses_at_which_nobody_answers_hold_up_no_others(
    tmp_path: Path, fast_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch, dead: int
) -> None:
    silent, most, connect = set[bytes](), 0, World.connect

    async def silence(
        world: World, identity: Identity, node_id: NodeId | None, addresses: Sequence[Address], seconds: float
    ) -> trio.abc.Stream:
        nonlocal most
        if addresses[0].host == "dead":
            silent.add(identity.node_id)
            most = max(most, len(silent))
            try:
                await trio.sleep_forever()
            finally:
                silent.remove(identity.node_id)
        return await connect(world, identity, node_id, addresses, seconds)

    monkeypatch.setattr(World, "connect", silence)
    async with a_world(tmp_path, fast_clock, 1) as world:
        (site,) = world.sites.values()
        where = [*(Address("dead", number) for number in range(1, dead + 1)), site.address]
        known = [KnownFarmer(addresses=(one,)) for one in where]
        async with world.life(SELDOM, named=False, started=False, farmers=known) as (renter, _):
            if dead < PROBES:
                await until(lambda: contracted(renter) == ids([site]))
                assert len(silent) == dead
            await until(lambda: len(silent) == min(dead, PROBES))
            await trio.testing.wait_all_tasks_blocked()
    assert most == min(dead, PROBES)


async def test_farmers_that_are_there_and_answer_nothing_hold_up_no_others(
    tmp_path: Path, still_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storjfs.renter.renter.FIRST_ROUND", 5.0)
    asked, given_up = set[NodeId](), set[NodeId]()

    def mute(farmer: NodeId) -> Callable[[NodeId, Request[Any]], Awaitable[Any]]:
        async def request(peer: NodeId, request: Request[Any]) -> Any:
            asked.add(farmer)
            try:
                await trio.sleep_forever()
            finally:
                given_up.add(farmer)

        return request

    async with a_world(tmp_path, still_clock, 3) as world:
        for site in world.sites.values():
            monkeypatch.setattr(site.farmer.service, "request", mute(site.farmer.node_id))
        silent = set(world.sites)
        async with world.life(SELDOM, started=False) as (renter, _):
            await until(lambda: asked == silent)
            site = await world.add_farmer()
            renter.update_addresses({site.farmer.node_id: (site.address,)})
            await until(lambda: contracted(renter) == {site.farmer.node_id})
            assert not given_up
