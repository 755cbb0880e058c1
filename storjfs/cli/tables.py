"""The status report as a person reads it; the report itself is made in storjfs.daemon.status."""

import time
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from storjfs.volume import wording

# Columns where the output is no terminal.
WIDTH_ELSEWHERE = 140
# Up to so many columns, those of a table stand closer.
NARROW = 100

HEALTH = {
    "healthy": ("healthy", "bold green"),
    "degraded": ("degraded: some redundancy is missing, all data is there", "bold yellow"),
    "at_risk": ("DATA AT RISK", "bold red"),
}
# Where the health alone would say something else than what is so.
UNREADABLE = ("DATA NOT READABLE AT THE MOMENT: it is not lost, but too few farmers answer", "bold red")
ATTENTION = ("degraded: all data and all its shards are there, but see below", "bold yellow")
CONDITIONS = {"good": "green", "offline": "yellow", "contained": "yellow", "failing": "red", "gone": "red"}
OUTCOMES = {"passed": "green", "failed": "red", "offline": "yellow"}


def print_status(report: dict[str, Any], console: Console) -> None:
    """Everything of the report, most important first."""
    words, style = headline(report)
    console.print(Text(words, style=style))
    for problem in report["problems"]:
        console.print(Text(f"  - {problem}"))
    for warning in report.get("warnings", ()):
        console.print(Text(f"  ! {warning}"))
    console.print(_summary(report))
    if report["contracts"]:
        console.print(contracts_table(report["contracts"], console.width))
    for name in report.get("lost_files") or []:
        console.print(Text(f"lost in part: {name}", style="red"))


def headline(report: dict[str, Any]) -> tuple[str, str]:
    """What the health is, in words, and the style for them."""
    health, segments = report["health"], report["segments"]
    if health == "at_risk" and segments["unreadable"] and not (segments["lost"] or segments["at_risk"]):
        return UNREADABLE
    if health == "degraded" and not segments["degraded"]:
        return ATTENTION
    return HEALTH[health]


def _summary(report: dict[str, Any]) -> Table:
    """Volume, mount, data, segments, money: a line each."""
    table = Table.grid(padding=(0, 2))
    volume, mount, data, segments = report["volume"], report["mount"], report["data"], report["segments"]
    k, n = volume["k"], volume["n"]
    kept = f"any {k} of {n} shards give a segment back" if n else "no farmers yet"
    if 0 < k == n:
        kept = "no redundancy: every shard of a segment is needed, what one farmer loses is lost"
    table.add_row("volume", f"{volume['name']}, {kept}")
    if volume["all_on_this_machine"]:
        table.add_row("", "all farmers are on this machine: privacy yes, protection against disk loss no")
    if mount:
        since = wording.duration(time.time() - mount["since"])
        table.add_row(
            "mount", f"{mount['mountpoint']} ({', '.join(mount['options'])}), {mount['state']} for {since}"
        )
    elif report["dead_mount"]:
        died = f"its process on {report['dead_mount']} has died: mount it again, and it goes on where it was"
        table.add_row("mount", f"{died}; what is known from the last one")
    else:
        table.add_row("mount", "not mounted; what is known from the last one")
    table.add_row("stored", wording.size(data["stored"]))
    if data["free"] is not None:
        table.add_row("free", wording.size(data["free"]))
    table.add_row("waiting", _waiting(data["waiting"], segments["waiting"]))
    table.add_row("cached", f"{wording.size(data['cached'])} of at most {wording.size(data['cache_limit'])}")
    table.add_row(
        "segments",
        f"{segments['total']}: {segments['full']} full, {segments['degraded']} degraded, "
        f"{segments['at_risk']} at risk, {segments['lost']} lost, {segments['waiting']} on the way",
    )
    money = report["money"]
    said = f"paid {wording.money(money['paid'])}, deposits left {wording.money(money['deposit_left'])}"
    if money["balance"] is not None:
        said += f", balance {wording.money(money['balance'])}"
    table.add_row("credits", said)
    return table


def _waiting(size: int, segments: int) -> str:
    """What is not with enough farmers yet; a segment on its way may hold nothing that anything needs."""
    if size:
        return f"{wording.size(size)} to be sent"
    if segments:
        return f"no data; {wording.count(segments, 'segment')} without data that anything needs"
    return "nothing: all data is with the farmers"


def contracts_table(contracts: list[dict[str, Any]], width: int) -> Table:
    """One row per contract; in 80 columns some cells have two lines, and nothing is cut off."""
    now = time.time()
    gap = 2 if width > NARROW else 1
    table = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style="bold")
    table.add_column("farmer", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("shards", justify="right", no_wrap=True)
    table.add_column("used", min_width=11)
    table.add_column("last audit", min_width=10)
    for column in ("p/f/o", "paid", "left", "ends"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in contracts:
        last = row["last_audit"]
        audit = Text("-")
        if last:
            outcome = f"{last['outcome']} {wording.briefly(now - last['at'])} ago"
            audit = Text(outcome, style=OUTCOMES.get(last["outcome"], ""))
        told = [row["state"], row["condition"]]
        if row["condition"] == "good":
            told.pop()
        elif row["state"] == "active":
            told.pop(0)  # what is wrong says enough
        table.add_row(
            wording.short_id(row["farmer"]),
            Text(", ".join(told), style=CONDITIONS.get(row["condition"], "")),
            str(row["shards"]),
            f"{wording.size(row['used'])} of {wording.size(row['capacity'])}",
            audit,
            f"{row['passed']}/{row['failed']}/{row['offline']}",
            wording.money(row["paid"]),
            wording.money(row["deposit_left"]),
            wording.briefly(row["ends_in"]),
        )
    if contracts:
        table.caption = "p/f/o: audits of a shard that passed, failed, got no answer. Money is in credits."
        table.caption_justify = "left"
    return table


def console() -> Console:
    """For standard output; where that is no terminal, rows are not wrapped.

    Text is shown as it is: `[fd00::1]:7420` or a folder `[old]` is no markup.
    """
    made = Console(highlight=False, markup=False, emoji=False)
    if not made.is_terminal:
        made.width = WIDTH_ELSEWHERE
    return made
