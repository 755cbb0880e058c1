"""Real farmers that leave and come back: what works meanwhile, what fails and how; nothing is lost."""

import errno
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .drive import PATIENCE, Drive, await_that
from .farms import Farms
from .silence import Readers, Writer, forget_pages, peak_memory, sleepy

MIB = 1 << 20
LIMIT = 16 * MIB


@pytest.fixture
def farms(drive: Drive) -> Iterator[Farms]:
    """Farmers of the volume of `drive`, which is made."""
    made = Farms(drive)
    try:
        made.make_volume()
        yield made
    finally:
        drive.stop()
        made.kill()


def prepare(drive: Drive, *options: str) -> dict[Path, bytes]:
    """Mounted with two files that farmers have, of which the second is cached."""
    drive.mount()
    content = {drive.at / name: os.urandom(2 * MIB) for name in ("cold", "warm")}
    for path, data in content.items():
        path.write_bytes(data)
        drive.run("flush")
    drive.umount()
    shutil.rmtree(drive.paths().cache_dir)
    drive.mount("--cache-size", str(LIMIT), *options)
    assert (drive.at / "warm").read_bytes() == content[drive.at / "warm"]
    return content


def write_synced(path: Path, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def all_is_there(drive: Drive, content: dict[Path, bytes]) -> None:
    """With the farmers, so that this machine is not needed for it."""
    drive.run("flush")
    drive.umount()
    shutil.rmtree(drive.paths().cache_dir)
    drive.mount()
    for path, data in content.items():
        assert path.read_bytes() == data, path
    assert drive.status()["health"] == "healthy"
    drive.umount()
    assert drive.examine() == {}


@pytest.mark.parametrize("how", ["killed", "frozen"])
def test_without_farmers_a_drive_is_usable_and_says_so(drive: Drive, farms: Farms, how: str) -> None:
    content = prepare(drive, "-o", "offline_timeout=3")
    farms.leave(how)
    forget_pages(drive.at / "warm")
    assert (drive.at / "warm").read_bytes() == content[drive.at / "warm"]
    with pytest.raises(OSError) as caught:
        (drive.at / "cold").read_bytes()
    assert caught.value.errno == errno.EIO
    for number in range(6):
        path = drive.at / f"new{number}"
        content[path] = os.urandom(MIB)
        write_synced(path, content[path])
    said = drive.status()
    assert any("on this machine only" in problem for problem in said["problems"]), said["problems"]
    assert said["data"]["waiting"] > 6 * MIB
    assert 0 < said["data"]["room"] < LIMIT - 6 * MIB
    assert said["segments"]["unreadable"] == said["segments"]["full"] > 0
    assert drive.run("status", check=False).stdout.startswith("DATA NOT READABLE AT THE MOMENT")
    flush_names_the_missing(drive)
    farms.come_back(how)
    all_is_there(drive, content)


def flush_names_the_missing(drive: Drive) -> None:
    """And goes on; it is interrupted then."""
    command = [sys.executable, "-m", "storjfs", "flush"]
    flush = subprocess.Popen(command, env=drive.env, stderr=subprocess.PIPE, text=True)
    try:
        assert flush.stderr is not None
        for line in flush.stderr:
            if "3 farmers do not answer" in line:
                return
        raise AssertionError("the flush ended without naming them")
    finally:
        flush.kill()
        flush.wait()
        assert flush.stderr is not None
        flush.stderr.close()


def test_a_mount_and_fsck_without_farmers_say_that_they_are_away(drive: Drive, farms: Farms) -> None:
    prepare(drive)
    drive.umount()
    assert "was not checked" not in drive.run("fsck").stdout
    farms.kill()
    assert "What 3 farmers should hold was not checked" in drive.run("fsck").stdout
    said = drive.run("mount", str(drive.at)).stdout
    assert "is ready" in said.splitlines()[0]
    assert "no farmer answers" in said.splitlines()[1]
    farms.start()
    await_that(lambda: not drive.status()["problems"], "they are back")
    drive.umount()
    assert len(drive.run("mount", str(drive.at)).stdout.splitlines()) == 1


def test_full_of_unsent_data_what_is_new_is_refused_first(drive: Drive, farms: Farms) -> None:
    content = prepare(drive, "-o", "offline_timeout=3")
    held = drive.at / "held"
    with open(held, "wb") as file:
        farms.kill()
        with pytest.raises(OSError) as caught:
            for number in range(2 * LIMIT // MIB):
                path, data = drive.at / f"new{number}", os.urandom(MIB)
                write_synced(path, data)
                content[path] = data
        assert caught.value.errno == errno.ENOSPC
        assert not (drive.at / f"new{len(content) - 2}").exists()
        assert len(content) - 2 >= 8
        content[held] = os.urandom(MIB)
        file.write(content[held])
        file.flush()
        os.fsync(file.fileno())
    for path, data in content.items():
        if path.name not in ("cold", "warm"):  # which gave way to what is unsent
            forget_pages(path)
            assert path.read_bytes() == data
    farms.start()
    drive.run("flush")
    content[drive.at / "later"] = os.urandom(MIB)
    write_synced(drive.at / "later", content[drive.at / "later"])
    all_is_there(drive, content)


def test_with_offline_wait_reads_and_writes_go_on_when_farmers_are_back(drive: Drive, farms: Farms) -> None:
    content = prepare(drive, "-o", "offline=wait")
    farms.kill()
    reader = Readers([drive.at / "cold"])
    program = Writer(drive.at, 2 * LIMIT)
    try:
        await_that(lambda: reader.stuck() > 0 and program.stuck(), "the reader and the writer wait")
        assert any("on this machine only" in one for one in drive.status()["problems"])
        farms.start()
        assert reader.results(2 * PATIENCE) == [hashlib.sha256(content[drive.at / "cold"]).hexdigest()]
        content |= program.written(2 * PATIENCE)
    finally:
        reader.stop()
        program.stop()
    all_is_there(drive, content)


def test_writers_wait_for_slow_farmers_and_memory_stays_bounded(drive: Drive) -> None:
    """Farmers that sleep most of the time. What is written is many times what may wait, here or in memory."""
    drive.mount("--cache-size", str(LIMIT))
    pid, farm = drive.pid(), drive.farm_pid()
    (drive.at / "before").write_bytes(os.urandom(LIMIT))
    drive.run("flush")
    before = peak_memory(pid)
    programs = [Writer(drive.at / f"program{number}", 6 * LIMIT) for number in range(2)]
    content: dict[Path, bytes] = {}
    try:
        with sleepy(farm):
            for program in programs:
                content |= program.written(6 * PATIENCE)
    finally:
        for program in programs:
            program.stop()
    assert peak_memory(pid) - before < 8 * LIMIT
    drive.run("flush", timeout=2 * PATIENCE)
    assert drive.status()["data"]["waiting"] == 0
    all_is_there(drive, content)
