"""`storjfs farm status`: the figures of a farmer as a table, as JSON, once or again and again."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click
import msgspec
from rich.console import Console, Group
from rich.live import Live as Screen
from rich.table import Table
from rich.text import Text

from storjfs.daemon.exit_codes import ReportedError
from storjfs.daemon.farm import ask_facts
from storjfs.farmer.figures import ContractFigures, Day, DiskFigures, Report
from storjfs.farmer.listening import is_local
from storjfs.farmer.live import LineFacts, Live, MeetingFacts
from storjfs.farmer.report import read_report
from storjfs.farmer.schedule import show_rate
from storjfs.protocol.terms import Address
from storjfs.volume import wording

from .tables import NARROW, console

EVERY: Final = 2.0
"""Seconds between two looks with --watch."""
CODES: Final = {"good": 0, "attention": 1, "critical": 2}
HEALTH: Final = {
    "good": ("working", "bold green"),
    "attention": ("working, with something to see to", "bold yellow"),
    "critical": ("LOSING PAY OR CONTRACTS", "bold red"),
}
STYLES: Final = {"critical": "bold red", "warning": "yellow", "notice": "dim"}
DAYS_SHOWN: Final = 7


def look(folder: Path) -> Report:
    """The report of now, whether the farmer runs, does not, or runs and does not answer."""
    try:
        return read_report(folder, ask_facts(folder))
    except (TimeoutError, ReportedError):
        return read_report(folder, answers=False)


def show(folder: Path, as_json: bool) -> int:
    """Once; the exit code."""
    report = look(folder)
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(report), indent=2))
    else:
        out = console()
        out.print(Group(*tables(report, out.width)))
    return CODES[report.health]


def show_again(folder: Path, as_json: bool, sleep: Callable[[float], object] = time.sleep) -> int:
    """Until interrupted; as JSON, one line each time."""
    out = console()
    report = look(folder)
    try:
        if as_json or not out.is_terminal:
            while True:
                _print(out, report, as_json)
                sleep(EVERY)
                report = look(folder)
        with Screen(
            Group(*tables(report, out.width)), console=out, screen=True, auto_refresh=False
        ) as screen:
            while True:
                sleep(EVERY)
                report = look(folder)
                screen.update(Group(*tables(report, out.width)), refresh=True)
    except KeyboardInterrupt:
        return CODES[report.health]


def _print(out: Console, report: Report, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(report)))
    else:
        out.print(Group(*tables(report, out.width), Text("")))


def tables(report: Report, width: int) -> list[Any]:
    """Everything of the report that a person wants at a glance, most important first."""
    words, style = HEALTH[report.health]
    if not report.running:
        words, style = "not running", "bold red" if report.health == "critical" else "bold yellow"
    parts: list[Any] = [Text(words, style=style)]
    for warn in report.warnings:
        parts.append(Text(f"  - {warn.message}", style=STYLES[warn.level]))
        if warn.hint:
            parts.append(Text(f"    {warn.hint}", style="dim"))
    parts.append(_summary(report))
    if len(report.disks) > 1:
        parts.append(_disks(report.disks))
    if report.contracts:
        parts.append(_contracts(report, width))
    if report.days:
        parts.append(_days(report.days[-DAYS_SHOWN:]))
    parts += [Text(f"to earn more: {one.message}") for one in report.suggestions]
    return parts


def _summary(report: Report) -> Table:
    table = Table.grid(padding=(0, 2))
    live, space, money = report.live, report.space, report.money
    table.add_row("identity", report.node_id)
    if live is not None:
        since = wording.duration(report.at - live.since)
        table.add_row("process", f"{live.pid}, for {since}, at {', '.join(live.addresses)}")
        contact = wording.ago(live.last_contact, report.at)
        renters = wording.count(len(live.renters), "renter")
        table.add_row(
            "reachable",
            f"{report.reachable}; {wording.count(live.connections, 'connection')} of {renters}, "
            f"last from another machine: {contact}",
        )
        _reach(table, live)
        table.add_row("strangers", _meeting(live.dht, report.at))
        lan = "announced in the local network" if live.announced_lan else "not announced in the local network"
        table.add_row("found", f"{lan}; {wording.count(live.neighbours, 'other farmer')} known")
        table.add_row("sending", _line(live.sent))
        table.add_row("receiving", _line(live.received))
    elif report.running:
        table.add_row("process", "runs" if report.answers else "runs, and does not answer")
    if report.limit:
        table.add_row("limit", f"{report.limit} {report.schedule or 'always'}")
    table.add_row(
        "space",
        f"{wording.size(space.share)} shared: {wording.size(space.sold)} sold, "
        f"{wording.size(space.stored)} stored, "
        f"{wording.size(space.own)} of its own, {wording.size(space.left)} free; "
        f"{wording.size(space.disk_free)} free on the disk",
    )
    table.add_row(
        "prices",
        f"{wording.money(report.prices.storage)} per GiB and month, "
        f"{wording.money(report.prices.egress)} per GiB sent",
    )
    table.add_row(
        "credits",
        f"earned {wording.money(money.earned)}, promised {wording.money(money.promised)}, claimable "
        f"{wording.money(money.claimable)}, claimed {wording.money(money.claimed)}",
    )
    table.add_row(
        "",
        f"today {wording.money(money.today)}, this month {wording.money(money.this_month)} of about "
        f"{wording.money(money.month_estimate)}",
    )
    return table


def _disks(disks: tuple[DiskFigures, ...]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2))
    for name in ("disk", "state"):
        table.add_column(name)
    for name in ("shared", "used", "shards", "free"):
        table.add_column(name, justify="right")
    for one in disks:
        table.add_row(
            one.folder,
            Text(one.state, style={"working": "", "leaving": "yellow"}.get(one.state, "bold red")),
            *(wording.size(size) for size in (one.share, one.used)),
            str(one.shards),
            wording.size(one.free),
        )
    return table


def _meeting(dht: MeetingFacts | None, now: float) -> str:
    """Whether they find this farmer."""
    if dht is None:
        return "do not find this farmer: it is not announced (dht)"
    if dht.problem:
        return f"do not find this farmer: {dht.problem}"
    kept = wording.count(dht.nodes, "node")
    return f"find this farmer: announced in {dht.network} {wording.ago(dht.announced, now)}, kept by {kept}"


def _reach(table: Table, live: Live) -> None:
    """How that is known, the router's port, the relays; and who is relayed."""
    if live.reach is not None:
        for line in live.reach.words:
            table.add_row("", line)
        local = all(is_local(Address.parse(one).host) for one in live.listening)
        whom = "this machine only" if local else "all who can dial this computer"
        table.add_row("port", f"TCP {live.reach.port}, for {whom}")
        mapping = live.reach.mapping
        if mapping.state == "mapped":
            table.add_row("router", f"forwards {mapping.address} port {mapping.port} ({mapping.how})")
        elif mapping.state != "off":
            table.add_row("router", f"{_ROUTER[mapping.state]}{mapping.problem and f': {mapping.problem}'}")
        for relay in live.reach.relays:
            how = f"{wording.count(relay.streams, 'connection')}" if relay.attached else relay.problem or "-"
            table.add_row("relay", f"{relay.address}: {how}")
    if live.relaying:
        streams = sum(one.streams for one in live.relayed)
        passed = sum(one.to_farmer + one.from_farmer for one in live.relayed)
        attached = sum(one.attached for one in live.relayed)
        table.add_row(
            "relaying",
            f"{wording.count(attached, 'farmer')}, {wording.count(streams, 'connection')}, "
            f"{wording.size(passed)} since yesterday",
        )


_ROUTER: Final = {
    "asking": "is being asked for a port",
    "none": "does not answer to UPnP or NAT-PMP",
    "refused": "does not open a port",
    "missing": "is not asked",
}


def _line(line: LineFacts) -> str:
    said = f"{wording.size(line.rate)}/s, {wording.size(line.total)} since the start"
    if line.limit is not None:
        said += f"; at most {show_rate(line.limit)} now"
    if line.waiting:
        said += f", {wording.count(line.waiting, 'transfer')} waiting"
    return said


def _contracts(report: Report, width: int) -> Table:
    """One row per contract; in 80 columns some cells have two lines, and nothing is cut off."""
    narrow = width <= NARROW
    table = Table(box=None, pad_edge=False, padding=(0, 1 if narrow else 2, 0, 0), header_style="bold")
    table.add_column("renter", no_wrap=True)
    table.add_column("state", min_width=8)
    table.add_column("stored", min_width=8)
    table.add_column("audits", min_width=9)
    for column in ("earned", "a day", "claimable", "claimed", "ends"):
        table.add_column(column, justify="right", no_wrap=True)
    for one in report.contracts:
        table.add_row(*_contract(report, one))
    table.caption = (
        "audits: the last; how many were answered / of these too late / shards not proved. "
        "Money is in credits."
    )
    table.caption_justify = "left"
    return table


def _contract(report: Report, one: ContractFigures) -> list[str | Text]:
    state = Text(one.state) if one.paying else Text(f"{one.state}, must pay first", style="yellow")
    last = "-" if one.last_audit is None else f"{wording.briefly(report.at - one.last_audit)} ago"
    return [
        wording.short_id(one.renter),
        state,
        f"{wording.size(one.used)} of {wording.size(one.capacity)}",
        Text(f"{last} {one.audits}/{one.late}/{one.lost}", style="red" if one.lost else ""),
        wording.money(one.earned),
        wording.money(one.per_day),
        wording.money(one.lane.claimable),
        wording.money(one.claimed),
        wording.briefly(one.ends_at - report.at),
    ]


def _days(days: tuple[Day, ...]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("day", no_wrap=True)
    for column in ("earned", "promised", "claimed", "audits", "received", "sent", "ran"):
        table.add_column(column, justify="right", no_wrap=True)
    for day in reversed(days):
        table.add_row(
            day.day,
            wording.money(day.earned),
            wording.money(day.promised),
            wording.money(day.claimed),
            str(day.audits),
            wording.size(day.received),
            wording.size(day.sent),
            wording.duration(day.up),
        )
    return table
