"""Benchmarks that simulate a file server's clients and a disk's bad days, run for their checks."""

import getpass
import os
import shutil
from pathlib import Path

from tests.e2e.drive import Drive

from .conftest import Told
from .length import SECONDS, passes
from .programs import run

LOAD = Path("/usr/share/dbench/client.txt")


def test_dbench(mounted: Drive, tell: Told) -> None:
    """Four clients with open, write, flush, rename, unlink and locks, as recorded from a file server."""
    at = mounted.at / "clients"
    at.mkdir()
    load = ["-c", LOAD] if LOAD.exists() else []
    printed = run(["dbench", "-D", at, *load, "-t", str(SECONDS), "-F", "-s", "4"], mounted.home)
    assert "Throughput" in printed, printed
    printed = printed.replace("failed to create barrier semaphore", "")  # only how its processes start
    for sign in ("failed", "ERROR", "error"):
        assert sign not in printed, printed[-5000:]
    tell(printed[printed.rindex("Throughput") :].splitlines()[0])
    shutil.rmtree(at)


def test_bonnie(mounted: Drive, tell: Told) -> None:
    """Large files by byte, by block and at random; many small files made, read and deleted."""
    at = mounted.at / "bonnie"
    at.mkdir()
    mebibytes, files = (64, 2) if SECONDS < 60 else (1024, 16)
    command = ["bonnie++", "-d", at, "-r", "0", "-s", f"{mebibytes}m", "-n", f"{files}:20000:0:8", "-q"]
    if os.geteuid() == 0:
        command += ["-u", getpass.getuser()]
    rounds = 0
    for _ in passes():
        rounds += 1
        printed = run(command, mounted.home)
        assert os.listdir(at) == [], "bonnie++ leaves nothing behind"
        assert "error" not in printed.lower(), printed
    tell(f"{rounds} runs of {mebibytes} MiB and {files * 1024} files")
