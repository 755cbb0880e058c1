"""Appending, committing, uploading, reading back: the way data takes when nothing goes wrong."""

import trio
import trio.testing

from storjfs.segments import State
from storjfs.segments.files import LocalFile
from tests.segments.conftest import KEYS, Volume, until

MIB = 1 << 20


async def test_appended_data_is_read_at_once_and_after_it_was_sealed(volume: Volume) -> None:
    async with volume.running() as segments:
        (run,) = volume.append(b"hello" * 1000)
        assert segments.read_now(run.seg, run.pos, run.length, 5, 10) == b"hellohello"
        await volume.store.sync()
        assert not segments._sealer.pending
        assert segments.read_now(run.seg, run.pos, run.length, 5, 10) == b"hellohello"
        await volume.check_all()


async def test_runs_of_all_sizes_come_back_whole_and_in_part(volume: Volume) -> None:
    async with volume.running() as segments:
        for size in [1, 100, 4096, 65507, 65508, 65509, 70000, 131072, MIB - 1, MIB, MIB + 1, 3 * MIB + 17]:
            volume.append_random(size)
        await volume.check_all()
        await volume.store.sync()
        await volume.check_all()
        for run, data in volume.written.items():
            for skip, length in [(0, 1), (run.length - 1, 1), (run.length // 3, run.length // 2)]:
                found = await segments.read(run.seg, run.pos, run.length, skip, length)
                assert bytes(found) == data[skip : skip + length]


async def test_flush_stores_every_segment_with_all_its_shards(volume: Volume) -> None:
    async with volume.running() as segments:
        for _ in range(30):
            volume.append_random(MIB)
        progress: list[tuple[int, int]] = []
        await segments.flush(lambda done, of: progress.append((done, of)))
        assert progress[-1][0] == progress[-1][1] > 30 * MIB
        report = segments.report()
        assert report.waiting_bytes == 0
        assert report.stored_bytes > 30 * MIB
        assert report.full + report.degraded + report.at_risk == 3
        await until(lambda: segments.report().full == 3)
        assert volume.farm.shard_count() == 15
        await volume.check_all()


async def test_after_a_restart_and_without_cache_all_comes_from_farmers(volume: Volume) -> None:
    async with volume.running() as segments:
        for size in [5, 5000, 200_000, MIB]:
            volume.append_random(size)
        await segments.flush()
    async with volume.running():
        pass
    volume.drop_cache()
    async with volume.running() as segments:
        run = next(iter(volume.written))
        assert segments.read_now(run.seg, run.pos, run.length, 0, 1) is None
        await volume.check_all()
        asked = volume.farm.gets()
        await volume.check_all()
        assert volume.farm.gets() == asked


async def test_a_healthy_random_read_costs_one_request_of_one_piece(volume: Volume) -> None:
    async with volume.running() as segments:
        (run,) = volume.append_random(MIB)
        await segments.flush()
    async with volume.running():
        pass
    volume.drop_cache()
    async with volume.running() as segments:
        await segments.read(run.seg, run.pos, run.length, 500_000, 4096)
        assert volume.farm.gets() == 1
        assert segments.report().cached_bytes // 65536 == 1


async def test_concurrent_reads_of_the_same_pieces_share_a_request(volume: Volume) -> None:
    async with volume.running() as segments:
        (run,) = volume.append_random(60_000)
        await segments.flush()
    async with volume.running():
        pass
    volume.drop_cache()
    async with volume.running() as segments:
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(volume.read, run)
        assert volume.farm.gets() == 1


async def test_unsent_data_survives_a_restart_and_is_sent_then(volume: Volume) -> None:
    volume.farm.go(online=False)
    async with volume.running() as segments:
        for _ in range(14):
            volume.append_random(MIB)
        await volume.store.sync()
        assert segments.report().waiting_bytes > 14 * MIB
    async with volume.running() as segments:
        await volume.check_all()
        volume.farm.go(online=True)
        segments.farmers_changed()
        await segments.flush()
        assert segments.report().waiting_bytes == 0
        await volume.check_all()


async def test_what_was_not_committed_is_cut_off_at_start_up(volume: Volume) -> None:
    async with volume.running() as segments:
        (run,) = volume.append_random(5000)
        await volume.store.sync()
        volume.segments.append(1, 0, bytes(100_000))
        segments._sealer.drain(segments._sealer.appended)
        (path,) = volume.journal.iterdir()
        assert path.stat().st_size > 100_000
    async with volume.running() as segments:
        assert path.stat().st_size == 5028
        assert segments._catalogue.get(run.seg).state is State.CLOSED
        await volume.check_all()
        (later,) = volume.append_random(10)
        assert later.seg != run.seg


async def test_a_missing_journal_file_is_reported_loudly_and_survived(volume: Volume) -> None:
    volume.farm.go(online=False)
    async with volume.running():
        volume.append_random(5000)
        await volume.store.sync()
    for path in volume.journal.iterdir():
        path.unlink()
    async with volume.running() as segments:
        report = segments.report()
        assert report.lost == 1
        assert "5000 bytes of files are lost" in report.problems[0]
        await segments.flush()


async def test_each_frame_and_shard_has_its_own_nonce_or_key(volume: Volume) -> None:
    nonces = set()
    async with volume.running() as segments:
        for _ in range(300):
            volume.append(bytes(100))
        await volume.store.sync()
        for run in volume.written:
            segment = segments._catalogue.get(run.seg)
            file = segments._cache.find(segment)
            assert isinstance(file, LocalFile)
            nonces.add(file.path.read_bytes()[run.pos : run.pos + 12])
    assert len(nonces) == 300
    assert KEYS.shard_key(bytes(32)) != KEYS.shard_key(bytes(31) + b"1")


async def test_an_idle_segment_is_closed_and_sent(
    volume: Volume, autojump_clock: trio.testing.MockClock
) -> None:
    autojump_clock.autojump_threshold = 0.05  # threads at work are not idleness
    async with volume.running() as segments:
        volume.append_random(5000)
        await until(lambda: segments.report().full == 1, seconds=300, step=1)
