"""The local files never take more of the disk than the limit says, on a real mount and under load."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from .drive import PATIENCE, Drive
from .usage import usage_of

MIB = 1 << 20
PROGRAMS = 4
TOP = Path(__file__).parents[2]


def loads(drive: Drive, steps: int) -> list[subprocess.Popen[str]]:
    """Programs at work on the mount, each in a folder of its own."""
    return [
        subprocess.Popen(
            [sys.executable, "-m", "tests.e2e.load", str(drive.at / f"program{seed}"), str(seed), str(steps)],
            cwd=TOP,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for seed in range(PROGRAMS)
    ]


def finish(drive: Drive, programs: list[subprocess.Popen[str]]) -> None:
    """Wait until all have ended well."""
    try:
        for program in programs:
            said, _ = program.communicate(timeout=5 * PATIENCE)
            assert program.returncode == 0, said + drive.log()
    finally:
        for program in programs:
            program.kill()
            program.wait()


def test_the_limit_holds_under_load_and_across_restarts(drive: Drive) -> None:
    drive.init()
    for limit, steps in ((16 * MIB, 80), (48 * MIB, 0), (16 * MIB, 0)):
        drive.mount("--cache-size", str(limit))
        with usage_of(drive).watched() as usage:
            finish(drive, loads(drive, steps))
            drive.run("flush")
        assert usage.samples > 100
        assert limit // 3 < usage.most <= limit
        drive.umount()
    assert drive.examine() == {}
