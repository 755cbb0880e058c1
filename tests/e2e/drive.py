"""A drive in folders of its own: the command line run as a person would, and ways to do it harm."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from storjfs.integrity import View, check
from storjfs.keys import VolumeKeys
from storjfs.volume import VolumePaths, unlock_volume

# Waits are bounded by this and end with the event; a slow machine only takes longer.
PATIENCE = 120.0


@contextlib.contextmanager
def unmounted(home: Path) -> Iterator["Drive"]:
    """A drive below `home` that is not mounted yet; stopped in the end.

    Without FUSE tests that want one fail, they do not skip.
    """
    assert Path("/dev/fuse").exists(), "these tests mount for real: /dev/fuse is missing"
    made = Drive(home)
    try:
        yield made
    finally:
        made.stop()


class Drive:
    """One volume under `home`, mounted at `home/cloud` by real processes."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.within: Callable[[list[str]], list[str]] = list
        """What to run instead of a command, for instance to have it on another host."""
        self.at = home / "cloud"
        self.at.mkdir(parents=True)
        runtime = home / "run"
        runtime.mkdir(mode=0o700)
        self.env = {
            **os.environ,
            "HOME": str(home),
            "XDG_CONFIG_HOME": str(home / "config"),
            "XDG_DATA_HOME": str(home / "data"),
            "XDG_CACHE_HOME": str(home / "cache"),
            "XDG_STATE_HOME": str(home / "state"),
            "XDG_RUNTIME_DIR": str(runtime),
        }

    def run(
        self, *words: str, check: bool = True, timeout: float = PATIENCE
    ) -> subprocess.CompletedProcess[str]:
        """One `storjfs` command; with `check`, what it printed is in the error."""
        done = subprocess.run(
            self.within([sys.executable, "-m", "storjfs", *words]),
            env=self.env,
            capture_output=True,
            text=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
        )
        if check and done.returncode != 0:
            raise AssertionError(
                f"storjfs {' '.join(words)}: exit {done.returncode}\n{done.stdout}{done.stderr}{self.log()}"
            )
        return done

    def log(self) -> str:
        """The end of the mount process's log, for a failing test to show."""
        logs = sorted((self.home / "state").rglob("*.log"))
        return "".join(f"--- {log.name}\n{log.read_text(errors='replace')[-4000:]}" for log in logs)

    def init(self, *words: str, **changed: str) -> None:
        """Make the volume without a passphrase, with some settings other than the defaults (TOML values)."""
        self.run("init", "--no-passphrase", *words)
        file = self.paths().settings_file
        text = file.read_text()
        for name, value in changed.items():
            text, found = re.subn(rf"(?m)^#? ?{name} = .*$", f"{name} = {value}", text, count=1)
            assert found, f"no setting {name} in\n{text}"
        file.write_text(text)

    def mount(self, *words: str) -> None:
        """Mount; usable when this returns."""
        self.run("mount", str(self.at), *words)

    def umount(self) -> None:
        """Flush to the farmers and unmount; the process has ended when this returns."""
        pid = self.pid()
        self.run("umount", str(self.at), timeout=4 * PATIENCE)
        await_that(lambda: not alive(pid), "the mount process ends")

    def status(self) -> dict[str, Any]:
        """What `storjfs status --json` says, whatever the health."""
        done = self.run("status", "--json", check=False)
        assert done.returncode in (0, 1, 2), done.stderr + self.log()
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def pid(self) -> int:
        """Process id of the mount."""
        return int(self.status()["mount"]["pid"])

    def kill(self) -> None:
        """SIGKILL the mount process, as a crash would."""
        pid = self.pid()
        os.kill(pid, signal.SIGKILL)
        await_that(lambda: not alive(pid), "the killed process is gone")

    def paths(self) -> VolumePaths:
        """Where this volume's files lie."""
        with self._environment():
            return VolumePaths()

    def keys(self) -> VolumeKeys:
        """The volume's keys, to look into its databases."""
        with self._environment():
            return unlock_volume(VolumePaths())

    @contextlib.contextmanager
    def _environment(self) -> Iterator[None]:
        before = dict(os.environ)
        os.environ.update(self.env)
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)

    def examine(self) -> dict[str, Any]:
        """What fsck finds in the books of the volume, by code, while it is not mounted."""
        paths = self.paths()
        with View(paths.meta_db, self.keys().metadata_key) as view:
            found = check(view, journal=paths.journal_dir)
        return {one["code"]: one for one in found.report() if one["code"] in found.problems()}

    def farmer_folders(self) -> list[Path]:
        """The folders of the embedded farmers, in their order."""
        return sorted(path for path in self.paths().farm_dir.iterdir() if path.is_dir())

    def farm_pid(self) -> int:
        """Process id of the embedded farm, the child of the mount process."""
        tasks = Path(f"/proc/{self.pid()}/task").glob("*/children")
        children = [int(child) for task in tasks for child in task.read_text().split()]
        (farm,) = [pid for pid in children if b"storjfs.farmer" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        return farm

    def stop(self) -> None:
        """Leave nothing mounted and nothing running, whatever state the test left."""
        with contextlib.suppress(Exception):
            self.run("umount", str(self.at), timeout=30, check=False)
        if os.path.ismount(self.at) or not reachable(self.at):
            subprocess.run(["fusermount3", "-u", "-z", str(self.at)], check=False)
        with contextlib.suppress(Exception):
            os.kill(self.pid(), signal.SIGKILL)


def shards_in(folder: Path) -> dict[str, Path]:
    """The shard files on a farmer's shelf, by their id in hex."""
    return {path.name: path for path in folder.rglob("*") if re.fullmatch("[0-9a-f]{64}", path.name)}


def reachable(path: Path) -> bool:
    """Whether the path answers at all (a dead mount does not)."""
    try:
        path.stat()
    except OSError:
        return False
    return True


def alive(pid: int) -> bool:
    """Whether a process of that id runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def await_that(
    condition: Any, what: str, patience: float = PATIENCE, told: Callable[[], object] = str
) -> None:
    """Poll until `condition()` holds; fail saying `what` did not come about, and what `told()` says."""
    deadline = time.monotonic() + patience
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {patience:.0f} s in vain until {what}\n{told()}")
        time.sleep(0.05)
