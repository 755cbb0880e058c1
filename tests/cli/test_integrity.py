"""fsck, scrub and gc as a person runs them, with and without a mount."""

import fcntl
import json
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from storjfs.cli import integrity
from storjfs.keys import VolumeKeys
from storjfs.store import open_meta
from storjfs.volume import VolumePaths, unlock_volume
from tests.cli.home import PATIENCE, Home, home_in, wait_until_gone


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


def at_a_terminal(home: Home, *words: str, press: bytes, when: bytes) -> tuple[int, bytes]:
    """Run a command at a terminal of its own, and press a key once it has shown something."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "storjfs", *words]
    started = subprocess.Popen(
        command,
        env={**home.env, "TERM": "xterm"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(theirs)
    shown, pressed = b"", False
    try:
        while select.select([ours], [], [], PATIENCE)[0]:
            try:
                part = os.read(ours, 1 << 16)
            except OSError:  # EIO: the other end is closed
                break
            shown += part
            if when in shown and not pressed:
                os.write(ours, press)
                pressed = True
        return started.wait(PATIENCE), shown
    finally:
        started.kill()
        started.wait()
        os.close(ours)


def test_ctrl_c_at_a_terminal_ends_a_scrub_that_the_next_one_goes_on_with(home: Home) -> None:
    home.do("mount", str(home.at))
    (home.at / "file").write_bytes(os.urandom(24 << 20))
    home.do("flush")
    code, shown = at_a_terminal(home, "scrub", "--rate", "1M", press=b"\x03", when=b"%")
    assert (code, b"shards" in shown, b"interrupted" in shown) == (130, True, True), shown
    assert b"\x1b[?25h" in shown  # the cursor is back
    ended = time.time()
    code, found = outcome(home, "scrub")
    assert (code, found["wrong"], found["started"] < ended) == (0, 0, True)


def test_one_scrub_runs_at_a_time_and_a_failure_is_json_too(home: Home) -> None:
    done = home.run("fsck", "--json")
    assert (done.returncode, set(json.loads(done.stdout))) == (8, {"schema", "error", "hint"})
    home.do("mount", str(home.at))
    (home.at / "file").write_bytes(os.urandom(24 << 20))
    home.do("flush")
    command = [sys.executable, "-m", "storjfs", "scrub", "--rate", "1M"]
    first = subprocess.Popen(command, env=home.env, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert first.stderr is not None
        assert first.stderr.readline().startswith(b"shards: 0 of ")
        second = home.run("scrub", "--json")
        assert (second.returncode, set(json.loads(second.stdout))) == (5, {"schema", "error", "hint"})
        assert "under way" in second.stderr
    finally:
        first.send_signal(signal.SIGINT)
        first.communicate(timeout=PATIENCE)
    assert first.returncode == 130


def test_scrub_tells_how_many_segments_and_which(capsys: pytest.CaptureFixture[str]) -> None:
    found = {"read": 9, "bytes": 9, "wrong": 1, "rebuilt": 0, "broken": [5], "damaged": [3, 7], "unread": 0}
    integrity._show_scrub(found)
    said = capsys.readouterr().out
    assert "1 segment (number 5) could not be rebuilt yet." in said
    assert "2 segments (numbers 3, 7) already damaged when sent." in said
