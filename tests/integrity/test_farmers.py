"""What farmers hold is compared with what the books say, with real farmers in one process."""

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio.testing

from storjfs.integrity import FarmerCheck, Findings, farmers
from storjfs.protocol.messages import ListShards
from storjfs.renter import Renter
from tests.renter.world import Catalogue, World, a_world, quick_settings

SELDOM = quick_settings(audit_period=10_000)


@pytest.fixture(autouse=True)
def patient_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storjfs.renter.renter.FIRST_ROUND", 300.0)


@pytest.fixture
async def life(tmp_path: Path) -> AsyncIterator[tuple[World, Renter, Catalogue]]:
    clock = trio.testing.MockClock(rate=10)
    async with a_world(tmp_path, clock, 2) as world, world.life(SELDOM) as (renter, catalogue):
        yield world, renter, catalogue


async def nobody(progress: Any) -> None:
    assert set(progress) == {"part", "done", "of"}


async def compare(renter: Renter, catalogue: Catalogue) -> Findings:
    serving = [(entry.number, bytes(entry.node_id)) for entry in renter.book if entry.serves]
    return await FarmerCheck(catalogue.store.read, renter.client).run(serving, nobody)


Life = tuple[World, Renter, Catalogue]


@pytest.mark.parametrize("page", [1, 2, 2048])
async def test_orphans_and_missing_shards_are_found_whatever_the_pages(
    life: Life, page: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(farmers, "MAX_LISTED", page)
    monkeypatch.setattr(farmers, "_ROWS", 1 + page // 2)
    _, renter, catalogue = life
    placed = [one for _ in range(4) for one in await catalogue.store_segment(renter)]
    assert (await compare(renter, catalogue)).counts == {}
    contract, gone = placed[3]
    await renter.delete(contract, [gone])
    orphan = os.urandom(32)
    await renter.put(placed[0][0], orphan, os.urandom(5000))
    doomed = os.urandom(32)
    await renter.put(placed[0][0], doomed, os.urandom(5000))
    catalogue.store.write("INSERT INTO doomed VALUES (?, ?)", [(doomed, placed[0][0])])
    changed = placed[5][1]
    catalogue.store.write("UPDATE shard SET root = ? WHERE shard_id = ?", [(bytes(32), changed)])
    await catalogue.store.sync()
    found = await compare(renter, catalogue)
    assert found.counts == {"farmer-missing": 1, "farmer-orphan": 1, "farmer-differs": 1}
    assert found.kept["farmer-missing"][0].row[0] == gone
    assert found.kept["farmer-orphan"][0].row == (orphan, placed[0][0])
    assert found.kept["farmer-differs"][0].row[0] == changed


async def test_a_farmer_that_keeps_mostly_unknown_shards_is_left_alone(life: Life) -> None:
    _, renter, catalogue = life
    (contract, _), *_ = await catalogue.store_segment(renter)
    for _ in range(17):
        await renter.put(contract, os.urandom(32), os.urandom(100))
    assert (await compare(renter, catalogue)).counts == {"farmer-orphans-kept": 1}


async def test_farmers_that_cannot_say_or_do_not_answer_are_notes(life: Life) -> None:
    world, renter, catalogue = life
    await catalogue.store_segment(renter)
    old, silent = world.sites.values()
    del old.farmer.service._answers[ListShards]
    world.cut(silent)
    found = await compare(renter, catalogue)
    assert found.counts == {"farmer-old": 1, "farmer-silent": 1}
    assert found.problems() == {}
