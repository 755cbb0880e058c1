"""A repair of many shards: what it holds in memory, how many it puts at once, and who goes first."""

import pytest
import trio

from storjfs.segments import rebuild
from storjfs.segments.uploader import PUTS_AT_ONCE
from tests.segments.conftest import Volume, until
from tests.segments.farm import Farm
from tests.segments.test_faults import MIB, all_full, some_segment, stored

LOST = 12
MANY = 4
"""Shards of one go."""


@pytest.fixture
async def hurt(volume: Volume) -> Volume:
    """A segment at code 4/16 whose cache is gone."""
    volume.farm = Farm(32, 4, 16)
    await stored(volume, MIB)
    return volume


def lose(volume: Volume) -> None:
    segment = some_segment(volume)
    held = volume.segments._catalogue.held(segment)
    for idx in range(LOST):
        volume.segments.mark_lost(segment.seg, idx, held[idx].shard_id)


async def test_a_repair_puts_several_shards_at_once(hurt: Volume) -> None:
    for farmer in hurt.farm.farmers.values():
        farmer.stuck_puts = trio.Event()
    async with hurt.running():
        hurt.farm.most_at_once = 0
        lose(hurt)
        await until(lambda: hurt.farm._at_once == PUTS_AT_ONCE)
        for farmer in hurt.farm.farmers.values():
            assert farmer.stuck_puts is not None
            farmer.stuck_puts.set()
        await all_full(hurt)
        assert hurt.farm.most_at_once == PUTS_AT_ONCE


async def test_a_repair_puts_one_at_a_time_beside_uploads(hurt: Volume) -> None:
    async with hurt.running() as segments:
        hurt.farm.most_at_once = 0
        segments._uploader._flying += 1
        lose(hurt)
        await all_full(hurt)
        segments._uploader._flying -= 1
        assert hurt.farm.most_at_once == 1


async def test_a_repair_holds_few_of_the_rebuilt_shards(
    hurt: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with hurt.running() as segments:
        buffers = segments._uploader.buffers
        take, give_back = buffers.take, buffers.give_back
        lent: set[int] = set()
        most = 0

        async def counted(size: int) -> bytearray:
            nonlocal most
            found = await take(size)
            lent.add(id(found))
            most = max(most, len(lent))
            return found

        def returned(buffer: bytearray) -> None:
            lent.discard(id(buffer))
            give_back(buffer)

        monkeypatch.setattr(buffers, "take", counted)
        monkeypatch.setattr(buffers, "give_back", returned)
        shard = segments._catalogue.held(some_segment(hurt))[0]
        monkeypatch.setattr(rebuild, "MOST_MADE", MANY * shard.length, raising=False)
        lose(hurt)
        await all_full(hurt)
        assert not lent
        assert 0 < most <= MANY + 1
