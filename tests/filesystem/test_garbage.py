"""Garbage under overwriting, with the real segments room: what compaction costs, and what it leaves."""

import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from storjfs.filesystem import Capacity, Filesystem
from storjfs.filesystem import compactor as policy
from storjfs.segments import State
from storjfs.segments import segments as segments_room
from storjfs.segments.victims import LIVE_ENOUGH, MOST_SMALL
from storjfs.store import ROOT_INODE, open_meta
from storjfs.store.database import run_script
from tests.segments.conftest import KEYS, Volume, until
from tests.segments.farm import Farm

MIB = 1 << 20
PAGE = 4096
SIZE = 8 * MIB
TIMES = 3  # how often the file is overwritten
MOVED_PER_GARBAGE = LIVE_ENOUGH / (1 - LIVE_ENOUGH)

Pattern = Callable[[random.Random], tuple[int, int]]


@asynccontextmanager
async def drive(path: Path) -> AsyncIterator[tuple[Volume, Filesystem]]:
    """A filesystem on the real room, segments of 4 MiB, farmers in memory; its background does not run."""
    volume = Volume(path)
    volume.farm = Farm(farmers=3, k=1, n=2)
    async with volume.running() as segments:
        yield volume, Filesystem(volume.store, segments, lambda: Capacity(1 << 40, 1 << 39))


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PAUSE", "BUSY_PAUSE", "PATIENCE"):
        monkeypatch.setattr(policy, name, 0.0)
    monkeypatch.setattr(policy, "RATE", 1 << 40)


def uniform(length: int) -> Pattern:
    return lambda source: (source.randrange(SIZE // length) * length, length)


def hot(source: random.Random) -> tuple[int, int]:
    """Nine of ten writes go to a tenth of the pages."""
    pages = SIZE // PAGE
    return source.randrange(pages // 10 if source.random() < 0.9 else pages) * PAGE, PAGE


async def settle(volume: Volume, fs: Filesystem) -> None:
    while True:
        await volume.segments.flush()
        if not await fs.compact():
            break
    await volume.segments.flush()
    await volume.segments.delete_now()
    assert not volume.segments.report().to_delete


@pytest.mark.parametrize("pattern", [uniform(PAGE), uniform(65536), uniform(MIB), hot])
async def test_what_is_moved_and_what_farmers_hold_is_bounded(pattern: Pattern, tmp_path: Path) -> None:
    source = random.Random(5)
    async with drive(tmp_path / "volume") as (volume, fs):
        handle, made = await fs.create(ROOT_INODE, b"a", 0o644, 0, 0)
        expected = bytearray(source.randbytes(SIZE))
        for at in range(0, SIZE, MIB):
            await fs.write(handle, at, bytes(expected[at : at + MIB]))
        overwritten = 0
        while overwritten < TIMES * SIZE:
            at, length = pattern(source)
            expected[at : at + length] = data = source.randbytes(length)
            await fs.write(handle, at, data)
            before, overwritten = overwritten, overwritten + length
            if before // (2 * MIB) != overwritten // (2 * MIB):
                # Everything goes out as it is, garbage included, as with a `flush` now and then.
                await volume.segments.flush()
                await fs.compact()
        await settle(volume, fs)
        assert 0 < fs.compacted <= MOVED_PER_GARBAGE * overwritten
        held = sum(len(shard) for farmer in volume.farm.farmers.values() for shard in farmer.shards.values())
        # Padding and the overhead of frames come on top.
        assert held <= 1.1 * 2 * SIZE / LIVE_ENOUGH
        assert bytes(await fs.read(handle, 0, SIZE)) == expected
        assert made.size == SIZE


async def test_frames_that_are_mostly_overhead_are_no_garbage(tmp_path: Path) -> None:
    """Else tiny files would be moved again and again, for ever."""
    async with drive(tmp_path / "volume") as (volume, fs):
        for number in range(300):
            handle, _ = await fs.create(ROOT_INODE, b"%d" % number, 0o644, 0, 0)
            await fs.write(handle, 0, b"tiny")
            await fs.release(handle)
        await volume.segments.flush()
        assert volume.segments.victims() == []
        assert await fs.compact() == 0


async def test_garbage_that_is_not_sent_yet_never_will_be(tmp_path: Path) -> None:
    async with drive(tmp_path / "volume") as (volume, fs):
        for farmer in volume.farm.farmers.values():
            farmer.online = False
        handle, _ = await fs.create(ROOT_INODE, b"a", 0o644, 0, 0)
        content = volume.random.randbytes(SIZE)
        for at in range(0, SIZE, PAGE):
            await fs.write(handle, at, content[at : at + PAGE])
        for at in range(0, SIZE, 2 * PAGE):
            await fs.write(handle, at, content[at : at + PAGE])
        await volume.store.sync()
        unsent = volume.segments._cache.unsent
        # Segments on which an attempt is under way are left alone until it has failed.
        await until(lambda: bool(volume.segments.victims()), volume.store)
        while await fs.compact():
            await volume.store.sync()
        await until(lambda: volume.segments._cache.unsent < 0.9 * unsent, volume.store)
        for farmer in volume.farm.farmers.values():
            farmer.online = True
        volume.segments.farmers_changed()
        await settle(volume, fs)
        assert bytes(await fs.read(handle, 0, SIZE)) == content


async def test_flush_waits_for_what_is_moved_out_of_a_segment_it_waits_for(tmp_path: Path) -> None:
    async with drive(tmp_path / "volume") as (volume, fs):
        volume.farm.go(online=False)
        handle, _ = await fs.create(ROOT_INODE, b"a", 0o644, 0, 0)
        for at in [*range(0, SIZE, PAGE), *range(0, SIZE, 2 * PAGE)]:
            await fs.write(handle, at, volume.random.randbytes(PAGE))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(volume.segments.flush)
            await until(lambda: len(volume.segments.report().problems) > 1)  # it was tried
            await volume.store.sync()
            assert await fs.compact()
            volume.farm.go(online=True)
            volume.segments.farmers_changed()
        states = volume.store.read("SELECT DISTINCT state FROM extent JOIN segment USING (seg)")
        assert states == [(State.STORED,)]


async def test_small_segments_are_merged_and_their_bytes_move_a_few_times_at_most(tmp_path: Path) -> None:
    source = random.Random(6)
    files = 4 * MOST_SMALL
    async with drive(tmp_path / "volume") as (volume, fs):
        for number in range(files):
            handle, _ = await fs.create(ROOT_INODE, b"%d" % number, 0o644, 0, 0)
            await fs.write(handle, 0, source.randbytes(PAGE))
            await fs.release(handle)
            await volume.segments.flush()
            await fs.compact()
            assert volume.segments._catalogue.tallies.small <= MOST_SMALL + 2
        assert fs.compacted <= 3 * files * PAGE


async def test_defragmentation_moves_no_more_than_programs_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy, "SETTLING", 0.0)
    monkeypatch.setattr(policy, "ALLOWANCE", 0)
    async with drive(tmp_path / "volume") as (volume, fs):
        handle, _ = await fs.create(ROOT_INODE, b"a", 0o644, 0, 0)
        await fs.write(handle, 0, bytes(MIB))
        for _ in range(10):
            for page in range(0, 256, 6):  # 43 pages of 256: enough to be worth it
                await fs.write(handle, page * PAGE, volume.random.randbytes(PAGE))
            await fs._defragment_settled()
        assert 0 < fs.defragmented <= fs._written + MIB


async def test_compaction_hurries_when_half_of_what_farmers_hold_is_garbage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments_room, "SOME_GARBAGE", MIB)
    async with drive(tmp_path / "volume") as (volume, fs):
        handle, _ = await fs.create(ROOT_INODE, b"a", 0o644, 0, 0)
        assert not volume.segments.pressed
        for number in range(3):
            for at in range(0, SIZE, MIB):
                await fs.write(handle, at, bytes([number]) + bytes(MIB - 1))
                if number and at % (2 * MIB):
                    # The older half of each segment stays, so that nothing vanishes by itself.
                    await fs.write(handle, at, bytes(MIB))
            await volume.segments.flush()
        for at in range(0, SIZE, 2 * MIB):
            await fs.write(handle, at, bytes(2 * MIB - 4 * PAGE))
        assert volume.segments.pressed
        assert not fs._programs_write()
        await settle(volume, fs)
        assert not volume.segments.pressed


async def test_a_volume_of_the_first_format_counts_its_plaintext_and_shards(tmp_path: Path) -> None:
    counted = "SELECT seg, plain, live FROM segment"
    async with drive(tmp_path / "volume") as (volume, fs):
        handle, _ = await fs.create(ROOT_INODE, b"a", 0o644, 0, 0)
        for at in range(0, SIZE, 10_000):
            await fs.write(handle, at, bytes(10_000))
        await fs.write(handle, 0, bytes(10_000))
        await volume.segments.flush()
        await volume.store.sync()
        before = volume.store.read(counted)
        held = [volume.segments.held(contract) for contract in volume.farm.farmers]
        assert sum(shards for shards, _ in held) == volume.farm.shard_count()
        assert sum(plain - live for _, plain, live in before) == 10_000
    older = open_meta(volume.path / "meta.db", KEYS.metadata_key)
    run_script(older, "DROP INDEX segment_bare")
    run_script(older, "ALTER TABLE segment DROP COLUMN plain; ALTER TABLE doomed DROP COLUMN length")
    run_script(older, "DELETE FROM counters WHERE key LIKE 'held_%'; PRAGMA user_version=1")
    older.close()
    async with drive(tmp_path / "volume") as (volume, _):
        assert volume.store.read(counted) == before
        assert [volume.segments.held(contract) for contract in volume.farm.farmers] == held
