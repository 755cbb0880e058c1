"""A drive all of whose files lie on a small disk."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.drive import Drive, unmounted
from tests.full.disk import MIB, SmallDisk, small_disk

SIZE = 420 * MIB


@pytest.fixture(params=["ext4", "tmpfs"])
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
