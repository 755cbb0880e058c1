"""How a volume behaves as it grows: the same work on a real mount, over metadata of more and more files.

    python scripts/bench/growth.py [--at DIRECTORY] [files ...]      default 100000 1000000 10000000

For each size a new volume with embedded farmers is made and mounted by the command, unmounted, filled with
metadata (large_volume.py), dropped from the page cache, mounted again, and used. The mount process watches
its loop meanwhile. Ten million files take about five minutes and 4 GiB of disk, which are given back.
"""

import argparse
import ctypes
import json
import os
import random
import signal
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from large_volume import EXTENT, READABLE, SIZE, Filled, fill
from places import VolumePlace, peak_memory

from storjfs.daemon.client import request
from storjfs.volume import VolumePaths, unlock_volume

SOURCES = 64
COLD = 5_000
LOOK_UPS = 100_000
GETATTRS = 20_000
READS = 20_000
CREATES = 20_000
UNLINKS = 5_000
IDLE = 15
WATCH_LIMIT = "10"
LIBC = ctypes.CDLL(None, use_errno=True)
AT_FDCWD, AT_STATX_FORCE_SYNC, STATX_BASIC = -100, 0x2000, 0x7FF


class GrowingPlace(VolumePlace):
    """A volume that can be filled while it is not mounted."""

    def __init__(self, base: Path) -> None:
        super().__init__(base)
        self._env["STORJFS_WATCH_LOOP"] = WATCH_LIMIT

    @property
    def paths(self) -> VolumePaths:
        return VolumePaths(self._volume, self._env)

    @property
    def pid(self) -> int:
        return self._pids[0]

    def mount(self) -> float:
        """Seconds until the command returns."""
        started = time.perf_counter()
        self._command("mount", str(self.directory), "--volume", self._volume, "--no-passphrase")
        took = time.perf_counter() - started
        self._pids = self._processes()
        return took

    def unmount(self) -> None:
        self._unmount()

    def write_sources(self) -> None:
        """Files of as many extents as all others have."""
        for number in range(SOURCES):
            with (self.directory / f"source-{number}").open("wb", buffering=0) as file:
                for _ in range(SIZE // EXTENT):
                    file.write(os.urandom(EXTENT))
                    os.fsync(file.fileno())

    def ask(self, what: str) -> Any:
        return request(self.paths.control_socket, what)


def forget(path: Path) -> None:
    """Drop a file from the page cache."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


def timed(call: Callable[..., object], arguments: Iterable[tuple[Any, ...]]) -> dict[str, float]:
    """Microseconds of each call: median, 99th percentile, the longest."""
    clock = time.perf_counter
    took = []
    for each in arguments:
        started = clock()
        call(*each)
        took.append((clock() - started) * 1e6)
    took.sort()
    return {"median": statistics.median(took), "p99": took[len(took) * 99 // 100], "longest": took[-1]}


def in_page_cache(path: Path) -> None:
    with path.open("rb", buffering=0) as file:
        while file.read(1 << 22):
            pass


def ask_again(path: bytes) -> None:
    """stat(2), answered by the filesystem even where the kernel knows the answer (statx(2))."""
    buffer = ctypes.create_string_buffer(256)
    if LIBC.statx(AT_FDCWD, path, AT_STATX_FORCE_SYNC, STATX_BASIC, buffer):
        raise OSError(ctypes.get_errno(), "statx")
    if struct.unpack_from("<Q", buffer, 40)[0] != SIZE:
        raise AssertionError(f"{path!r} has another size than it was given")


def read_somewhere(path: str, offset: int) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        if len(os.pread(fd, 4096, offset)) != 4096:
            raise AssertionError(f"{path} is shorter than it was made")
    finally:
        os.close(fd)


def create(path: str) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))


def resident(pid: int) -> int:
    fields = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


def processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(place: GrowingPlace, files: int, large: int) -> dict[str, Any]:
    """All figures of one size; `place` is entered and new."""
    place.write_sources()
    place.settle()
    place.unmount()
    keys = unlock_volume(place.paths)
    filled = fill(place.paths.meta_db, keys.metadata_key, files, large)
    found: dict[str, Any] = {
        "files": files,
        "extents": 5 * files,
        "shards": filled.shards,
        "filling, s": filled.seconds,
        "meta.db, MiB": place.paths.meta_db.stat().st_size / 2**20,
    }
    forget(place.paths.meta_db)
    found["mount, s"] = place.mount()
    found["resident after mount, MiB"] = resident(place.pid) / 2**20
    # The auditor and the reader-back go through all shards now.
    time.sleep(IDLE)
    found[f"processor s in the first {IDLE} s"] = processor_seconds(place.pid)
    found["status, us"] = timed(place.ask, [("status",)] * 5)
    work = Work(place.directory, filled)
    found["cold look-up, us"] = work.look_up(COLD)
    in_page_cache(place.paths.meta_db)
    for name, doing in (
        ("look-up, us", partial(work.look_up, LOOK_UPS)),
        ("getattr, us", work.getattr),
        ("read, us", work.read),
        ("list, entries/s", work.list_large),
        ("create, us", work.create),
        ("rename, us", work.rename),
        ("unlink, us", work.unlink),
        ("empty the large directory, entries/s", work.empty),
    ):
        found[name] = doing()
        found[f"resident after {name.split(',')[0]}, MiB"] = resident(place.pid) / 2**20
    before = processor_seconds(place.pid)
    time.sleep(IDLE)
    found[f"processor s in {IDLE} idle s"] = processor_seconds(place.pid) - before
    found["status after all that, us"] = timed(place.ask, [("status",)] * 5)
    found["peak resident, MiB"] = peak_memory(place.pid) / 2**20
    found["loop"] = place.ask("loop")
    return found


class Work:
    """What programs do, on files chosen at random."""

    def __init__(self, root: Path, filled: Filled) -> None:
        self._root = root
        self._filled = filled
        self._random = random.Random(5)
        # No file twice: the second time the kernel would answer by itself.
        count = min(filled.files, COLD + LOOK_UPS)
        self._unknown = [(self._path(number),) for number in self._random.sample(range(filled.files), count)]
        self._known: list[tuple[str]] = []

    def _path(self, number: int) -> str:
        return f"{self._root}/{self._filled.path(number)}"

    def look_up(self, count: int) -> dict[str, float]:
        """Paths of two names, the second of which is new to the kernel."""
        chosen, self._unknown = self._unknown[:count], self._unknown[count:]
        self._known += chosen
        return timed(os.lstat, chosen)

    def getattr(self) -> dict[str, float]:
        """Of inodes that the kernel knows, and the filesystem perhaps no more."""
        some = self._random.sample(self._known, GETATTRS)
        return timed(ask_again, [(os.fsencode(path),) for (path,) in some])

    def read(self) -> dict[str, float]:
        """Open, read a page, close."""
        readable = range(0, self._filled.files, READABLE)
        chosen = self._random.sample(readable, min(READS, len(readable)))
        return timed(
            read_somewhere,
            [(self._path(number), self._random.randrange(SIZE // 4096) * 4096) for number in chosen],
        )

    def list_large(self) -> float:
        """The large directory, with the attributes of each entry."""
        started = time.perf_counter()
        with os.scandir(f"{self._root}/large") as entries:
            count = sum(1 for _ in entries)
        if count != self._filled.large:
            raise AssertionError(f"{count} entries instead of {self._filled.large}")
        return count / (time.perf_counter() - started)

    def create(self) -> dict[str, float]:
        """Files in the large directory; enough for the metadata's log to be copied into the database."""
        return timed(create, [(f"{self._root}/large/new{number}",) for number in range(CREATES)])

    def rename(self) -> dict[str, float]:
        """What was created, within the directory."""
        names = [f"{self._root}/large/new{number}" for number in range(CREATES)]
        return timed(os.rename, [(name, f"{name}-renamed") for name in names])

    def empty(self) -> float:
        """rm -r of all that is left in it."""
        started = time.perf_counter()
        subprocess.run(["rm", "-r", f"{self._root}/large"], check=True)
        return self._filled.large / (time.perf_counter() - started)

    def unlink(self) -> dict[str, float]:
        """Files of the large directory and elsewhere, with their extents."""
        chosen = self._random.sample(range(self._filled.files), UNLINKS)
        return timed(os.unlink, [(self._path(number),) for number in chosen])


def shown(found: dict[str, Any]) -> str:
    lines = []
    for name, value in found.items():
        if name == "loop":
            lines.append(
                f"  longest step: {value['longest']:.1f} ms of processor, {value['longest_wall']:.1f} in all"
            )
            lines += [
                f"    {one['processor']:.1f} ms, {one['blocked']:.1f} asleep, {one['task']}: {one['where']}"
                for one in value["holds"][:40]
            ]
        elif isinstance(value, dict):
            lines.append(f"  {name}: " + "  ".join(f"{key} {number:,.0f}" for key, number in value.items()))
        else:
            lines.append(f"  {name}: {value:,.2f}" if isinstance(value, float) else f"  {name}: {value:,}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", type=int, nargs="*", default=[10**5, 10**6, 10**7])
    parser.add_argument("--at", type=Path, default=Path("/var/tmp"), help="where to make the folder")
    parser.add_argument("--share", type=int, default=10, help="one file in so many lies in one directory")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    # What was started is stopped on the way out, also when somebody ends this early.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    for files in given.files:
        base = given.at / f"storjfs-growth-{os.getpid()}"
        with GrowingPlace(base) as place:
            found = measure(place, files, files // given.share // 1000 * 1000)
        print(json.dumps(found) if given.json else shown(found), flush=True)


if __name__ == "__main__":
    sys.exit(main())
