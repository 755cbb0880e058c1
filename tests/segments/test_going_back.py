"""An older copy of meta.db is put back, and later the newest again."""

import shutil

import pytest
import trio

from tests.segments.conftest import Volume, until
from tests.segments.test_left_behind import change


async def copied_during_an_upload(volume: Volume) -> None:
    """`older.db` is a copy of meta.db from while the shards of a segment were on their way to farmers, who
    took them; `newer.db` one from after that."""
    gate = trio.Event()
    for farmer in volume.farm.farmers.values():
        farmer.stuck_puts = gate
    async with volume.running() as segments:
        volume.append_random(200_000)
        segments._journal.close_open()
        uploading = "SELECT COUNT(*) FROM shard WHERE state = 0"
        await until(lambda: volume.store.read(uploading) == [(5,)], volume.store)
        await volume.store.shrink_log()
        shutil.copy(volume.path / "meta.db", volume.path / "older.db")
        gate.set()
        await segments.flush()
        await until(lambda: volume.farm.shard_count() == 5 and not segments._cache.unsent, volume.store)
        await volume.store.shrink_log()
        shutil.copy(volume.path / "meta.db", volume.path / "newer.db")


async def test_an_older_copy_deletes_no_shards_that_newer_metadata_need(volume: Volume) -> None:
    await copied_during_an_upload(volume)
    volume.drop_cache()
    shutil.copy(volume.path / "older.db", volume.path / "meta.db")
    async with volume.running() as segments:
        await segments.delete_now()
    shutil.copy(volume.path / "newer.db", volume.path / "meta.db")
    async with volume.running():
        await volume.check_all()
    assert volume.farm.deleted == []


@pytest.mark.parametrize("older", [False, True])
async def test_nor_does_its_repair_those_that_trailed(volume: Volume, older: bool) -> None:
    async with volume.running() as segments:
        volume.append_random(200_000)
        await segments.flush()
        await until(lambda: volume.farm.shard_count() == 5, volume.store)
        await volume.store.sync()
    change(volume, "UPDATE shard SET state = 0, root = x'', checksum = x'' WHERE idx = 4")
    volume.older = older
    async with volume.running() as segments:
        await segments.repair_all()
        await segments.delete_now()
        assert len(volume.farm.deleted) == (0 if older else 1)
