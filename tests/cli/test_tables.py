"""The tables of status fit a terminal and hide nothing."""

import io
import re
import time
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

from storjfs.cli.tables import _waiting, console, contracts_table, headline


def row(**changes: Any) -> dict[str, Any]:
    made = {
        "farmer": "0123456789abcdef",
        "state": "active",
        "condition": "good",
        "shards": 1234,
        "used": 25_000_000_000,
        "capacity": 64 << 30,
        "last_audit": {"at": time.time() - 22 * 60, "outcome": "passed"},
        "passed": 12,
        "failed": 0,
        "offline": 1,
        "paid": 254,
        "deposit_left": 366_000_000,
        "ends_in": 89.5 * 86400,
    }
    return {**made, **changes}


def shown(width: int, *rows: dict[str, Any]) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    console.print(contracts_table(list(rows), width))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("condition", ["good", "offline", "contained", "failing", "gone"])
@pytest.mark.parametrize("width", [80, 140])
def test_nothing_is_cut_off_in_80_columns(width: int, condition: str) -> None:
    said = shown(width, row(), row(condition=condition))
    assert "\u2026" not in said
    assert max(map(len, said.splitlines())) <= width
    assert ("active" if condition == "good" else condition) in said
    words = re.split(r"\s+", said)
    assert said.count("89 d") == 2
    assert "ends" in words
    for word in ("01234567", "1234", "passed", "22", "12/0/1", "0.000000254", "0.366", "GiB", "89"):
        assert word in words


def test_a_state_that_is_not_the_usual_one_is_told_with_the_condition() -> None:
    assert "ending, offline" in shown(140, row(state="ending", condition="offline"))


@pytest.mark.parametrize(
    ("health", "segments", "said"),
    [
        ("healthy", {}, "healthy"),
        ("degraded", {"degraded": 1}, "redundancy is missing"),
        ("degraded", {}, "all its shards are there"),
        ("at_risk", {"unreadable": 2}, "NOT READABLE AT THE MOMENT"),
        ("at_risk", {"unreadable": 2, "lost": 1}, "DATA AT RISK"),
        ("at_risk", {}, "DATA AT RISK"),
    ],
)
def test_the_headline_says_what_is_so(health: str, segments: dict[str, int], said: str) -> None:
    counts = dict.fromkeys(("full", "degraded", "at_risk", "lost", "unreadable"), 0)
    words, _ = headline({"health": health, "segments": {**counts, **segments}})
    assert said in words


def test_nothing_waits_is_never_said_beside_a_segment_on_its_way() -> None:
    assert _waiting(0, 0).startswith("nothing")
    assert "1 segment " in _waiting(0, 1)
    assert "nothing" not in _waiting(0, 1)
    assert _waiting(5 << 20, 1) == "5.00 MiB to be sent"


@pytest.mark.parametrize("text", ["[fd00::1]:7420", "pip install storjfs[upnp]", "/mnt/[/x]", "a:x:b"])
def test_what_looks_like_markup_is_shown_as_it_is(text: str) -> None:
    out = console()
    out.file = io.StringIO()
    table = Table.grid()
    table.add_row(text)
    out.print(table)
    assert out.file.getvalue().strip() == text
