"""What happened each day: money exact, bytes after a fold, bounded, and readable from an old farmer.db."""

import contextlib
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import fields
from pathlib import Path

import pytest
import trio
import trio.testing

from storjfs.farmer.farmer import Farmer
from storjfs.farmer.history import ALL, CONTRACT_DAYS, DAY, LIVES, NAMES, TOTAL_DAYS, History, Sums
from storjfs.farmer.records import VERSION, Records
from storjfs.protocol.terms import CREDIT
from storjfs.settlement import Ledger
from tests.farmer.renter import MIB, WITHOUT_DISKS, farming, renting, settings
from tests.knots import knots


class Hands:
    """A clock that is turned by hand."""

    def __init__(self) -> None:
        self.time = 20_000.0 * DAY

    def __call__(self) -> float:
        return self.time


@asynccontextmanager
async def history(folder: Path, clock: Hands) -> AsyncIterator[History]:
    records = Records(folder / "farmer.db")
    async with trio.open_nursery() as nursery:
        await nursery.start(records.run)
        try:
            yield History(records, clock)
        finally:
            records.stop()


async def test_what_is_noted_is_there_after_a_fold_and_adds_up(tmp_path: Path) -> None:
    hands = Hands()
    async with history(tmp_path, hands) as days:
        for contract, count in ((1, 10), (2, 5), (1, 1)):
            days.note_sent(contract, count, count)
        assert days.days(0) == {}
        await days.fold()
        days.note_sent(1, 100, 0)
        hands.time += DAY
        days.note_received(1, 7)
        await days.fold()
        assert days.days(0) == {20_000: Sums(sent=116, egress=16), 20_001: Sums(received=7)}
        assert days.days(0, 1) == {20_000: Sums(sent=111, egress=11), 20_001: Sums(received=7)}
        assert days.by_contract(20_001) == {1: Sums(received=7)}


async def test_fold_that_fails_forgets_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with history(tmp_path, Hands()) as days:
        days.note_sent(1, 3, 0)

        async def fail(*_: object) -> None:
            raise OSError("the disk is gone")

        with monkeypatch.context() as broken:
            broken.setattr(days._records, "commit", fail)
            with pytest.raises(OSError, match="gone"):
                await days.fold()
        days.note_sent(1, 4, 0)
        await days.fold()
        assert days.days(0, 1) == {20_000: Sums(sent=7)}


async def test_old_days_and_old_lives_are_forgotten(tmp_path: Path) -> None:
    hands = Hands()
    async with history(tmp_path, hands) as days:
        for _ in range(TOTAL_DAYS + 10):
            days.note_received(1, 1)
            await days.fold()
            hands.time += DAY
        days.note_received(1, 1)
        await days.fold()
        assert len(days.days(1)) == TOTAL_DAYS
        assert len(days.days(1, 1)) == CONTRACT_DAYS
        # What they were sums of is not forgotten.
        assert days.by_contract(0)[1] == Sums(received=TOTAL_DAYS + 11)
        assert days.days(0)[0] == Sums(received=11)
        for _ in range(LIVES + 10):
            await days.begin()
        assert len(days.lives()) == LIVES


async def test_time_that_the_farmer_ran_is_counted_once(tmp_path: Path) -> None:
    hands = Hands()
    async with history(tmp_path, hands) as days:
        await days.begin()
        for _ in range(20):
            hands.time += 300
            await days.fold()
        hands.time += 100
        await days.fold(stopping=True)
        assert days.days(0)[20_000].up == 6100
        (life,) = days.lives()
        assert (life.started, life.stopped) == (20_000 * DAY, 20_000 * DAY + 6100)


def test_columns_are_the_fields(tmp_path: Path) -> None:
    Records(tmp_path / "farmer.db").close()
    with sqlite3.connect(tmp_path / "farmer.db") as database:
        columns = [row[1] for row in database.execute("PRAGMA table_info(day)")]
    database.close()
    assert columns == ["day", "contract", *NAMES]
    assert [field.name for field in fields(Sums)] == list(NAMES)


async def test_farmers_database_of_version_1_is_brought_up_to_date(tmp_path: Path) -> None:
    Farmer.open(tmp_path / "farmer", settings(tmp_path)).close()
    with sqlite3.connect(tmp_path / "farmer" / "farmer.db") as database:
        database.executescript(
            "DROP TABLE day; DROP TABLE life; DROP TABLE damaged; DROP TABLE scrub; DROP TABLE relayed; "
            f"{WITHOUT_DISKS}PRAGMA user_version = 1"
        )
        row = "INSERT INTO audit(contract, epoch, digest, time, proved, price) VALUES (?, ?, x'', ?, ?, ?)"
        database.executemany(
            row,
            [
                (1, 1, 5 * DAY, 10, 1),
                (1, 2, 5 * DAY + 9, 20, 2),
                (2, 1, 5 * DAY, 7, 0),
                (2, 2, 6 * DAY, 1, 1),
            ],
        )
    database.close()
    async with farming(tmp_path) as farmer:
        assert farmer.records.read("PRAGMA user_version") == [(VERSION,)]
        history = farmer.book.history
        # Answered audits of before are known.
        assert history.days(5, 1)[5] == Sums(audits=2, proved=30, proofs=3)
        assert history.days(5)[5] == Sums(audits=3, proved=37, proofs=3)
        assert history.days(6)[6] == Sums(audits=1, proved=1, proofs=1)


async def test_a_farmers_day_says_what_was_proved_sent_promised_and_claimed(
    tmp_path: Path, ledger: Ledger
) -> None:
    today = int(time.time()) // DAY
    async with (
        farming(tmp_path) as farmer,
        renting(ledger, farmer.node_id, farmer.listening[0]) as renter,
    ):
        await renter.agree()
        shards = [await renter.put(size) for size in (MIB, 4096)]
        await renter.audit()
        await renter.get(shards[0])
        await renter.delete(shards[1])
        assert [verdict.passed for verdict in await renter.audit(*shards)] == [True, False]
        await renter.pay()
        await farmer.payments.claim_all()
        await farmer.book.history.fold()
        (number,) = (entry.number for entry in farmer.book.contracts.values())
        sums, total = farmer.book.history.by_contract(today)[number], Sums()
        for day in farmer.book.history.days(today, ALL).values():
            total.add(day)
        owed = next(iter(farmer.book.lanes.values())).account
    sums.up = total.up
    assert sums == total
    assert (sums.audits, sums.late, sums.lost) == (2, 0, 1)
    assert sums.proved == 2 * MIB + 4096
    assert (sums.received, sums.sent) == (MIB + 4096, MIB)
    assert sums.proofs == owed.proofs.amount
    assert sums.egress == CREDIT // 1024
    assert sums.promised == sums.claimed == renter.tally.amount


async def test_run_that_was_cut_off_is_told_from_one_that_stopped(tmp_path: Path) -> None:
    for _ in range(2):
        async with farming(tmp_path) as farmer:
            while not farmer.book.history.lives() or farmer.book.history.lives()[0].stopped is not None:
                await trio.testing.wait_all_tasks_blocked(0.01)
    async with farming(tmp_path) as farmer:
        assert [life.stopped is not None for life in farmer.book.history.lives()[-2:]] == [True, True]


async def test_commits_that_fail_leave_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        raise OSError("the disk is gone")

    async with history(tmp_path, Hands()) as days:
        with knots() as left:
            with contextlib.suppress(OSError):
                await days._records.commit((), before=fail)
        assert left == []
