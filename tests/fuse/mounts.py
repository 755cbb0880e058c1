"""Mounts of processes that keep the file data in memory."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@contextlib.contextmanager
def mounted(home: Path, *options: str) -> Iterator[Path]:
    """A directory with a mount on it, taken off at the end; the process must end well."""
    at = home / "mount"
    at.mkdir(exist_ok=True)
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.fuse.mounted_in_memory", str(at), str(home / "meta.db"), *options],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        if process.stdout.readline() != "ready\n":
            raise AssertionError(process.stderr.read())
        try:
            yield at
        finally:
            subprocess.run(["fusermount3", "-u", str(at)], check=True)
            errors = process.stderr.read()
    assert process.returncode == 0, errors
    assert errors == ""
