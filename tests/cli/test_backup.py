"""The page docs/how-to/back-up-metadata.md, done as it says."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import trio

from storjfs.daemon.backup import back_up
from storjfs.settlement import Ledger
from tests.cli.home import Home, home_in, wait_until_gone
from tests.real_drives import make_volume, running, write

DATABASES = ("meta.db", "pay.db", "ledger.db", "ledger.db.operator", "embedded")
WRITTEN = re.compile(r"^n\d+$", re.MULTILINE)
# It overwrites nothing: a segment that others left would be rewritten and deleted, and an older backup lacks
# what was in it.
WRITER = """
import os
import sys
for number in range(10**9):
    with open(f"{sys.argv[1]}/n{number}", "wb", buffering=0) as file:
        file.write(bytes(99))
        os.fsync(file.fileno())
"""


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    with home_in(tmp_path) as made:
        yield made


def unmount(home: Home) -> None:
    pid = home.pid()
    home.do("umount", str(home.at))
    wait_until_gone(pid)


def config(home: Home) -> Path:
    return home.folder / ".config/storjfs/volumes/default"


def restore(home: Home, backup: Path) -> None:
    """Everything to where the table says."""
    home.data().mkdir(parents=True, mode=0o700, exist_ok=True)
    config(home).mkdir(parents=True, mode=0o700, exist_ok=True)
    for name in ("key", *DATABASES):
        shutil.copy(backup / name, home.data() / name)
    shutil.copy(backup / "settings.toml", config(home) / "settings.toml")


def put_back(home: Home, backup: Path, name: str) -> None:
    for path in home.data().glob(name + "*"):
        if path.name in (name, f"{name}-wal", f"{name}-shm"):
            path.unlink()
    shutil.copy(backup / name, home.data() / name)


def fsck(home: Home) -> dict[str, int]:
    found: dict[str, int] = json.loads(home.run("fsck", "--json").stdout)["left"]
    return found


def unreadable(home: Home) -> set[str]:
    """Names of files that cannot be read."""
    found = set[str]()
    for path in home.at.iterdir():
        try:
            path.read_bytes()
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            found.add(path.name)
    return found


def test_a_backup_made_while_mounted_and_written_to_restores_the_volume(home: Home, tmp_path: Path) -> None:
    backup = tmp_path / "backup"
    home.do("mount", str(home.at))
    content = os.urandom(3 << 20)
    (home.at / "old").write_bytes(content)
    home.do("flush")
    # Not flushed: the backup sees to it, and to what the compactor had just moved.
    with (home.at / "synced").open("wb") as file:
        file.write(content[:99])
        os.fsync(file.fileno())
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(home.at)])
    try:
        home.do("backup", str(backup))
    finally:
        writer.kill()
        writer.wait()
    assert home.run("backup", str(backup)).returncode == 9
    assert sorted(os.listdir(backup)) == sorted(["key", "settings.toml", *DATABASES])
    assert {path.stat().st_mode & 0o777 for path in backup.iterdir()} == {0o600}
    (home.at / "new").write_bytes(content[::-1])
    unmount(home)
    newer = tmp_path / "newer"
    home.do("backup", str(newer))
    # The same machine, an older copy of the metadata: what came later is kept for the newer copy.
    put_back(home, backup, "meta.db")
    shutil.rmtree(home.folder / ".cache")
    home.do("mount", str(home.at))
    assert (home.at / "old").read_bytes() == content
    assert (home.at / "synced").read_bytes() == content[:99]
    assert not (home.at / "new").exists()
    # What the writer wrote and a commit took in while the copy was made was not with the farmers: it is in no
    # backup, and nothing else may be missing.
    assert unreadable(home) <= set(WRITTEN.findall("\n".join(os.listdir(home.at))))
    found = set(fsck(home))
    lost = {"segment-lost", "farmer-orphans-kept"} if "segment-lost" in found else set()
    assert found <= lost | {"farmer-orphan"}
    assert home.run("fsck", "--repair").returncode in (0, 4)
    unmount(home)
    put_back(home, newer, "meta.db")
    shutil.rmtree(home.folder / ".cache")
    home.do("mount", str(home.at))
    assert (home.at / "new").read_bytes() == content[::-1]
    assert (home.at / "old").read_bytes() == content
    assert not unreadable(home)
    assert set(fsck(home)) <= {"farmer-orphan"}


async def test_a_backup_says_what_was_not_with_the_farmers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = make_volume(tmp_path, monkeypatch)
    async with running(paths) as drive:
        await write(drive, b"file", os.urandom(100_000))
        await drive.segments.flush()
        back = partial(back_up, paths, None)
        assert (await trio.to_thread.run_sync(back, tmp_path / "whole")).unsent == 0
        await write(drive, b"another", bytes(5000))
        await drive.store.sync()
        made = await trio.to_thread.run_sync(back, tmp_path / "parts")
    assert made.unsent == 5000
    assert sorted(os.listdir(tmp_path / "parts")) == made.names


def test_a_backup_is_restored_on_another_machine(home: Home, tmp_path: Path) -> None:
    backup, elsewhere = tmp_path / "backup", tmp_path / "elsewhere"
    elsewhere.mkdir()
    home.do("mount", str(home.at))
    content = os.urandom(3 << 20)
    (home.at / "file").write_bytes(content)
    home.do("flush")
    home.do("backup", str(backup))
    unmount(home)
    with home_in(elsewhere) as other:
        restore(other, backup)
        shutil.copytree(home.data() / "farm", other.data() / "farm")
        shutil.rmtree(home.folder / ".local")
        other.do("mount", str(other.at))
        assert (other.at / "file").read_bytes() == content
        assert fsck(other) == {}
        other.do("scrub")
        (other.at / "more").write_bytes(content)
        other.do("flush")
        assert other.status()["money"]["paid"] >= 0
        Ledger(other.data() / "ledger.db").close_file()
        pid = other.pid()
        other.do("umount", str(other.at))
        wait_until_gone(pid)


def test_a_deleted_volume_leaves_nothing(home: Home) -> None:
    home.do("mount", str(home.at))
    unmount(home)
    for part in (".local/share", ".config", ".cache", ".local/state"):
        shutil.rmtree(home.folder / part / "storjfs/volumes/default")
    assert home.run("status").returncode == 8
    assert "no volume" in home.do("volumes")
    assert "making one" in home.do("mount", str(home.at))


def test_nothing_is_left_of_a_backup_that_fails(home: Home, tmp_path: Path) -> None:
    home.do("init")
    (tmp_path / "file").touch()
    done = home.run("backup", str(tmp_path / "file" / "backup"))
    assert done.returncode == 1
    assert "cannot be written" in done.stderr
    home.do("backup", str(tmp_path / "young"))
    assert sorted(os.listdir(tmp_path / "young")) == ["key", "settings.toml"]


def test_a_backup_that_is_told_of_survives_power_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = make_volume(tmp_path, monkeypatch)
    synced = list[str]()
    fsync = os.fsync

    def note(fd: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{fd}"))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", note)
    target = tmp_path / "elsewhere" / "backup"
    assert back_up(paths, None, target).names == ["key", "settings.toml"]
    assert synced[-1] == str(target.parent)
    assert synced[-2].startswith(f"{target.parent}/.backup.")


def test_a_backup_into_the_drive_or_beside_its_files_is_refused(home: Home) -> None:
    home.do("mount", str(home.at))
    for place in (home.at / "backup", home.data() / "backup"):
        refused = home.run("backup", str(place))
        assert refused.returncode != 0
        assert "is lost when the volume is" in refused.stderr
        assert not place.exists()
    home.do("backup", str(home.folder / "backup"))
