"""A mounted drive per test; without FUSE these tests fail, they do not skip."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from .drive import Drive, unmounted


@pytest.fixture
def drive(tmp_path: Path) -> Iterator[Drive]:
    """A drive that is not yet mounted."""
    with unmounted(tmp_path) as made:
        yield made


@pytest.fixture
def mounted(drive: Drive) -> Drive:
    """A drive with a fresh volume, mounted."""
    drive.mount()
    return drive
