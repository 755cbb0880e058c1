"""Farmers that lose, spoil or keep silent: what is found, told, believed, and given up."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from storjfs.daemon.watch import watching
from storjfs.farmer.book import ContractEntry
from storjfs.farmer.scrub import Pass
from storjfs.protocol.audits import AuditRequest
from storjfs.protocol.contracts import State
from storjfs.protocol.ids import NodeId, ShardId
from storjfs.protocol.messages import Audit, Pay, Request
from storjfs.renter import FarmerUnavailable, Renter
from storjfs.renter.audits import Audits
from storjfs.renter.book import Entry
from storjfs.renter.local_records import Challenge, Result
from storjfs.renter.renter import GREET_EVERY
from storjfs.renter.schedule import Due, first_due_after
from storjfs.renter.speed import Way
from storjfs.store.batch import Values
from tests.renter.world import SELDOM, Site, a_world, quick_settings, site_of, until


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

        def comes(_: object) -> None:
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


async def test_one_that_is_dialled_and_does_not_answer_is_worked_around_at_once(
    tmp_path: Path, still_clock: trio.testing.MockClock
) -> None:
    async with a_world(tmp_path, still_clock, 5) as world:
        async with world.life() as (renter, catalogue):
            placed = await catalogue.store_segment(renter)
            site = site_of(world, renter, placed[0][0])
        world.cut(site, mute=True)
        async with world.life() as (renter, _):
            contract = placed[0][0]
            await until(lambda: renter.lagging(contract, Way.GET) and renter.lagging(contract, Way.PUT))
            assert not any(renter.lagging(other, Way.GET) for other, _ in placed[1:])
            world.heal(site)
            await until(lambda: not renter.lagging(contract, Way.GET))


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


@pytest.mark.parametrize("restart", [False, True])
async def test_what_fell_due_while_a_farmer_was_silent_is_made_up_for_when_it_is_back(
    tmp_path: Path, still_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch, restart: bool
) -> None:
    begun: list[tuple[float, int, bytes]] = []
    begin = Audits.begin

    async def noted(audits: Audits, entry: Entry, shard_ids: Sequence[bytes]) -> Challenge | None:
        begun.extend((world.now(), entry.number, one) for one in shard_ids)
        return await begin(audits, entry, shard_ids)

    monkeypatch.setattr(Audits, "begin", noted)
    period = 100.0
    settings = quick_settings(audit_period=int(period), offline_grace=10 * period)
    async with a_world(tmp_path, still_clock, 5) as world:
        async with world.life(settings) as (renter, catalogue):
            placed = [one for _ in range(8) for one in await catalogue.store_segment(renter)]
            secret = await renter.records.secret()
            contract = placed[0][0]
            ours = [shard_id for number, shard_id in placed if number == contract]
            site = site_of(world, renter, contract)
            world.cut(site)
            await until(lambda: renter.contained(contract), 3 * period)
            silent = world.now()
            assert unproven(renter) == [contract]
            await trio.sleep(0.7 * period)
            if not restart:
                world.heal(site)
                await until(lambda: not unproven(renter), period)
        if restart:
            async with world.life(settings) as (renter, _):
                await until(lambda: renter.contained(contract), period)
                assert unproven(renter) == [contract]
                world.heal(site)
                await until(lambda: not unproven(renter), period)
        back = world.now()
        missed = {
            one for one in ours if first_due_after(secret, one, period, silent) < silent + 0.65 * period
        }
        proven = {one for at, number, one in begun if number == contract and at > silent}
        assert missed <= proven
        # They were not all asked for at once, nor only when they were due the next time.
        assert back < silent + 1.3 * period
        assert catalogue.lost == []


def unproven(renter: Renter) -> list[int]:
    rows = renter.report().contracts
    return [row.contract for row in rows if row.unproven_since is not None]


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


async def test_a_farmer_that_hangs_up_on_audits_is_asked_ever_more_seldom(
    tmp_path: Path, fast_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That it greets whenever it is asked is no sign that it answers."""
    monkeypatch.setattr("storjfs.renter.renter.ROUND", 1e6)
    async with a_world(tmp_path, fast_clock, 2) as world, world.life(SELDOM) as (renter, catalogue):
        contract, _ = (await catalogue.store_segment(renter))[0]
        site = site_of(world, renter, contract)
        answer, asked = site.farmer.service.request, 0

        async def hang_up(peer: NodeId, request: Request[Any]) -> Any:
            nonlocal asked
            if isinstance(request, Audit):
                asked += 1
                world.cut(site)
                world.heal(site)
            return await answer(peer, request)

        monkeypatch.setattr(site.farmer.service, "request", hang_up)
        assert (await renter.audit_now()).silent == [contract]
        await trio.sleep(60)
        # At 0, 5, 15 and 35 seconds, the first time on two connections.
        assert asked <= 6


async def test_an_audit_asked_for_before_the_auditor_runs_is_carried_out(
    tmp_path: Path, fast_clock: trio.testing.MockClock
) -> None:
    """As while the first look at the farmers takes its time."""
    async with a_world(tmp_path, fast_clock, 2) as world:
        async with world.life(SELDOM) as (renter, catalogue):
            await catalogue.store_segment(renter)
        looked = trio.Event()

        async def look(*_: object) -> None:
            await looked.wait()

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("storjfs.renter.farmers.Farmers.find_out", look)
            async with world.life(SELDOM, started=False) as (renter, _), trio.open_nursery() as nursery:
                found = []

                async def audit() -> None:
                    with trio.fail_after(600):
                        found.append(await renter.audit_now())

                nursery.start_soon(audit)
                await until(lambda: bool(renter.auditor._work))
                looked.set()
        assert [one.passed for one in found] == [2]


async def test_a_read_does_not_wait_for_its_payment(
    tmp_path: Path, still_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storjfs.renter.cashier.EGRESS_STEP", 1 << 10)
    async with a_world(tmp_path, still_clock, 2) as world, world.life(SELDOM) as (renter, catalogue):
        contract, shard_id = (await catalogue.store_segment(renter))[0]
        site = site_of(world, renter, contract)
        answer, asked, given_up = site.farmer.service.request, 0, 0

        async def takes_no_money(peer: NodeId, request: Request[Any]) -> Any:
            nonlocal asked, given_up
            if isinstance(request, Pay):
                asked += 1
                try:
                    await trio.sleep_forever()
                finally:
                    given_up += 1
            return await answer(peer, request)

        monkeypatch.setattr(site.farmer.service, "request", takes_no_money)
        for _ in range(3):
            assert len(await renter.get(contract, shard_id, 0, 1 << 12)) == 1 << 12
        await until(lambda: asked > 0)
        assert (asked, given_up) == (1, 0)
