"""Farmers that do not answer, and files that the kernel does not remember."""

import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

TOP = Path(__file__).parents[2]


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """A process that takes connections and never says a word, as long as this lasts."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def forget_pages(path: Path) -> None:
    """Have the kernel forget what it knows of the content, so that reading asks the mount."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


class Readers:
    """A process that reads many files at once, each in a thread."""

    def __init__(self, files: list[Path]) -> None:
        command = [sys.executable, "-m", "tests.e2e.readers", *map(str, files)]
        self._process = subprocess.Popen(command, cwd=TOP, stdout=subprocess.PIPE, text=True)

    def stuck(self) -> int:
        """How many of its threads wait for the kernel, which waits for the mount."""
        found = 0
        for task in Path(f"/proc/{self._process.pid}/task").iterdir():
            with contextlib.suppress(OSError):
                found += _waits(task)
        return found

    def results(self, patience: float) -> list[str]:
        """What each found, once all have ended."""
        said, _ = self._process.communicate(timeout=patience)
        return said.split()

    def stop(self) -> None:
        """End it; in vain as long as the mount keeps it waiting."""
        self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)


class Writer:
    """A process that writes so many bytes below a folder, and syncs each file. Its content follows from its
    name."""

    FILE = 1 << 20

    def __init__(self, folder: Path, size: int) -> None:
        folder.mkdir(exist_ok=True)
        self._files = [folder / f"written{number}" for number in range(size // self.FILE)]
        command = [sys.executable, "-c", _WRITE, str(self.FILE), *map(str, self._files)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def stuck(self) -> bool:
        """Whether it waits for the kernel, again and again when one looks."""
        for _ in range(20):
            if not _waits(Path(f"/proc/{self._process.pid}")):
                return False
            time.sleep(0.05)
        return True

    def written(self, patience: float) -> dict[Path, bytes]:
        """Wait until it has ended well; what it wrote."""
        said, _ = self._process.communicate(timeout=patience)
        assert self._process.returncode == 0, said
        return {path: random.Random(str(path)).randbytes(self.FILE) for path in self._files}

    def stop(self) -> None:
        """As that of Readers."""
        self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)


_WRITE = """
import os, random, sys
for name in sys.argv[2:]:
    with open(name, "wb") as file:
        file.write(random.Random(name).randbytes(int(sys.argv[1])))
        file.flush()
        os.fsync(file.fileno())
"""


def _waits(task: Path) -> bool:
    """Whether it waits for a page, or for the answer to a request."""
    state = (task / "stat").read_text().rpartition(")")[2].split()[0]
    return state == "D" or (task / "wchan").read_text() == "request_wait_answer"


def peak_memory(pid: int) -> int:
    """Bytes that a process had resident at most."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) << 10


@contextlib.contextmanager
def sleepy(pid: int) -> Iterator[None]:
    """A process that runs for a tenth of the time, as long as this lasts."""
    done = threading.Event()

    def doze() -> None:
        while not done.is_set():
            with stopped(pid):
                done.wait(0.45)
            done.wait(0.05)

    thread = threading.Thread(target=doze)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
