"""The self-scrub: rot is found before an audit does, told honestly, not mistaken for a disk that fails."""

import errno
import os
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from storjfs.farmer.disk import Disk
from storjfs.farmer.farmer import Farmer
from storjfs.farmer.figures import ScrubFigures
from storjfs.farmer.live import selling_of
from storjfs.farmer.records import VERSION
from storjfs.farmer.report import brief, make_report
from storjfs.farmer.scrub import RATE, Pass
from storjfs.farmer.shelf import Held
from storjfs.protocol.failures import ErrorCode
from storjfs.protocol.ids import ShardId
from storjfs.settlement import Ledger
from tests.farmer.renter import MIB, WITHOUT_DISKS, Renter, Shard, farming, refused, renting, settings


class BadDisk(Disk):
    """Fails to read the files in `bad`, and everything where it is `broken`."""

    def __init__(self) -> None:
        self.bad: set[Path] = set()
        self.broken = 0
        self.opened: list[Path] = []

    def open(self, path: Path) -> int:
        self.opened.append(path)
        number = self.broken or (errno.EIO if path in self.bad else 0)
        if number:
            raise OSError(number, os.strerror(number))
        return super().open(path)

    def probe(self, path: Path) -> bool:
        if self.broken:
            raise OSError(self.broken, os.strerror(self.broken))
        return super().probe(path)


@asynccontextmanager
async def at_work(
    tmp_path: Path, ledger: Ledger, scrub_every: int = 0
) -> AsyncIterator[tuple[Farmer, Renter, BadDisk]]:
    disk = BadDisk()
    async with (
        farming(tmp_path, scrub_every=scrub_every, disk=disk) as farmer,
        renting(ledger, farmer.node_id, farmer.listening[0]) as renter,
    ):
        await renter.agree()
        yield farmer, renter, disk


def flip(farmer: Farmer, shard: Shard, at: int) -> None:
    path = farmer.shelf.path(shard.shard_id)
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


async def whole_pass(farmer: Farmer) -> Pass:
    one = Pass(int(farmer.book.clock()))
    while one.ended is None:
        one = await farmer.scrub._step(one)
    return one


def damaged(farmer: Farmer) -> set[ShardId]:
    return {ShardId(row[0]) for row in farmer.records.read("SELECT shard_id FROM damaged")}


@pytest.mark.parametrize("at", [0, MIB, MIB + 4999, MIB + 5000, -1, -60], ids=str)
async def test_one_bit_anywhere_in_a_file_is_found_and_said(tmp_path: Path, ledger: Ledger, at: int) -> None:
    async with at_work(tmp_path, ledger) as (farmer, renter, disk):
        rotten, sound = await renter.put(MIB + 5000), await renter.put(MIB)
        flip(farmer, rotten, at)
        one = await whole_pass(farmer)
        assert (one.shards, one.size, one.damaged) == (2, 2 * MIB + 5000, 1)
        assert damaged(farmer) == {rotten.shard_id}
        disk.opened.clear()
        with refused(ErrorCode.CORRUPT):
            await renter.get(rotten, 8192, 4096)  # though this range may be sound
        assert [verdict.passed for verdict in await renter.audit()] == [False, True]
        assert farmer.shelf.path(rotten.shard_id) not in disk.opened
        assert await renter.get(sound) == sound.data


async def test_what_is_damaged_is_told_before_it_is_asked_for_until_it_is_deleted(
    tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storjfs.farmer.proving.MAX_DAMAGED", 2)
    async with at_work(tmp_path, ledger) as (farmer, renter, _):
        sound, *rotten = [await renter.put(9000) for _ in range(4)]
        rotten.sort(key=lambda shard: shard.shard_id)
        for shard in rotten:
            flip(farmer, shard, 5)
        assert (await renter.ask(renter.challenge(sound))).damaged == ()
        await whole_pass(farmer)
        ids = tuple(shard.shard_id for shard in rotten)
        assert (await renter.ask(challenge := renter.challenge(sound))).damaged == ids[:2]
        assert (await renter.ask(challenge)).damaged == ids[2:]
        assert (await renter.ask(challenge)).damaged == ids[:2]
        await renter.delete(*rotten[1:])
        assert (await renter.ask(challenge)).damaged == ids[:1]


async def test_missing_and_short_files_are_found(tmp_path: Path, ledger: Ledger) -> None:
    async with at_work(tmp_path, ledger) as (farmer, renter, _):
        shards = [await renter.put(9000) for _ in range(3)]
        farmer.shelf.path(shards[0].shard_id).unlink()
        os.truncate(farmer.shelf.path(shards[1].shard_id), 100)
        assert (await whole_pass(farmer)).damaged == 2
        assert damaged(farmer) == {one.shard_id for one in shards[:2]}


async def test_what_is_deleted_while_it_reads_is_no_damage(
    tmp_path: Path, ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    async with at_work(tmp_path, ledger) as (farmer, renter, _):
        shards = [await renter.put(9000) for _ in range(2)]
        read = farmer.scrub._read

        async def delete_first(held: Held, *, hurry: bool) -> None:
            if shards:
                await renter.delete(*shards)
                shards.clear()
            await read(held, hurry=hurry)

        farmer.scrub._read = delete_first  # type: ignore[method-assign]
        assert (await whole_pass(farmer)).damaged == 0
        assert damaged(farmer) == set()
    assert "its renter is told" not in caplog.text


async def test_what_is_known_of_a_shard_goes_with_it(tmp_path: Path, ledger: Ledger) -> None:
    async with at_work(tmp_path, ledger) as (farmer, renter, _):
        shard = await renter.put(9000)
        flip(farmer, shard, 5)
        await whole_pass(farmer)
        with refused(ErrorCode.CORRUPT):
            await renter.put(shard.data, shard.shard_id)
        assert await renter.delete(shard) == 1
        assert damaged(farmer) == set()
        await farmer.damage.note(shard.shard_id, "found while it was deleted")
        assert damaged(farmer) == set()
        again = await renter.put(shard.data, shard.shard_id)
        assert await renter.get(again) == shard.data


async def test_audits_and_reads_note_what_they_find(tmp_path: Path, ledger: Ledger) -> None:
    async with at_work(tmp_path, ledger) as (farmer, renter, _):
        audited, read = await renter.put(4096), await renter.put(9000)
        flip(farmer, audited, 7)
        farmer.shelf.path(read.shard_id).unlink()
        assert not (await renter.audit(audited))[0].passed
        with refused(ErrorCode.CORRUPT):
            await renter.get(read)
        assert damaged(farmer) == {audited.shard_id, read.shard_id}


async def test_a_bad_sector_is_damage(tmp_path: Path, ledger: Ledger) -> None:
    async with at_work(tmp_path, ledger) as (farmer, renter, disk):
        bad, sound = await renter.put(9000), await renter.put(9000)
        disk.bad.add(farmer.shelf.path(bad.shard_id))
        assert [verdict.passed for verdict in await renter.audit(bad, sound)] == [False, True]
        assert damaged(farmer) == {bad.shard_id}


@pytest.mark.parametrize("number", [errno.EIO, errno.ENODEV])
async def test_a_disk_that_fails_as_a_whole_is_no_damage(tmp_path: Path, ledger: Ledger, number: int) -> None:
    async with at_work(tmp_path, ledger) as (farmer, renter, disk):
        shard = await renter.put(9000)
        disk.broken = number
        with refused(ErrorCode.BUSY):
            await renter.get(shard)
        with refused(ErrorCode.BUSY):
            await renter.audit()
        with pytest.raises(Exception, match="cannot be read"):
            await whole_pass(farmer)
        disk.broken = 0
        assert damaged(farmer) == set()
        assert (await renter.audit())[0].passed
        assert await renter.get(shard) == shard.data


async def test_a_shelf_that_was_taken_away_has_lost_nothing(tmp_path: Path, ledger: Ledger) -> None:
    async with at_work(tmp_path, ledger) as (farmer, renter, _):
        shard = await renter.put(9000)
        farmer.shelf.folder.rename(tmp_path / "elsewhere")
        farmer.shelf.folder.mkdir()  # what is below a mount point
        with refused(ErrorCode.BUSY):
            await renter.audit()
        with pytest.raises(Exception, match="not there"):
            await whole_pass(farmer)
        farmer.shelf.folder.rmdir()
        (tmp_path / "elsewhere").rename(farmer.shelf.folder)
        assert damaged(farmer) == set()
        assert (await renter.audit())[0].passed
        assert await renter.get(shard) == shard.data


async def test_a_pass_goes_on_where_the_last_run_stopped(
    tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storjfs.farmer.scrub.ROWS", 2)
    async with at_work(tmp_path, ledger) as (farmer, renter, _):
        ids = sorted([(await renter.put(100)).shard_id for _ in range(5)])
        one = await farmer.scrub._step(Pass(int(farmer.book.clock())))
        assert (one.place, one.shards, one.ended) == (ids[1], 2, None)
    disk = BadDisk()
    async with farming(tmp_path, scrub_every=1000, disk=disk) as farmer:
        with trio.fail_after(30):
            while (last := farmer.scrub.last()) is None or last.ended is None:
                await trio.testing.wait_all_tasks_blocked(0.01)
        assert {path.name for path in disk.opened} == {one.hex() for one in ids[2:]}
        assert (last.shards, last.began) == (5, one.began)
        assert farmer.scrub._due() == last
        monkeypatch.setattr(farmer.scrub, "_clock", lambda: float(last.began + 1000))
        assert farmer.scrub._due() == Pass(last.began + 1000)
        monkeypatch.setattr(farmer.scrub, "_period", lambda: 0)
        assert farmer.scrub._due() is None


async def test_it_gives_way_to_transfers(tmp_path: Path, ledger: Ledger) -> None:
    async with at_work(tmp_path, ledger) as (farmer, renter, disk):
        await renter.put(9000)
        farmer.traffic.begin()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(whole_pass, farmer)
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert not disk.opened
            farmer.traffic.end()
        assert disk.opened


async def test_two_that_wait_for_an_idle_farmer_both_learn_of_it(tmp_path: Path) -> None:
    async with farming(tmp_path) as farmer:
        farmer.traffic.begin()
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                for _ in range(2):
                    nursery.start_soon(farmer.traffic.idle)
                await trio.testing.wait_all_tasks_blocked(0.01)
                farmer.traffic.end()


async def test_its_rate_is_bounded_and_enough_for_the_period(tmp_path: Path) -> None:
    async with farming(tmp_path, scrub_every=86400) as farmer:
        assert farmer.scrub._rate() == RATE
        farmer.shelf.stored = 86400 * RATE
        assert farmer.scrub._rate() == 2 * RATE
        farmer.shelf.stored = 0


def test_farmers_database_of_version_2_is_brought_up_to_date(tmp_path: Path) -> None:
    Farmer.open(tmp_path / "farmer", settings(tmp_path)).close()
    with sqlite3.connect(tmp_path / "farmer" / "farmer.db") as database:
        database.executescript(
            "DROP TABLE damaged; DROP TABLE scrub; DROP TABLE relayed; "
            f"{WITHOUT_DISKS}PRAGMA user_version = 2"
        )
    database.close()
    farmer = Farmer.open(tmp_path / "farmer", settings(tmp_path))
    try:
        assert farmer.records.read("PRAGMA user_version") == [(VERSION,)]
        assert damaged(farmer) == set()
        assert farmer.scrub.last() is None
    finally:
        farmer.close()


async def test_status_counts_and_warns(tmp_path: Path, ledger: Ledger) -> None:
    async with at_work(tmp_path, ledger) as (farmer, renter, _):
        shard = await renter.put(9000)
        flip(farmer, shard, 5)
        one = await whole_pass(farmer)
        assert "1 shard damaged" in brief(farmer.book, 1)
        report = make_report(farmer.book, selling_of(farmer.settings), farmer.folder, None, running=True)
        assert (report.damaged, report.scrub) == (1, ScrubFigures(one.began, one.ended, 1, 9000, 1))
        assert "damaged" in {warn.code for warn in report.warnings}
