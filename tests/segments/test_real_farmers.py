"""The same over loopback: the real renter and farmers in a process of their own."""

import contextlib
import os
import shutil
from pathlib import Path

import pytest
import trio

from storjfs.segments import Part, Run
from storjfs.volume import VolumePaths
from tests.real_drives import make_volume, running
from tests.segments.conftest import until

MIB = 1 << 20


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> VolumePaths:
    return make_volume(tmp_path, monkeypatch)


def farm_bytes(paths: VolumePaths) -> int:
    """Bytes of the shards in the farmers' folders; a shard's file is named by its id."""
    total = 0
    for folder, _, names in os.walk(paths.farm_dir):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # just deleted
                total += os.stat(os.path.join(folder, name)).st_size if len(name) == 64 else 0
    return total


async def test_data_goes_to_farmers_and_comes_back_and_goes_for_good(paths: VolumePaths) -> None:
    written: dict[Run, bytes] = {}
    async with running(paths) as drive:
        segments = drive.segments
        for number in range(14):
            data = os.urandom(MIB - number)
            for run in segments.append(1, number * MIB, data):
                segments.live(run.seg, run.length)
                written[run], data = data[: run.length], data[run.length :]
        with trio.fail_after(60):
            await segments.flush()
        await until(lambda: segments.report().full == 2, drive.store)
        await until(lambda: not os.listdir(paths.journal_dir), drive.store)
        assert farm_bytes(paths) > 14 * MIB * 5 // 3
    shutil.rmtree(paths.cache_dir)
    victim = next(paths.farm_dir.glob("farmer-*"))
    async with running(paths) as drive:
        segments = drive.segments
        segments.prefetch([Part(*run, 0, run.length) for run in list(written)[3:9]])
        for run, content in written.items():
            assert bytes(await segments.read(*run, 0, run.length)) == content
        report = segments.report()
        assert report.full == 2
        assert victim.exists()
        for run in written:
            segments.live(run.seg, -run.length)
        await until(lambda: not segments.report().stored_bytes, drive.store)
        await until(lambda: not farm_bytes(paths), drive.store)
        await until(lambda: not segments.report().to_delete, drive.store)
