"""Processes whose changes to files below one directory are written down, and made to fail on request."""

import atexit
import mmap
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Final

_ENTRY: Final = struct.Struct("<IiQqqIIII")
_CONTROL: Final = struct.Struct("<8q")
_SOURCE: Final = Path(__file__).with_name("recorder.c")


class Kind(IntEnum):
    """As in recorder.c; MARK is written by the tests themselves, see `Marks`."""

    CREATE = 1
    WRITE = 2
    TRUNCATE = 3
    PUNCH = 4
    SYNC = 5
    SYNC_FOLDER = 6
    RENAME = 7
    UNLINK = 8
    MKDIR = 9
    RMDIR = 10
    MARK = 100


@dataclass(frozen=True, slots=True)
class Entry:
    """One step. Paths are relative to the recorded directory and begin with a slash; the directory is "".

    `file` is an inode number, which a later file may have again. `error`: the call was made to fail with it;
    of a write `data` is then what got through all the same.
    """

    kind: Kind
    error: int = 0
    file: int = 0
    offset: int = 0
    length: int = 0
    path: str = ""
    second: str = ""
    data: bytes = b""


def read_record(path: Path) -> Iterator[Entry]:
    """The entries in their order."""
    content = path.read_bytes()
    at = 0
    while at < len(content):
        kind, error, file, offset, length, *sizes, _ = _ENTRY.unpack_from(content, at)
        at += _ENTRY.size
        parts = []
        for size in sizes:
            parts.append(content[at : at + size])
            at += size
        first, second, data = parts
        yield Entry(Kind(kind), error, file, offset, length, first.decode(), second.decode(), data)


class Marks:
    """What a test notes in the record between the steps: a text, and bytes with it. For any thread."""

    def __init__(self, record: Path) -> None:
        self._fd = os.open(record, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def __call__(self, name: str, data: bytes = b"") -> None:
        text = name.encode()
        entry = _ENTRY.pack(Kind.MARK, 0, 0, 0, 0, len(text), 0, len(data), 0)
        whole = entry + text + data
        assert os.write(self._fd, whole) == len(whole)

    def close(self) -> None:
        os.close(self._fd)


class Control:
    """Which calls of a recorded process fail."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(bytes(_CONTROL.size))
        with path.open("r+b") as file:
            self._shared = mmap.mmap(file.fileno(), _CONTROL.size)

    def fail(self, error: int, kinds: set[Kind], first: int, last: int = 1 << 40, torn: int = 0) -> None:
        """Of the calls of `kinds` from now on, numbers `first` to `last` (from 1) fail with `error`.

        Of a write `torn` thousandths get through all the same.
        """
        self._set(0, first, last, error, sum(1 << kind for kind in kinds), torn, 0)

    def heal(self) -> tuple[int, int]:
        """No further call fails. How many there were since `fail`, and how many failed."""
        seen, _, _, _, _, _, failed, _ = _CONTROL.unpack(self._shared)
        self._set(0, 0, 0, 0, 0, 0, 0)
        return seen, failed

    @property
    def failed(self) -> int:
        return int(_CONTROL.unpack(self._shared)[6])

    def _set(self, *values: int) -> None:
        self._shared[:] = _CONTROL.pack(*values, 0)


@cache
def library() -> Path:
    """The recorder, built for this test run."""
    folder = mkdtemp(prefix="storjfs-recorder-")
    atexit.register(shutil.rmtree, folder)
    target = Path(folder) / "recorder.so"
    command = [
        "gcc",
        "-std=gnu11",
        "-O1",
        "-Wall",
        "-Werror",
        "-shared",
        "-fPIC",
        "-o",
        str(target),
        str(_SOURCE),
    ]
    subprocess.run([*command, "-ldl", "-lpthread"], check=True)
    return target


def recorded(root: Path, record: Path, control: Path | None = None, without: str = "") -> dict[str, str]:
    """The environment of a process whose changes below `root` go into `record`."""
    environment = {
        **os.environ,
        "LD_PRELOAD": str(library()),
        "STORJFS_RECORD_ROOT": str(root.resolve()),
        "STORJFS_RECORD_TO": str(record),
        "STORJFS_RECORD_WITHOUT": without,
    }
    if control is not None:
        environment["STORJFS_RECORD_CONTROL"] = str(control)
    return environment
