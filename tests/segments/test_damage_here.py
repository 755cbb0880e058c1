"""Local files that change or vanish under us: never a wrong byte, always said, and no more lost than that."""

import os
import shutil

import pytest

from storjfs.segments import SegmentUnreadable
from tests.segments.conftest import Volume, until

MIB = 1 << 20
MANY = 30
SIZE = 50_000


async def written_but_not_sent(volume: Volume) -> None:
    volume.farm.go(online=False)
    async with volume.running() as segments:
        for _ in range(MANY):
            volume.append_random(SIZE)
        segments._journal.close_open()
        await volume.store.sync()
    volume.farm.go(online=True)


async def unreadable_runs(volume: Volume) -> list[int]:
    """Which runs cannot be read; the others are compared."""
    lost = []
    for number, (run, data) in enumerate(volume.written.items()):
        try:
            assert await volume.read(run) == data
        except SegmentUnreadable:
            lost.append(number)
    return lost


async def test_a_flipped_bit_in_unsent_data_is_said_before_anybody_reads_it(volume: Volume) -> None:
    await written_but_not_sent(volume)
    (file,) = volume.journal.iterdir()
    data = bytearray(file.read_bytes())
    data[list(volume.written)[7].pos + 100] ^= 4
    file.write_bytes(data)
    async with volume.running() as segments:
        await segments.flush()
        report = segments.report()
        assert report.damaged == (next(iter(volume.written)).seg,)
        assert any("lost" in text for text in report.problems)
        assert await unreadable_runs(volume) == [7]
    volume.drop_cache()
    async with volume.running() as segments:
        assert segments.report().damaged == ()
        assert await unreadable_runs(volume) == [7]
        assert len(segments.report().damaged) == 1
        assert volume.faults == []  # no farmer's doing


async def test_a_journal_file_cut_short_loses_only_its_end(volume: Volume) -> None:
    await written_but_not_sent(volume)
    (file,) = volume.journal.iterdir()
    cut = list(volume.written)[20].pos
    os.truncate(file, cut)
    async with volume.running() as segments:
        assert len(segments.report().damaged) == 1
        assert await unreadable_runs(volume) == list(range(20, MANY))
        await segments.flush()
    volume.drop_cache()
    async with volume.running():
        assert await unreadable_runs(volume) == list(range(20, MANY))


async def test_damage_is_over_when_the_segment_is_gone(volume: Volume) -> None:
    await written_but_not_sent(volume)
    (file,) = volume.journal.iterdir()
    os.truncate(file, 10)
    async with volume.running() as segments:
        await segments.flush()
        for run in volume.written:
            segments.live(run.seg, -run.length)
        await until(lambda: segments.report().damaged == (), volume.store)
        report = segments.report()
        assert (report.problems, report.unreadable) == ((), ())


@pytest.mark.parametrize("stored_before", [True, False])
async def test_a_cache_folder_deleted_while_mounted_comes_back(volume: Volume, stored_before: bool) -> None:
    async with volume.running() as segments:
        volume.append_random(MIB)
        if stored_before:
            await segments.flush()
            await until(lambda: any(volume.cache.iterdir()), volume.store)
            run = next(iter(volume.written))
            await segments._cache.discard(segments._catalogue.get(run.seg))
        shutil.rmtree(volume.cache)
        await segments.flush()
        if stored_before:
            await volume.check_all()
        await until(lambda: volume.cache.exists() and any(volume.cache.iterdir()), volume.store)
        gets = volume.farm.gets()
        await volume.check_all()
        assert volume.farm.gets() == gets  # nobody is paid twice for the same bytes
