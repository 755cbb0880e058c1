"""kill -9 of the mount process at random moments: what fsync confirmed is there, the rest is a prefix."""

import os
import random
import threading
from pathlib import Path

import pytest

from .drive import Drive

ROUNDS = int(os.environ.get("STORJFS_CRASH_ROUNDS", "50"))


class Writer:
    """Appends numbered records to files and remembers which ones fsync confirmed.

    Records go to files in turn; a record's place follows from its number, so that after the crash each file's
    content says how far its prefix reaches.
    """

    RECORD = 1000

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.random = random.Random(seed)
        self.confirmed: dict[str, int] = {}
        self.renamed: dict[str, bytes] = {}
        self.started = threading.Event()

    def record(self, name: str, number: int) -> bytes:
        """Record `number` of a file: reproducible, unlike every other."""
        return random.Random(f"{name}/{number}").randbytes(self.RECORD)

    def run(self) -> None:
        """Write until the mount dies under us."""
        try:
            self._write()
        except OSError:
            return

    def _write(self) -> None:
        written: dict[str, int] = {}
        for step in range(1_000_000):
            name = f"log{self.random.randrange(4)}"
            with open(self.folder / name, "ab", buffering=0) as file:
                for _ in range(self.random.randrange(1, 40)):
                    file.write(self.record(name, written.get(name, 0)))
                    written[name] = written.get(name, 0) + 1
                if self.random.random() < 0.4:
                    os.fsync(file.fileno())
                    self.confirmed[name] = written[name]
            if self.random.random() < 0.2:
                self._replace(step)
            self.started.set()

    def _replace(self, step: int) -> None:
        """The classic safe replacement: temporary file, fsync, rename, fsync of the folder."""
        content = b"%d " % step * self.random.randrange(1, 20_000)
        with open(self.folder / "state.tmp", "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        self.renamed["next"] = content
        os.rename(self.folder / "state.tmp", self.folder / "state")
        at = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(at)
        finally:
            os.close(at)
        self.renamed["sure"] = content

    def check(self) -> None:
        """After the remount: every confirmed record, and of the rest a prefix."""
        for name in {f"log{number}" for number in range(4)}:
            path = self.folder / name
            content = path.read_bytes() if path.exists() else b""
            whole, rest = divmod(len(content), self.RECORD)
            assert whole >= self.confirmed.get(name, 0), (
                f"{name}: fsync confirmed {self.confirmed[name]}, found {whole}"
            )
            for number in range(whole):
                found = content[number * self.RECORD : (number + 1) * self.RECORD]
                assert found == self.record(name, number), f"{name}: record {number} of {whole} differs"
            assert content[whole * self.RECORD :] == self.record(name, whole)[:rest]
        if "sure" in self.renamed:
            assert (self.folder / "state").read_bytes() in (self.renamed["sure"], self.renamed["next"])


def test_what_fsync_confirmed_survives_kill_9(drive: Drive) -> None:
    drive.mount()
    moments = random.Random(20_24)
    for number in range(ROUNDS):
        folder = drive.at / f"round{number}"
        folder.mkdir()
        writer = Writer(folder, number)
        thread = threading.Thread(target=writer.run)
        thread.start()
        assert writer.started.wait(60)
        thread.join(moments.random() * 0.6)
        drive.kill()
        thread.join(60)
        assert not thread.is_alive()
        assert drive.examine() == {}
        drive.mount()
        writer.check()
        old = drive.at / f"round{number - 3}"
        for path in old.iterdir() if old.exists() else ():
            path.unlink()
    drive.umount()
    assert drive.examine() == {}


@pytest.mark.parametrize("how", ["umount", "fusermount3", "SIGTERM"])
def test_every_way_to_unmount_loses_nothing(drive: Drive, how: str) -> None:
    import signal
    import subprocess

    from .drive import alive, await_that

    drive.mount()
    content = random.Random(how).randbytes(30 << 20)
    (drive.at / "file").write_bytes(content)
    pid = drive.pid()
    if how == "umount":
        drive.run("umount", str(drive.at), timeout=300)
    elif how == "fusermount3":
        subprocess.run(["fusermount3", "-u", str(drive.at)], check=True)
    else:
        os.kill(pid, signal.SIGTERM)
    await_that(lambda: not alive(pid), "the mount process ends")
    assert os.listdir(drive.at) == []
    drive.mount()
    assert (drive.at / "file").read_bytes() == content
