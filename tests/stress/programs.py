"""Running the programs: their output in the error where they fail, their time bounded."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.e2e.drive import PATIENCE

from .length import SECONDS


def run(command: Sequence[object], at: Path, *, ends: Sequence[int] = (0,)) -> str:
    """Run a program in a folder; what it printed. It must end with one of the codes in `ends`."""
    name, *words = (str(word) for word in command)
    program = shutil.which(name, path=os.environ.get("PATH", os.defpath) + ":/usr/sbin")
    assert program, f"{name} is missing: scripts/prepare installs what these tests run"
    done = subprocess.run(
        [program, *words],
        cwd=at,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        errors="replace",
        timeout=20 * SECONDS + 4 * PATIENCE,
    )
    assert done.returncode in ends, (
        f"{name} {' '.join(words)}: exit {done.returncode}\n{done.stdout[-20_000:]}"
    )
    return done.stdout
