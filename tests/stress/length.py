"""How long the programs run: seconds in continuous integration, ten minutes each in scripts/nightly."""

import os
import time
from collections.abc import Iterator

SECONDS = int(os.environ.get("STORJFS_STRESS_SECONDS", "8"))
"""For each program."""

CRASHES = max(2, SECONDS // 30)
"""How often the mount process is killed under one program."""


def passes(seconds: float = SECONDS) -> Iterator[int]:
    """Numbers from 0 for as long as the time is not over, one at least."""
    end = time.monotonic() + seconds
    number = 0
    while not number or time.monotonic() < end:
        yield number
        number += 1
