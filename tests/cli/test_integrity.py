"""fsck, scrub and gc as a person runs them, with and without a mount."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from storjfs.cli import integrity
from storjfs.keys import VolumeKeys
from storjfs.store import open_meta
from storjfs.volume import VolumePaths, unlock_volume
from tests.cli.home import Home, home_in, wait_until_gone


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    with home_in(tmp_path) as made:
        yield made


def outcome(home: Home, *words: str) -> tuple[int, Any]:
    """Exit code and JSON; nothing else is said."""
    done = home.run(*words, "--json")
    assert done.stderr == "", done.stderr + home.logs()
    return done.returncode, json.loads(done.stdout)


def damage(home: Home, sql: str) -> None:
    paths = VolumePaths("default", {**home.env})
    keys: VolumeKeys = unlock_volume(paths, None)
    connection = open_meta(paths.meta_db, keys.metadata_key)
    connection.execute(sql).fetchall()
    assert connection.changes()
    connection.close()


def test_a_volume_is_checked_scrubbed_and_collected(home: Home) -> None:
    home.do("mount", str(home.at))
    content = os.urandom(2 << 20)
    (home.at / "file").write_bytes(content)
    (home.at / "gone").write_bytes(content)
    home.do("flush")
    (home.at / "gone").unlink()
    code, found = outcome(home, "fsck")
    assert (code, found["schema"], found["mounted"], found["left"]) == (0, 1, True, {})
    code, found = outcome(home, "gc")
    assert (code, found["schema"], found["garbage_left"]) == (0, 1, 0)
    home.do("flush")
    code, found = outcome(home, "scrub")
    assert (code, found["schema"], found["share"], found["wrong"]) == (0, 1, 1.0, 0)
    assert found["read"] > 0
    assert "0 were not what was stored" in home.do("scrub", "--sample", "50%", "--rate", "100M")
    assert "compacted" in home.do("gc")
    assert "clean" in home.do("fsck")
    pid = home.pid()
    home.do("umount", str(home.at))
    wait_until_gone(pid)

    assert "clean" in home.do("fsck")
    damage(home, "DELETE FROM dentry WHERE name = x'66696c65'")
    done = home.run("fsck")
    assert done.returncode == 4
    assert "inode-unnamed" in done.stdout
    assert "--repair" in done.stdout
    code, found = outcome(home, "fsck", "--repair")
    assert (code, found["mounted"], found["mended"]) == (1, False, {"inode-unnamed": 1})
    code, found = outcome(home, "fsck")
    assert (code, found["found"]) == (0, [])
    assert "0 were not what was stored" in home.do("scrub", "--sample", "0.3")
    home.do("mount", str(home.at))
    (kept,) = (home.at / "lost+found").iterdir()
    assert kept.read_bytes() == content


def test_what_keeps_fsck_from_working_is_not_a_result(home: Home) -> None:
    done = home.run("fsck")
    assert (done.returncode, done.stdout) == (8, "")
    assert home.run("fsck", "--no-such-option").returncode == 2
    for words in (("--sample", "0%"), ("--sample", "much"), ("--rate", "fast")):
        assert home.run("scrub", *words).returncode == 2


def test_a_passphrase_opens_the_volume_without_a_mount_and_no_child_gets_it(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in home.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("STORJFS_PASSPHRASE", "correct horse")
    home.do("init", STORJFS_PASSPHRASE="correct horse")
    assert home.run("fsck", STORJFS_PASSPHRASE="wrong").returncode == 3
    assert "clean" in home.do("fsck", STORJFS_PASSPHRASE="correct horse")
    known = integrity.passphrase_of("default", None, None)
    assert known is not None
    assert known.read() == "correct horse"
    assert "STORJFS_PASSPHRASE" not in os.environ
