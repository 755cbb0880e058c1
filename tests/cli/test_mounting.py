"""A volume mounted and unmounted in every way there is; the farmers are real."""

import errno
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.home import Home, home_in, wait_until_gone


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    with home_in(tmp_path) as made:
        yield made


def test_the_first_mount_makes_a_volume_and_everything_on_it_comes_back(home: Home) -> None:
    said = home.do("mount", str(home.at))
    assert "recovery phrase" in said
    content = os.urandom(5 << 20)
    (home.at / "file").write_bytes(content)
    home.do("flush")
    report = home.status()
    assert report["health"] == "healthy"
    assert report["data"]["waiting"] == 0
    assert report["data"]["stored"] >= len(content)
    assert len(report["contracts"]) == 6
    assert report["mount"]["state"] == "mounted"
    assert "file" in os.listdir(home.at)
    pid = report["mount"]["pid"]
    home.do("umount", str(home.at))
    wait_until_gone(pid)
    assert os.listdir(home.at) == []

    offline = home.status()
    assert offline["mount"] is None
    assert offline["segments"] == report["segments"]
    for what in ("shards", "used"):
        assert [row[what] for row in offline["contracts"]] == [row[what] for row in report["contracts"]]
    assert offline["health"] == "healthy"
    assert "not mounted" in home.do("status")

    assert "recovery phrase" not in home.do("mount", str(home.at))
    assert (home.at / "file").read_bytes() == content
    assert "0 failed" in home.do("audit", "--now")
    contracts = home.status()["contracts"]
    assert sum(row["passed"] for row in contracts) >= sum(row["shards"] for row in contracts) > 0
    assert sum(row["paid"] for row in contracts) > 0
    assert "active" in home.do("contracts")
    assert "0 still miss shards" in home.do("repair")


def test_what_was_written_survives_an_unmount_from_outside_and_a_signal(home: Home) -> None:
    home.do("mount", str(home.at))
    for number, end in enumerate(("fusermount3", "SIGTERM")):
        (home.at / f"file{number}").write_bytes(b"x" * 100_000)
        pid = home.pid()
        if end == "fusermount3":
            subprocess.run(["fusermount3", "-u", str(home.at)], check=True)
        else:
            os.kill(pid, signal.SIGTERM)
        # At once: the next mount waits for the end of this one.
        home.do("mount", str(home.at)) if end == "fusermount3" else wait_until_gone(pid)
    home.do("mount", str(home.at))
    assert sorted(os.listdir(home.at)) == ["file0", "file1"]
    assert (home.at / "file1").read_bytes() == b"x" * 100_000


def test_after_a_crash_the_dead_mount_is_taken_off_and_fsynced_data_is_there(home: Home) -> None:
    home.do("mount", str(home.at))
    with open(home.at / "file", "wb") as file:
        file.write(b"precious")
        file.flush()
        os.fsync(file.fileno())
    pid = home.pid()
    os.kill(pid, signal.SIGKILL)
    wait_until_gone(pid)
    with pytest.raises(OSError):
        os.statvfs(home.at)
    for words in (("status",), ("volumes",), ("flush",), ("repair",)):
        said = home.run(*words)
        assert "has died" in said.stdout + said.stderr, words
        assert str(home.at) in said.stdout + said.stderr
    assert home.status()["dead_mount"] == str(home.at)
    (row,) = json.loads(home.do("volumes", "--json"))
    assert (row["state"], row["mountpoint"]) == ("died", str(home.at))
    home.do("mount", str(home.at))
    assert home.status()["dead_mount"] is None
    assert (home.at / "file").read_bytes() == b"precious"


def test_a_volume_is_mounted_once_and_a_directory_used_once(home: Home, tmp_path: Path) -> None:
    home.do("mount", str(home.at))
    again = home.run("mount", str(home.at))
    assert again.returncode == 5
    assert "already a storjfs mount" in again.stderr
    elsewhere = home.run("mount", str(tmp_path / "elsewhere"))
    assert elsewhere.returncode == 5
    assert str(home.at) in elsewhere.stderr


def test_a_mount_that_lives_with_another_runtime_directory_is_not_taken_for_dead(
    home: Home, tmp_path: Path
) -> None:
    home.do("mount", str(home.at))
    (tmp_path / "other").mkdir(mode=0o700)
    done = home.run("umount", str(home.at), XDG_RUNTIME_DIR=str(tmp_path / "other"))
    assert done.returncode == 1
    assert "XDG_RUNTIME_DIR" in done.stderr
    assert home.status()["mount"]["mountpoint"] == str(home.at)


def test_a_busy_mount_stays_and_lazily_goes(home: Home) -> None:
    home.do("mount", str(home.at))
    with open(home.at / "file", "wb") as file:
        file.write(b"x")
        file.flush()
        done = home.run("umount", str(home.at))
        assert done.returncode == 10
        assert "in use" in done.stderr
        assert "psmisc" in done.stderr
        assert "mounted on" in home.do("volumes")
        assert "file" in os.listdir(home.at)
        pid = home.pid()
        home.do("umount", str(home.at), "--lazy")
        assert os.listdir(home.at) == []
        assert "still have files open" in home.do("volumes")
        again = home.run("mount", str(home.at))
        assert again.returncode == 5
        assert "programs still use files" in again.stderr
        assert f"kill {pid}" in again.stderr
        file.write(b"y")
    wait_until_gone(pid)
    home.do("mount", str(home.at))
    assert (home.at / "file").read_bytes() == b"xy"


def test_a_mount_that_can_no_longer_be_written_is_unmounted_and_says_what_is_lost(home: Home) -> None:
    home.do("mount", str(home.at))
    descriptor = os.open(home.at / "file", os.O_RDWR | os.O_CREAT)
    os.write(descriptor, b"synced")
    os.fsync(descriptor)
    pid = home.pid()
    # A write fails in a way that nothing can be done about.
    _, most = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (4096, most))
    os.pwrite(descriptor, bytes(100_000), 4096)
    with pytest.raises(OSError, check=lambda error: error.errno == errno.EIO):
        os.fsync(descriptor)
    os.close(descriptor)
    assert home.run("flush").returncode == 12
    done = home.run("umount", str(home.at))
    assert done.returncode == 15, done.stderr
    assert "no longer be written" in done.stderr
    assert "not synced is lost" in done.stderr
    assert "of it go to the farmers at the next mount" in done.stderr
    wait_until_gone(pid)
    home.do("mount", str(home.at))
    assert (home.at / "file").read_bytes()[:6] == b"synced"
    home.do("umount", str(home.at))


def test_a_read_only_mount_refuses_writes(home: Home) -> None:
    home.do("mount", str(home.at))
    (home.at / "file").write_text("x")
    home.do("umount", str(home.at))
    home.do("mount", "-o", "ro,noatime", str(home.at))
    with pytest.raises(OSError, match="Read-only"):
        (home.at / "other").touch()
    assert (home.at / "file").read_text() == "x"
    assert "ro" in home.status()["mount"]["options"]


def test_with_sync_network_an_fsync_waits_for_the_farmers(home: Home) -> None:
    home.do("mount", "-o", "sync=network", str(home.at))
    with open(home.at / "file", "wb") as file:
        file.write(os.urandom(300_000))
        file.flush()
        os.fsync(file.fileno())
        assert home.status()["data"]["waiting"] == 0
        assert home.status()["data"]["stored"] >= 300_000


def test_a_passphrase_opens_the_volume_and_stays_out_of_the_process_list(home: Home, tmp_path: Path) -> None:
    secret = tmp_path / "passphrase"
    secret.write_text("a long secret sentence\n")
    home.do("mount", str(home.at), "--passphrase-file", str(secret))
    pid = home.pid()
    assert b"secret sentence" not in Path(f"/proc/{pid}/cmdline").read_bytes()
    assert b"secret sentence" not in Path(f"/proc/{pid}/environ").read_bytes()
    home.do("umount", str(home.at))
    assert home.run("mount", str(home.at)).returncode == 3
    wrong = home.run("mount", str(home.at), STORJFS_PASSPHRASE="wrong")
    assert wrong.returncode == 3
    assert "wrong passphrase" in wrong.stderr
    assert os.listdir(home.at) == []
    home.do("mount", str(home.at), STORJFS_PASSPHRASE="a long secret sentence")


def test_in_the_foreground_it_ends_with_the_unmount(home: Home) -> None:
    home.do("init")
    command = [sys.executable, "-m", "storjfs", "mount", "--foreground", str(home.at)]
    with subprocess.Popen(command, env=home.env, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line == "ready\n":
                break
        (home.at / "file").write_text("x")
        process.send_signal(signal.SIGINT)
        process.stderr.read()
    assert process.returncode == 0
    assert os.listdir(home.at) == []


def test_in_the_foreground_no_child_gets_the_passphrase(home: Home) -> None:
    secret = "a long secret sentence"
    home.do("init", STORJFS_PASSPHRASE=secret)
    command = [sys.executable, "-m", "storjfs", "mount", "--foreground", str(home.at)]
    environment = {**home.env, "STORJFS_PASSPHRASE": secret}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line == "ready\n":
                break
        tasks = Path(f"/proc/{process.pid}/task").glob("*/children")
        children = [child for task in tasks for child in task.read_text().split()]
        assert children
        for child in children:
            assert secret.encode() not in Path(f"/proc/{child}/environ").read_bytes()
        process.send_signal(signal.SIGINT)
        process.stderr.read()
    assert process.returncode == 0


def test_what_keeps_a_foreground_mount_from_starting_is_said_once(home: Home) -> None:
    home.do("init", STORJFS_PASSPHRASE="right")
    done = home.run("mount", "--foreground", str(home.at), STORJFS_PASSPHRASE="wrong")
    assert done.returncode == 3
    assert done.stderr.count("wrong passphrase") == 1
    assert done.stderr.startswith("storjfs: wrong passphrase\n")


def test_farmers_that_cannot_be_reached_are_one_line(home: Home) -> None:
    home.do("init", "--farmer", "127.0.0.1:9")
    done = home.run("mount", str(home.at))
    assert done.returncode == 7
    assert "127.0.0.1:9" in done.stderr.splitlines()[0]
    assert not home.at.exists()


def test_other_users_cannot_reach_into_the_mount_process(home: Home) -> None:
    home.do("mount", str(home.at))
    pid = home.pid()
    limits = Path(f"/proc/{pid}/limits").read_text()
    (core,) = [line for line in limits.splitlines() if line.startswith("Max core file size")]
    assert core.split()[4:6] == ["0", "0"]
    socket = next((home.folder / "run" / "storjfs").iterdir())
    assert socket.stat().st_mode & 0o777 == 0o600
