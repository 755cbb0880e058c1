"""A drive on farmers of three sites, whose lines are slow and lossy, which are cut off and which restart."""

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.e2e.drive import PATIENCE, Drive, await_that, unmounted
from tests.e2e.load import verify
from tests.e2e.silence import forget_pages
from tests.farmer.process import status

from .lab import lab
from .sites import Farmer, Sites, sites

MIB = 1 << 20
THOROUGH: Final = os.environ.get("STORJFS_THOROUGH") == "1"
"""Longer, and on each site: for nights."""
STEPS: Final = 200 if THOROUGH else 20
"""Of each program that uses the drive meanwhile."""
CACHE: Final = "16M"
"""So little that what is read again comes from farmers."""


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Sites]:
    """Farmers, and a drive that is mounted on them; each network is as the test left it until the end."""
    with lab() as net, unmounted(tmp_path / "home") as drive, sites(net, drive, tmp_path) as made:
        drive.mount("--cache-size", CACHE)
        yield made


class Load:
    """Programs that write, overwrite, read, cut and delete files until they are through."""

    def __init__(self, drive: Drive, count: int) -> None:
        self.folders = [drive.at / f"program{number}" for number in range(count)]
        self._running = [
            subprocess.Popen(
                [sys.executable, "-m", "tests.e2e.load", str(folder), str(seed), str(STEPS)],
                stderr=subprocess.PIPE,
            )
            for seed, folder in enumerate(self.folders)
        ]

    def under_way(self) -> bool:
        """Whether one of them still works."""
        return any(one.poll() is None for one in self._running)

    def finish(self) -> None:
        """All of them have to have found everything as it should be."""
        for one in self._running:
            _, errors = one.communicate(timeout=4 * PATIENCE)
            assert one.returncode == 0, errors.decode()

    def stop(self) -> None:
        """Whatever state they are in."""
        for one in self._running:
            if one.poll() is None:
                one.kill()
            one.communicate()


class Files:
    """Files whose content is known."""

    def __init__(self, drive: Drive) -> None:
        self._drive = drive
        self._random = random.Random(11)
        self.content: dict[str, bytes] = {}

    def write(self, name: str, size: int) -> None:
        """With an fsync."""
        self.content[name] = self._random.randbytes(size)
        with open(self._drive.at / name, "wb") as file:
            file.write(self.content[name])
            file.flush()
            os.fsync(file.fileno())

    def check(self) -> None:
        """Every byte of every file, past the kernel's caches."""
        for name, content in self.content.items():
            forget_pages(self._drive.at / name)
            found = (self._drive.at / name).read_bytes()
            assert hashlib.sha256(found).digest() == hashlib.sha256(content).digest(), name


def restart(site: list[Farmer], files: Files) -> None:
    """One after a power cut and one as `systemctl restart` does, the one behind a router if it is there."""
    site[0].stop(signal.SIGKILL)
    site[3].stop(signal.SIGTERM)
    files.check()
    site[0].start()
    site[3].start()


def all_answer(drive: Drive) -> bool:
    """Whether every contract is as it should be."""
    said = drive.status()["contracts"]
    return all(one["condition"] == "good" and one["state"] == "active" for one in said)


def whole(drive: Drive) -> bool:
    """Whether nothing is missing anywhere."""
    said = drive.status()
    return (said["health"], said["segments"]["total"]) == ("healthy", said["segments"]["full"])


def test_nothing_is_lost_on_lines_that_are_slow_lossy_and_cut(world: Sites) -> None:
    """Under load. What `flush` confirmed is read from farmers meanwhile, whichever site is away."""
    drive = world.drive
    files = Files(drive)
    for number in range(3):
        files.write(f"before{number}", 8 * MIB)
    drive.run("flush")
    load = Load(drive, 2)
    try:
        for number, network in enumerate(world.networks if THOROUGH else world.networks[:2]):
            network.cut(silently=number != 1)
            files.write(f"without{number}", MIB)
            files.check()
            network.heal()
            # Of another site, so that what one of the two ended can do is tried without the other.
            restart(world.farmers[(number + 1) % 3], files)
        load.finish()
    finally:
        load.stop()
    drive.run("flush", timeout=2 * PATIENCE)
    # A few missing shards would be rebuilt later; here at once.
    await_that(lambda: all_answer(drive), "all farmers are back")
    drive.run("repair", timeout=2 * PATIENCE)
    await_that(lambda: whole(drive), "every segment is whole", told=drive.status)
    drive.umount()
    shutil.rmtree(drive.paths().cache_dir)
    drive.mount()
    files.check()
    for folder in load.folders:
        verify(folder)
    everybody_is_paid(world)
    drive.umount()
    assert drive.examine() == {}


def everybody_is_paid(world: Sites) -> None:
    """After an audit of all shards, which finds them."""
    drive = world.drive
    drive.run("audit", "--now")
    assert sum(one["failed"] for one in drive.status()["contracts"]) == 0
    for one in world.all():
        report = status(one.at)
        assert report["money"]["earned"] > 0, one.at
        assert len(report["contracts"]) == 1
