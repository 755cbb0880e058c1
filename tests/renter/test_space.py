"""How much room the contracts give: what fills it, grows it, and frees it."""

from pathlib import Path

import pytest
import trio
import trio.testing

from storjfs.coding.merkle import shard_root
from storjfs.farmer.shelf import NoRoom
from storjfs.protocol.contracts import Event, State
from storjfs.protocol.ids import NodeId
from storjfs.protocol.terms import Offer
from storjfs.renter.errors import ServiceRefused
from storjfs.renter.places import Place
from tests.renter.world import SELDOM, a_world, quick_settings, until


async def test_a_contract_that_fills_up_grows(tmp_path: Path, fast_clock: trio.testing.MockClock) -> None:
    settings = quick_settings(capacity=64 << 20)
    async with a_world(tmp_path, fast_clock, 1) as world, world.life(settings) as (renter, catalogue):
        for _ in range(12):
            await catalogue.store_segment(renter, 4 << 20)
        ((contract, _),) = await catalogue.store_segment(renter, 4 << 20)
        renter.look_around()
        entry = renter.book.get(contract)
        assert entry is not None
        await until(lambda: entry.terms.capacity == 128 << 20)
        assert entry.state is State.ACTIVE
        assert entry.terms.revision == 1
        assert len(renter.cashier.pay.revisions(entry.contract_id)) == 2
        farmers_view = next(iter(world.sites.values())).farmer.book.contracts[entry.contract_id]
        assert farmers_view.signed == entry.contract


async def test_a_farmer_that_has_room_is_not_taken_for_full_because_a_put_ends(
    tmp_path: Path, fast_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be asked again only hours later."""
    settings = quick_settings(capacity=64 << 20, audit_period=10_000)
    async with a_world(tmp_path, fast_clock, 1) as world, world.life(settings) as (renter, _):
        (entry,) = renter.book
        ask = renter.negotiation._offer

        async def ask_until_the_put_has_failed(farmer: NodeId) -> Offer:
            renter.client._waiting[entry.number] = 0
            return await ask(farmer)

        monkeypatch.setattr(renter.negotiation, "_offer", ask_until_the_put_has_failed)
        renter.client._waiting[entry.number] = 60 << 20
        await renter.market.attend(entry.node_id)
        assert not renter.negotiation.refusals
        assert entry.terms.capacity == 128 << 20


async def test_a_shard_on_its_way_counts_until_it_counts_as_held(
    tmp_path: Path, fast_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_world(tmp_path, fast_clock, 1) as world, world.life(SELDOM) as (renter, catalogue):
        (entry,) = renter.book
        seen: list[int] = []

        def looking(sealed: bytes) -> bytes:
            candidate = renter.client.candidate(entry)
            seen.append(candidate.used + candidate.waiting)
            return shard_root(sealed)

        monkeypatch.setattr("storjfs.renter.client.shard_root", looking)
        await catalogue.store_segment(renter, 1 << 20)
        assert seen == [1 << 20]


async def test_space_shrinks_by_what_is_stored_and_grows_with_the_contracts(
    tmp_path: Path, fast_clock: trio.testing.MockClock
) -> None:
    mib = 1 << 20
    settings = quick_settings(capacity=64 * mib, code=(3, 5))
    async with a_world(tmp_path, fast_clock, 5) as world, world.life(settings) as (renter, catalogue):
        assert renter.space() == (3 * 64 * mib, 3 * 64 * mib)
        placed = await catalogue.store_segment(renter, 4 * mib)
        assert renter.space() == (3 * 64 * mib, 3 * 60 * mib)
        await catalogue.delete(renter, placed)
        assert renter.space() == (3 * 64 * mib, 3 * 64 * mib)
        for _ in range(13):
            await catalogue.store_segment(renter, 4 * mib)
        await renter.audit_now()
        renter.look_around()
        await until(lambda: renter.space() == (3 * 128 * mib, 3 * 76 * mib))


async def test_what_a_contract_that_ends_still_holds_is_counted_with_the_others(
    tmp_path: Path, fast_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    mib = 1 << 20
    # No round takes place meanwhile, which would begin to move what the ending contract holds.
    monkeypatch.setattr("storjfs.renter.renter.ROUND", 1e9)
    settings = quick_settings(capacity=64 * mib, code=(1, 2), audit_period=1_000_000)
    async with a_world(tmp_path, fast_clock, 3) as world, world.life(settings) as (renter, catalogue):
        for _ in range(3):
            await catalogue.store_segment(renter, 4 * mib)
        total, free = renter.space()
        assert (total, free) == (96 * mib, 84 * mib)
        ending, *others = renter.book
        await renter.book.change(ending, Event.START_RENEWAL)
        await renter.book.change(ending, Event.FAIL_RENEWAL)
        used = [renter.client.candidate(entry).used for entry in (ending, *others)]
        assert sum(used) == 24 * mib
        assert renter.space() == (64 * mib, 64 * mib - max(used[1:]) - used[0] // 2)


async def test_how_much_room_there_is_asks_nothing_about_where_farmers_stand(
    tmp_path: Path, fast_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mount asks for it again and again, of all contracts at once."""
    async with a_world(tmp_path, fast_clock, 3) as world, world.life(SELDOM) as (renter, _):
        looked: list[NodeId] = []
        place = renter.farmers.place

        def looking(farmer: NodeId) -> Place:
            looked.append(farmer)
            return place(farmer)

        monkeypatch.setattr(renter.farmers, "place", looking)
        total, free = renter.space()
        assert 0 < free <= total
        assert not looked


async def test_a_farmer_without_room_is_noted_until_it_takes_something(
    tmp_path: Path, fast_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_world(tmp_path, fast_clock, 1) as world, world.life(SELDOM) as (renter, catalogue):
        (entry,) = renter.book
        keeper = next(iter(world.sites.values())).farmer.keeper
        with monkeypatch.context() as patch:

            def no_room(*_: object) -> None:
                raise NoRoom("the farmer's disk is full")

            patch.setattr(keeper._shelves, "begin", no_room)
            with pytest.raises(ServiceRefused):
                await renter.client.put(entry.number, bytes(32), b"x" * 65536)
        assert [row.full for row in renter.report().contracts] == [True]
        await catalogue.store_segment(renter, 1 << 20)
        assert [row.full for row in renter.report().contracts] == [False]
