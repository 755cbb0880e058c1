"""A disk that fails makes a farmer read-only: it takes nothing, serves and proves what it can."""

import errno
import os
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import apsw
import pytest
import trio
import trio.testing

from storjfs.coding.buffers import Buffer
from storjfs.daemon.farm import FarmProcess
from storjfs.daemon.notify import Notifier
from storjfs.farmer.disk import Disk
from storjfs.farmer.farmer import Farmer
from storjfs.farmer.pulse import Pulse
from storjfs.farmer.settings import FarmerSettings
from storjfs.farmer.shelf import footprint
from storjfs.network.peer import Peer
from storjfs.protocol.failures import ErrorCode
from storjfs.settlement import Ledger
from tests.farmer.process import Manager, Running, status
from tests.farmer.renter import MIB, Renter, farming, refused, renting
from tests.full.disk import small_disk

BLOCK = 4096


class FailingDisk(Disk):
    """Fails with `error` at the calls named in `calls`."""

    error = 0
    calls: frozenset[str] = frozenset()

    def _fail(self, call: str) -> None:
        if call in self.calls:
            raise OSError(self.error, os.strerror(self.error))

    def create(self, path: Path) -> int:
        self._fail("create")
        return super().create(path)

    def write(self, file: int, data: Buffer, offset: int) -> None:
        self._fail("write")
        super().write(file, data, offset)

    def sync_data(self, file: int) -> None:
        self._fail("sync_data")
        super().sync_data(file)

    def sync_folder(self, path: Path) -> None:
        self._fail("sync_folder")
        super().sync_folder(path)

    def rename(self, source: Path, target: Path) -> None:
        self._fail("rename")
        super().rename(source, target)

    def remove(self, path: Path) -> None:
        self._fail("remove")
        super().remove(path)

    def probe(self, path: Path) -> bool:
        self._fail("probe")
        return super().probe(path)


EVERY_WRITE = frozenset({"create", "write", "sync_data", "sync_folder", "rename", "remove", "probe"})


@asynccontextmanager
async def at_work(tmp_path: Path, ledger: Ledger) -> AsyncIterator[tuple[Farmer, Renter, FailingDisk]]:
    disk = FailingDisk()
    async with (
        farming(tmp_path, disk=disk, scrub_every=0) as farmer,
        renting(ledger, farmer.node_id, farmer.listening[0]) as renter,
    ):
        await renter.agree()
        yield farmer, renter, disk


def files(farmer: Farmer) -> int:
    """Bytes on the disk of all files of shards, wherever they lie."""
    found = [path for path in farmer.shelf.folder.rglob("*") if path.is_file() and path.name != "pulse"]
    # Of a large one a block more is counted, for a disk on which it lies in pieces.
    pieces = sum(BLOCK for path in found if path.stat().st_size > footprint(MIB))
    return pieces + sum(path.stat().st_blocks * 512 for path in found)


def stored(farmer: Farmer) -> int:
    """What farmer.db has of it."""
    ((found,),) = farmer.records.read("SELECT stored FROM disk WHERE number = 1")
    return int(found)


@pytest.mark.parametrize("number", [errno.EIO, errno.EROFS], ids=errno.errorcode.get)
@pytest.mark.parametrize("call", ["create", "write", "sync_data", "sync_folder"])
async def test_a_put_that_fails_makes_it_read_only_until_the_disk_works(
    tmp_path: Path, ledger: Ledger, call: str, number: int
) -> None:
    async with at_work(tmp_path, ledger) as (farmer, renter, disk):
        shard = await renter.put(MIB + 5000)
        before = farmer.shelf.taken
        disk.error, disk.calls = number, frozenset({call, "remove", "probe"})
        with refused(ErrorCode.NO_SPACE):
            await renter.put(MIB + 5000)
        assert farmer.shelf.read_only == os.strerror(number)
        assert files(farmer) <= farmer.shelf.taken  # what could not be removed counts, too
        with refused(ErrorCode.NO_SPACE):
            await renter.put(4096)
        assert (await renter.ask_offer()).capacity == 0
        assert await renter.get(shard) == shard.data
        assert [verdict.passed for verdict in await renter.audit(shard)] == [True]
        assert not farmer.shelf.try_again()
        disk.calls = frozenset()
        assert farmer.shelf.try_again()
        assert farmer.shelf.read_only == ""
        assert (farmer.shelf.taken, files(farmer)) == (before, before)
        await renter.put(4096)
        assert (await renter.ask_offer()).capacity > 0


async def test_a_shard_whose_name_cannot_be_changed_is_stored(tmp_path: Path, ledger: Ledger) -> None:
    async with at_work(tmp_path, ledger) as (farmer, renter, disk):
        disk.error, disk.calls = errno.EROFS, frozenset({"rename"})
        shard = await renter.put(9000)
        assert farmer.shelf.read_only
        assert await renter.get(shard) == shard.data
        disk.calls = frozenset()
        assert farmer.shelf.try_again()
        assert farmer.shelf.taken == files(farmer) == stored(farmer)
    async with farming(tmp_path) as farmer:
        assert farmer.shelf.taken == files(farmer) == stored(farmer)
        assert not list((farmer.shelf.folder / "arriving").iterdir())


async def test_deleted_files_that_a_disk_does_not_let_go_count_until_they_are_gone(
    tmp_path: Path, ledger: Ledger
) -> None:
    async with at_work(tmp_path, ledger) as (farmer, renter, disk):
        shards = [await renter.put(9000) for _ in range(2)]
        disk.error, disk.calls = errno.EIO, EVERY_WRITE
        assert await renter.delete(*shards) == 2
        assert farmer.book.stored == 0
        assert farmer.shelf.taken == files(farmer) > 0
        with refused(ErrorCode.UNKNOWN_SHARD):
            await renter.get(shards[0])
        disk.calls = frozenset()
        assert farmer.shelf.try_again()
        assert (farmer.shelf.taken, files(farmer)) == (0, 0)


async def test_audits_are_answered_though_nothing_can_be_recorded(
    tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with at_work(tmp_path, ledger) as (farmer, renter, _):
        shard = await renter.put(9000)

        with monkeypatch.context() as broken:
            broken.setattr(farmer.records, "_write", read_only)
            challenge = renter.challenge()
            assert renter.judge(challenge, await renter.ask(challenge))[0].passed
            assert "readonly" in farmer.shelf.read_only
            assert await renter.get(shard) == shard.data
            with refused(ErrorCode.NO_SPACE):
                await renter.put(4096)
            with refused(ErrorCode.BUSY):
                await renter.delete(shard)
            beat = await Pulse(farmer.book.history, farmer.shelf).beat()
            assert (beat.works, beat.read_only) == (False, True)
        beat = await Pulse(farmer.book.history, farmer.shelf).beat()
        assert (beat.works, beat.read_only, farmer.shelf.read_only) == (True, False, "")
        # The same challenge again is billed now, once.
        for _ in range(2):
            await renter.ask(challenge)
        assert farmer.records.read("SELECT count(*) FROM audit") == [(1,)]
        assert await renter.delete(shard) == 1


async def test_a_damaged_shard_is_said_to_be_so_though_that_cannot_be_recorded(
    tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with at_work(tmp_path, ledger) as (farmer, renter, _):
        shard = await renter.put(9000)
        farmer.shelf.path(shard.shard_id).unlink()
        with monkeypatch.context() as broken:
            broken.setattr(farmer.records, "_write", read_only)
            with refused(ErrorCode.CORRUPT):
                await renter.get(shard)
            assert "readonly" in farmer.shelf.read_only
        with refused(ErrorCode.CORRUPT):
            await renter.get(shard)
        assert farmer.damage.reason(shard.shard_id)


async def test_a_scrub_that_cannot_record_what_it_finds_makes_the_farmer_read_only(
    tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storjfs.farmer.farmer.REVIEW_EVERY", 3600.0)
    async with at_work(tmp_path, ledger) as (farmer, renter, _):
        shard = await renter.put(9000)
        farmer.shelf.path(shard.shard_id).unlink()
        await trio.testing.wait_all_tasks_blocked(0.01)  # the upkeep sleeps
        monkeypatch.setattr(farmer.records, "_write", read_only)
        farmer.apply(farmer.settings.changed(scrub_every=3600))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(farmer.scrub.run)
            with trio.fail_after(30):
                while not farmer.shelf.read_only:  # noqa: ASYNC110 - a thread has a part in it
                    await trio.sleep(0.01)
            nursery.cancel_scope.cancel()


def read_only(*_: object) -> None:
    raise apsw.ReadOnlyError("attempt to write a readonly database")


@pytest.mark.parametrize("error", [apsw.ReadOnlyError("readonly"), apsw.FullError("full")], ids=repr)
async def test_who_shows_a_voucher_that_the_disk_does_not_take_is_served(
    tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, error: apsw.Error
) -> None:
    """As every renter does that has paid since the disk failed, and connects again."""

    def fail(*_: object) -> None:
        raise error

    async with at_work(tmp_path, ledger) as (farmer, renter, _):
        shard = await renter.put(9000)
        assert (await renter.audit())[0].passed
        voucher = renter.sign()
        monkeypatch.setattr(farmer.records, "_write", fail)
        peer = renter.peer
        again = Peer(peer.identity, peer.node_id, peer.addresses, vouchers=lambda: [voucher])
        async with trio.open_nursery() as nursery:
            await nursery.start(again.run)
            renter.peer = again
            assert await renter.get(shard) == shard.data
            challenge = renter.challenge()
            assert renter.judge(challenge, await renter.ask(challenge))[0].passed
            nursery.cancel_scope.cancel()


async def test_audits_are_answered_though_the_disk_is_full(
    tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with at_work(tmp_path, ledger) as (farmer, renter, _):
        shard = await renter.put(9000)

        def full(*_: object) -> None:
            raise apsw.FullError("database or disk is full")

        monkeypatch.setattr(farmer.records, "_write", full)
        challenge = renter.challenge()
        assert renter.judge(challenge, await renter.ask(challenge))[0].passed
        assert await renter.get(shard) == shard.data
        with refused(ErrorCode.BUSY):
            await renter.pay()


async def test_upkeep_tries_a_disk_again(
    tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storjfs.farmer.farmer.REVIEW_EVERY", 0.01)
    monkeypatch.setattr("storjfs.farmer.farmer.RETRY_EVERY", 0.0)
    async with at_work(tmp_path, ledger) as (farmer, renter, disk):
        disk.error, disk.calls = errno.EIO, EVERY_WRITE
        with refused(ErrorCode.NO_SPACE):
            await renter.put(9000)
        assert farmer.shelf.read_only
        disk.calls = frozenset()
        with trio.fail_after(30):
            while farmer.shelf.read_only:  # noqa: ASYNC110 - a thread has a part in it
                await trio.sleep(0.01)
        await renter.put(9000)


async def test_records_that_cannot_be_read_end_no_task(
    tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise apsw.IOError("disk I/O error")

    async with at_work(tmp_path, ledger) as (farmer, renter, _):
        shard = await renter.put(9000)
        process = FarmProcess(farmer, Notifier({}), print, at_terminal=False)
        with monkeypatch.context() as broken:
            broken.setattr(farmer.records, "read", fail)
            async with trio.open_nursery() as nursery:
                for task in (farmer.scrub.run, farmer.work, process._tell, process._watch):
                    nursery.start_soon(task)
                await trio.testing.wait_all_tasks_blocked(0.1)
                with refused(ErrorCode.BUSY):
                    await renter.get(shard)
                nursery.cancel_scope.cancel()
            assert "cannot be read" in process._line()


def remount(at: Path, how: str) -> None:
    """Tried again where the farmer's pulse just has a file open for writing: the disk is busy then."""
    end = time.monotonic() + 10
    while subprocess.run(["mount", "-o", f"remount,{how}", str(at)], check=False).returncode:
        assert time.monotonic() < end, f"{at} stays busy"
        time.sleep(0.01)


def trigger(at: Path) -> Path:
    """A file of the kernel: what writes to it has it find an error in the ext4 file system of `at`."""
    number = at.stat().st_dev
    device = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}").resolve().name
    path = Path(f"/sys/fs/ext4/{device}/trigger_fs_error")
    if not os.access(path, os.W_OK):
        pytest.skip("this kernel lets nobody find errors in an ext4 file system")
    return path


def small_farm(tmp_path: Path) -> FarmerSettings:
    """One that a disk of 64 MiB has room for."""
    return FarmerSettings(
        capacity=16 * MIB, ledger=tmp_path / "ledger.db", term_min=1, period_min=1, keep_free=MIB
    )


async def test_a_disk_that_turns_read_only_and_back_costs_nothing(
    tmp_path: Path, ledger: Ledger, manager: Manager
) -> None:
    at = tmp_path / "farm"
    with small_disk(tmp_path, "ext4", 64 * MIB) as disk:
        (disk.at / "shelf").mkdir()
        at.mkdir()
        (at / "shelf").symlink_to(disk.at / "shelf")
        small_farm(tmp_path).write(at)
        with Running("--at", str(at), NOTIFY_SOCKET=str(manager.path), WATCHDOG_USEC="300000") as farmer:
            async with renting(ledger, *farmer.where()) as renter:
                await renter.agree(capacity=8 * MIB)
                shard = await renter.put(MIB)
                remount(disk.at, "ro")
                with refused(ErrorCode.NO_SPACE):
                    await renter.put(MIB)
                while not (said := manager.until("STATUS")["STATUS"]).startswith("read-only: "):
                    pass
                assert "Read-only file system" in said
                manager.drain()
                manager.until("WATCHDOG")
                assert await renter.get(shard) == shard.data
                assert [verdict.passed for verdict in await renter.audit()] == [True]
                report = await trio.to_thread.run_sync(status, at)
                assert "read_only" in [warn["code"] for warn in report["warnings"]]
                remount(disk.at, "rw")
                while manager.until("STATUS")["STATUS"].startswith("read-only: "):
                    pass
                await renter.put(MIB)
            assert farmer.interrupt() == 0


async def test_a_file_system_that_finds_itself_damaged_ends_no_process(
    tmp_path: Path, ledger: Ledger, manager: Manager
) -> None:
    with small_disk(tmp_path, "ext4", 64 * MIB) as disk:
        remount(disk.at, "errors=remount-ro")
        error = trigger(disk.at)
        at = disk.at / "farm"
        at.mkdir()
        small_farm(tmp_path).write(at)
        with Running("--at", str(at), NOTIFY_SOCKET=str(manager.path), WATCHDOG_USEC="300000") as farmer:
            async with renting(ledger, *farmer.where()) as renter:
                await renter.agree(capacity=8 * MIB)
                shard = await renter.put(MIB)
                await trio.to_thread.run_sync(error.write_text, "as the test wants it")
                while not manager.until("STATUS")["STATUS"].startswith("read-only: "):
                    pass
                manager.drain()
                manager.until("WATCHDOG")
                with refused(ErrorCode.NO_SPACE):
                    await renter.put(MIB)
                with refused(ErrorCode.BUSY):
                    await renter.delete(shard)
                assert await renter.get(shard) == shard.data
                assert [verdict.passed for verdict in await renter.audit()] == [True]
            assert farmer.interrupt() == 0, farmer.errors()
