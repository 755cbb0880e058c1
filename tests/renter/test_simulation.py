"""Renter and real farmers in one process: contracts, audits and pay."""

from collections.abc import Iterable
from pathlib import Path

import pytest
import trio
import trio.testing

from storjfs.protocol.contracts import State
from storjfs.protocol.vouchers import EGRESS_CREDIT
from storjfs.renter import FarmerUnavailable, ServiceRefused, ShardMissing
from storjfs.renter.cashier import deposit_step
from storjfs.renter.local_records import Challenge, Outcome
from storjfs.settlement import SettlementUnreachable
from storjfs.store import StoreError
from tests.renter.world import BALANCE, SELDOM, WALLET, a_world, agree, quick_settings, site_of, until


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


async def test_a_lane_that_could_not_be_extended_is_extended_later(
    tmp_path: Path, fast_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_world(tmp_path, fast_clock, 1) as world, world.life(quick_settings(term=60)) as life:
        renter, catalogue = life
        ((contract, _),) = await catalogue.store_segment(renter)
        entry = renter.book.get(contract)
        assert entry is not None
        first_end = entry.terms.end

        def away(*_: object) -> None:
            raise SettlementUnreachable("the ledger cannot be asked")

        with monkeypatch.context() as broken:
            broken.setattr(world.ledger, "extend", away)
            await until(lambda: entry.terms.end > first_end)
            renewed = entry.terms.end
            before = world.ledger.lane(entry.terms.lane).expiry
        await until(lambda: world.ledger.lane(entry.terms.lane).expiry > before)
        assert entry.terms.end == renewed, "not only the next renewal has done it"


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


async def test_an_account_that_cannot_pay_the_first_deposit_is_told_of_until_it_can(
    tmp_path: Path, fast_clock: trio.testing.MockClock
) -> None:
    async with a_world(tmp_path, fast_clock, 2, balance=0) as world, world.life(started=False) as (renter, _):
        await until(lambda: "too few credits" in renter.cashier.problem)
        assert renter.cashier.problem in renter.report().problems
        assert not any(entry.state is State.ACTIVE for entry in renter.book)
        world.ledger.issue(WALLET.public, BALANCE)
        await until(lambda: sum(entry.state is State.ACTIVE for entry in renter.book) == 2)
        assert not renter.report().problems


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


async def test_a_batch_whose_end_cannot_be_kept_is_counted_once(
    tmp_path: Path, fast_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_world(tmp_path, fast_clock, 2) as world, world.life(SELDOM) as (renter, catalogue):
        await catalogue.store_segment(renter)
        finish, failed = renter.records.finish, 0

        async def fail_at_first(challenge: Challenge, outcomes: Iterable[Outcome]) -> None:
            nonlocal failed
            if failed < 6:
                failed += 1
                raise StoreError("no space left", permanent=False)
            await finish(challenge, outcomes)

        monkeypatch.setattr(renter.records, "finish", fail_at_first)
        await renter.audit_now()
        await until(lambda: failed == 6 and not renter.records.challenges)
        assert [row.passed for row in renter.report().contracts] == [1, 1]
        assert agree(world, renter)


def lose_metadata(folder: Path) -> None:
    for path in folder.glob("meta.db*"):
        path.unlink()
