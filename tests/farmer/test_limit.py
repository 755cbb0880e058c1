"""The share is a hard limit: of shards, of arrivals, of farmer.db with its log, of everything."""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from storjfs.errors import StorjfsError
from storjfs.farmer.records import VERSION
from storjfs.farmer.settings import FarmerSettings
from storjfs.protocol.failures import ErrorCode, RequestFailed
from storjfs.protocol.terms import CREDIT
from storjfs.settlement import Ledger
from tests.farmer.process import Running, run, status
from tests.farmer.renter import MIB, WITHOUT_DISKS, Renter, farming, refused, renting
from tests.full.disk import small_disk

SHARE = 24 * MIB
SIZES = (1, 1, 4096, 65_552, 300_000, 2 * MIB)
TOGETHER = 6


def sizes_and_blocks(folder: Path) -> tuple[int, int]:
    """Bytes of all files and folders: their lengths, and what they take on the disk."""
    found = [path.lstat() for path in (folder, *folder.rglob("*"))]
    return sum(one.st_size for one in found), sum(one.st_blocks * 512 for one in found)


class Watch:
    """What a farmer's folder has taken. `looks` at the whole file system all the time where it has one."""

    def __init__(self, at: Path, own_disk: bool) -> None:
        self.at = at
        self.most = 0
        self._before = self._taken() if own_disk else None
        self._stop = threading.Event()

    def _taken(self) -> int:
        found = os.statvfs(self.at.parent)
        return (found.f_blocks - found.f_bfree) * found.f_frsize

    def _run(self) -> None:
        assert self._before is not None
        while not self._stop.wait(0.001):
            self.most = max(self.most, self._taken() - self._before)

    @contextmanager
    def watching(self) -> Iterator[None]:
        thread = threading.Thread(target=self._run)
        if self._before is not None:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            if thread.ident is not None:
                thread.join()

    def check(self, limit: int = SHARE) -> int:
        """Nothing is under way: the limit holds, and held since the last call. Returns what is there."""
        sizes, blocks = sizes_and_blocks(self.at)
        assert sizes <= limit
        assert blocks <= limit
        assert self.most <= limit
        self.most = 0
        return blocks


def write_settings(at: Path, ledger: Path, share: int) -> None:
    FarmerSettings(
        capacity=share, ledger=ledger, term_min=1, period_min=1, keep_free=MIB, scrub_every=0
    ).write(at)


async def fill(renter: Renter, rng: random.Random) -> None:
    """Put shards of all sizes, several at a time, until even the smallest is refused."""

    async def put() -> None:
        sizes = list(SIZES)
        while sizes:
            size = rng.choice(sizes)
            try:
                await renter.put(size)
            except RequestFailed as error:
                if error.code != ErrorCode.NO_SPACE:
                    raise
                sizes = [one for one in sizes if one < size]

    async with trio.open_nursery() as nursery:
        for _ in range(TOGETHER):
            nursery.start_soon(put)


async def delete_some(renter: Renter, rng: random.Random, share: float) -> None:
    rng.shuffle(renter.shards)
    count = int(len(renter.shards) * share)
    gone, renter.shards = renter.shards[:count], renter.shards[count:]
    assert await renter.delete(*gone) == count


async def all_there(renter: Renter) -> None:
    for at in range(0, len(renter.shards), 100):
        verdicts = await renter.audit(*renter.shards[at : at + 100])
        assert all(verdict.passed for verdict in verdicts)
        await renter.pay()
    for shard in renter.shards[:50]:
        assert await renter.get(shard) == shard.data


async def until_it_ends(farmer: Running, renter: Renter, rng: random.Random) -> None:
    """Puts and deletes, in the middle of which the farmer is killed."""
    done = 0

    async def work() -> None:
        nonlocal done
        while True:
            try:
                if renter.shards and rng.random() < 0.4:
                    # Whether it takes place is not known any more once it is asked for.
                    await renter.delete(renter.shards.pop())
                else:
                    await renter.put(rng.choice(SIZES))
            except (StorjfsError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
                if not isinstance(error, RequestFailed):
                    return
                if error.code != ErrorCode.NO_SPACE:
                    raise
            done += 1
            if done == 40:
                farmer.send(signal.SIGKILL)

    with trio.fail_after(180):
        async with trio.open_nursery() as nursery:
            for _ in range(TOGETHER):
                nursery.start_soon(work)
    assert farmer.ended() == -signal.SIGKILL


@contextmanager
def place(tmp_path: Path, kind: str) -> Iterator[Path]:
    """Where the farmer's folder is made."""
    if kind == "folder":
        yield tmp_path
    else:
        with small_disk(tmp_path, kind, 96 * MIB) as disk:
            yield disk.at


@pytest.mark.parametrize("kind", ["folder", "ext4", "tmpfs"])
async def test_a_farmer_filled_to_the_brim_never_has_more_than_its_share(tmp_path: Path, kind: str) -> None:
    rng = random.Random(7)
    ledger = Ledger(tmp_path / "ledger.db")
    with place(tmp_path, kind) as where:
        at = where / "farm"
        at.mkdir()
        write_settings(at, ledger.path, SHARE)
        watch = Watch(at, own_disk=kind != "folder")
        with watch.watching():
            await filled_killed_and_shrunk(at, ledger, watch, rng)
    ledger.close_file()


async def filled_killed_and_shrunk(at: Path, ledger: Ledger, watch: Watch, rng: random.Random) -> None:
    seed = b"r" * 32
    with Running("--at", str(at)) as farmer:
        async with renting(ledger, *farmer.where(), seed) as renter:
            await renter.agree(10**6 * CREDIT, capacity=(await renter.ask_offer()).capacity)
            await fill(renter, rng)
            assert watch.check() > SHARE * 3 // 4
            for _ in range(30):
                await renter.audit(*renter.shards[:20])
                await renter.pay()
            watch.check()
            for _ in range(2):
                await delete_some(renter, rng, 0.3)
                watch.check()
                await fill(renter, rng)
                watch.check()
            await until_it_ends(farmer, renter, rng)
            watch.check()
    with Running("--at", str(at)) as farmer:
        async with renting(ledger, *farmer.where(), seed) as again:
            again.contract, again.offer, again.tally = renter.contract, renter.offer, renter.tally
            again.shards, again.epoch, again.counter = renter.shards, renter.epoch, renter.counter
            watch.check()
            await fill(again, rng)
            watch.check()
            await all_there(again)
            await shrunk(at, ledger, again, watch, rng)
        assert farmer.interrupt() == 0
    watch.check(SHARE // 2)


async def shrunk(at: Path, ledger: Ledger, renter: Renter, watch: Watch, rng: random.Random) -> None:
    """Under a limit below what is there nothing comes, nothing goes, until deletes have made room."""
    write_settings(at, ledger.path, SHARE // 2)
    said = run("reload", "--at", str(at))
    assert "nothing new is taken or offered" in said.stdout, said
    for size in (1, MIB):
        with refused(ErrorCode.NO_SPACE):
            await renter.put(size)
    assert (await renter.ask_offer()).capacity == 0
    await all_there(renter)
    report = status(at)
    assert "over_share" in [warn["code"] for warn in report["warnings"]]
    assert report["space"]["stored"] + report["space"]["own"] > report["space"]["share"]
    watch.check()
    await delete_some(renter, rng, 0.9)
    watch.check()
    await fill(renter, rng)
    assert watch.check(SHARE // 2) > SHARE // 4
    await all_there(renter)
    report = status(at)
    assert "over_share" not in [warn["code"] for warn in report["warnings"]]
    sizes, blocks = sizes_and_blocks(at)
    # What is told is what is there.
    assert abs(report["space"]["stored"] + report["space"]["own"] - max(sizes, blocks)) < MIB


async def test_farmers_database_of_version_4_is_brought_up_to_date(tmp_path: Path, ledger: Ledger) -> None:
    async with (
        farming(tmp_path, scrub_every=0) as farmer,
        renting(ledger, farmer.node_id, farmer.listening[0]) as renter,
    ):
        await renter.agree()
        for size in SIZES:
            await renter.put(size)
        taken = farmer.shelf.taken
        folder = farmer.shelf.folder
    with sqlite3.connect(farmer.folder / "farmer.db") as database:
        database.executescript(f"{WITHOUT_DISKS}PRAGMA user_version = 4")
        database.execute("INSERT INTO doomed(shard_id) VALUES (?)", (bytes(32),))
    database.close()
    left = folder / "00" / bytes(32).hex()  # as by a crash in a delete
    left.parent.mkdir(exist_ok=True)
    left.write_bytes(b"old")
    async with farming(tmp_path, scrub_every=0) as farmer:
        assert farmer.records.read("PRAGMA user_version") == [(VERSION,)]
        assert farmer.records.read("SELECT shards, stored FROM disk") == [(len(SIZES), taken)]
        files = [path for path in folder.rglob("*") if path.is_file() and path.name != "pulse"]
        assert left not in files
        blocks = sum(path.stat().st_blocks * 512 for path in files)
        assert blocks <= farmer.shelf.taken == taken <= blocks + 4096  # one is large


def reading(path: Path) -> "subprocess.Popen[str]":
    """Another process in the middle of a look at the database, until its input ends."""
    code = (
        "import sqlite3, sys; database = sqlite3.connect(sys.argv[1]); database.execute('BEGIN'); "
        "print(database.execute('SELECT count(*) FROM shard').fetchone(), flush=True); sys.stdin.read()"
    )
    words = [sys.executable, "-c", code, str(path)]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline()
    return process


async def test_a_log_that_somebody_reads_for_ever_does_not_outgrow_the_share(
    tmp_path: Path, ledger: Ledger
) -> None:
    share = 8 * MIB
    async with (
        farming(tmp_path, capacity=share, scrub_every=0) as farmer,
        renting(ledger, farmer.node_id, farmer.listening[0]) as renter,
    ):
        await renter.agree(10**6 * CREDIT, capacity=4 * MIB)
        shard = await renter.put(2 * MIB)
        reader = reading(farmer.folder / "farmer.db")
        for _ in range(400):
            assert [verdict.passed for verdict in await renter.audit(shard)] == [True]
            await renter.pay_or_not()
            sizes, blocks = sizes_and_blocks(farmer.folder)
            assert max(sizes, blocks) <= share
            if farmer.own.ballast == 0:
                break
        assert farmer.own.ballast == 0, "the log never came near the limit"
        with refused(ErrorCode.NO_SPACE):
            await renter.put(MIB)
        reader.communicate()
        await renter.pay()
        await farmer._set_aside()
        assert (farmer.folder / "farmer.db-wal").stat().st_size < MIB
        await renter.put(MIB)
