"""A mounted drive on a full disk: refused early, nothing confirmed lost, and on by itself afterwards."""

import contextlib
import errno
import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.drive import PATIENCE, Drive, alive, await_that
from tests.full.disk import MIB, SmallDisk, refused

PIECE = 2 * MIB


class Kept:
    """Files that a program wrote, and what fsync confirmed of them."""

    def __init__(self, drive: Drive) -> None:
        self._drive = drive
        self._next = 0
        self.confirmed: dict[str, bytes] = {}

    @staticmethod
    def content(name: str) -> bytes:
        return random.Random(name).randbytes(PIECE)

    def write(self) -> str:
        """One more file, synced; OSError where that is refused, and then it is not counted."""
        self._next += 1
        name = f"file{self._next}"
        content = self.content(name)
        with open(self._drive.at / name, "xb", buffering=0) as file:
            at = 0
            while at < len(content):
                at += file.write(content[at:])
            os.fsync(file.fileno())
        self.confirmed[name] = content
        return name

    def write_until_refused(self) -> OSError:
        """The error that ended it."""
        while True:
            try:
                self.write()
            except OSError as error:
                return error

    def unlink(self, count: int) -> None:
        """Remove so many of them, the oldest first."""
        for name in list(self.confirmed)[:count]:
            os.unlink(self._drive.at / name)
            del self.confirmed[name]

    def check(self) -> None:
        """All that was confirmed is there."""
        for name, content in self.confirmed.items():
            assert (self._drive.at / name).read_bytes() == content, name


class Writer:
    """Writes on and on in a thread; `refused` is set the first time that there is no room."""

    def __init__(self, kept: Kept) -> None:
        self._kept = kept
        self._stop = threading.Event()
        self.refused = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._kept.write()
            except OSError as error:
                if not refused(error):
                    return  # killed under it
                self.refused.set()
                self._stop.wait(0.05)

    def end(self) -> None:
        self._stop.set()
        self._thread.join()


@contextlib.contextmanager
def busy(kept: Kept) -> Iterator[Writer]:
    """Programs write meanwhile."""
    writer = Writer(kept)
    try:
        yield writer
    finally:
        writer.end()


def sync_folder(path: Path) -> None:
    """fsync of a directory: what happened to its names survives."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def can_write(kept: Kept) -> bool:
    """Whether one more file is taken now."""
    try:
        kept.write()
    except OSError as error:
        if not refused(error):
            raise
        return False
    return True


def full(drive: Drive) -> bool:
    """Whether status says that the disk is nearly full."""
    said = drive.status()
    found = any("is nearly full" in problem for problem in said["problems"])
    assert not found or said["health"] != "healthy"
    return found


def finish(drive: Drive, kept: Kept) -> None:
    """What has to hold in the end: content, books, another mount."""
    kept.check()
    unmount(drive)
    assert drive.examine() == {}
    drive.mount()
    kept.check()
    unmount(drive)


def goes_on(disk: SmallDisk, drive: Drive, kept: Kept) -> None:
    """Once there is room again it is written to by itself, and all is well."""
    disk.hog.remove()
    await_that(lambda: can_write(kept), "writing is possible again")
    finish(drive, kept)


def unmount(drive: Drive) -> None:
    """With what farmers have room for, who share the disk with the rest; the rest waits here."""
    pid = drive.pid()
    done = drive.run("umount", str(drive.at), check=False, timeout=4 * PATIENCE)
    assert done.returncode in (0, 11), done.stderr + drive.log()
    await_that(lambda: not alive(pid), "the mount process ends")


def test_its_own_writes_are_refused_early_and_go_on_when_something_is_deleted(
    disk: SmallDisk, drive: Drive
) -> None:
    kept = Kept(drive)
    error = kept.write_until_refused()
    assert error.errno == errno.ENOSPC
    assert disk.free > 4 * MIB, "refused only when nothing was left"
    with contextlib.suppress(FileNotFoundError):
        (drive.at / f"file{kept._next}").unlink()
    assert full(drive)
    kept.check()
    kept.unlink(len(kept.confirmed) // 2)
    await_that(lambda: can_write(kept), "writing is possible again")
    finish(drive, kept)


def test_another_program_takes_every_byte_while_it_is_written_to(disk: SmallDisk, drive: Drive) -> None:
    kept = Kept(drive)
    with busy(kept) as writer:
        await_that(lambda: len(kept.confirmed) > 8, "some files are there")
        disk.hog.fill()
        await_that(writer.refused.is_set, "the writer is refused")
        disk.hog.fill()
    assert full(drive)
    kept.check()
    kept.unlink(3)
    last = drive.at / next(iter(kept.confirmed))
    os.truncate(last, 1000)
    sync_folder(drive.at)
    kept.confirmed[last.name] = kept.confirmed[last.name][:1000]
    kept.check()
    disk.hog.remove()
    await_that(lambda: can_write(kept), "writing is possible again")
    await_that(lambda: not full(drive), "status no longer warns")
    finish(drive, kept)


def test_what_is_deleted_while_nothing_is_free_makes_room(disk: SmallDisk, drive: Drive) -> None:
    """The drive was idle when another program took everything, and it gives nothing back."""
    kept = Kept(drive)
    for _ in range(20):
        kept.write()
    disk.hog.fill()
    kept.unlink(19)
    sync_folder(drive.at)
    await_that(lambda: disk.free > 20 * MIB, "space is free")
    kept.check()
    goes_on(disk, drive, kept)


@pytest.mark.parametrize("how", ["kill", "umount"])
def test_it_mounts_while_nothing_is_free(disk: SmallDisk, drive: Drive, how: str) -> None:
    """Enough was set aside to read and to delete."""
    kept = Kept(drive)
    for _ in range(20):
        kept.write()
    if how == "kill":
        # Else what is on its way uses up what was set aside, and the hog takes that too: see below.
        drive.run("flush")
        disk.hog.fill()
        drive.kill()
    else:
        drive.umount()
    disk.hog.fill()
    drive.mount()
    assert full(drive)
    kept.check()
    kept.unlink(15)
    sync_folder(drive.at)
    kept.check()
    goes_on(disk, drive, kept)


def test_killed_on_a_full_disk_without_anything_set_aside_it_says_what_to_do(
    disk: SmallDisk, drive: Drive
) -> None:
    """It mounts, or says how much has to be freed; with that it mounts. Nothing is lost either way."""
    kept = Kept(drive)
    with busy(kept) as writer:
        await_that(lambda: len(kept.confirmed) > 8, "some files are there")
        disk.hog.fill()
        await_that(writer.refused.is_set, "the writer is refused")
        disk.hog.fill()
        drive.kill()
    disk.hog.fill()
    done = drive.run("mount", str(drive.at), check=False)
    if done.returncode:
        assert done.returncode == 14, done.stderr
        assert "the disk is full" in done.stderr
        assert "Free 16 MiB on the disk" in done.stderr
        disk.hog.leave(16 * MIB)
        drive.mount()
    kept.check()
    kept.unlink(3)
    sync_folder(drive.at)
    goes_on(disk, drive, kept)


def test_deleting_every_other_file_on_a_full_disk_makes_room(disk: SmallDisk, drive: Drive) -> None:
    """No segment becomes empty by that: what is live is moved together first, below what writing needs."""
    drive.umount()
    settings = drive.paths().settings_file
    settings.write_text(settings.read_text().replace('disk_reserve = "32 MiB"', 'disk_reserve = "64 MiB"'))
    drive.mount()
    names = [drive.at / f"small{number}" for number in range(600)]
    for path in names:
        path.write_bytes(random.Random(path.name).randbytes(64 << 10))
    drive.run("flush")
    kept = Kept(drive)

    def leave_little() -> bool:
        disk.hog.leave(28 * MIB)
        return not can_write(kept) and disk.free < 30 * MIB

    await_that(leave_little, "no cached copy is left to give up")
    before = drive.status()["data"]["stored"]
    for path in names[::2]:
        path.unlink()
    await_that(lambda: drive.status()["data"]["stored"] < 0.8 * before, "farmers have less to keep")
    for path in names[1::2]:
        assert path.read_bytes() == random.Random(path.name).randbytes(64 << 10)
    goes_on(disk, drive, kept)
