"""Volumes to be damaged: one whose farmers run in a process of their own, and one with farmers in memory."""

from pathlib import Path

import pytest
import trio

from storjfs.volume import VolumePaths
from tests.integrity.volume import Sample, make
from tests.real_drives import make_volume


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> VolumePaths:
    return make_volume(tmp_path, monkeypatch)


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    """Only to be copied."""
    sample = Sample(tmp_path_factory.mktemp("original") / "volume")
    trio.run(make, sample)
    return sample


@pytest.fixture
def sample(original: Sample, tmp_path: Path) -> Sample:
    return original.copy_to(tmp_path / "volume")
