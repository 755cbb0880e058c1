"""A disk that leaves is emptied: every shard is whole on one disk or another at every moment."""

import contextlib
import random
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import trio

from storjfs.farmer import keeping, proving
from storjfs.farmer.book import Book, ContractEntry
from storjfs.farmer.disks import disk_rows
from storjfs.farmer.settings import FarmerSettings
from storjfs.farmer.shelf import Held, NoRoom
from storjfs.farmer.shelves import held_of
from storjfs.protocol.failures import ErrorCode
from storjfs.protocol.ids import ShardId
from storjfs.protocol.terms import CREDIT
from storjfs.settlement import Ledger
from tests.farmer.process import Running, run, status
from tests.farmer.renter import MIB, farming, refused, renting
from tests.farmer.several_disks import (
    SEED,
    SIZES,
    at_work,
    files_in,
    gone,
    on,
    put_some,
    same,
    where,
    whole,
)
from tests.farmer.test_limit import fill, sizes_and_blocks

MOST_STEPS = 24
"""Of moving two shards."""


async def test_a_disk_is_emptied_while_renters_put_get_and_delete(tmp_path: Path, ledger: Ledger) -> None:
    rng = random.Random(5)
    async with at_work(tmp_path, ledger, capacity=48 * MIB) as (farmer, renter):
        await put_some(renter)
        farmer.apply(farmer.settings.changed(disks=()))
        async with trio.open_nursery() as nursery:

            async def use() -> None:
                while True:
                    await renter.put(rng.choice(SIZES[:3]))
                    shard = rng.choice(renter.shards)
                    assert await renter.get(shard) == shard.data
                    renter.shards.remove(shard)
                    assert await renter.delete(shard) == 1
                    for verdict in await renter.audit(*renter.shards[:3]):
                        assert verdict.passed
                    renter.tally = renter.tally.with_egress(renter.terms, len(shard.data))
                    await renter.pay()

            nursery.start_soon(use)
            await gone(farmer)
            nursery.cancel_scope.cancel()
    async with at_work(tmp_path, ledger, renter, capacity=48 * MIB, second=0) as (farmer, again):
        with contextlib.suppress(StopIteration):
            # What was put or deleted when it was cancelled may be either way.
            known = {ShardId(row[0]) for row in farmer.records.read("SELECT shard_id FROM shard")}
            again.shards = [shard for shard in again.shards if shard.shard_id in known]
        await whole(farmer, again)
    assert not list((tmp_path / "second").iterdir())


async def test_a_disk_for_whose_shards_there_is_no_room_keeps_them_until_there_is(
    tmp_path: Path, ledger: Ledger
) -> None:
    async with at_work(tmp_path, ledger) as (farmer, renter):
        await fill(renter, random.Random(4))
        farmer.apply(farmer.settings.changed(disks=()))
        other = farmer.shelves.others[0]
        with pytest.raises(NoRoom, match="limit is reached"):
            await farmer.mover.empty(other)
        assert (await renter.ask_offer()).capacity == 0
        await whole(farmer, renter)
        assert max(sizes_and_blocks(farmer.folder)) <= 16 * MIB
        farmer.apply(farmer.settings.changed(capacity=48 * MIB))
        await farmer.mover.empty(other)
        await gone(farmer)
        await whole(farmer, renter)


async def test_what_rotted_is_not_moved_but_told(tmp_path: Path, ledger: Ledger) -> None:
    async with at_work(tmp_path, ledger, second=64 * MIB) as (farmer, renter):
        rotten, sound = await renter.put(70_000), await renter.put(5000)
        other = farmer.shelves.others[0]
        path = other.path(rotten.shard_id)
        path.write_bytes(path.read_bytes().replace(rotten.data[:4], bytes(4), 1))
        farmer.apply(farmer.settings.changed(disks=()))
        await farmer.mover.empty(other)
        assert (where(farmer, rotten), where(farmer, sound)) == (2, 1)
        with refused(ErrorCode.CORRUPT):
            await renter.get(rotten)
        assert await renter.delete(rotten) == 1
        renter.shards.remove(rotten)
        await gone(farmer)
        await whole(farmer, renter)


async def test_a_shard_that_is_moved_while_it_is_read_is_no_damage(
    tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with at_work(tmp_path, ledger, second=64 * MIB) as (farmer, renter):
        shards = [await renter.put(70_000) for _ in range(3)]
        assert on(farmer, 2, shards) == shards
        other = farmer.shelves.others[0]
        rows = farmer.records.read("SELECT shard_id, root, length, disk FROM shard")
        helds = {row[0]: held_of(row) for row in rows}
        farmer.apply(farmer.settings.changed(disks=()))
        await farmer.mover.empty(other)
        assert on(farmer, 1, shards) == shards
        # What looked the shards up before they were moved.
        before = {shard.shard_id: helds[shard.shard_id] for shard in shards[:2]}
        asked = proving.held_under

        def asked_before(book: Book, entry: ContractEntry, shard_id: ShardId) -> Held | None:
            return before.pop(shard_id, None) or asked(book, entry, shard_id)

        for module in (keeping, proving):
            monkeypatch.setattr(module, "held_under", asked_before)
        assert await renter.get(shards[0]) == shards[0].data
        assert [verdict.passed for verdict in await renter.audit(shards[1])] == [True]
        assert await farmer.scrub.judge(helds[shards[2].shard_id]) is None
        assert not before
        assert farmer.records.read("SELECT * FROM damaged") == []


CRASHING = """
import os, sys
from pathlib import Path
import trio
from storjfs.farmer.farmer import Farmer
from tests.farmer.renter import MIB, settings
from tests.farmer.test_shelf import CountingDisk

class Crashing(CountingDisk):
    def step(self):
        if self.steps >= self.stop_after:
            os._exit(9)
        super().step()

async def main(folder, steps):
    changed = settings(folder, capacity=32 * MIB, scrub_every=0)
    farmer = Farmer.open(folder / "farmer", changed, disk=Crashing(steps))
    async with farmer.running():
        for shelf in farmer.shelves.others:
            await farmer.mover.empty(shelf)

trio.run(main, Path(sys.argv[1]), int(sys.argv[2]))
"""
"""Moves everything off the second disk, and ends at once after so many steps."""


@pytest.mark.parametrize("steps", range(MOST_STEPS + 1))
async def test_after_a_crash_at_any_step_of_a_move_every_shard_is_in_one_place(
    tmp_path: Path, ledger: Ledger, steps: int
) -> None:
    async with at_work(tmp_path, ledger, second=64 * MIB) as (farmer, renter):
        await renter.put(70_000)
        await renter.put(MIB + 5000)
        assert len(on(farmer, 2, renter.shards)) == 2
    words = [sys.executable, "-c", CRASHING, str(tmp_path), str(steps)]
    done = await trio.run_process(words, check=False, capture_stderr=True)
    assert done.returncode == (0 if steps == MOST_STEPS else 9), done.stderr
    async with at_work(tmp_path, ledger, renter, capacity=32 * MIB, second=0) as (farmer, again):
        await gone(farmer)
        await whole(farmer, again)


async def test_killed_again_and_again_while_a_disk_is_emptied_no_shard_is_lost(
    tmp_path: Path, ledger: Ledger
) -> None:
    at, second = tmp_path / "farm", tmp_path / "second"
    at.mkdir()
    rng = random.Random(9)
    settings = FarmerSettings(capacity=48 * MIB, ledger=ledger.path, term_min=1, period_min=1, scrub_every=0)
    settings.write(at)
    with Running("--at", str(at), "--disk", f"{second}=48MiB") as farmer:
        async with renting(ledger, *farmer.where(), SEED) as renter:
            await renter.agree(10**6 * CREDIT, capacity=40 * MIB)
            for _ in range(60):
                await renter.put(rng.choice(SIZES[1:4]))
        assert [one["shards"] > 9 for one in status(at)["disks"]] == [True, True]
        said = run("empty", str(second), "--at", str(at))
        assert "is being emptied" in said.stdout, said.stderr
        kills = 0
        farmer.send(signal.SIGKILL)
        farmer.ended()
    while used(second):
        with Running("--at", str(at)) as farmer:
            farmer.where()
            if kills < 6:
                kills += 1
                await some_files_fewer(second)
                farmer.send(signal.SIGKILL)
                farmer.ended()
            else:
                with trio.fail_after(120):
                    while used(second):  # noqa: ASYNC110 - another process has a part in it
                        await trio.sleep(0.05)
                assert farmer.interrupt() == 0
    changes: dict[str, Any] = {"capacity": 48 * MIB, "ledger": ledger.path, "scrub_every": 0}
    at.rename(tmp_path / "farmer")
    async with (
        farming(tmp_path, **changes) as last,
        renting(ledger, last.node_id, last.listening[0], SEED) as again,
    ):
        same(again, renter)
        await whole(last, again)
        assert len(disk_rows(last.records)) == 1


def used(folder: Path) -> bool:
    """Whether there is anything in it."""
    return any(folder.iterdir())


async def some_files_fewer(folder: Path) -> None:
    """Return when something has been moved since, or nothing is left to be."""

    def count() -> int:
        return len(files_in(folder / "shelf"))

    before = count()
    with trio.fail_after(60):
        # Another process moves them.
        while count() > max(before - 4, 1) and used(folder):  # noqa: ASYNC110
            await trio.sleep(0.005)
