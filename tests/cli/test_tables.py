"""The tables of status fit a terminal and hide nothing."""

import io
import re
import time
from typing import Any

import pytest
from rich.console import Console

from storjfs.cli.tables import contracts_table


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
