"""One drive per test that any user of the machine can reach, and a table of what ran."""

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.drive import Drive, unmounted

RAN = "ran"
"""Property of a test's report: program, what it did, for how many seconds."""

Told = Callable[[str], None]


@pytest.fixture
def open_home() -> Iterator[Path]:
    """A folder like tmp_path that other users may pass through (pytest's own is closed to them)."""
    with tempfile.TemporaryDirectory(prefix="storjfs-stress-", ignore_cleanup_errors=True) as made:
        os.chmod(made, 0o711)
        yield Path(made)


@pytest.fixture
def drive(open_home: Path) -> Iterator[Drive]:
    """A drive that is not yet mounted."""
    with unmounted(open_home) as made:
        yield made


@pytest.fixture
def mounted(drive: Drive) -> Drive:
    """A drive with a fresh volume, mounted."""
    drive.mount()
    return drive


@pytest.fixture
def tell(request: pytest.FixtureRequest) -> Told:
    """Say what ran, for the table at the end; call it when it has."""
    start = time.monotonic()

    def told(what: str) -> None:
        request.node.user_properties.append((RAN, (what, time.monotonic() - start)))

    return told


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The table: each program, how long it ran, on what, and how it ended."""
    rows = []
    for outcome in ("passed", "failed", "error"):
        for report in terminalreporter.getreports(outcome):
            if report.when == "call" and "tests/stress/" in report.nodeid:
                told = [value for name, value in report.user_properties if name == RAN]
                if report.passed and not told:
                    continue  # not a program's run
                what, seconds = told[-1] if told else ("did not get to its end", report.duration)
                name = report.nodeid.rsplit("::", 1)[1].removeprefix("test_").replace("_", " ")
                rows.append((name, f"{seconds:.0f} s", report.outcome, what))
    if rows:
        terminalreporter.section("programs on the mount")
        for name, ran, result, what in sorted(rows):
            terminalreporter.write_line(f"{name:48} {ran:>7}  {result:7} {what}")
