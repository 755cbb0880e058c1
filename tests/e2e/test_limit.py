"""The local files never take more of the disk than the limit says, on a real mount and under load."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from .drive import PATIENCE, Drive, await_that
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
        assert len(usage.samples) > 100
        assert limit // 3 < usage.most() <= limit
        drive.umount()
    assert drive.examine() == {}


def test_a_smaller_limit_is_kept_as_soon_as_unsent_data_allows_it(drive: Drive) -> None:
    """What was unsent stays, and nothing is added to it until farmers have taken it."""
    drive.init()
    drive.mount()
    content = {number: os.urandom(9 * MIB) for number in range(6)}
    farm = drive.farm_pid()
    os.kill(farm, signal.SIGSTOP)
    for number, data in content.items():
        with open(drive.at / f"file{number}", "wb") as file:
            file.write(data)
            os.fsync(file.fileno())
    unsent = usage_of(drive).look()
    assert unsent > 50 * MIB
    drive.kill()
    os.kill(farm, signal.SIGKILL)
    limit = 16 * MIB
    drive.mount("--cache-size", str(limit))
    with usage_of(drive).watched() as usage:
        programs = loads(drive, 20)
        await_that(lambda: usage.look() <= limit, "the farmers have taken what was unsent")
        settled = time.monotonic()
        finish(drive, programs)
        drive.run("flush")
    assert usage.most(until=settled) <= unsent
    assert usage.most(since=settled) <= limit
    drive.umount()
    drive.mount("--cache-size", str(limit))
    for number, data in content.items():
        assert (drive.at / f"file{number}").read_bytes() == data
    drive.umount()
    assert drive.examine() == {}
