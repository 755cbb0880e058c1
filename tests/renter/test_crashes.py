"""Killed between any two steps, the renter goes on at its next start: nothing paid twice or forgotten."""

from pathlib import Path

import pytest
import trio
import trio.testing

from storjfs.protocol.contracts import State
from storjfs.renter import Renter, RenterError
from storjfs.renter.cashier import deposit_step
from tests.renter.world import BALANCE, WALLET, Catalogue, Crash, World, a_world

CRASH_POINTS = [
    "proposal: before storing",
    "proposal: after storing",
    "proposal: before sending",
    "proposal: after answer",
    "contract: before signed",
    "contract: after signed",
    "lane: before opening",
    "lane: after opening",
    "contract: before fund",
    "contract: after fund",
    "funding: before notice",
    "contract: before activate",
    "contract: after activate",
    "audit: before storing",
    "audit: after storing",
    "audit: before sending",
    "audit: after answer",
    "audit: judged",
    "pay: before persisting",
    "pay: after persisting",
    "voucher: before sending",
    "voucher: after sending",
    "audit: paid",
    "audit: marked",
    "audit: recorded",
]


class CrashAt:
    """Raises Crash where the point `name` is reached for the `nth` time; notes all that are reached."""

    def __init__(self, name: str = "", nth: int = 1) -> None:
        self.name = name
        self.left = nth
        self.seen: dict[str, None] = {}

    def __call__(self, name: str) -> None:
        self.seen[name] = None
        if name == self.name:
            self.left -= 1
            if not self.left:
                raise Crash(name)


async def scenario(renter: Renter, catalogue: Catalogue) -> None:
    """Contracts, a segment, audits, reads: everything that reaches a crash point."""
    with trio.fail_after(300):
        while not all_active(renter, 2):
            renter.look_around()
            await trio.sleep(1)
    placed = await catalogue.store_segment(renter)
    await renter.audit_now()
    for contract, shard_id in placed:
        await renter.get(contract, shard_id, 0, 64 << 10)
    await renter.audit_now()


def all_active(renter: Renter, count: int) -> bool:
    return len(renter.book.in_state([State.ACTIVE])) == count


def forget(folder: Path, name: str) -> None:
    """A database is lost, its log too."""
    for path in folder.glob(f"{name}*"):
        path.unlink()


async def check_books(world: World, renter: Renter) -> None:
    """One contract, one lane, one deposit per farmer; both sides have the same sum to the nanocredit."""
    with trio.fail_after(100):
        # Between two audits: what the schedule has under way may finish first.
        while renter.records.challenges:  # noqa: ASYNC110
            await trio.sleep(0.05)
    assert len(list(renter.book)) == len(world.sites)
    for entry in renter.book:
        assert entry.state is State.ACTIVE, renter.records.outcomes()
        site = world.sites[entry.node_id]
        lane = world.ledger.lane(entry.terms.lane)
        assert lane.deposit == deposit_step(entry.terms)
        assert world.received_by(site) == world.paid_by(renter, site) <= lane.deposit
        assert len(site.farmer.book.contracts) == 1
        proofs = next(iter(site.farmer.book.lanes.values())).now.proofs.amount
        # Egress that a crash made us forget is not in a voucher; proofs are never forgotten.
        assert proofs - 1 <= world.paid_by(renter, site) <= world.earned_by(site) + 1
    assert renter.cashier.pay.proposals == {}


async def test_the_list_of_crash_points_is_complete(
    tmp_path: Path, fast_clock: trio.testing.MockClock
) -> None:
    point = CrashAt()
    async with (
        a_world(tmp_path, fast_clock, 2) as world,
        world.life(crash_point=point) as (
            renter,
            catalogue,
        ),
    ):
        await scenario(renter, catalogue)
        await check_books(world, renter)
    assert sorted(point.seen) == sorted(CRASH_POINTS)


@pytest.mark.parametrize("name", CRASH_POINTS)
async def test_a_crash_anywhere_is_survived(
    tmp_path: Path, fast_clock: trio.testing.MockClock, name: str
) -> None:
    point = CrashAt(name)
    async with a_world(tmp_path, fast_clock, 2) as world:
        crashed = False
        try:
            async with world.life(crash_point=point) as (renter, catalogue):
                await scenario(renter, catalogue)
        except* (Crash, RenterError):
            # Who was just asking a farmer learns that the renter is stopping.
            crashed = point.left <= 0
        assert crashed
        async with world.life() as (renter, catalogue):
            await scenario(renter, catalogue)
            await check_books(world, renter)


async def test_many_lives_that_all_end_badly_still_add_up(
    tmp_path: Path, fast_clock: trio.testing.MockClock
) -> None:
    async with a_world(tmp_path, fast_clock, 2) as world:
        for nth, name in enumerate(CRASH_POINTS[::2]):
            try:
                async with world.life(crash_point=CrashAt(name, 1 + nth % 3)) as (renter, catalogue):
                    await scenario(renter, catalogue)
            except* (Crash, RenterError):
                pass
        async with world.life() as (renter, catalogue):
            await scenario(renter, catalogue)
            await check_books(world, renter)


@pytest.mark.parametrize("name", ["top-up: before", "top-up: after"])
async def test_a_top_up_is_made_once(
    tmp_path: Path, fast_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    # One proof of 64 KiB costs 235 nanocredits here, fetching as many bytes 61.
    monkeypatch.setattr("storjfs.renter.cashier.deposit_step", lambda terms: 400)
    async with a_world(tmp_path, fast_clock, 2) as world:
        try:
            async with world.life(crash_point=CrashAt(name)) as (renter, catalogue):
                await scenario(renter, catalogue)
        except* (Crash, RenterError):
            pass
        async with world.life() as (renter, catalogue):
            await scenario(renter, catalogue)
            with trio.fail_after(100):
                # An audit may just be topping up.
                while not all(deposits_known(world, renter)):  # noqa: ASYNC110
                    await trio.sleep(0.05)
            lanes = [renter.cashier.lane(entry) for entry in renter.book]
            for lane in lanes:
                assert lane is not None
                assert lane.signed <= lane.deposit
                assert lane.tally.amount == lane.signed
            spent = sum(lane.deposit for lane in lanes if lane is not None)
            assert world.ledger.balance(WALLET.public) == BALANCE - spent


def deposits_known(world: World, renter: Renter) -> list[bool]:
    """Per contract, whether the pay book has the deposit that the ledger has, and nothing is under way."""
    known = []
    for entry in renter.book:
        kept, lane = renter.cashier.lane(entry), world.ledger.lane(entry.terms.lane)
        busy = entry.number in renter.records.challenges
        known.append(kept is not None and kept.deposit == lane.deposit and not busy)
    return known


async def test_a_lost_pay_database_freezes_the_lane_until_the_farmer_shows_the_highest_voucher(
    tmp_path: Path, fast_clock: trio.testing.MockClock
) -> None:
    async with a_world(tmp_path, fast_clock, 2) as world:
        async with world.life() as (renter, catalogue):
            await scenario(renter, catalogue)
            before = {node: world.paid_by(renter, site) for node, site in world.sites.items()}
        forget(tmp_path, "pay.db")
        async with world.life() as (renter, catalogue):
            await scenario(renter, catalogue)
            for node, site in world.sites.items():
                assert world.paid_by(renter, site) > before[node] > 0
                assert world.received_by(site) == world.paid_by(renter, site)
            assert not any(lane.frozen for lane in renter.cashier.pay.lanes.values())
        forget(tmp_path, "local.db")
        async with world.life() as (renter, catalogue):
            await scenario(renter, catalogue)
            await check_books(world, renter)
