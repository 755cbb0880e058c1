"""The status report as a person reads it; the report itself is made in storjfs.daemon.status."""

import time
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from . import wording

HEALTH = {
    "healthy": ("healthy", "bold green"),
    "degraded": ("degraded: some redundancy is missing, all data is there", "bold yellow"),
    "at_risk": ("DATA AT RISK", "bold red"),
}
CONDITIONS = {"good": "green", "offline": "yellow", "contained": "yellow", "failing": "red", "gone": "red"}
OUTCOMES = {"passed": "green", "failed": "red", "offline": "yellow"}


def print_status(report: dict[str, Any], console: Console) -> None:
    """Everything of the report, most important first."""
    words, style = HEALTH[report["health"]]
    console.print(Text(words, style=style))
    for problem in report["problems"]:
        console.print(Text(f"  - {problem}"))
    console.print(_summary(report))
    if report["contracts"]:
        console.print(contracts_table(report["contracts"]))
    for name in report.get("lost_files") or []:
        console.print(Text(f"lost in part: {name}", style="red"))


def _summary(report: dict[str, Any]) -> Table:
    """Volume, mount, data, segments, money: a line each."""
    table = Table.grid(padding=(0, 2))
    volume, mount, data, segments = report["volume"], report["mount"], report["data"], report["segments"]
    kept = (
        f"any {volume['k']} of {volume['n']} shards give a segment back" if volume["n"] else "no farmers yet"
    )
    table.add_row("volume", f"{volume['name']}, {kept}")
    if volume["all_on_this_machine"]:
        table.add_row("", "all farmers are on this machine: privacy yes, protection against disk loss no")
    if mount:
        since = wording.duration(time.time() - mount["since"])
        table.add_row(
            "mount", f"{mount['mountpoint']} ({', '.join(mount['options'])}), {mount['state']} for {since}"
        )
    else:
        table.add_row("mount", "not mounted; what is known from the last one")
    table.add_row("stored", wording.size(data["stored"]))
    waiting = wording.size(data["waiting"])
    table.add_row(
        "waiting", f"{waiting} to be sent" if data["waiting"] else "nothing: all data is with the farmers"
    )
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


def contracts_table(contracts: list[dict[str, Any]]) -> Table:
    """One row per contract."""
    now = time.time()
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("farmer", "state"):
        table.add_column(column, no_wrap=True)
    for column in (
        "shards",
        "used",
        "of",
        "last audit",
        "passed/failed/offline",
        "paid",
        "deposit left",
        "ends in",
    ):
        table.add_column(column, justify="right")
    for row in contracts:
        last = row["last_audit"]
        audit = Text("-")
        if last:
            audit = Text(
                f"{last['outcome']} {wording.ago(last['at'], now)}", style=OUTCOMES.get(last["outcome"], "")
            )
        state = row["state"] if row["condition"] == "good" else f"{row['state']}, {row['condition']}"
        table.add_row(
            wording.short_id(row["farmer"]),
            Text(state, style=CONDITIONS.get(row["condition"], "")),
            str(row["shards"]),
            wording.size(row["used"]),
            wording.size(row["capacity"]),
            audit,
            f"{row['passed']}/{row['failed']}/{row['offline']}",
            wording.money(row["paid"]),
            wording.money(row["deposit_left"]),
            wording.duration(row["ends_in"]),
        )
    return table
