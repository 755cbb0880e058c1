"""A drive all of whose files lie on a small disk."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.e2e.drive import Drive, unmounted
from tests.full.disk import MIB, SmallDisk, small_disk

SIZE = 420 * MIB


THOROUGH: Final = os.environ.get("STORJFS_THOROUGH") == "1"
"""On every kind of filesystem: for nights."""


@pytest.fixture(params=["ext4", "tmpfs"] if THOROUGH else ["ext4"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SmallDisk]:
    """A disk of SIZE bytes."""
    with small_disk(tmp_path, request.param, SIZE) as made:
        yield made


@pytest.fixture
def drive(disk: SmallDisk) -> Iterator[Drive]:
    """A drive on it, mounted, that keeps 32 MiB free, as its settings say."""
    with unmounted(disk.at / "home") as made:
        made.init(disk_reserve='"32 MiB"')
        made.mount()
        yield made
