"""A farmer's full disk: it takes nothing in, and serves, proves and deletes on."""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from storjfs.farmer.farmer import Farmer
from storjfs.protocol.failures import ErrorCode, RequestFailed
from storjfs.protocol.terms import CREDIT
from storjfs.settlement import Ledger
from tests.e2e.drive import PATIENCE, Drive, await_that, unmounted
from tests.farmer.renter import Renter, Shard, farming, renting
from tests.full.disk import MIB, SmallDisk, small_disk

AUDITS = 200


@asynccontextmanager
async def at_work(disk: SmallDisk, ledger: Ledger, seed: bytes) -> AsyncIterator[tuple[Farmer, Renter]]:
    """A farmer on the disk, that keeps 8 MiB free, and a renter of it."""
    async with farming(disk.at, ledger=ledger.path, keep_free=8 * MIB, capacity=1 << 30) as farmer:
        async with renting(ledger, farmer.node_id, farmer.listening[0], seed) as renter:
            yield farmer, renter


async def put_when_it_is_taken(renter: Renter) -> Shard:
    """A shard, as soon as the farmer has noticed that there is room."""
    with trio.fail_after(PATIENCE):
        while True:
            try:
                return await renter.put()
            except RequestFailed as error:
                if error.code != ErrorCode.NO_SPACE:
                    raise
                await trio.sleep(0.05)  # what the kernel says of the disk tells nobody


async def test_a_farmer_serves_proves_and_deletes_while_nothing_is_free(
    disk: SmallDisk, tmp_path: Path
) -> None:
    ledger = Ledger(tmp_path / "ledger.db")
    async with at_work(disk, ledger, b"r" * 32) as (farmer, renter):
        await renter.agree(10**6 * CREDIT)
        shards = [await renter.put() for _ in range(4)]
        disk.hog.fill()
        with pytest.raises(RequestFailed, check=lambda error: error.code == ErrorCode.NO_SPACE):
            await renter.put()
        for _ in range(AUDITS):
            assert all(verdict.passed for verdict in await renter.audit())
            await renter.pay()
        assert await renter.get(shards[0]) == shards[0].data
        assert await renter.delete(shards.pop()) == 1
        assert not list((farmer.shelf.folder / "arriving").iterdir())
        disk.hog.remove()
        await put_when_it_is_taken(renter)
    ledger.close_file()


async def test_a_farmer_starts_while_nothing_is_free(disk: SmallDisk, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.db")
    async with at_work(disk, ledger, b"r" * 32) as (_, renter):
        await renter.agree(10**6 * CREDIT)
        shard = await renter.put()
        before = renter
    disk.hog.fill()
    async with at_work(disk, ledger, b"r" * 32) as (_, renter):
        renter.contract, renter.offer = before.contract, before.offer
        assert all(verdict.passed for verdict in await renter.audit(shard))
        await renter.pay()
        disk.hog.remove()
        await put_when_it_is_taken(renter)
    ledger.close_file()


@pytest.fixture
def shelves(tmp_path: Path) -> Path:
    """Where the disk of the farmers of `farm_on_small_disk` is made."""
    folder = tmp_path / "shelves"
    folder.mkdir()
    return folder


def write(drive: Drive, name: str, size: int = 8 * MIB) -> bytes:
    content = name.encode() * (size // len(name))
    (drive.at / name).write_bytes(content)
    return content


def audited(drive: Drive) -> None:
    """Every shard is proved now."""
    done = drive.run("audit", "--now")
    assert " 0 failed." in done.stdout


@pytest.mark.parametrize("kind", ["ext4", "tmpfs"])
def test_all_farmers_are_full_and_the_data_waits(shelves: Path, tmp_path: Path, kind: str) -> None:
    with small_disk(shelves, kind, 200 * MIB) as disk, unmounted(tmp_path / "home") as drive:
        drive.init(disk_reserve='"32 MiB"')
        drive.paths().farm_dir.parent.mkdir(parents=True, exist_ok=True)
        drive.paths().farm_dir.symlink_to(disk.at)
        drive.mount()
        before = write(drive, "before")
        drive.run("flush")
        disk.hog.fill()
        after = write(drive, "after")
        assert drive.status()["data"]["waiting"] >= len(after)
        audited(drive)
        assert (drive.at / "before").read_bytes() == before
        disk.hog.remove()
        drive.run("flush")
        audited(drive)
        assert drive.status()["health"] == "healthy"
        drive.umount()
        shutil.rmtree(drive.paths().cache_dir)
        drive.mount()
        assert (drive.at / "after").read_bytes() == after
        assert (drive.at / "before").read_bytes() == before
        drive.umount()
        assert drive.examine() == {}


def test_one_farmer_is_full_and_the_shards_go_to_the_others(shelves: Path, tmp_path: Path) -> None:
    with small_disk(shelves, "tmpfs", 64 * MIB) as disk, unmounted(tmp_path / "home") as drive:
        drive.init(disk_reserve='"32 MiB"')
        drive.mount()
        drive.umount()
        first = drive.farmer_folders()[0]
        shutil.copytree(first, disk.at / "farmer")
        shutil.rmtree(first)
        first.symlink_to(disk.at / "farmer")
        disk.hog.fill()
        drive.mount()
        for number in range(4):
            write(drive, f"file{number}")
        drive.run("flush")
        await_that(lambda: drive.status()["health"] == "healthy", "the drive is healthy")
        said = drive.status()
        assert said["segments"]["full"] == said["segments"]["total"]
        audited(drive)
        drive.umount()
        assert drive.examine() == {}
