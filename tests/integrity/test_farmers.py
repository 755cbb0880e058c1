"""What farmers hold is compared with what the books say, with real farmers in one process."""

import os
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import trio.testing

from storjfs.integrity import FarmerCheck, Findings, farmers
from storjfs.protocol.ids import Digest, ShardId
from storjfs.protocol.messages import HeldShard, ListShards, ShardList
from storjfs.renter import Renter
from storjfs.renter.client import ShardClient
from storjfs.renter.errors import AnswerSenseless
from tests.renter.world import SELDOM, Catalogue, World, a_world


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
    catalogue.store.write("INSERT INTO doomed VALUES (?, ?, 0)", [(doomed, placed[0][0])])
    changed = placed[5][1]
    catalogue.store.write("UPDATE shard SET root = ? WHERE shard_id = ?", [(bytes(32), changed)])
    await catalogue.store.sync()
    found = await compare(renter, catalogue)
    assert found.counts == {"farmer-missing": 1, "farmer-orphan": 1, "farmer-differs": 1}
    assert found.kept["farmer-missing"][0].row[0] == gone
    assert found.kept["farmer-orphan"][0].row == (orphan, placed[0][0])
    assert found.kept["farmer-differs"][0].row[0] == changed


async def test_unknown_shards_are_found_however_many_they_are(life: Life) -> None:
    _, renter, catalogue = life
    (contract, _), *_ = await catalogue.store_segment(renter)
    for _ in range(2):
        await renter.put(contract, os.urandom(32), os.urandom(100))
    assert (await compare(renter, catalogue)).counts == {"farmer-orphan": 2}


async def test_farmers_that_cannot_say_or_do_not_answer_are_notes(life: Life) -> None:
    world, renter, catalogue = life
    await catalogue.store_segment(renter)
    old, silent = world.sites.values()
    del old.farmer.service._answers[ListShards]
    world.cut(silent)
    found = await compare(renter, catalogue)
    assert found.counts == {"farmer-old": 1, "farmer-silent": 1}
    assert found.problems() == {}


class Liar:
    """Answers as the renter's client, but lists what a test wants."""

    def __init__(self, client: ShardClient, pages: Callable[[bytes], list[HeldShard]]) -> None:
        self._client = client
        self._pages = pages
        self.capacity = client.capacity
        self.asked = 0

    async def list_shards(self, contract: int, start: bytes, limit: int = 2048) -> Sequence[HeldShard]:
        self.asked += 1
        return self._pages(start)[:limit]


async def test_a_farmer_whose_list_never_ends_is_stopped_where_its_contract_ends(life: Life) -> None:
    _, renter, catalogue = life
    await catalogue.store_segment(renter)
    entry = next(iter(renter.book))

    def endless(start: bytes) -> list[HeldShard]:
        first = int.from_bytes(start, "big") + 1
        ids = ((first + number).to_bytes(32, "big") for number in range(2048))
        return [HeldShard(ShardId(shard_id), Digest(bytes(32)), 65_552) for shard_id in ids]

    liar = Liar(renter.client, endless)
    found = await FarmerCheck(catalogue.store.read, liar).run([(entry.number, entry.node_id)], nobody)
    assert found.counts == {"farmer-senseless": 1}
    assert liar.asked <= entry.terms.capacity // (2048 * 65_552) + 1


@pytest.mark.parametrize("order", ["backwards", "the same again", "before the first"])
async def test_a_list_out_of_order_is_refused(life: Life, order: str) -> None:
    world, renter, catalogue = life
    await catalogue.store_segment(renter)
    ids = [bytes([number]) * 32 for number in (3, 2, 1)]
    if order == "the same again":
        ids = [ids[0], ids[0]]
    elif order == "before the first":
        ids = [bytes(32)]
    listed = ShardList(tuple(HeldShard(ShardId(one), Digest(bytes(32)), 100) for one in ids))

    async def lie(peer: object, request: object) -> ShardList:
        return listed

    for site in world.sites.values():
        site.farmer.service._answers[ListShards] = lie
    start = b"\x01" * 32 if order == "before the first" else bytes(32)
    with pytest.raises(AnswerSenseless, match="out of order"):
        await renter.client.list_shards(next(iter(renter.book)).number, start)


async def test_a_shard_noted_as_lost_is_found_again_where_its_segment_lacks_it(life: Life) -> None:
    _, renter, catalogue = life
    placed = [one for _ in range(2) for one in await catalogue.store_segment(renter)]
    k = renter.code()[0]
    ((enough, short),) = catalogue.store.read("SELECT MIN(seg), MAX(seg) FROM segment")
    sql = "UPDATE shard SET state = 3 WHERE seg = ? AND idx >= ?"
    catalogue.store.write(sql, [(short, k - 1), (enough, k)])
    await catalogue.store.sync()
    found = await compare(renter, catalogue)
    lost = renter.code()[1] - k + 1
    assert found.counts == {"farmer-found": lost}
    assert {finding.seg for finding in found} == {short}
    assert len(placed) == 2 * renter.code()[1]
