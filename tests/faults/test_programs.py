"""SQLite and LMDB on a mount: after a power cut each opens, whole, with all commits that had returned."""

import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio

from tests.faults.cuts import THOROUGH, Cut, announce, cuts, volume_of
from tests.faults.databases import DATABASES, Database, content
from tests.faults.recording import Entry, Kind, read_record, recorded
from tests.faults.volume import opened

COMMITS = 20 if THOROUGH else 15
SHARE = 0.007


@dataclass
class Progress:
    """Which commits had begun and which had returned, by database."""

    begun: dict[str, int] = field(default_factory=dict)
    committed: dict[str, int] = field(default_factory=dict)

    def note(self, entry: Entry) -> None:
        words = entry.path.split()
        if entry.kind is Kind.MARK and words[0] in ("begun", "committed"):
            (self.begun if words[0] == "begun" else self.committed)[words[1]] = int(words[2])


def record_of_a_mount(folder: Path, commits: int) -> list[Entry]:
    """The databases at work on a mount that is unmounted afterwards."""
    assert Path("/dev/fuse").exists(), "this test mounts for real: /dev/fuse is missing"
    root, at, record = folder / "recorded", folder / "cloud", folder / "record"
    root.mkdir()
    at.mkdir()
    words = [str(at), str(root / "volume"), str(record)]
    mount = subprocess.Popen(
        [sys.executable, "-m", "tests.faults.mounted", *words],
        env=recorded(root, record),
        stdout=subprocess.PIPE,
    )
    try:
        with mount:
            assert mount.stdout is not None
            assert mount.stdout.readline() == b"ready\n"
            programs = [sys.executable, "-m", "tests.faults.databases", str(at), str(record), str(commits)]
            subprocess.run(programs, check=True)
            subprocess.run(["fusermount3", "-u", str(at)], check=True)
    finally:
        if mount.poll() is None:
            mount.kill()
    assert mount.returncode == 0
    return list(read_record(record))


@pytest.fixture(scope="module")
def entries(tmp_path_factory: pytest.TempPathFactory) -> list[Entry]:
    return record_of_a_mount(tmp_path_factory.mktemp("mount"), COMMITS)


async def copy_out(cut: Cut, folder: Path) -> Path:
    """The files of the databases, read from the volume that the cut left."""
    target = folder / "files"
    target.mkdir()
    async with opened(volume_of(cut, folder / "cut"), cut.farm.copy()) as found:
        for name in await found.tree():
            if b"lock" not in name and b"shm" not in name:
                (target / name.decode()).write_bytes(await found.read(name))
    return target


def verify(database: Database, folder: Path, progress: Progress) -> int:
    """How many commits are found: at least those that returned, at most those that had begun."""
    if database.name not in progress.committed and not (folder / database.files[0]).exists():
        return 0
    held = database.found(folder)
    first, last = progress.committed.get(database.name, 0), progress.begun[database.name]
    for number in range(first, last + 1):
        if held == content(database.name, number):
            return number
    raise AssertionError(f"{database.name}: {len(held)} keys, and not what commits {first} to {last} left")


def test_databases_find_every_commit_that_returned(entries: list[Entry], quick: Path) -> None:
    announce(SHARE)
    progress, followed = Progress(), 0
    found: dict[str, set[int]] = {database.name: set() for database in DATABASES}
    for number, cut in enumerate(cuts(entries, share=SHARE)):
        for entry in entries[followed : cut.step + 1]:
            progress.note(entry)
        followed = cut.step + 1
        folder = quick / str(number)
        folder.mkdir()
        try:
            files = trio.run(copy_out, cut, folder)
            for database in DATABASES:
                if database.name in progress.begun:
                    found[database.name].add(verify(database, files, progress))
        except BaseException as error:
            error.add_note(f"{cut}; {progress}")
            raise
        shutil.rmtree(folder)
    for name, numbers in found.items():
        assert len(numbers) > 3, f"{name}: the cuts do not differ"
