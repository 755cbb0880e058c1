"""Weeks of a volume among farmers that come, go and vanish, in seconds: the real renter and segments, real
farmers and a real ledger in one process, on memory streams and a clock that jumps.

    python -m tests.renter.churn --farmers 1000 --days 30

Farmers vanish for good at random, but never so that fewer than k shards of a segment would be left with
living ones: that much the code promises. Others are away for hours. New ones take their place. In the end all
data is read back from farmers and compared.
"""

import argparse
import contextlib
import logging
import random
import resource
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import trio
import trio.testing

from storjfs.network.control import CONTROL_LIMITS
from storjfs.renter import Renter
from storjfs.segments import Run, Segments
from storjfs.store import MetaStore
from tests.renter.world import BALANCE, KEYS, WALLET, Site, World, a_world, quick_settings

DAY = 86400.0
SETTLED = 0.002
"""Real seconds for which nothing must happen until the clock jumps."""
SELDOM = 12 * 3600.0
QUIET = {
    "storjfs.farmer.farmer.REVIEW_EVERY": SELDOM,
    "storjfs.farmer.scrub.LOOK_EVERY": 1e9,
    "storjfs.renter.renter.ROUND": SELDOM,
    "storjfs.renter.clock.LONGEST_NAP": DAY,
    "storjfs.renter.schedule.LONGEST_TICK": 3600.0,
    "storjfs.segments.segments.IDLE": SELDOM,
}
"""What happens every few seconds and would be most of a month: it happens as well, only less often."""


@dataclass(frozen=True, slots=True)
class Plan:
    """`life`: days that a farmer lives, on average; `away`: of so many in 100 farmers each day some hours.
    `audit_period`: in days."""

    farmers: int = 100
    days: int = 30
    segments: int = 6
    life: float = 40.0
    away: float = 5.0
    audit_period: float = 8.0
    code: tuple[int, int] | None = None
    seed: int = 1


@dataclass(slots=True)
class Outcome:
    """Sizes in bytes of sealed shards, times in real seconds."""

    code: tuple[int, int] = (0, 0)
    stored: int = 0
    vanished: int = 0
    spared: int = 0
    """Times that one could not vanish, for a segment would have had fewer than k shards left."""
    fewest_spare: int = 1 << 30
    """The fewest shards beyond k that a segment ever had with living farmers."""
    repaired: int = 0
    put: int = 0
    fetched: int = 0
    audits: int = 0
    lost: int = 0
    round_ms: float = 0.0
    """Processor time of a look at every contract where nothing is to be done, in milliseconds."""
    choose_ms: float = 0.0
    memory: int = 0
    seconds: float = 0.0


class Jumping:
    """A clock that jumps by `grain` seconds, or to the next deadline if that is later, when nothing is left
    to do now."""

    def __init__(self) -> None:
        self.clock = trio.testing.MockClock()
        self.grain = 0.0
        self.working = 0

    async def run(self) -> None:
        """Be the one who lets time pass, until cancelled."""
        while True:
            await trio.testing.wait_all_tasks_blocked(SETTLED)
            if self.working:
                continue
            left = trio.lowlevel.current_statistics().seconds_to_next_deadline
            self.clock.jump(max(left, self.grain) if left < 1e12 else self.grain)

    @contextlib.contextmanager
    def minding_threads(self) -> Iterator[None]:
        """Time stands still while a worker thread is at work."""
        original: Any = trio.to_thread.run_sync

        async def run_sync(*args: Any, **options: Any) -> Any:
            self.working += 1
            try:
                return await original(*args, **options)
            finally:
                self.working -= 1

        with mock.patch.object(trio.to_thread, "run_sync", run_sync):
            yield


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the ticking of connections and upkeep."""
    with contextlib.ExitStack() as stack:
        for name, value in QUIET.items():
            stack.enter_context(mock.patch(name, value))
        # A frozen value that is the default of functions long since made.
        stack.callback(object.__setattr__, CONTROL_LIMITS, "quiet", CONTROL_LIMITS.quiet)
        object.__setattr__(CONTROL_LIMITS, "quiet", 1e9)
        yield


@contextlib.asynccontextmanager
async def volume(world: World, plan: Plan) -> AsyncIterator[tuple[Renter, Segments, MetaStore]]:
    """A volume of the farmers in `world`, mounted but for the filesystem."""
    settings = quick_settings(
        code=plan.code,
        capacity=64 << 20,
        price_max=1 << 40,
        audit_period=int(plan.audit_period * DAY),
        term=int(180 * DAY),
        offline_grace=1.5 * DAY,
        answer_deadline=3600,
    )
    folder = world.folder
    async with trio.open_nursery() as below:
        store = MetaStore.open(folder / "meta.db", KEYS.metadata_key)
        await below.start(store.run)
        renter = Renter(
            KEYS, store, folder / "pay.db", folder / "local.db", world.ledger, WALLET.public, settings,
            now=world.now, rng=random.Random(plan.seed), connector=world.connect,
        )  # fmt: skip
        segments = Segments(
            store, KEYS, renter,
            journal_dir=folder / "journal", cache_dir=folder / "cache", limit=1 << 30, disk_reserve=0,
        )  # fmt: skip
        renter.mark_lost = segments.mark_lost
        renter.held = segments.held
        renter.found = segments.amend.found
        renter.came = segments.farmers_changed
        renter.waits = lambda: segments.waits_for_farmers
        renter.update_addresses({node: (site.address,) for node, site in world.sites.items()})
        async with trio.open_nursery() as above:
            await above.start(segments.run)
            await above.start(renter.run)
            yield renter, segments, store
            above.cancel_scope.cancel()
        below.cancel_scope.cancel()


@dataclass(slots=True)
class Churn:
    """What happens to the farmers of a volume. `drop_cache` is called before all is read."""

    plan: Plan
    world: World
    renter: Renter
    segments: Segments
    store: MetaStore
    outcome: Outcome = field(default_factory=Outcome)
    written: dict[Run, bytes] = field(default_factory=dict)
    living: list[Site] = field(default_factory=list)
    chance: random.Random = field(default_factory=random.Random)

    async def run(self, clock: Jumping) -> None:
        self.chance.seed(self.plan.seed)
        self.living = list(self.world.sites.values())
        await self._write()
        self._count()
        clock.grain = 3600.0
        for _ in range(self.plan.days):
            await self._day()
        clock.grain = 0.0
        await self._settle()
        await self._check()
        self._measure()
        await self.renter.rounds.once()  # compares what both sides have, as it does once an hour
        before = time.process_time()
        await self.renter.rounds.once()
        self.outcome.round_ms = 1000 * (time.process_time() - before)

    async def _write(self) -> None:
        k, _ = self.outcome.code = self.renter.code()
        for _ in range(self.plan.segments):
            for _ in range(k):
                data = self.chance.randbytes(60_000)
                for run in self.segments.append(1, 0, data):
                    self.written[run], data = data[: run.length], data[run.length :]
                    self.segments.live(run.seg, run.length)
            self.segments._journal.close_open()
        await self.segments.flush()
        await self.segments.repair_all()

    def _count(self) -> None:
        """From here on what moves is the cost of repair."""
        self.outcome.stored = sum(self.renter.held(entry.number)[1] for entry in self.renter.book)
        client, outcome = self.renter.client, self.outcome
        put, get = client.put, client.get

        async def counting_put(contract: int, shard_id: bytes, sealed: Any, root: bytes | None = None) -> Any:
            receipt = await put(contract, shard_id, sealed, root)
            outcome.put += len(sealed)
            outcome.repaired += 1
            return receipt

        async def counting_get(*args: Any, **options: Any) -> bytearray:
            data = await get(*args, **options)
            outcome.fetched += len(data)
            return data

        client.put = counting_put  # type: ignore[method-assign]
        client.get = counting_get  # type: ignore[method-assign]

    async def _day(self) -> None:
        """Some vanish, some are away for hours, new ones come: at any time of the day."""
        expected = len(self.living) / self.plan.life
        vanishing = int(expected) + (self.chance.random() < expected % 1)
        resting = round(len(self.living) * self.plan.away / 100)
        events = [*["vanish"] * vanishing, *["away"] * resting]
        self.chance.shuffle(events)
        for event in events:
            await trio.sleep(DAY / (len(events) + 1))
            site = self.chance.choice(self.living)
            if event == "vanish":
                await self._vanish(site)
            elif site.online:
                self.world.cut(site)
                self.world.nursery.start_soon(self._back_later, site)
        await trio.sleep(DAY / (len(events) + 1))

    async def _back_later(self, site: Site) -> None:
        await trio.sleep(self.chance.uniform(1, 20) * 3600)
        if site in self.living:
            self.world.heal(site)

    async def _vanish(self, site: Site) -> None:
        await self.store.sync()
        if self._spare_without(site) < 0:
            self.outcome.spared += 1
            return
        self.outcome.fewest_spare = min(self.outcome.fewest_spare, self._spare_without(site))
        self.living.remove(site)
        self.world.cut(site)
        self.outcome.vanished += 1
        new = await self.world.add_farmer(price=10**9)
        self.living.append(new)
        self.renter.update_addresses({new.farmer.node_id: (new.address,)})

    def _spare_without(self, leaving: Site | None) -> int:
        """The fewest shards beyond k that any segment has with living farmers, once one of them is gone."""
        living = {site.farmer.node_id for site in self.living if site is not leaving}
        of = {entry.number for entry in self.renter.book if entry.node_id in living}
        held: dict[int, int] = {}
        for seg, contract in self.store.read("SELECT seg, contract FROM shard WHERE state IN (1, 2)"):
            held[seg] = held.get(seg, 0) + (contract in of)
        return min(held.values(), default=0) - self.outcome.code[0]

    async def _settle(self) -> None:
        """All that is away for a while is back, and repaired is what wants repair."""
        for site in self.living:
            if not site.online:
                self.world.heal(site)
        self.segments.farmers_changed()
        await trio.sleep(3600)
        await self.segments.repair_all()

    async def _check(self) -> None:
        """All data is with farmers; nothing comes from here."""
        cache = self.segments._cache
        for seg in {run.seg for run in self.written}:
            await cache.discard(self.segments._catalogue.get(seg))
        for run, data in self.written.items():
            assert bytes(await self.segments.read(*run, 0, run.length)) == data
        self.outcome.lost = self.segments.report().lost

    def _measure(self) -> None:
        outcome, client = self.outcome, self.renter.client
        outcome.audits = sum(row.passed for row in self.renter.report().contracts)
        before = time.process_time()
        for _ in range(5):
            client.choose(outcome.code[1], 1 << 20)
        outcome.choose_ms = 1000 * (time.process_time() - before) / 5
        outcome.memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def simulate(folder: Path, plan: Plan) -> Outcome:
    """All of it. Raises AssertionError where data is not what it was, StorjfsError where it is lost."""
    clock = Jumping()

    async def main() -> Outcome:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(clock.run)
            async with a_world(folder, clock.clock, 0) as world:
                world.ledger.issue(WALLET.public, 10_000 * BALANCE, order=b"more")
                for _ in range(plan.farmers):
                    await world.add_farmer(price=10**9)
                async with volume(world, plan) as (renter, segments, store):
                    churn = Churn(plan, world, renter, segments, store)
                    await churn.run(clock)
            nursery.cancel_scope.cancel()
        return churn.outcome

    began = time.monotonic()
    with quiet(), clock.minding_threads():
        outcome = trio.run(main, clock=clock.clock)
    outcome.seconds = time.monotonic() - began
    return outcome


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.renter.churn", description=__doc__)
    parser.add_argument("--farmers", type=int, default=100)
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--segments", type=int, default=6)
    parser.add_argument("--life", type=float, default=40.0, help="days that a farmer lives on average")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    logging.disable(logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="storjfs-churn-") as folder:
        plan = Plan(given.farmers, given.days, given.segments, given.life, seed=given.seed)
        print(described(plan, simulate(Path(folder), plan)))  # noqa: T201


def described(plan: Plan, outcome: Outcome) -> str:
    """The figures, for a person."""
    k, n = outcome.code
    mib = 1 << 20
    return "\n".join(
        (
            f"{plan.farmers} farmers, {plan.days} days, {plan.segments} segments of {k}/{n}",
            f"vanished {outcome.vanished}, spared {outcome.spared}; "
            f"fewest spare shards {outcome.fewest_spare}",
            f"repaired {outcome.repaired} shards: {outcome.put / mib:.1f} MiB put, "
            f"{outcome.fetched / mib:.1f} MiB fetched, of {outcome.stored / mib:.1f} MiB stored",
            f"passed proofs {outcome.audits}, segments lost {outcome.lost}",
            f"a round with nothing to do {outcome.round_ms:.1f} ms, a choice {outcome.choose_ms:.1f} ms",
            f"memory of all {outcome.memory / mib:.0f} MiB, {outcome.seconds:.0f} s",
        )
    )


if __name__ == "__main__":
    main()
