"""A volume whose farmers run in a process of their own."""

from pathlib import Path

import pytest

from storjfs.volume import VolumePaths
from tests.real_drives import make_volume


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> VolumePaths:
    return make_volume(tmp_path, monkeypatch)
