"""What a crash leaves between two groups is found again by itself."""

import os
import random

import pytest

from storjfs.integrity.missing import gather_missing
from storjfs.integrity.shards import check_segments
from storjfs.integrity.view import View
from storjfs.segments import ShardState
from storjfs.store import open_meta
from tests.segments.conftest import KEYS, Volume, until
from tests.segments.farm import Farm


def change(volume: Volume, *statements: str) -> None:
    """What a group that is committed leaves, while nothing runs."""
    connection = open_meta(volume.path / "meta.db", KEYS.metadata_key)
    for sql in statements:
        connection.execute(sql).fetchall()
        assert connection.changes()
    connection.close()


@pytest.mark.parametrize("walk", ["compactor", "gc"])
async def test_a_segment_emptied_right_before_a_crash_is_deleted_all_the_same(
    volume: Volume, walk: str
) -> None:
    async with volume.running() as segments:
        volume.append(random.Random(1).randbytes(100_000))
        await segments.flush()
        await until(lambda: segments.report().full == 1, volume.store)
    change(
        volume,
        "UPDATE segment SET live = 0",
        "REPLACE INTO counters SELECT 'segments_garbage', SUM(plain) FROM segment",
    )
    async with volume.running() as segments:
        assert volume.farm.shard_count() == 5
        if walk == "gc":
            assert segments.wasteful_after(0) == ([], None)
            assert await segments.delete_now() == (5, 0)
        else:
            assert segments.victims() == []
            await until(lambda: not volume.farm.shard_count(), volume.store)
        await until(lambda: not volume.store.read("SELECT 1 FROM segment"), volume.store)
        assert segments.garbage == 0


async def test_a_shard_whose_upload_was_cut_off_is_not_forgotten_where_repair_may_wait(
    volume: Volume,
) -> None:
    volume.farm = Farm(farmers=22, k=4, n=20)
    async with volume.running() as segments:
        volume.append(random.Random(1).randbytes(100_000))
        await segments.flush()
        await until(lambda: segments.report().full == 1, volume.store)
    change(
        volume,
        f"UPDATE shard SET state = {int(ShardState.UPLOADING)}, root = x'', checksum = x'' WHERE idx = 19",
        "UPDATE counters SET value = 0 WHERE key = 'segments_full'",
        "UPDATE counters SET value = 1 WHERE key = 'segments_degraded'",
        "UPDATE counters SET value = 0 WHERE key IN (SELECT held.key || contract FROM shard, "
        "(SELECT 'held_shards_' AS key UNION SELECT 'held_bytes_') AS held WHERE idx = 19)",
    )
    async with volume.running() as segments:
        await until(lambda: not volume.store.read("SELECT 1 FROM shard WHERE state = 0"), volume.store)
        with View(volume.path / "meta.db", KEYS.metadata_key) as view, view.held():
            view.run("CREATE TEMP TABLE pointed AS SELECT seg, live FROM segment")
            gather_missing(view)
            assert list(check_segments(view)) == []
        assert await segments.rebuild(1) == 1
        await until(lambda: segments.report().full == 1, volume.store)


async def test_what_a_crash_leaves_before_the_first_commit_is_removed(volume: Volume) -> None:
    async with volume.running():
        await volume.store.sync()
    stray = volume.journal / os.urandom(16).hex()
    stray.write_bytes(b"never committed")
    async with volume.running() as segments:
        assert not stray.exists()
        assert segments.report().problems == ()
