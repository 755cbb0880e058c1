"""Farmers that do not answer, and files that the kernel does not remember."""

import contextlib
import os
import signal
import subprocess
import sys
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
                found += (task / "stat").read_text().rpartition(")")[2].split()[0] == "D"
        return found

    def results(self, patience: float) -> list[str]:
        """What each found, once all have ended."""
        said, _ = self._process.communicate(timeout=patience)
        return said.split()

    def stop(self) -> None:
        """End it, whatever it waits for."""
        self._process.kill()
        self._process.wait()
