"""How a farmer is doing, from its records: what it shares, holds, proves and earns, whether it runs or not.

What only the running process knows comes from it (`storjfs.farmer.live`); what all that means says `advice`.
"""

import datetime
import fcntl
import os
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from storjfs.errors import StorjfsError
from storjfs.farmer.advice import health_of, warnings
from storjfs.farmer.book import Book, ContractEntry
from storjfs.farmer.damage import count_damaged
from storjfs.farmer.disks import stored
from storjfs.farmer.earning import suggestions
from storjfs.farmer.figures import (
    SCHEMA,
    ContractFigures,
    Day,
    LaneFigures,
    Money,
    Prices,
    Report,
    Run,
    ScrubFigures,
)
from storjfs.farmer.history import ALL, BEFORE, DAY, Sums
from storjfs.farmer.identity import load_identity
from storjfs.farmer.live import Live, Selling, selling_of
from storjfs.farmer.reachability import State
from storjfs.farmer.records import Records
from storjfs.farmer.scrub import last_pass
from storjfs.farmer.settings import FarmerSettings
from storjfs.farmer.space import space_of_all
from storjfs.protocol.contracts import SERVES_SHARDS
from storjfs.protocol.terms import GIB, MONTH
from storjfs.volume import wording

DAYS_SHOWN: Final = 31
EGRESS_DAYS: Final = 7
"""Days over whose egress the estimate averages."""
RUNS_SHOWN: Final = 16
LOCAL: Final = ("127.", "[::1]", "localhost")


class NoFarmer(StorjfsError):
    """There is no farmer in this folder."""


def brief(book: Book, share: int) -> str:
    """One line for people."""
    served = [entry for entry in book.contracts.values() if entry.state in SERVES_SHARDS]
    promised, _ = book.totals()
    unpaid = sum(not entry.lane.account.serving for entry in served)
    parts = [
        f"{wording.size(stored(book.records))} of {wording.size(share)} used, "
        f"{wording.size(book.reserved)} sold",
        wording.count(len(served), "contract"),
        wording.count(sum(entry.shards for entry in book.contracts.values()), "shard"),
        f"earned {wording.money(promised)} credits",
    ]
    if damaged := count_damaged(book.records):
        parts.append(f"{wording.count(damaged, 'shard')} damaged")
    if unpaid:
        parts.append(f"{unpaid} must pay first")
    return " · ".join(parts)


def newest_moment(records: Records) -> float:
    """The latest time that farmer.db knows of, seconds since 1970; 0 in a new one."""
    ((seen,),) = records.read("SELECT coalesce(max(seen), 0) FROM life")
    changes = records.read("SELECT time FROM transition ORDER BY number DESC LIMIT 1")
    return float(max(seen, *(row[0] for row in changes), 0))


def read_report(folder: Path, live: Live | None = None, *, answers: bool = True) -> Report:
    """The report of the farmer in `folder`. `answers`: False where it runs and does not say a word.

    Blocking. Raises NoFarmer, SettingsError, StoreError.
    """
    found = FarmerSettings.read(folder) if live is None else None
    selling = live.selling if live is not None else selling_of(found) if found is not None else None
    if selling is None or not (folder / "farmer.db").exists():
        raise NoFarmer(
            f"there is no farmer in {folder}", hint=f"Make one: storjfs farm --at {folder} --share 100GB"
        )
    records = Records(folder / "farmer.db")
    try:
        book = Book(records, time.time)
        return make_report(book, selling, folder, live, running=is_running(folder), answers=answers)
    finally:
        records.close()


def make_report(
    book: Book,
    selling: Selling,
    folder: Path,
    live: Live | None,
    *,
    running: bool,
    answers: bool = True,
) -> Report:
    """The report from what `book` holds."""
    now = book.clock()
    today = int(now) // DAY
    shown = _days_by_contract(book, today - DAYS_SHOWN + 1)
    space, disks = space_of_all(book, selling, folder)
    report = Report(
        schema=SCHEMA,
        at=now,
        health="",
        warnings=(),
        suggestions=(),
        node_id=load_identity(folder).node_id.hex(),
        folder=str(folder),
        running=running,
        answers=running and answers,
        reachable=_reachable(live, running=running),
        listen=selling.listen,
        limit=selling.limit,
        schedule=selling.schedule,
        space=space,
        disks=disks,
        prices=Prices(selling.price, selling.egress_price),
        money=_money(book, shown.get(ALL, {}), now),
        contracts=_contracts(book, shown),
        days=_days(shown.get(ALL, {})),
        runs=tuple(Run(run.started, run.seen, run.stopped) for run in book.history.lives()[:RUNS_SHOWN]),
        live=live,
        damaged=count_damaged(book.records),
        scrub=_scrub(book),
    )
    found = warnings(report)
    return replace(report, warnings=found, suggestions=suggestions(report), health=health_of(found))


def is_running(folder: Path) -> bool:
    """Whether a process has locked the farmer's folder."""
    file = os.open(folder / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False


def _reachable(live: Live | None, *, running: bool) -> str:
    if live is None:
        return "unknown" if running else "no"
    reach = live.reach
    if reach is not None and reach.state == State.CLOSED:
        return "through a relay" if reach.relayed else "no"
    if reach is not None and reach.state == State.OPEN:
        return "yes"
    # That one in the same network came says nothing of others.
    nearby_only = reach is not None and any(trial.reached for trial in reach.trials)
    if live.last_contact is not None and not nearby_only:
        return "yes"
    local = all(address.startswith(LOCAL) for address in live.listening)
    return "this machine only" if local else "unknown"


def _scrub(book: Book) -> ScrubFigures | None:
    one = last_pass(book.records)
    return ScrubFigures(one.began, one.ended, one.shards, one.size, one.damaged) if one is not None else None


# --- money ---


def _money(book: Book, days: Mapping[int, Sums], now: float) -> Money:
    promised, claimed = book.totals()
    today = int(now) // DAY
    moment = datetime.datetime.fromtimestamp(now, datetime.UTC)
    first = today - moment.day + 1
    next_month = (moment.replace(day=28) + datetime.timedelta(days=4)).replace(
        day=1, hour=0, minute=0, second=0
    )
    left = max(next_month.timestamp() - now, 0.0) / DAY
    this_month = sum(sums.earned for day, sums in days.items() if day >= first)
    per_day = sum(map(_per_day, book.contracts.values())) + _egress_per_day(book, days, today)
    return Money(
        earned=book.earned(),
        promised=promised,
        claimable=sum(max(lane.unclaimed, 0) for lane in book.lanes.values()),
        claimed=claimed,
        today=days[today].earned if today in days else 0,
        this_month=this_month,
        month_estimate=this_month + int(left * per_day),
        per_day=per_day,
    )


def _per_day(entry: ContractEntry) -> int:
    """What the shards under a contract earn in a day, if each is proved and paid."""
    if entry.state not in SERVES_SHARDS or not entry.lane.account.serving:
        return 0
    return entry.terms.price * entry.used * DAY // (GIB * MONTH)


def _egress_per_day(book: Book, days: Mapping[int, Sums], today: int) -> int:
    """The mean of the last whole days; of today alone on a farmer's first day."""
    lives = book.history.lives()
    known = min(today - lives[-1].started // DAY, EGRESS_DAYS) if lives else 0
    if known < 1:
        return days[today].egress if today in days else 0
    return sum(sums.egress for day, sums in days.items() if today - known <= day < today) // known


# --- contracts and days ---


def _days_by_contract(book: Book, since: int) -> dict[int, dict[int, Sums]]:
    found: dict[int, dict[int, Sums]] = defaultdict(dict)
    for day, contract, sums in book.history.all_days(since):
        found[contract][day] = sums
    return found


def _days(days: Mapping[int, Sums]) -> tuple[Day, ...]:
    return tuple(
        Day(
            day=(datetime.date(1970, 1, 1) + datetime.timedelta(days=day)).isoformat(),
            earned=sums.earned,
            promised=sums.promised,
            claimed=sums.claimed,
            audits=sums.audits,
            late=sums.late,
            lost=sums.lost,
            received=sums.received,
            sent=sums.sent,
            up=sums.up,
        )
        for day, sums in sorted(days.items())
    )


def _contracts(book: Book, shown: Mapping[int, dict[int, Sums]]) -> tuple[ContractFigures, ...]:
    ever = book.history.by_contract(BEFORE)
    audited = dict(book.records.read("SELECT contract, max(time) FROM audit GROUP BY contract"))
    return tuple(
        _contract(
            entry, ever.get(entry.number, Sums()), audited.get(entry.number), shown.get(entry.number, {})
        )
        for entry in sorted(book.contracts.values(), key=lambda one: one.number)
    )


def _contract(
    entry: ContractEntry, ever: Sums, last_audit: int | None, days: Mapping[int, Sums]
) -> ContractFigures:
    terms, lane, account = entry.terms, entry.lane, entry.lane.account
    breach_at = entry.unpaid_since + terms.payment_grace if entry.unpaid_since is not None else None
    return ContractFigures(
        number=entry.number,
        contract=entry.contract_id.hex(),
        renter=entry.renter.hex(),
        state=entry.state.value,
        served=entry.state in SERVES_SHARDS,
        paying=account.serving,
        capacity=terms.capacity,
        used=entry.used,
        shards=entry.shards,
        price=terms.price,
        egress_price=terms.egress_price,
        ends_at=terms.end,
        audit_period=terms.audit_period,
        offline_grace=terms.offline_grace,
        unpaid_audits=account.unpaid_audits,
        breach_at=breach_at,
        last_audit=last_audit,
        audits=ever.audits,
        late=ever.late,
        lost=ever.lost,
        earned=ever.earned,
        promised=ever.promised,
        claimed=ever.claimed,
        per_day=_per_day(entry),
        lane=LaneFigures(
            lane=lane.lane_id.hex(),
            deposit=lane.deposit,
            promised=account.paid,
            claimed=lane.claimed,
            claimable=max(lane.unclaimed, 0),
            expiry=lane.expiry,
            open=lane.open,
        ),
        days=_days(days),
    )
