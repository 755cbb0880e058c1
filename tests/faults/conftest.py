"""A folder in memory: thousands of volumes are opened here, and real syncs would say nothing more."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

MEMORY = Path("/dev/shm")


@pytest.fixture
def quick(tmp_path: Path) -> Iterator[Path]:
    """An empty folder on tmpfs, or `tmp_path` where there is none."""
    if not os.access(MEMORY, os.W_OK):
        yield tmp_path
        return
    folder = Path(tempfile.mkdtemp(prefix="storjfs-faults-", dir=MEMORY))
    yield folder
    shutil.rmtree(folder)
