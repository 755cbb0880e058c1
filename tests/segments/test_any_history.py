"""Whatever happens in whatever order: what was committed is read back right, and nothing is left behind."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storjfs.integrity.local import check_journal
from storjfs.integrity.missing import gather_missing
from storjfs.integrity.shards import check_segments, check_shards
from storjfs.integrity.view import View
from storjfs.segments import Run
from storjfs.store import Statement
from tests.segments.conftest import KEYS, Volume, until

SIZES = st.sampled_from([1, 4096, 65508, 65509, 200_000, 1 << 20])
STEPS = st.one_of(
    st.tuples(st.just("append"), SIZES),
    st.tuples(st.just("commit"), st.just(0)),
    st.tuples(st.just("flush"), st.just(0)),
    st.tuples(st.just("crash"), st.booleans()),
    st.tuples(st.just("overwrite"), st.integers(0, 50)),
    st.tuples(st.just("read"), st.integers(0, 50)),
    st.tuples(st.just("offline"), st.integers(1, 6)),
    st.tuples(st.just("corrupt"), st.integers(1, 6)),
    st.tuples(st.just("compact"), st.just(0)),
)


class History:
    """A volume, and what has to be true of it: `certain` survives a crash, `volume.written` is there now.

    Takes part in the group commit, as the filesystem does, so it knows exactly what is committed.
    """

    def __init__(self, volume: Volume) -> None:
        self.volume = volume
        self.certain: dict[Run, bytes] = {}
        self.frozen: dict[Run, bytes] = {}
        self.hurt = 0

    def freeze(self) -> Sequence[Statement]:
        self.frozen = dict(self.volume.written)
        return ()

    def before_commit(self) -> Callable[[], None] | None:
        return None

    def committed(self, group: int) -> None:
        self.certain = self.frozen

    async def step(self, kind: str, value: int) -> None:
        volume = self.volume
        runs = list(volume.written)
        if kind == "append":
            await volume.segments.room()
            volume.append_random(value)
        elif kind in ("commit", "flush"):
            if kind == "flush":
                await volume.segments.flush()
            await volume.store.sync()
            assert self.certain == volume.written
        elif kind == "overwrite" and runs:
            run = runs[value % len(runs)]
            volume.segments.live(run.seg, -run.length)
            del volume.written[run]
        elif kind == "read" and runs:
            run = runs[value % len(runs)]
            assert await volume.read(run) == volume.written[run]
        elif kind == "offline" and not self.hurt:
            # One at a time, so that it never is more than the code bears.
            volume.farm.farmers[value].online = False
            self.hurt = value
        elif kind == "corrupt" and not self.hurt:
            volume.farm.corrupt(value)
            self.hurt = value
        elif kind == "compact":
            await self.compact()

    async def compact(self) -> None:
        segments = self.volume.segments
        for seg in segments.victims():
            for run in [run for run in self.volume.written if run.seg == seg]:
                data = await self.volume.read(run)
                self.volume.append(data)
                segments.live(seg, -run.length)
                del self.volume.written[run]

    async def settle(self) -> None:
        """All farmers back: in the end each shard that exists is wanted, and every segment is whole."""
        volume = self.volume
        volume.farm.go(online=True)
        await volume.segments.flush()
        volume.segments.farmers_changed()
        await volume.check_all()

        def tidy() -> bool:
            known = {row[0] for row in volume.store.read("SELECT shard_id FROM shard WHERE state = 1")}
            there = {shard_id for farmer in volume.farm.farmers.values() for shard_id in farmer.shards}
            report = volume.segments.report()
            waste = volume.store.read("SELECT 1 FROM segment WHERE live = 0 AND state <> 0")
            return (
                not waste and known == there and not report.to_delete and not report.degraded + report.at_risk
            )

        await until(tidy, volume.store)
        await volume.store.sync()
        check_books(volume)
        assert volume.segments.report().lost == 0


def check_books(volume: Volume) -> None:
    """What fsck says of segments, shards and the journal, given what is live: nothing."""
    with View(volume.path / "meta.db", KEYS.metadata_key) as view, view.held():
        view.run("CREATE TEMP TABLE pointed (seg INTEGER PRIMARY KEY, live INTEGER)")
        for run in volume.written:
            view.run(
                "INSERT INTO pointed VALUES (?, ?) ON CONFLICT DO UPDATE SET live = live + excluded.live",
                (run.seg, run.length),
            )
        gather_missing(view)
        found = [*check_segments(view), *check_shards(view, contracts=False)]
        found += check_journal(view, volume.journal)
    assert not found


async def replay(steps: list[tuple[str, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        volume = Volume(Path(folder) / "volume")
        volume.limit = 20 << 20
        history = History(volume)
        lives: list[list[tuple[str, int]]] = [[]]
        for step in steps:
            lives[-1].append(step)
            if step[0] == "crash":
                lives.append([])
        for number, life in enumerate(lives):
            async with volume.running():
                volume.store.join(history)
                for kind, value in life:
                    await history.step(kind, value)
                    if kind == "crash":
                        volume.written = dict(history.certain)
                        break
                if number == len(lives) - 1:
                    await history.settle()
            if life and life[-1] == ("crash", True):
                volume.drop_cache()


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(STEPS, max_size=25))
def test_any_history_keeps_what_was_committed(steps: list[tuple[str, int]]) -> None:
    trio.run(replay, steps)
