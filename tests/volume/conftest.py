from pathlib import Path

import pytest

from storjfs.volume import VolumePaths


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """An environment in which everything lies under one empty home directory."""
    return {"HOME": str(tmp_path / "home"), "XDG_RUNTIME_DIR": str(tmp_path / "run")}


@pytest.fixture
def paths(home: dict[str, str]) -> VolumePaths:
    """The paths of a volume that does not exist yet."""
    return VolumePaths("default", home)
