"""A mounted drive per test; without FUSE these tests fail, they do not skip."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from .drive import Drive


@pytest.fixture
def drive(tmp_path: Path) -> Iterator[Drive]:
    """A drive that is not yet mounted."""
    assert Path("/dev/fuse").exists(), "these tests mount for real: /dev/fuse is missing"
    made = Drive(tmp_path)
    yield made
    made.stop()


@pytest.fixture
def mounted(drive: Drive) -> Drive:
    """A drive with a fresh volume, mounted."""
    drive.mount()
    return drive
