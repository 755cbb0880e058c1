"""A disk whose calls do not return: it is set aside, and whatever lies elsewhere goes on."""

import os
import threading
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
import trio

from storjfs.coding.buffers import Buffer
from storjfs.farmer import disks
from storjfs.farmer.disk import Disk
from storjfs.farmer.disks import Disks
from storjfs.farmer.live import selling_of
from storjfs.farmer.patience import PatientDisk
from storjfs.farmer.report import read_report
from storjfs.farmer.space import space_of_all
from storjfs.protocol.failures import RequestFailed
from storjfs.settlement import Ledger
from tests.farmer.renter import MIB, Renter, Shard
from tests.farmer.several_disks import at_work, wait, where, whole


class Hanging(Disk):
    """What is asked of the disk of `folder` under the names in `calls` does not return before it is let."""

    def __init__(self, folder: Path, calls: frozenset[str]) -> None:
        self.folder = folder
        self.calls = calls
        self.may = threading.Event()
        self.may.set()

    def _hang(self, call: str, where: Path | int) -> None:
        path = where if isinstance(where, Path) else Path(os.readlink(f"/proc/self/fd/{where}"))
        if call in self.calls and self.folder in path.parents:
            self.may.wait()

    def write(self, file: int, data: Buffer, offset: int) -> None:
        self._hang("write", file)
        super().write(file, data, offset)

    def read(self, file: int, length: int, offset: int) -> bytes:
        self._hang("read", file)
        return super().read(file, length, offset)

    def sync_folder(self, path: Path) -> None:
        self._hang("sync_folder", path)
        super().sync_folder(path)

    def rename(self, source: Path, target: Path) -> None:
        self._hang("rename", source)
        super().rename(source, target)

    def remove(self, path: Path) -> None:
        self._hang("remove", path)
        super().remove(path)

    def probe(self, path: Path) -> bool:
        self._hang("probe", path)
        return super().probe(path)


@pytest.mark.parametrize("call", ["write", "sync_folder", "rename", "remove", "read"])
async def test_a_disk_that_hangs_is_set_aside_and_the_others_go_on(
    tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    monkeypatch.setattr(Disks, "run", wait)
    disk = Hanging(tmp_path / "second", frozenset({call, "probe"}))
    async with at_work(tmp_path, ledger, second=64 * MIB, disk=disk) as (farmer, renter):
        other = farmer.shelves.others[0]
        kept = [await renter.put(70_000) for _ in range(3)]
        assert {where(farmer, shard) for shard in kept} == {2}
        patient = other.disk
        assert isinstance(patient, PatientDisk)
        disk.may.clear()
        patient._patience = 0.1
        try:
            await try_all(renter, kept)
            assert farmer.shelves.silent == (2,)
            assert other.read_only
            # Nothing waits for it any more, of whatever kind it is.
            here = await renter.put(70_000)
            assert where(farmer, here) == 1
            assert await renter.get(here) == here.data
            assert all(verdict.passed for verdict in await renter.audit(here))
            await renter.pay()
            await farmer.disks._look()
            assert farmer.shelves.silent == (2,)
            ((damaged,),) = farmer.records.read("SELECT count(*) FROM damaged")
            assert not damaged
            report = await trio.to_thread.run_sync(read_report, farmer.folder)
            assert [one.state for one in report.disks] == ["working", "failing"]
            selling = msgspec.structs.replace(selling_of(farmer.settings), silent=farmer.shelves.silent)
            _, disks = space_of_all(farmer.book, selling, farmer.folder)
            assert [one.state for one in disks] == ["working", "not answering"]
            assert await renter.delete(here) == 1
            renter.shards.remove(here)
        finally:
            disk.may.set()
            patient._patience = 60
        with trio.fail_after(60):
            while farmer.shelves.silent or not other.recovered:
                await farmer.disks._look()
                await trio.sleep(0.01)
        assert where(farmer, await renter.put(5000)) == 2
        await whole(farmer, renter)


async def try_all(renter: Renter, kept: list[Shard]) -> None:
    """Use a disk that hangs in every way, at the same time: each is answered, and none with a loss."""

    async def put() -> None:
        with suppress(RequestFailed):
            await renter.put(70_000)

    async def get(shard: Shard) -> None:
        with suppress(RequestFailed):
            assert await renter.get(shard) == shard.data

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for shard in kept:
                nursery.start_soon(get, shard)
            for _ in range(4):
                nursery.start_soon(put)
        with suppress(RequestFailed):
            assert all(verdict.passed for verdict in await renter.audit(*kept))
        gone = kept.pop()
        assert await renter.delete(gone) == 1
        renter.shards.remove(gone)


async def test_settings_are_not_waited_for_where_a_disk_hangs(
    tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with at_work(tmp_path, ledger) as (farmer, _):
        farmer.check(farmer.settings)
        lets_go = threading.Event()
        monkeypatch.setattr(disks, "_check_different", lambda folders: lets_go.wait())
        monkeypatch.setattr(disks, "ON_THE_LOOP", 0.01)
        with pytest.raises(OSError, match="does not answer"):
            farmer.check(farmer.settings)
        lets_go.set()
