"""Where the work is done: the bare disk, a passthrough mount, and a volume of storjfs mounted by its command.

A place is a context manager; whatever it has started is stopped, by its id, when it is left.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from workloads import drop_kernel_caches

PATIENCE = 600.0
"""Seconds after which a command of ours is given up."""
READ_AHEAD_KIB = 1024
"""How far the kernel reads ahead on our mounts where it may be told (root); the passthrough gets the same."""


class Place:
    """A directory to work in. This one is the bare disk."""

    name = "disk"

    def __init__(self, base: Path) -> None:
        self.base = base
        self.directory = base / "work"

    def __enter__(self) -> Self:
        self.directory.mkdir(parents=True)
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.base, ignore_errors=True)

    def settle(self) -> None:
        """Return when the data is as safe as this place makes it beyond fsync."""

    def forget(self) -> None:
        """Lose whatever this place has cached itself."""
        drop_kernel_caches()

    def peak_memory(self) -> dict[str, int]:
        """Peak resident bytes of each of its processes."""
        return {}

    def complaints(self) -> list[str]:
        """Warnings and errors in its logs: figures with some are worth little."""
        return []


class PassthroughPlace(Place):
    """A pyfuse3 filesystem that only hands on."""

    name = "passthrough"

    def __init__(self, base: Path) -> None:
        super().__init__(base)
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        super().__enter__()
        (self.base / "lower").mkdir()
        self._mount()
        return self

    def __exit__(self, *_: object) -> None:
        self._unmount()
        super().__exit__()

    def forget(self) -> None:
        self._unmount()
        drop_kernel_caches()
        self._mount()

    def peak_memory(self) -> dict[str, int]:
        return {} if self._process is None else {"passthrough": peak_memory(self._process.pid)}

    def _mount(self) -> None:
        script = Path(__file__).with_name("passthrough.py")
        command = [sys.executable, str(script), str(self.base / "lower"), str(self.directory)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "ready\n":
            raise RuntimeError("the passthrough did not mount")
        device = self.directory.stat().st_dev
        knob = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")
        with contextlib.suppress(OSError):
            knob.write_text(str(READ_AHEAD_KIB), encoding="ascii")

    def _unmount(self) -> None:
        if self._process is None:
            return
        subprocess.run(["fusermount3", "-u", str(self.directory)], check=False, timeout=60)
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            subprocess.run(["fusermount3", "-u", "-z", str(self.directory)], check=False, timeout=60)
            self._process.kill()
            self._process.wait()
        self._process = None


class VolumePlace(Place):
    """A new volume with embedded farmers, all its files under `base`."""

    name = "storjfs"

    def __init__(self, base: Path, options: tuple[str, ...] = ()) -> None:
        super().__init__(base)
        self._volume = f"bench-{os.getpid()}"
        self._options = options
        self._pids: list[int] = []
        self._env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("STORJFS_")},
            "HOME": str(base),
            **{f"XDG_{kind}_HOME": str(base / kind.lower()) for kind in ("CONFIG", "DATA", "CACHE", "STATE")},
            "XDG_RUNTIME_DIR": str(base / "run"),
        }

    def __enter__(self) -> Self:
        super().__enter__()
        (self.base / "run").mkdir(mode=0o700)
        try:
            self._mount()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *raised: object) -> None:
        if any(raised):
            print(self._end_of_log(), file=sys.stderr)
        try:
            self._unmount()
        except (OSError, RuntimeError, subprocess.SubprocessError) as error:
            print(f"storjfs did not unmount by itself: {error}", file=sys.stderr)
            subprocess.run(["fusermount3", "-u", "-z", str(self.directory)], check=False, timeout=60)
            for pid in self._pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        super().__exit__()

    def settle(self) -> None:
        self._command("flush", "--volume", self._volume)

    def forget(self) -> None:
        """Unmount, remove the cache folder, mount: all that is read then comes from the farmers."""
        self._unmount()
        shutil.rmtree(self.base / "cache", ignore_errors=True)
        drop_kernel_caches()
        self._mount()

    def peak_memory(self) -> dict[str, int]:
        names = ["mount process", "farmers"]
        return {name: peak_memory(pid) for name, pid in zip(names, self._pids, strict=False)}

    def complaints(self) -> list[str]:
        logs = sorted((self.base / "state").rglob("*.log"))
        lines = [line for log in logs for line in log.read_text(errors="replace").splitlines()]
        return [line for line in lines if " WARNING " in line or " ERROR " in line]

    def _command(self, *words: str, good: tuple[int, ...] = (0,)) -> str:
        """Run to its end, also when we are told to stop: half a mount could not be undone."""
        command = [sys.executable, "-m", "storjfs", *words]
        process = subprocess.Popen(
            command,
            env=self._env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            said, complaint = process.communicate(timeout=PATIENCE)
        except BaseException:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=60)
            process.kill()
            process.wait()
            raise
        if process.returncode not in good:
            told = complaint.strip() or said.strip()
            raise RuntimeError(
                f"storjfs {words[0]} ended with {process.returncode}: {told}\n{self._end_of_log()}"
            )
        return said

    def _end_of_log(self) -> str:
        logs = [path for path in (self.base / "state").rglob("*") if path.suffix in (".log", ".out")]
        return "\n".join(log.read_text(errors="replace")[-2000:] for log in logs)

    def _mount(self) -> None:
        self._command(
            "mount", str(self.directory), "--volume", self._volume, "--no-passphrase", *self._options
        )
        self._pids = self._processes()

    def _processes(self) -> list[int]:
        """The mount process and the farmers', none where nothing is mounted."""
        said = self._command("status", "--json", "--volume", self._volume, good=(0, 1, 2))
        status: dict[str, Any] = json.loads(said)
        if status["mount"] is None:
            return []
        mount = int(status["mount"]["pid"])
        return [mount, *children(mount)]

    def _unmount(self) -> None:
        if not os.path.ismount(self.directory):
            return
        self._pids = self._pids or self._processes()
        self._command("umount", str(self.directory))
        end = time.monotonic() + PATIENCE
        while any(Path(f"/proc/{pid}").exists() for pid in self._pids):
            if time.monotonic() > end:
                raise RuntimeError("its processes did not end")
            time.sleep(0.05)
        self._pids = []


def children(pid: int) -> Iterator[int]:
    """The direct children of a process."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            yield from map(int, (task / "children").read_text(encoding="ascii").split())


def peak_memory(pid: int) -> int:
    """The most a process has had resident, in bytes; 0 where it is gone."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0
