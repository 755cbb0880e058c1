"""Reads that fail leave no memory behind that only the collector of garbage would find."""

import contextlib

from storjfs.segments import Part, Run
from storjfs.segments.values import SegmentUnreadable
from tests.knots import knots
from tests.segments.conftest import MIB, Volume, until


async def stored(volume: Volume) -> list[Run]:
    """Runs of one segment with the farmers, and nothing of it here."""
    async with volume.running() as segments:
        runs = [run for _ in range(6) for run in volume.append_random(MIB)]
        await segments.flush()
        await until(lambda: segments.report().full == 1, volume.store)
        await until(lambda: not list(volume.journal.iterdir()), volume.store)
    volume.drop_cache()
    return runs


async def test_ranges_that_come_from_others_leave_nothing_of_those_that_failed(volume: Volume) -> None:
    runs = await stored(volume)
    async with volume.running() as segments:
        held = segments._catalogue.held(segments._catalogue.get(runs[0].seg))
        for idx in (0, 1):
            volume.farm.farmers[held[idx].contract].online = False
        with knots() as left:
            segments.prefetch([Part(*run, 0, run.length) for run in runs])
            for run in runs:
                assert await volume.read(run) == volume.written[run]
        assert left == []


async def test_reads_that_fail_leave_nothing(volume: Volume) -> None:
    volume.outage = 0.1
    runs = await stored(volume)
    async with volume.running() as segments:
        volume.farm.go(online=False)
        with knots() as left:
            segments.prefetch([Part(*run, 0, run.length) for run in runs])
            for run in runs:
                with contextlib.suppress(SegmentUnreadable):
                    await volume.read(run)
        assert left == []
