"""Slow, corrupt, missing and full farmers; crashes at each transition."""

import errno
import os
from pathlib import Path

import pytest
import trio

from storjfs.coding.erasure import ErasureCode
from storjfs.coding.shards import ShardCipher
from storjfs.protocol.priorities import Priority
from storjfs.renter.repair_policy import Health
from storjfs.segments import Part, SegmentUnreadable, State
from storjfs.segments.records import Segment
from tests.segments.conftest import KEYS, Volume, until

MIB = 1 << 20
CRASH_POINTS = ["ids committed", "shard put"]


async def stored(volume: Volume, *sizes: int) -> None:
    """Write, send completely, unmount, forget the cache."""
    async with volume.running() as segments:
        for size in sizes:
            volume.append_random(size)
        await segments.flush()
        await all_full(volume)
    async with volume.running():
        pass
    volume.drop_cache()


async def all_full(volume: Volume) -> None:
    """Return when every segment has all its shards, and that is committed."""

    def full() -> bool:
        report = volume.segments.report()
        return report.full > 0 == report.degraded + report.at_risk + report.lost + report.waiting_bytes

    await until(full)
    await volume.store.sync()


def contract_lost(volume: Volume, contract: int) -> int:
    """As the auditor does with all shards of a farmer that is given up; how many there were."""
    sql = "SELECT seg, idx, shard_id FROM shard WHERE contract = ? AND state IN (1, 2)"
    rows = volume.store.read(sql, (contract,))
    for row in rows:
        volume.segments.mark_lost(*row)
    return len(rows)


def some_segment(volume: Volume) -> Segment:
    run = next(iter(volume.written))
    return volume.segments._catalogue.get(run.seg)


def holder(volume: Volume, idx: int) -> int:
    return volume.segments._catalogue.held(some_segment(volume))[idx].contract


@pytest.mark.parametrize("vanished", [[0], [1], [0, 1], [2, 4], [3, 4]])
async def test_any_two_of_five_may_vanish(volume: Volume, vanished: list[int]) -> None:
    await stored(volume, 5000, MIB, MIB)
    async with volume.running():
        for idx in vanished:
            volume.farm.farmers[holder(volume, idx)].online = False
        await volume.check_all()


async def test_with_three_gone_a_read_is_eio_and_names_the_segment(volume: Volume) -> None:
    await stored(volume, 5000)
    volume.outage = 3.0
    async with volume.running() as segments:
        for idx in range(3):
            volume.farm.farmers[holder(volume, idx)].online = False
        (run,) = volume.written
        with pytest.raises(SegmentUnreadable) as caught:
            await volume.read(run)
        assert caught.value.errno == errno.EIO
        assert caught.value.seg == run.seg
        assert segments.report().unreadable == (run.seg,)
        volume.farm.go(online=True)
        await volume.check_all()
        assert segments.report().unreadable == ()


async def test_a_slow_farmer_is_not_waited_for(volume: Volume) -> None:
    await stored(volume, 5000)
    async with volume.running():
        volume.farm.farmers[holder(volume, 0)].stuck = trio.Event()
        with trio.fail_after(5):
            await volume.check_all()


async def test_a_read_does_not_share_the_patience_of_a_read_ahead(volume: Volume) -> None:
    await stored(volume, 5000)
    async with volume.running() as segments:
        volume.farm.farmers[holder(volume, 0)].stuck = trio.Event()
        (run,) = volume.written
        segments.prefetch([Part(*run, 0, run.length)])
        await until(lambda: volume.farm.gets() == 1)
        with trio.fail_after(1):
            await volume.read(run)


async def test_slow_helpers_are_replaced_too(volume: Volume) -> None:
    await stored(volume, 5000)
    async with volume.running():
        for idx in (0, 1):
            volume.farm.farmers[holder(volume, idx)].stuck = trio.Event()
        with trio.fail_after(5):
            await volume.check_all()


async def test_a_corrupt_piece_is_never_handed_on_and_is_pinned_to_its_farmer(volume: Volume) -> None:
    await stored(volume, 5000)
    async with volume.running() as segments:
        liar = holder(volume, 0)
        shard = segments._catalogue.held(some_segment(volume))[0]
        volume.farm.corrupt(liar)
        await volume.check_all()
        assert volume.faults == [(liar, shard.shard_id)]
        # And it is repaired without being asked, onto another farmer.
        await all_full(volume)
        assert liar not in {one.contract for one in segments._catalogue.held(some_segment(volume)).values()}
        await until(lambda: shard.shard_id in volume.farm.deleted, volume.store)


async def test_wiped_farmers_are_repaired_and_used_again_where_nobody_else_is_left(volume: Volume) -> None:
    await stored(volume, 5000, MIB)
    async with volume.running():
        for idx in (0, 3):
            volume.farm.farmers[holder(volume, idx)].shards.clear()
        segment = some_segment(volume)
        volume.segments.mark_lost(segment.seg, 3, volume.segments._catalogue.held(segment)[3].shard_id)
        await volume.check_all()
        await all_full(volume)
        await volume.store.sync()
    volume.drop_cache()
    async with volume.running():
        await volume.check_all()


async def test_a_rebuilt_shard_equals_the_lost_one_before_its_seal(volume: Volume) -> None:
    await stored(volume, 3 * MIB)
    async with volume.running() as segments:
        segment = some_segment(volume)
        before = {idx: shard.checksum for idx, shard in segments._catalogue.held(segment).items()}
        old = segments._catalogue.held(segment)[4]
        segments.mark_lost(segment.seg, 4, old.shard_id)
        await all_full(volume)
        after = segments._catalogue.held(segment)
        assert {idx: shard.checksum for idx, shard in after.items()} == before
        assert after[4].shard_id != old.shard_id
        assert len(segments._catalogue.shards(segment)) == 5


async def test_a_repair_lets_programs_read_first(volume: Volume) -> None:
    await stored(volume, 3 * MIB)
    async with volume.running() as segments:
        await volume.check_all()
        assert volume.farm.priorities == {Priority.READ}
    volume.drop_cache()
    volume.farm.priorities.clear()
    async with volume.running() as segments:
        volume.farm.farmers[holder(volume, 0)].shards.clear()
        contract_lost(volume, holder(volume, 0))
        await segments.repair_all()
        await all_full(volume)
        assert volume.farm.priorities == {Priority.AUDIT}


async def test_a_farmer_gone_for_good_leads_to_repair_of_all_its_shards(volume: Volume) -> None:
    await stored(volume, *[MIB] * 30)
    async with volume.running():
        volume.farm.farmers[1].online = False
        lost = contract_lost(volume, 1)
        assert lost == len(volume.farm.farmers[1].shards)
        await all_full(volume)
        rows = volume.store.read("SELECT COUNT(*) FROM shard WHERE contract = 1 AND state = 1")
        assert rows == [(0,)]


async def test_a_segment_with_too_few_shards_is_sent_again_from_its_local_copy(volume: Volume) -> None:
    async with volume.running() as segments:
        volume.append_random(MIB)
        await segments.flush()
        await all_full(volume)
        for farmer in (1, 2, 3):
            volume.farm.farmers[farmer].shards.clear()
            contract_lost(volume, farmer)
        await all_full(volume)


async def rotten_copy(volume: Volume) -> None:
    """One segment is stored; its cached copy has a wrong bit in the part that is shard 0."""
    volume.append_random(MIB)
    await volume.segments.flush()
    await until(lambda: bool(list(volume.cache.iterdir())))
    (path,) = volume.cache.iterdir()
    flip(path, 200_000)


async def test_a_rotten_copy_is_not_made_into_a_shard_that_was_never_sent_before(volume: Volume) -> None:
    """Of such a shard no hash is recorded that would tell."""
    for farmer in (5, 6):
        volume.farm.farmers[farmer].online = False
    async with volume.running() as segments:
        await rotten_copy(volume)
        volume.farm.farmers[5].online = True
        segments.farmers_changed()
        await all_full(volume)
        for idx in (0, 1):
            volume.farm.farmers[holder(volume, idx)].online = False
    volume.drop_cache()
    async with volume.running():
        await volume.check_all()


async def test_what_is_right_of_a_rotten_copy_rescues_a_segment_with_too_few_shards(volume: Volume) -> None:
    async with volume.running():
        await rotten_copy(volume)
        await all_full(volume)
        for idx in (0, 1, 2, 4):
            contract = holder(volume, idx)
            volume.farm.farmers[contract].shards.clear()
            contract_lost(volume, contract)
        await all_full(volume)
    volume.drop_cache()
    async with volume.running():
        await volume.check_all()


async def test_a_farmer_that_never_signs_is_passed_over(volume: Volume) -> None:
    async with volume.running():
        volume.append_random(MIB)
        volume.farm.farmers[1].lose_receipt = True
        await volume.segments.flush()
        await all_full(volume)
        assert volume.segments.report().full == 1
        # What the farmer may hold although it never signed is deleted again.
        await until(lambda: not volume.farm.farmers[1].shards, volume.store)


async def test_enough_receipts_suffice_and_the_rest_follows(volume: Volume) -> None:
    for farmer in (5, 6):
        volume.farm.farmers[farmer].online = False
    async with volume.running() as segments:
        volume.append_random(5000)
        with trio.fail_after(10):
            await segments.flush()
        assert segments.report().degraded + segments.report().at_risk == 1
        volume.farm.farmers[5].online = True
        segments.farmers_changed()
        await all_full(volume)


async def test_flush_does_not_wait_for_a_farmer_that_hangs(volume: Volume) -> None:
    del volume.farm.farmers[6]
    volume.farm.farmers[5].put_delay = 10_000
    async with volume.running() as segments:
        volume.append_random(5000)
        with trio.fail_after(10):
            await segments.flush()
        assert volume.farm.shard_count() == 4
    volume.farm.farmers[5].put_delay = 0
    async with volume.running():
        await all_full(volume)
    assert volume.farm.shard_count() == 5


async def test_flush_waits_while_there_are_too_few_farmers(volume: Volume) -> None:
    for farmer in (4, 5, 6):
        volume.farm.farmers[farmer].online = False
    async with volume.running() as segments:
        volume.append_random(5000)
        with trio.move_on_after(0.5) as waited:
            await segments.flush()
        assert waited.cancelled_caught
        assert "4 farmers with room are needed, 3 are there" in segments.report().problems[0]
        volume.farm.farmers[4].online = True
        segments.farmers_changed()
        with trio.fail_after(10):
            await segments.flush()


@pytest.mark.parametrize("point", CRASH_POINTS)
async def test_a_crash_during_an_upload_loses_nothing_and_leaves_no_orphans(
    volume: Volume, point: str
) -> None:
    volume.crash_at = point
    with pytest.raises(BaseExceptionGroup):
        async with volume.running() as segments:
            volume.append_random(MIB)
            await segments.flush()
    assert volume.crash_at == ""
    assert volume.farm.shard_count() == (0 if point == "ids committed" else volume.farm.shard_count())
    async with volume.running() as segments:
        await volume.check_all()
        await segments.flush()
        await all_full(volume)
        await no_orphans(volume)


@pytest.mark.parametrize("point", ["rebuild ids committed", "rebuilt shard put"])
async def test_a_crash_during_a_repair_loses_nothing_and_leaves_no_orphans(
    volume: Volume, point: str
) -> None:
    await stored(volume, MIB)
    volume.crash_at = point
    with pytest.raises(BaseExceptionGroup):
        async with volume.running() as segments:
            segment = some_segment(volume)
            segments.mark_lost(segment.seg, 1, segments._catalogue.held(segment)[1].shard_id)
            await volume.store.sync()
            await trio.sleep(10)
    assert volume.crash_at == ""
    async with volume.running():
        await all_full(volume)
        await volume.check_all()
        await no_orphans(volume)


async def no_orphans(volume: Volume) -> None:
    def settled() -> bool:
        known = {row[0] for row in volume.store.read("SELECT shard_id FROM shard WHERE state = 1")}
        there = {shard_id for farmer in volume.farm.farmers.values() for shard_id in farmer.shards}
        return known == there and not volume.segments.report().to_delete

    await until(settled, volume.store)


async def test_corrupt_local_copies_are_dropped_and_fetched_again(volume: Volume) -> None:
    async with volume.running() as segments:
        volume.append_random(MIB)
        await segments.flush()
        await all_full(volume)
        await until(lambda: bool(list(volume.cache.iterdir())))
        (path,) = volume.cache.iterdir()
        flip(path, 200_000)
        await volume.check_all()
        assert volume.farm.gets() > 0
        assert volume.faults == []
    async with volume.running():
        await volume.check_all()


async def test_a_torn_cache_file_is_not_believed(volume: Volume) -> None:
    async with volume.running() as segments:
        volume.append_random(MIB)
        await segments.flush()
        await all_full(volume)
    async with volume.running():
        pass
    (path,) = (path for path in volume.cache.iterdir() if path.name != "order")
    os.truncate(path, 300_001)
    async with volume.running():
        await volume.check_all()


def flip(path: Path, position: int) -> None:
    with path.open("r+b") as file:
        file.seek(position)
        (byte,) = file.read(1)
        file.seek(position)
        file.write(bytes([byte ^ 1]))


async def test_damaged_unsent_data_is_eio_not_garbage(volume: Volume) -> None:
    volume.farm.go(online=False)
    async with volume.running():
        (run,) = volume.append_random(5000)
        await volume.store.sync()
        (path,) = volume.journal.iterdir()
        flip(path, 1000)
        with pytest.raises(SegmentUnreadable):
            await volume.read(run)


async def test_a_wrong_source_is_found_out_by_its_recorded_hash(volume: Volume) -> None:
    """As with lent shard keys: the seal is right, the content is not."""
    await stored(volume, 5000)
    async with volume.running() as segments:
        catalogue = segments._catalogue
        segment = some_segment(volume)
        liar = catalogue.held(segment)[1]
        farmer = volume.farm.farmers[liar.contract]
        farmer.usual = 0.0
        farmer.shards[liar.shard_id] = ShardCipher(KEYS.shard_key(liar.shard_id)).seal(b"x" * 65536)
        before = catalogue.held(segment)[4]
        segments.mark_lost(segment.seg, 4, before.shard_id)
        await all_full(volume)
        assert volume.faults == [(liar.contract, liar.shard_id)]
        assert catalogue.held(segment)[4].checksum == before.checksum
        await volume.check_all()


async def test_tallies_follow_each_loss_and_survive_a_restart(volume: Volume) -> None:
    await stored(volume, MIB)
    for farmer in volume.farm.farmers.values():
        farmer.full = True
    async with volume.running() as segments:
        segment = some_segment(volume)
        for idx, kind in [
            (0, Health.DEGRADED),
            (1, Health.AT_RISK),
            (2, Health.LOST),
        ]:
            segments.mark_lost(segment.seg, idx, segments._catalogue.held(segment)[idx].shard_id)
            assert segments._catalogue.tallies.by_health == {one: int(one is kind) for one in Health}
        await volume.store.sync()
    async with volume.running() as segments:
        assert segments.report().lost == 1
        assert segments._catalogue.get(segment.seg).state is State.STORED


def test_the_code_is_what_the_decode_path_expects() -> None:
    code = ErasureCode(3, 5)
    data = [os.urandom(64) for _ in range(3)]
    parity = code.encode(data)
    assert code.reconstruct({2: data[2], 3: parity[0], 4: parity[1]}, [0])[0] == data[0]
