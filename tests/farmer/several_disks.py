"""A farmer with several disks, for tests: where each shard lies, and that all is exact."""

import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from storjfs.farmer.disks import disk_rows
from storjfs.farmer.farmer import Farmer
from storjfs.farmer.settings import DiskShare
from storjfs.protocol.ids import ShardId
from storjfs.protocol.terms import CREDIT
from storjfs.settlement import Ledger
from tests.farmer.renter import MIB, Renter, Shard, farming, renting

SEED = b"r" * 32
SIZES = (1, 5000, 70_000, MIB + 5000, 2 * MIB)


@asynccontextmanager
async def at_work(
    tmp_path: Path, ledger: Ledger, before: Renter | None = None, *, second: int = 16 * MIB, **changes: Any
) -> AsyncIterator[tuple[Farmer, Renter]]:
    """A farmer with a disk beside its own, unless `second` is 0, and its renter."""
    disks = (DiskShare(tmp_path / "second", second),) if second else ()
    async with (
        farming(tmp_path, **{"capacity": 16 * MIB, "disks": disks, "scrub_every": 0, **changes}) as farmer,
        renting(ledger, farmer.node_id, farmer.listening[0], SEED) as renter,
    ):
        farmer.settings.write(farmer.folder)
        if before is None:
            await renter.agree(10**6 * CREDIT, capacity=(await renter.ask_offer()).capacity)
        else:
            same(renter, before)
        yield farmer, renter


async def wait(_: object) -> None:
    """Instead of what a farmer does by itself."""
    await trio.sleep_forever()


def same(renter: Renter, before: Renter) -> None:
    """It goes on as the same renter."""
    renter.contract, renter.offer, renter.tally = before.contract, before.offer, before.tally
    renter.shards, renter.epoch, renter.counter = before.shards, before.epoch, before.counter


def where(farmer: Farmer, shard: Shard) -> int:
    ((disk,),) = farmer.records.read("SELECT disk FROM shard WHERE shard_id = ?", shard.shard_id)
    return int(disk)


def on(farmer: Farmer, number: int, shards: list[Shard]) -> list[Shard]:
    return [shard for shard in shards if where(farmer, shard) == number]


async def whole(farmer: Farmer, renter: Renter) -> None:
    """Every shard is where the index says, and nothing else is anywhere; the sums are right."""
    for at in range(0, len(renter.shards), 100):
        assert all(verdict.passed for verdict in await renter.audit(*renter.shards[at : at + 100]))
        await renter.pay()
    for shard in renter.shards[:20]:
        await renter.pay()
        assert await renter.get(shard) == shard.data
    exact(farmer)


def files_in(shelf: Path) -> list[Path]:
    """All shards there; the farmer may just be clearing an empty disk away."""
    while True:
        with contextlib.suppress(FileNotFoundError):
            return [path for path in shelf.rglob("*") if path.is_file() and path.name != "pulse"]


def exact(farmer: Farmer) -> None:
    for shelf in farmer.shelves:
        rows = farmer.records.read("SELECT shard_id, length FROM shard WHERE disk = ?", shelf.number)
        files = files_in(shelf.folder)
        assert sorted(path.name for path in files) == sorted(ShardId(row[0]).hex() for row in rows)
        space = sum(shelf.space_of(row[1]) for row in rows)
        (row,) = (one for one in disk_rows(farmer.records) if one.number == shelf.number)
        assert (row.shards, row.stored) == (len(rows), space)
        assert shelf.taken == shelf.stored == space


async def put_some(renter: Renter, count: int = 3) -> list[Shard]:
    return [await renter.put(size) for _ in range(count) for size in SIZES]


async def gone(farmer: Farmer) -> None:
    """Return when the second disk is not used any more."""
    with trio.fail_after(120):
        while len(farmer.shelves) > 1:
            farmer.disks._changed.set()
            await trio.sleep(0.02)
