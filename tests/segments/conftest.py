import os
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio

from storjfs.daemon.watch import watching
from storjfs.keys import VolumeKeys
from storjfs.segments import Run, Segments
from storjfs.store import MetaStore
from tests.segments.farm import Farm
from tests.watching import LIMIT, again_and_again

KEYS = VolumeKeys(bytes(range(32)))
MIB = 1 << 20


class Crash(BaseException):
    """Ends the process under test, as kill -9 would."""


class Volume:
    """A volume's directory that can be opened again and again, and what was written to it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.farm = Farm()
        self.limit = 256 << 20
        self.outage = 30.0
        self.older = False
        self.faults: list[tuple[int, bytes]] = []
        self.random = random.Random(7)
        self.written: dict[Run, bytes] = {}
        self.segments: Segments
        self.store: MetaStore
        self.crash_at = ""
        self.cancel: Callable[[], None] = lambda: None

    @property
    def journal(self) -> Path:
        return self.path / "journal"

    @property
    def cache(self) -> Path:
        return self.path / "cache"

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Segments]:
        """Mounted; leaving it is a crash as far as uncommitted things go."""
        self.path.mkdir(exist_ok=True)
        with watching(LIMIT) as watch:
            async with self._opened() as segments:
                yield segments
        assert not again_and_again(watch.holds), watch.holds

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[Segments]:
        async with trio.open_nursery() as nursery:
            self.store = MetaStore.open(self.path / "meta.db", KEYS.metadata_key)
            self.segments = Segments(
                self.store,
                KEYS,
                self.farm,
                journal_dir=self.journal,
                cache_dir=self.cache,
                limit=self.limit,
                outage=self.outage,
                disk_reserve=0,
                older=self.older,
                faulty=lambda contract, shard_id, error: self.faults.append((contract, shard_id)),
                crash_point=self._crash_point,
            )
            await nursery.start(self.store.run)
            async with trio.open_nursery() as inner:
                await inner.start(self.segments.run)
                yield self.segments
                inner.cancel_scope.cancel()
            nursery.cancel_scope.cancel()

    def _crash_point(self, name: str) -> None:
        if name == self.crash_at:
            self.crash_at = ""
            raise Crash(name)

    def append(self, data: bytes, ino: int = 1, off: int = 0) -> list[Run]:
        runs = self.segments.append(ino, off, data)
        at = 0
        for run in runs:
            self.written[run] = data[at : at + run.length]
            self.segments.live(run.seg, run.length)
            at += run.length
        assert at == len(data)
        return runs

    def append_random(self, size: int) -> list[Run]:
        return self.append(self.random.randbytes(size))

    async def read(self, run: Run) -> bytes:
        return bytes(await self.segments.read(run.seg, run.pos, run.length, 0, run.length))

    async def check_all(self) -> None:
        for run, data in self.written.items():
            assert await self.read(run) == data

    def drop_cache(self) -> None:
        """While nothing runs: what a person may do at any time."""
        for name in os.listdir(self.cache):
            (self.cache / name).unlink()


async def until(
    condition: Callable[[], bool], store: MetaStore | None = None, *, seconds: float = 20, step: float = 0.01
) -> None:
    """Return when `condition` holds; with `store`, commit again and again meanwhile."""
    with trio.fail_after(seconds):
        while not condition():
            if store is not None:
                await store.sync()
            await trio.sleep(step)


def on_disk(*folders: Path) -> int:
    """Bytes that the files in these folders take."""
    total = 0
    for folder in folders:
        for path in folder.iterdir():
            with suppress(FileNotFoundError):  # given up, or moved, at this moment
                total += path.stat().st_blocks * 512
    return total


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    return Volume(tmp_path / "volume")
