"""Each test runs twice: on a mounted drive, and on a local filesystem, which checks the expectation."""

import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.drive import Drive

_rounds = itertools.count()


@dataclass(frozen=True)
class Place:
    """A fresh directory that everybody may enter. `mounted`: it lies on the drive."""

    at: Path
    mounted: bool


@pytest.fixture(scope="session")
def conformance_home() -> Iterator[Path]:
    """A folder that other users can reach, unlike pytest's own."""
    home = Path(tempfile.mkdtemp(prefix="storjfs-conformance-"))
    home.chmod(0o755)
    yield home
    shutil.rmtree(home)


@pytest.fixture(scope="session")
def conformance_drive(conformance_home: Path) -> Iterator[Drive]:
    """One drive for all tests, shared with other users where we are root."""
    assert Path("/dev/fuse").exists(), "these tests mount for real: /dev/fuse is missing"
    drive = Drive(conformance_home)
    drive.mount(*(["-o", "allow_other"] if os.getuid() == 0 else []))
    yield drive
    drive.stop()


@pytest.fixture(params=["local", "mount"])
def place(request: pytest.FixtureRequest, conformance_home: Path) -> Iterator[Place]:
    """Where the statement of the test must hold."""
    if request.param == "mount":
        parent = request.getfixturevalue("conformance_drive").at
    else:
        parent = conformance_home / "local"
        parent.mkdir(exist_ok=True)
    at = parent / f"test{next(_rounds)}"
    at.mkdir()
    before = os.umask(0o022)
    yield Place(at, request.param == "mount")
    os.umask(before)
    shutil.rmtree(at)


@pytest.fixture
def at(place: Place) -> Path:
    """The directory of the place, for tests to which nothing else matters."""
    return place.at
