"""What the renter says each farmer holds, against what the farmers' own books say: real ones in memory."""

import os
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import apsw
import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storjfs.errors import StorjfsError
from storjfs.renter import Renter
from storjfs.renter.schedule import Window
from storjfs.segments import Run, Segments
from storjfs.segments.holdings import COUNT_HELD, right_counters
from storjfs.store import MetaStore
from storjfs.store.batch import Values
from tests.renter.world import KEYS, WALLET, World, a_world, quick_settings
from tests.segments.conftest import until

FARMERS = 6
SELDOM = quick_settings(audit_period=1_000_000, offline_grace=10_000_000.0)
"""So that shards are counted and audited only where a test wants it."""
PATIENCE = 3000.0
"""Seconds of a clock that runs ten times as fast."""


class Life:
    """One life of a volume's process: the real rooms, without files."""

    def __init__(self, world: World, store: MetaStore, renter: Renter, segments: Segments) -> None:
        self.world = world
        self.store = store
        self.renter = renter
        self.segments = segments
        self.runs: list[Run] = []

    def place(self, size: int) -> None:
        """Append, and close the segment, so that it is sent."""
        for run in self.segments.append(1, 0, os.urandom(size)):
            self.segments.live(run.seg, run.length)
            self.runs.append(run)
        self.segments._journal.close_open()

    def drop(self, number: int) -> None:
        """Nothing points to one of the runs any more."""
        if self.runs:
            run = self.runs.pop(number % len(self.runs))
            self.segments.live(run.seg, -run.length)

    def lose(self, number: int) -> None:
        """One shard of those held is found to be lost."""
        sql = "SELECT seg, idx, shard_id FROM shard WHERE state = 1 ORDER BY shard_id"
        if found := self.store.read(sql):
            self.segments.mark_lost(*found[number % len(found)])

    async def count(self) -> None:
        """The auditor goes through all shards."""
        await self.renter.auditor._scan(Window(b"", 10.0, 0.0, 1.0))

    async def put_unknown(self, number: int) -> None:
        """A farmer gets a shard that the books do not know."""
        entry = list(self.renter.book)[number % FARMERS]
        with suppress(StorjfsError):  # it is away, and has it or not
            await self.renter.put(entry.number, os.urandom(32), os.urandom(70_000))

    async def delete_unknown(self) -> None:
        """Have farmers delete what the books do not know, as fsck does with --delete-unknown."""
        for entry in self.renter.book:
            with suppress(StorjfsError):
                page = await self.renter.client.list_shards(entry.number, bytes(32))
                listed = {bytes(one.shard_id) for one in page}
                known = self.store.read("SELECT shard_id FROM shard UNION SELECT shard_id FROM doomed")
                await self.renter.delete(entry.number, sorted(listed - {shard_id for (shard_id,) in known}))

    def come_back(self) -> None:
        """Whoever is away."""
        for site in self.world.sites.values():
            if not site.online:
                self.world.heal(site)
        self.segments.farmers_changed()

    async def settle(self) -> None:
        """Everything stored, repaired and deleted."""
        self.come_back()
        with trio.fail_after(PATIENCE):
            # Who was away is not dialled again at once.
            while await self.renter.farmers.silent(list(self.world.sites), PATIENCE):  # noqa: ASYNC110
                await trio.sleep(1.0)
            await self.segments.flush()
            await self.segments.repair_all()

        def tidy() -> bool:
            report = self.segments.report()
            return not (report.to_delete or report.degraded or report.at_risk or report.waiting_bytes)

        await until(tidy, self.store, seconds=PATIENCE, step=1.0)
        await self.delete_unknown()

    def shown(self) -> dict[bytes, tuple[int, int]]:
        """Shards and bytes of each farmer, as `status` has them."""
        return {bytes.fromhex(row.node_id): (row.shards, row.used) for row in self.renter.report().contracts}

    def there(self) -> dict[bytes, tuple[int, int]]:
        """The same by the farmers' books."""
        sql = "SELECT COUNT(*), COALESCE(SUM(length), 0) FROM shard"
        found = {node: site.farmer.records.read(sql)[0] for node, site in self.world.sites.items()}
        return {bytes(node): (int(shards), int(size)) for node, (shards, size) in found.items()}


def books(connection: apsw.Connection) -> tuple[dict[str, int], dict[str, int]]:
    """The committed counters, and what they should be by the rows of the same moment."""
    connection.execute("BEGIN")
    found: list[Any] = connection.execute("SELECT key, value FROM counters").fetchall()
    counters = {key: value for key, value in found if key.startswith("held_")}
    rows: list[Any] = connection.execute(COUNT_HELD).fetchall()
    return counters, right_counters(rows, counters)


@asynccontextmanager
async def life(world: World) -> AsyncIterator[Life]:
    """Ends like a crash: what is not committed is gone, what was under way is cut off."""
    async with trio.open_nursery() as below:
        store = MetaStore.open(world.folder / "meta.db", KEYS.metadata_key)
        await below.start(store.run)
        renter = Renter(
            KEYS, store, world.folder / "pay.db", world.folder / "local.db", world.ledger, WALLET.public,
            SELDOM, now=world.now, connector=world.connect,
        )  # fmt: skip
        segments = Segments(
            store,
            KEYS,
            renter,
            journal_dir=world.folder / "journal",
            cache_dir=world.folder / "cache",
            limit=64 << 20,
            disk_reserve=0,
        )
        renter.mark_lost, renter.held, renter.found = segments.mark_lost, segments.held, segments.amend.found
        renter.update_addresses({node: (site.address,) for node, site in world.sites.items()})
        async with trio.open_nursery() as above:
            await above.start(segments.run)
            await above.start(renter.run)
            segments.farmers_changed()
            yield Life(world, store, renter, segments)
            above.cancel_scope.cancel()
        below.cancel_scope.cancel()


@pytest.fixture
def fast_clock(monkeypatch: pytest.MonkeyPatch) -> trio.testing.MockClock:
    monkeypatch.setattr("storjfs.renter.renter.FIRST_ROUND", 300.0)
    return trio.testing.MockClock(rate=10)


async def test_what_is_deleted_while_the_auditor_counts_comes_off_once(
    tmp_path: Path, fast_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_world(tmp_path, fast_clock, FARMERS) as world, life(world) as now:
        for _ in range(3):
            now.place(100_000)
        await now.settle()
        assert now.shown() == now.there()
        assert sum(shards for shards, _ in now.shown().values()) == 15
        read, reads = now.store.read_patiently, 0

        async def read_after_a_deletion(sql: str, args: Values = ()) -> list[Any]:
            nonlocal reads
            reads += 1
            now.drop(0)
            await now.segments.delete_now()
            return await read(sql, args)

        monkeypatch.setattr(now.store, "read_patiently", read_after_a_deletion)
        await now.count()
        assert reads
        assert now.shown() == now.there()
        assert sum(shards for shards, _ in now.there().values()) == 15 - 5 * min(reads, 3)


async def test_the_deletion_of_a_shard_that_is_not_known_takes_nothing_off(
    tmp_path: Path, fast_clock: trio.testing.MockClock
) -> None:
    async with a_world(tmp_path, fast_clock, FARMERS) as world, life(world) as now:
        now.place(100_000)
        await now.settle()
        for number in range(FARMERS):
            await now.put_unknown(number)
        await now.count()
        assert sum(shards for shards, _ in now.there().values()) == 5 + FARMERS
        await now.delete_unknown()
        assert now.shown() == now.there()
        assert sum(shards for shards, _ in now.shown().values()) == 5


class Watch(trio.abc.Instrument):
    """Looks after each step of each task at what placement thinks is taken at each farmer."""

    def __init__(self, renter: Renter) -> None:
        self._renter = renter
        self.seen: dict[int, list[int]] = {entry.number: [0] for entry in renter.book}

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        for entry in self._renter.book:
            candidate = self._renter.client.candidate(entry)
            self.seen[entry.number].append(candidate.used + candidate.waiting)


async def test_a_shard_is_on_its_way_or_held_at_every_moment(
    tmp_path: Path, fast_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A put that is given up is no longer on its way: none is, however slow this machine is.
    monkeypatch.setattr("storjfs.segments.placing.LATE_AT_LEAST", 1e6)
    async with a_world(tmp_path, fast_clock, FARMERS) as world, life(world) as now:
        watch = Watch(now.renter)
        trio.lowlevel.add_instrument(watch)
        for _ in range(4):
            now.place(200_000)
        with trio.fail_after(PATIENCE):
            await now.segments.flush()
        await until(lambda: now.segments.report().full == 4, now.store, seconds=PATIENCE, step=1.0)
        trio.lowlevel.remove_instrument(watch)
        for taken in watch.seen.values():
            assert taken == sorted(taken)
        assert sum(taken[-1] for taken in watch.seen.values()) == sum(
            used for _, used in now.there().values()
        )


async def test_what_a_farmer_has_yet_to_delete_is_held_until_it_has(
    tmp_path: Path, fast_clock: trio.testing.MockClock
) -> None:
    async with a_world(tmp_path, fast_clock, FARMERS) as world:
        async with life(world) as now:
            for _ in range(2):
                now.place(100_000)
            await now.settle()
            before = now.shown()
            for site in world.sites.values():
                world.cut(site)
            now.drop(0)
            await until(lambda: now.segments.report().to_delete > 0, now.store, seconds=PATIENCE, step=1.0)
            assert now.shown() == before
        async with life(world) as now:
            assert now.shown() == before == now.there()
            await now.settle()
            assert now.shown() == now.there() != before


STEPS = st.one_of(
    st.tuples(st.just("place"), st.sampled_from([1, 100_000, 400_000])),
    st.tuples(st.just("drop"), st.integers(0, 9)),
    st.tuples(st.just("count"), st.just(0)),
    st.tuples(st.just("put unknown"), st.integers(0, 9)),
    st.tuples(st.just("delete unknown"), st.just(0)),
    st.tuples(st.just("lose"), st.integers(0, 99)),
    st.tuples(st.just("away"), st.integers(0, FARMERS - 1)),
    st.tuples(st.just("back"), st.just(0)),
    st.tuples(st.just("commit"), st.just(0)),
    st.tuples(st.just("wait"), st.integers(1, 200)),
    st.tuples(st.just("crash"), st.just(0)),
)


async def step(now: Life, nursery: trio.Nursery, kind: str, value: int) -> None:
    """One step; what takes time goes on beside the next ones."""
    if kind == "place":
        now.place(value)
    elif kind == "drop":
        now.drop(value)
    elif kind == "count":
        nursery.start_soon(now.count)
    elif kind == "put unknown":
        nursery.start_soon(now.put_unknown, value)
    elif kind == "delete unknown":
        nursery.start_soon(now.delete_unknown)
    elif kind == "lose":
        now.lose(value)
    elif kind == "away" and all(site.online for site in now.world.sites.values()):
        now.world.cut(list(now.world.sites.values())[value])
    elif kind == "back":
        now.come_back()
    elif kind == "commit":
        await now.store.sync()
    for _ in range(value if kind == "wait" else 1):
        await trio.lowlevel.checkpoint()


async def replay(lives: Sequence[Sequence[tuple[str, int]]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        clock = trio.lowlevel.current_clock()
        assert isinstance(clock, trio.testing.MockClock)
        async with a_world(Path(folder), clock, FARMERS) as world:
            for number, steps in enumerate(lives):
                async with life(world) as now:
                    counters, right = await now.store.study(books)
                    assert counters == right
                    await until(lambda: now.shown().keys() == now.there().keys(), seconds=PATIENCE, step=1.0)
                    async with trio.open_nursery() as nursery:
                        for kind, value in steps:
                            await step(now, nursery, kind, value)
                            counters, right = await now.store.study(books)
                            assert counters == right
                        if number < len(lives) - 1:
                            nursery.cancel_scope.cancel()
                    if number == len(lives) - 1:
                        await now.settle()
                        assert now.shown() == now.there()


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(STEPS, max_size=30))
def test_whatever_happens_in_whatever_order_the_renter_knows_what_farmers_hold(
    steps: list[tuple[str, int]],
) -> None:
    lives: list[list[tuple[str, int]]] = [[]]
    for one in steps:
        if one[0] == "crash":
            lives.append([])
        else:
            lives[-1].append(one)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("storjfs.renter.renter.FIRST_ROUND", 300.0)
        trio.run(partial(replay, lives), clock=trio.testing.MockClock(rate=10))
