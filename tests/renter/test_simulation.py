"""Renter and real farmers in one process: contracts, audits and pay, with farmers that fail in every way."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from storjfs.coding.merkle import shard_root
from storjfs.daemon.watch import watching
from storjfs.farmer.book import ContractEntry
from storjfs.farmer.scrub import Pass
from storjfs.protocol.audits import AuditRequest
from storjfs.protocol.contracts import Event, State
from storjfs.protocol.ids import NodeId, ShardId
from storjfs.protocol.terms import Offer
from storjfs.protocol.vouchers import EGRESS_CREDIT
from storjfs.renter import FarmerUnavailable, Renter, ServiceRefused, ShardMissing
from storjfs.renter.cashier import deposit_step
from storjfs.renter.local_records import Result
from storjfs.renter.renter import GREET_EVERY
from storjfs.renter.schedule import Due
from storjfs.store import StoreError
from storjfs.store.batch import Values
from tests.renter.world import Site, World, a_world, quick_settings

SELDOM = quick_settings(audit_period=10_000)
"""So that only those audits happen that a test asks for."""


async def until(condition: Callable[[], bool], seconds: float = 300) -> None:
    """Wait for `condition`, at most so many seconds of the world's clock."""
    with trio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110 - on the world's clock, which runs fast
            await trio.sleep(1)


def site_of(world: World, renter: Renter, contract: int) -> Site:
    entry = renter.book.get(contract)
    assert entry is not None
    return world.sites[entry.node_id]


def agree(world: World, renter: Renter) -> bool:
    """Whether both sides of every lane have the same sums, up to a nanocredit of rounding."""
    return all(
        abs(world.paid_by(renter, site) - world.earned_by(site)) <= 1
        and world.received_by(site) == world.paid_by(renter, site)
        for site in world.sites.values()
    )


async def test_contracts_are_made_funded_and_active_when_run_has_started(
    tmp_path: Path, fast_clock: trio.testing.MockClock
) -> None:
    async with a_world(tmp_path, fast_clock, 6) as world, world.life() as (renter, _):
        assert [entry.state for entry in renter.book] == [State.ACTIVE] * 6
        assert renter.code() == (3, 5)
        assert len(set(renter.choose(5, 1 << 20))) == 5
        assert len({entry.terms.renter for entry in renter.book}) == 6  # another identity to each
        for entry in renter.book:
            lane = world.ledger.lane(entry.terms.lane)
            assert lane.deposit == deposit_step(entry.terms)


async def test_shards_go_come_back_and_are_deleted(
    tmp_path: Path, fast_clock: trio.testing.MockClock
) -> None:
    async with a_world(tmp_path, fast_clock, 2) as world, world.life() as (renter, catalogue):
        contract, shard_id = (await catalogue.store_segment(renter))[0]
        whole = await renter.get(contract, shard_id, 0, 64 << 10)
        assert await renter.get(contract, shard_id, 4096, 100) == whole[4096:4196]
        await renter.delete(contract, [shard_id])
        await renter.delete(contract, [shard_id])
        with pytest.raises(ShardMissing):
            await renter.get(contract, shard_id, 0, 1)


async def test_every_shard_is_proven_and_paid_and_both_sides_agree(
    tmp_path: Path, fast_clock: trio.testing.MockClock
) -> None:
    async with a_world(tmp_path, fast_clock, 6) as world, world.life() as (renter, catalogue):
        for _ in range(4):
            await catalogue.store_segment(renter)
        await until(lambda: sum(row.passed for row in renter.report().contracts) >= 60)
        report = renter.report()
        assert not any(row.failed or row.offline for row in report.contracts)
        assert sum(row.shards for row in report.contracts) == 20
        assert all(row.last_result == "passed" and row.paid > 0 for row in report.contracts if row.shards)
        await until(lambda: agree(world, renter))


async def test_a_farmer_that_lost_its_disk_fails_is_not_paid_and_its_shards_are_lost(
    tmp_path: Path, fast_clock: trio.testing.MockClock
) -> None:
    async with a_world(tmp_path, fast_clock, 6) as world, world.life(SELDOM) as (renter, catalogue):
        placed = await catalogue.store_segment(renter)
        for _ in range(2):
            await catalogue.store_segment(renter)
        await renter.audit_now()
        contract = placed[0][0]
        site = site_of(world, renter, contract)
        site.lose_everything()
        before = world.paid_by(renter, site)
        summary = await renter.audit_now()
        assert summary.failed == len(catalogue.lost)
        assert catalogue.held(contract) == 0
        assert world.paid_by(renter, site) == before
        assert {one.contract for one in renter.records.outcomes()} == {contract}
        row = next(row for row in renter.report().contracts if row.contract == contract)
        assert row.failed > 0
        assert row.last_result == "failed"
        assert contract not in renter.choose(5, 1 << 16)


async def test_a_batch_that_fails_as_a_whole_is_worked_off_in_small_steps(
    tmp_path: Path, fast_clock: trio.testing.MockClock
) -> None:
    async with a_world(tmp_path, fast_clock, 6) as world, world.life(SELDOM) as (renter, catalogue):
        for _ in range(30):
            await catalogue.store_segment(renter, 1 << 12)
        for site in world.sites.values():
            site.lose_everything()
        per_step: Counter[tuple[str, int]] = Counter()
        with watching(1.0) as watch:
            read, mark_lost = catalogue.store.read, renter.mark_lost

            def reading(sql: str, args: Values = ()) -> list[Any]:
                per_step["reads", watch.steps] += 1
                return read(sql, args)

            def marking(seg: int, idx: int, shard_id: bytes) -> None:
                per_step["marks", watch.steps] += 1
                mark_lost(seg, idx, shard_id)

            catalogue.store.read = reading  # type: ignore[method-assign]
            renter.mark_lost = marking
            summary = await renter.audit_now()
        assert summary.failed >= 100
        assert max(per_step.values()) <= 8


async def test_rot_is_found_and_pinned_to_its_farmer(
    tmp_path: Path, fast_clock: trio.testing.MockClock
) -> None:
    async with a_world(tmp_path, fast_clock, 5) as world, world.life(SELDOM) as (renter, catalogue):
        placed = await catalogue.store_segment(renter)
        contract = placed[2][0]
        site_of(world, renter, contract).rot()
        summary = await renter.audit_now()
        assert (summary.passed, summary.failed) == (4, 1)
        assert [lost[2] for lost in catalogue.lost] == [placed[2][1]]


async def scrubbed(site: Site) -> None:
    """The farmer reads all it stores."""
    one = Pass(0)
    while one.ended is None:
        one = await site.farmer.scrub._step(one)


async def test_a_farmer_that_tells_of_rot_before_it_is_asked_keeps_its_standing(
    tmp_path: Path, fast_clock: trio.testing.MockClock
) -> None:
    async with a_world(tmp_path, fast_clock, 5) as world, world.life(SELDOM) as (renter, catalogue):
        contract, rotten = (await catalogue.store_segment(renter))[0]
        sound = [one for number, one in await catalogue.store_segment(renter) if number == contract]
        site = site_of(world, renter, contract)
        path = site.farmer.shelf.path(ShardId(rotten))
        path.write_bytes(path.read_bytes()[::-1])
        await scrubbed(site)
        entry = renter.book.get(contract)
        assert entry is not None
        before = world.paid_by(renter, site)
        challenge = await renter.auditor._audits.begin(entry, sound)
        assert challenge is not None
        result = await renter.auditor._audits.attempt(entry, challenge)
        assert (result.passed, result.failed) == (1, 0)
        assert [lost[2] for lost in catalogue.lost] == [rotten]
        standing = renter.records.standing(contract)
        assert (standing.integrity, standing.strikes, standing.told) == (1.0, 0, 1)
        assert renter.records.outcomes()[0].result is Result.TOLD
        assert world.paid_by(renter, site) > before
        await catalogue.store.sync()
        assert (await renter.audit_now()).failed == 0
        assert standing.told == 1


async def test_a_farmer_that_tells_of_more_than_its_share_is_judged_as_by_failed_proofs(
    tmp_path: Path, fast_clock: trio.testing.MockClock
) -> None:
    async with a_world(tmp_path, fast_clock, 5) as world, world.life(SELDOM) as (renter, catalogue):
        placed = [await catalogue.store_segment(renter, 8192) for _ in range(5)]
        contract = placed[0][0][0]
        site, entry = site_of(world, renter, contract), renter.book.get(contract)
        assert entry is not None
        mine = [shard_id for row in placed for number, shard_id in row if number == contract]
        for shard_id in mine[1:]:
            site.farmer.shelf.path(ShardId(shard_id)).unlink()
        await scrubbed(site)
        challenge = await renter.auditor._audits.begin(entry, mine[:1])
        assert challenge is not None
        assert (await renter.auditor._audits.attempt(entry, challenge)).failed == 0
        assert {lost[2] for lost in catalogue.lost} == set(mine[1:])
        standing = renter.records.standing(contract)
        assert (standing.told, standing.failed, standing.strikes) == (4, 2, 1)
        assert standing.integrity <= 0.5


async def test_who_tells_only_of_what_is_asked_for_has_not_told(
    tmp_path: Path, fast_clock: trio.testing.MockClock
) -> None:
    async with a_world(tmp_path, fast_clock, 5) as world, world.life(SELDOM) as (renter, catalogue):
        contract, rotten = (await catalogue.store_segment(renter))[0]
        site = site_of(world, renter, contract)
        site.rot()
        await scrubbed(site)
        for one in world.sites.values():

            def tell(_: ContractEntry, batch: AuditRequest) -> tuple[ShardId, ...]:
                return tuple(shard.shard_id for shard in batch.shards)

            one.farmer.prover._to_tell = tell  # type: ignore[assignment, method-assign]
        summary = await renter.audit_now()
        assert (summary.passed, summary.failed) == (4, 1)
        assert renter.records.standing(contract).integrity <= 0.5
        assert renter.records.standing(contract).told == 0
        assert [lost[2] for lost in catalogue.lost] == [rotten]


async def test_farmers_that_are_away_are_looked_for_while_something_waits_for_them(
    tmp_path: Path, fast_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storjfs.renter.renter.ROUND", 1e6)
    async with a_world(tmp_path, fast_clock, 3) as world, world.life(SELDOM) as (renter, _):
        (site, *_others) = world.sites.values()
        farmer = site.farmer.node_id
        came = 0

        def comes() -> None:
            nonlocal came
            came += 1

        world.cut(site)
        await until(lambda: not renter.farmers.connected(farmer))
        world.heal(site)
        renter.came = comes
        await trio.sleep(60)
        assert not renter.farmers.connected(farmer)
        renter.waits = lambda: True
        await until(lambda: renter.farmers.connected(farmer), 3 * GREET_EVERY)
        assert came == 1


@pytest.mark.parametrize("mute", [False, True])
async def test_a_silent_farmer_is_contained_and_believed_when_it_comes_back(
    tmp_path: Path, fast_clock: trio.testing.MockClock, mute: bool
) -> None:
    async with a_world(tmp_path, fast_clock, 5) as world, world.life() as (renter, catalogue):
        placed = await catalogue.store_segment(renter)
        contract, shard_id = placed[0]
        site = site_of(world, renter, contract)
        world.cut(site, mute=mute)
        before = world.paid_by(renter, site)
        await until(lambda: renter.contained(contract))
        if not mute:
            with pytest.raises(FarmerUnavailable):
                await renter.get(contract, shard_id, 0, 1)
        assert world.paid_by(renter, site) == before
        challenge = renter.records.challenges[contract]
        world.heal(site)
        await until(lambda: not renter.contained(contract))
        assert renter.records.challenges.get(contract) != challenge
        assert catalogue.lost == []
        assert world.paid_by(renter, site) > before


async def test_a_challenge_is_repeated_byte_for_byte_over_restarts(
    tmp_path: Path, fast_clock: trio.testing.MockClock
) -> None:
    async with a_world(tmp_path, fast_clock, 5) as world:
        async with world.life() as (renter, catalogue):
            contract = (await catalogue.store_segment(renter))[0][0]
            site = site_of(world, renter, contract)
            world.cut(site)
            await until(lambda: renter.contained(contract))
            first = renter.records.challenges[contract]
        async with world.life() as (renter, _):
            await until(lambda: renter.records.standing(contract).offline > 2)
            assert renter.records.challenges[contract] == first
            world.heal(site)
            await until(lambda: renter.records.standing(contract).passed > 0)


async def test_a_farmer_silent_for_too_long_is_given_up_but_not_while_all_are_silent(
    tmp_path: Path, still_clock: trio.testing.MockClock
) -> None:
    settings = quick_settings(offline_grace=15.0)
    async with a_world(tmp_path, still_clock, 6) as world, world.life(settings) as (renter, catalogue):
        placed = await catalogue.store_segment(renter)
        await catalogue.store_segment(renter)
        contract = placed[0][0]
        gone = site_of(world, renter, contract)
        for site in world.sites.values():
            world.cut(site)
        await trio.sleep(30)
        assert catalogue.lost == []
        for site in world.sites.values():
            if site is not gone:
                world.heal(site)
        await until(lambda: renter.book.get(contract).state is State.BREACHED)  # type: ignore[union-attr]
        await until(lambda: catalogue.held(contract) == 0)
        assert {lost[2] for lost in catalogue.lost} >= {placed[0][1]}
        others = [row for row in renter.report().contracts if row.contract != contract]
        assert all(row.state is State.ACTIVE for row in others)


async def test_a_removed_farmer_is_given_up_at_once(
    tmp_path: Path, fast_clock: trio.testing.MockClock
) -> None:
    async with a_world(tmp_path, fast_clock, 6) as world, world.life(SELDOM) as (renter, catalogue):
        contract, shard_id = (await catalogue.store_segment(renter))[1]
        site = site_of(world, renter, contract)
        world.cut(site)
        await renter.farmer_removed(site.farmer.node_id)
        assert [lost[2] for lost in catalogue.lost] == [shard_id]
        assert renter.code() == (3, 5)
        assert contract not in renter.choose(6, 1 << 16)


async def test_a_renter_without_money_promises_nothing_more_and_gets_two_audits_at_most(
    tmp_path: Path, fast_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Enough for one proof (235 nanocredits), and no budget for a second portion.
    monkeypatch.setattr("storjfs.renter.cashier.deposit_step", lambda terms: 300)
    settings = quick_settings(budget=600, audit_period=10_000)
    async with a_world(tmp_path, fast_clock, 2) as world, world.life(settings) as (renter, catalogue):
        placed = await catalogue.store_segment(renter)
        contract, shard_id = placed[0]
        site = site_of(world, renter, contract)
        for _ in range(4):
            await renter.audit_now()
        assert world.paid_by(renter, site) == 300
        account = next(iter(site.farmer.book.lanes.values())).now
        assert account.unpaid_audits == 2
        assert not account.serving
        with pytest.raises(ServiceRefused, match="voucher"):
            await renter.get(contract, shard_id, 0, 1)
        assert "budget" in renter.cashier.problem
        assert catalogue.lost == []


async def test_fetching_is_paid_as_it_goes(tmp_path: Path, fast_clock: trio.testing.MockClock) -> None:
    async with a_world(tmp_path, fast_clock, 1) as world, world.life() as (renter, catalogue):
        ((contract, shard_id),) = await catalogue.store_segment(renter, 4 << 20)
        site = site_of(world, renter, contract)
        for _ in range(24):
            await renter.get(contract, shard_id, 0, 4 << 20)
        await until(lambda: world.received_by(site) > 0, 60)
        entry = renter.book.get(contract)
        assert entry is not None
        assert world.received_by(site) <= world.earned_by(site) + 1
        price = entry.terms.egress_price
        assert world.received_by(site) >= price * (32 << 20) // (1 << 30)
        await renter.audit_now()
        assert agree(world, renter)


async def test_what_a_farmer_cannot_have_sent_is_not_owed(
    tmp_path: Path, fast_clock: trio.testing.MockClock
) -> None:
    """Else one that refuses, or is away while reads are tried again, could have itself paid for it."""
    async with a_world(tmp_path, fast_clock, 1) as world, world.life() as (renter, catalogue):
        ((contract, shard_id),) = await catalogue.store_segment(renter, 1 << 20)
        site = site_of(world, renter, contract)
        (lane,) = renter.cashier.pay.lanes.values()
        for _ in range(20):
            with pytest.raises(ShardMissing):
                await renter.get(contract, bytes(32), 0, 1 << 20)
        assert lane.doubtful == 0
        world.cut(site)
        for _ in range(20):
            with pytest.raises(FarmerUnavailable):
                await renter.get(contract, shard_id, 0, 1 << 20)
        # Connections that looked sound were asked: three at most.
        assert lane.doubtful <= 3 << 20
        for _ in range(100):
            renter.cashier.pay.doubted(lane, 1 << 20)
        assert lane.doubtful == EGRESS_CREDIT


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


async def test_a_contract_is_renewed_well_before_its_end(
    tmp_path: Path, fast_clock: trio.testing.MockClock
) -> None:
    settings = quick_settings(term=60)
    async with a_world(tmp_path, fast_clock, 1) as world, world.life(settings) as (renter, catalogue):
        ((contract, _),) = await catalogue.store_segment(renter)
        entry = renter.book.get(contract)
        assert entry is not None
        first_end = entry.terms.end
        await until(lambda: entry.terms.end > first_end)
        assert world.now() < first_end
        assert entry.state is State.ACTIVE
        assert world.ledger.lane(entry.terms.lane).expiry > entry.terms.end


async def test_where_no_renewal_is_agreed_the_shards_move_and_the_contract_ends(
    tmp_path: Path, fast_clock: trio.testing.MockClock
) -> None:
    async with (
        a_world(tmp_path, fast_clock, 6) as world,
        world.life(quick_settings(term=60)) as (
            renter,
            catalogue,
        ),
    ):
        placed = await catalogue.store_segment(renter)
        contract, shard_id = placed[0]
        site = site_of(world, renter, contract)
        site.farmer.contracting.settings = site.farmer.settings.changed(price=10**14)
        entry = renter.book.get(contract)
        assert entry is not None
        await until(lambda: entry.state is State.ENDING)
        assert world.now() < entry.terms.end
        await until(lambda: any(lost[2] == shard_id for lost in catalogue.lost))
        assert entry.state is State.ENDING, "the shard is nowhere else yet"
        catalogue.store.write("DELETE FROM shard WHERE shard_id = ?", [(shard_id,)])
        await until(lambda: entry.state is State.ENDED)


async def test_an_offer_outside_the_bounds_gives_no_contract_and_says_why(
    tmp_path: Path, fast_clock: trio.testing.MockClock
) -> None:
    async with a_world(tmp_path, fast_clock, 1) as world:
        await world.add_farmer(price=10**14)
        async with world.life() as (renter, _):
            assert len(list(renter.book)) == 1
            problems = renter.report().problems
            assert any("price_max" in problem for problem in problems)
            assert all(problem.count("farmer ") == 1 for problem in problems)


async def test_a_shard_read_back_whole_is_compared_with_its_root(
    tmp_path: Path, fast_clock: trio.testing.MockClock
) -> None:
    async with a_world(tmp_path, fast_clock, 2) as world, world.life(SELDOM) as (renter, catalogue):
        good, bad = await catalogue.store_segment(renter)
        site_of(world, renter, bad[0]).rot()
        assert await renter.read_back.check(Due(0.0, good[0], 1, 0, good[1])) is True
        assert await renter.read_back.check(Due(0.0, bad[0], 1, 1, bad[1])) is False
        assert [lost[2] for lost in catalogue.lost] == [bad[1]]
        assert renter.records.standing(bad[0]).failed == 1
        await catalogue.store.sync()
        # A second look finds nothing to look at: it does not count any more.
        assert await renter.read_back.check(Due(0.0, bad[0], 1, 1, bad[1])) is None


async def test_a_fault_found_by_a_read_stands_in_the_report(
    tmp_path: Path, fast_clock: trio.testing.MockClock
) -> None:
    async with a_world(tmp_path, fast_clock, 2) as world, world.life(SELDOM) as (renter, catalogue):
        contract, shard_id = (await catalogue.store_segment(renter))[0]
        renter.fault(contract, shard_id, "piece 3 does not open")
        await until(lambda: renter.records.standing(contract).failed == 1)
        await until(lambda: len(renter.records.outcomes()) == 1)
        assert renter.records.outcomes()[0].detail == "piece 3 does not open"


async def test_audits_that_come_while_shards_are_deleted_blame_nobody(
    tmp_path: Path, fast_clock: trio.testing.MockClock
) -> None:
    async with a_world(tmp_path, fast_clock, 2) as world, world.life(SELDOM) as (renter, catalogue):
        placed = await catalogue.store_segment(renter)
        for contract, shard_id in placed:
            await renter.delete(contract, [shard_id])
        # The rows are still there, as they are until the deletion is committed.
        summary = await renter.audit_now()
        assert (summary.passed, summary.failed, catalogue.lost) == (0, 0, [])


async def test_a_contract_lost_from_the_book_is_found_again_at_the_farmer(
    tmp_path: Path, fast_clock: trio.testing.MockClock
) -> None:
    async with a_world(tmp_path, fast_clock, 1) as world:
        async with world.life() as (renter, catalogue):
            ((contract, shard_id),) = await catalogue.store_segment(renter)
            whole = await renter.get(contract, shard_id, 0, 64 << 10)
            (before,) = renter.book
        lose_metadata(tmp_path)
        async with world.life() as (renter, _):
            (after,) = renter.book
            assert after.contract == before.contract
            assert after.state is State.ACTIVE
            assert await renter.get(after.number, shard_id, 0, 64 << 10) == whole


async def test_a_full_disk_stops_the_audits_only_while_it_is_full(
    tmp_path: Path, fast_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_world(tmp_path, fast_clock, 2) as world, world.life(SELDOM) as (renter, catalogue):
        await catalogue.store_segment(renter)

        async def full(*statements: object) -> None:
            raise StoreError("no space left", permanent=False)

        with monkeypatch.context() as patch:
            patch.setattr(renter.records._db, "write", full)
            summary = await renter.audit_now()
            assert summary.passed == 0
        await until(lambda: sum(row.passed for row in renter.report().contracts) == 2)
        assert agree(world, renter)


def lose_metadata(folder: Path) -> None:
    for path in folder.glob("meta.db*"):
        path.unlink()


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
    tmp_path: Path, fast_clock: trio.testing.MockClock
) -> None:
    mib = 1 << 20
    settings = quick_settings(capacity=64 * mib, code=(1, 2))
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
