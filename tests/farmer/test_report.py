"""The figures are those of the contracts, lanes and days, whether the farmer runs or not."""

import io
import json
import time
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from rich.console import Console, Group

from storjfs.cli.farm_status import tables
from storjfs.farmer.farmer import Farmer
from storjfs.farmer.figures import Report
from storjfs.farmer.history import DAY
from storjfs.farmer.live import facts, selling_of
from storjfs.farmer.pulse import ClockWatch, Heartbeat
from storjfs.farmer.report import NoFarmer, make_report, read_report
from storjfs.protocol.terms import CREDIT, GIB, MONTH
from storjfs.settlement import Ledger, SettlementError
from tests.farmer.renter import MIB, Renter, farming, renting, settings


def running(farmer: Farmer) -> Report:
    live = facts(
        farmer,
        since=time.time() - 60,
        heartbeat=Heartbeat(time.time(), 0.01, True),
        clock=ClockWatch(0.0),
        synchronised=None,
        refused_settings="",
        at_next_start=(),
    )
    return read_report(farmer.folder, live)


def shown(report: Report, width: int) -> str:
    out = Console(file=io.StringIO(), width=width, highlight=False)
    out.print(Group(*tables(report, width)))
    assert isinstance(out.file, io.StringIO)
    return out.file.getvalue()


async def test_figures_of_a_farmer_at_work(farmer: Farmer, renter: Renter) -> None:
    await renter.agree()
    shard = await renter.put()
    await renter.audit()
    await renter.get(shard)
    await renter.pay()
    await renter.audit()
    await farmer.payments.fold_all()
    await farmer.book.history.fold()
    owed = next(iter(farmer.book.lanes.values())).account
    report = running(farmer)
    assert (report.running, report.reachable, report.health) == (True, "this machine only", "good")
    assert report.node_id == farmer.node_id.hex()
    space = report.space
    assert (space.share, space.stored) == (64 * MIB, farmer.shelf.stored)
    assert space.sold + space.left + space.own_most == space.share
    assert 0 < space.own < space.own_most < 4 * MIB
    money = report.money
    assert money.earned == owed.proofs.amount + owed.egress.amount
    assert money.today == money.this_month == money.earned
    assert (money.promised, money.claimable, money.claimed) == (owed.paid, owed.paid, 0)
    per_day = renter.terms.price * MIB * DAY // (GIB * MONTH)
    (one,) = report.contracts
    assert (one.renter, one.state, one.shards, one.used) == (renter.key.node_id.hex(), "active", 1, MIB)
    assert (one.audits, one.unpaid_audits, one.earned, one.promised) == (2, 1, money.earned, owed.paid)
    assert one.per_day == per_day
    assert one.days[-1].sent == MIB
    assert money.per_day == per_day + CREDIT // 1024  # what was sent today, on the first day
    now = datetime.fromtimestamp(report.at, UTC)
    days_left = (
        datetime(now.year + now.month // 12, now.month % 12 + 1, 1, tzinfo=UTC) - now
    ).total_seconds() / DAY
    assert abs(money.month_estimate - money.this_month - days_left * money.per_day) < CREDIT // 1000
    await farmer.payments.claim_all()
    after = running(farmer)
    assert (after.money.claimable, after.money.claimed) == (0, owed.paid)
    assert after.contracts[0].claimed == after.days[-1].claimed == owed.paid
    assert after.live is not None
    assert after.live.received.total > MIB


async def test_report_is_the_same_from_the_records_once_it_has_stopped(
    tmp_path: Path, ledger: Ledger
) -> None:
    async with (
        farming(tmp_path) as farmer,
        renting(ledger, farmer.node_id, farmer.listening[0]) as renter,
    ):
        farmer.settings.write(farmer.folder)
        await renter.agree()
        await renter.put()
        await renter.audit()
        await renter.pay()
        promised = renter.tally.amount
    report = read_report(farmer.folder)
    assert (report.running, report.live, report.reachable) == (False, None, "no")
    assert (report.money.promised, report.money.claimed, report.money.claimable) == (promised, promised, 0)
    assert report.runs[0].stopped is not None
    assert report.warnings[0].code == "not_running"
    assert report.warnings[0].due is not None


async def test_contract_without_pay_is_told_with_its_date(farmer: Farmer, renter: Renter) -> None:
    await renter.agree()
    await renter.put()
    for _ in range(2):
        await renter.audit()
    report = running(farmer)
    (one,) = report.contracts
    assert one.breach_at is not None
    assert abs(one.breach_at - time.time() - renter.terms.payment_grace) < 60
    assert ("not_paying", float(one.breach_at)) in [(warn.code, warn.due) for warn in report.warnings]


async def test_damaged_shard_is_told(farmer: Farmer, renter: Renter) -> None:
    await renter.agree()
    shard = await renter.put(4096)
    farmer.shelf.path(shard.shard_id).unlink()
    await renter.audit()
    report = running(farmer)
    assert (report.health, report.warnings[0].code) == ("critical", "audits_failing")
    assert report.contracts[0].lost == 1


async def test_ledger_that_fails_is_told_until_it_works_again(
    farmer: Farmer, renter: Renter, monkeypatch: pytest.MonkeyPatch
) -> None:
    await renter.agree()
    await renter.put()
    await renter.audit()
    await renter.pay()

    def fail(*_: object) -> None:
        raise SettlementError("the ledger is away")

    with monkeypatch.context() as broken:
        broken.setattr(farmer.settlement, "claim", fail)
        await farmer.payments.claim_all()
    told = [warn for warn in running(farmer).warnings if warn.code == "settlement"]
    assert "the ledger is away" in told[0].message
    await farmer.payments.claim_all()
    assert "settlement" not in [warn.code for warn in running(farmer).warnings]


async def test_json_gives_all_of_it_back(farmer: Farmer, renter: Renter) -> None:
    await renter.agree()
    report = running(farmer)
    text = json.dumps(msgspec.to_builtins(report))
    assert msgspec.convert(json.loads(text), Report) == report


@pytest.mark.parametrize("width", [80, 140])
async def test_table_fits_and_shows_what_matters(farmer: Farmer, renter: Renter, width: int) -> None:
    await renter.agree()
    await renter.put()
    await renter.audit()
    await renter.pay()
    text = shown(running(farmer), width)
    header = next(line for line in text.splitlines() if line.startswith("renter"))
    columns = ("renter", "state", "stored", "audits", "earned", "a day", "claimable", "claimed", "ends")
    assert header.split() == " ".join(columns).split()
    assert max(map(len, text.splitlines())) <= width
    flat = " ".join(text.split())
    for part in (
        "working",
        "64.0 MiB shared",
        "claimable",
        renter.key.node_id.hex()[:8],
        "1/0/0",
        "59 min",
        "to earn more",
    ):
        assert part in flat
    assert "…" not in text


def test_no_farmer_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(NoFarmer, match="no farmer"):
        read_report(tmp_path)
    settings(tmp_path).write(tmp_path)
    with pytest.raises(NoFarmer):
        read_report(tmp_path)
    assert not (tmp_path / "farmer.db").exists()


async def test_a_report_takes_few_queries_and_looks_at_no_shard(farmer: Farmer, renter: Renter) -> None:
    await renter.agree()
    queries: list[str] = []

    def trace(_cursor: object, sql: str, _bindings: object) -> bool:
        queries.append(sql)
        return True

    farmer.records._reader.set_exec_trace(trace)
    try:
        make_report(farmer.book, selling_of(farmer.settings), farmer.folder, None, running=True)
    finally:
        farmer.records._reader.set_exec_trace(None)
    assert len(queries) < 12
    assert not any("FROM shard" in sql for sql in queries)
