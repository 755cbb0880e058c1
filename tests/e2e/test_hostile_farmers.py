"""Farmers that turn against their renter: the drive stays whole, and so does its process."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from .drive import PATIENCE, Drive, alive, await_that
from .farms import Farms, listens
from .hostile_farmer import NAMES
from .silence import forget_pages, peak_memory

MIB = 1 << 20
FARMERS = 8
CODE = '"2/6"'
"""Four have to sign, and two are enough: the honest ones can do without the others."""
HOSTILE = (1, 4, 6)
NO_FARMERS = 11
"""Exit code."""
MOST = 100 * MIB
"""What the process may have resident beyond what it had."""


class Hostile:
    """Processes in the place of farmers, each of which begins elsewhere in the list of what they do."""

    def __init__(self, farms: Farms, numbers: tuple[int, ...]) -> None:
        self.did: set[str] = set()
        self._running = [
            subprocess.Popen(
                [
                    *(sys.executable, "-m", "tests.e2e.hostile_farmer", str(farms.folder(number))),
                    *(str(farms.ports[number]), str(place * len(NAMES) // len(numbers))),
                ],
                stdout=subprocess.PIPE,
                text=True,
            )
            for place, number in enumerate(numbers)
        ]
        self._threads = [threading.Thread(target=self._hear, args=(one,)) for one in self._running]
        for thread in self._threads:
            thread.start()
        for number in numbers:
            await_that(lambda port=farms.ports[number]: listens(port), "a hostile one listens")

    def _hear(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self.did.add(line.strip())

    def all_done(self) -> bool:
        """Whether each thing was done at least once, by any of them."""
        return self.did >= NAMES

    def stop(self) -> None:
        """End them."""
        for one in self._running:
            one.kill()
            one.wait()
        for thread in self._threads:
            thread.join()
        for one in self._running:
            assert one.stdout is not None
            one.stdout.close()


class Flush:
    """`storjfs flush` again and again: what hangs may hold it up for longer than it waits."""

    def __init__(self, drive: Drive) -> None:
        self._drive = drive
        self._running: subprocess.Popen[bytes] | None = None
        self.count = 0

    def again(self) -> bool:
        """Whether the last one has ended, and another one been started."""
        if self._running is not None and self._running.poll() is None:
            return False
        assert self._running is None or self._running.returncode in (0, NO_FARMERS)
        command = [sys.executable, "-m", "storjfs", "flush"]
        self._running = subprocess.Popen(
            command, env=self._drive.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self.count += 1
        return True

    def stop(self) -> None:
        """End it."""
        if self._running is not None:
            self._running.kill()
            self._running.wait()


@pytest.fixture
def farms(drive: Drive) -> Iterator[Farms]:
    """Farmers of the volume of `drive`, which is made."""
    made = Farms(drive, FARMERS, CODE)
    try:
        made.make_volume()
        yield made
    finally:
        drive.stop()
        made.kill()


def write_synced(path: Path, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def test_a_drive_works_while_farmers_do_all_that_is_wrong(drive: Drive, farms: Farms) -> None:
    drive.mount("--cache-size", "16M")
    content: dict[Path, bytes] = {}
    for number in range(3):
        path = drive.at / f"before{number}"
        content[path] = os.urandom(8 * MIB)
        write_synced(path, content[path])
    drive.run("flush")
    pid = drive.pid()
    before = peak_memory(pid)
    farms.kill(*HOSTILE)
    hostile = Hostile(farms, HOSTILE)
    flush = Flush(drive)

    def everything_was_tried() -> bool:
        if flush.again():
            path = drive.at / f"during{flush.count % 4}"
            content[path] = os.urandom(MIB)
            write_synced(path, content[path])
        for path, data in content.items():
            forget_pages(path)
            assert path.read_bytes() == data, path
        return hostile.all_done()

    try:
        await_that(everything_was_tried, "all was tried", 4 * PATIENCE, told=lambda: NAMES - hostile.did)
        assert peak_memory(pid) - before < MOST
    finally:
        hostile.stop()
        flush.stop()
    farms.start()
    drive.run("flush")
    await_that(lambda: not away(drive), "the farmers are themselves again", told=drive.status)
    # A farmer that was seen to fail gets nothing before it has proved something.
    drive.run("audit", "--now")
    drive.run("repair", timeout=2 * PATIENCE)
    await_that(lambda: drive.status()["health"] == "healthy", "all is whole", told=drive.status)
    assert drive.pid() == pid
    assert alive(pid)
    log = "".join(one.read_text() for one in (drive.home / "state").rglob("*.log"))
    assert "Traceback" not in log
    assert "\x1b" not in log


def away(drive: Drive) -> list[str]:
    """Farmers that are not as they should be."""
    return [one["farmer"] for one in drive.status()["contracts"] if one["condition"] == "offline"]
