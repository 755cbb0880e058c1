"""A person's home in a folder of its own, where commands are run as the person would."""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 60.0


class Home:
    """`at` is where the volume gets mounted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.at = folder / "cloud"
        runtime = folder / "run"
        runtime.mkdir(mode=0o700, exist_ok=True)
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "STORJFS_"))
        }
        self.env = {**kept, "HOME": str(folder), "XDG_RUNTIME_DIR": str(runtime), "PYTHONPATH": str(ROOT)}

    def run(self, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
        """One command without a terminal; `more` goes into its environment."""
        return subprocess.run(
            [sys.executable, "-m", "storjfs", *words],
            env={**self.env, **more},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    def do(self, *words: str, **more: str) -> str:
        """One command that must succeed; what it printed."""
        done = self.run(*words, **more)
        assert done.returncode == 0, f"{words}: {done.returncode}\n{done.stdout}{done.stderr}{self.logs()}"
        return done.stdout

    def status(self) -> Any:
        """The report as a program gets it."""
        return json.loads(self.run("status", "--json").stdout)

    def pid(self) -> int:
        """The mount process."""
        return int(self.status()["mount"]["pid"])

    def data(self, volume: str = "default") -> Path:
        """The volume's data directory."""
        return self.folder / ".local/share/storjfs/volumes" / volume

    def logs(self) -> str:
        """For the message of a failing test."""
        found = sorted((self.folder / ".local/state").rglob("*.log"))
        return "".join(f"\n--- {path}\n{path.read_text(errors='replace')[-3000:]}" for path in found)

    def leave(self) -> None:
        """Nothing stays mounted or running."""
        if str(self.at) not in Path("/proc/self/mountinfo").read_text():
            return
        with contextlib.suppress(Exception):
            self.run("umount", str(self.at), "--no-flush")
        with contextlib.suppress(Exception):
            os.kill(self.pid(), signal.SIGKILL)
        subprocess.run(["fusermount3", "-u", "-z", str(self.at)], check=False, capture_output=True)


@contextlib.contextmanager
def home_in(folder: Path) -> Iterator[Home]:
    """A home that is left clean."""
    home = Home(folder)
    try:
        yield home
    finally:
        home.leave()


def wait_until_gone(pid: int) -> None:
    """Return when the process has ended."""
    with contextlib.suppress(ProcessLookupError):
        descriptor = os.pidfd_open(pid)
        try:
            assert select.select([descriptor], [], [], PATIENCE)[0], f"process {pid} does not end"
        finally:
            os.close(descriptor)
