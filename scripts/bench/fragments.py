"""Files of very many extents on a real mount: written as such, and made directly.

    python scripts/bench/fragments.py [--at DIRECTORY] [--written N] [extents]      default 1000000

One file is written through the mount, every other page first, so that each page is an extent of its own.
Others get as many extents as asked for directly in the metadata, scattered over what was written. The mount
process watches its loop meanwhile.
"""

import argparse
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import apsw
from growth import GrowingPlace, resident, timed
from places import peak_memory
from workloads import MIB, PAGE, drop_kernel_caches

from storjfs.keys import VolumeKeys
from storjfs.store import open_meta
from storjfs.volume import unlock_volume

COPIES = ("read", "cut", "removed")
STEP = 7919  # a prime: neighbours lie far from each other
JOINED = 40  # windows of a file that is left to the background to join
PATIENCE = 300.0


def write_scattered(path: Path, pages: int) -> float:
    """Seconds for all of it, to fsync."""
    started = time.perf_counter()
    block = random.Random(3).randbytes(MIB)
    with path.open("wb", buffering=0) as file:
        for first in (1, 0):
            for number in range(first, pages, 2):
                at = number * STEP % (MIB - PAGE)
                os.pwrite(file.fileno(), block[at : at + PAGE], number * PAGE)
            os.fsync(file.fileno())
    return time.perf_counter() - started


def copy_extents(db: apsw.Connection, extents: int) -> None:
    """Files of `extents` pages each, taken from the file "written"."""
    ((source,),) = db.execute("SELECT ino FROM dentry WHERE parent = 1 AND name = ?", (b"written",))
    ((count,),) = db.execute("SELECT count(*) FROM extent WHERE ino = ? AND len = ?", (source, PAGE))
    counters = dict(db.execute("SELECT key, value FROM counters").fetchall())
    db.execute("CREATE TEMP TABLE page (number INTEGER PRIMARY KEY, seg, pos, run, skip)")
    db.execute(
        "INSERT INTO page SELECT row_number() OVER (ORDER BY off) - 1, seg, pos, run, skip FROM extent "
        "WHERE ino = ? AND len = ?",
        (source, PAGE),
    )
    numbers = "WITH RECURSIVE n(i) AS (VALUES (0) UNION ALL SELECT i + 1 FROM n WHERE i + 1 < :extents) "
    for number, name in enumerate(COPIES):
        given = {"ino": counters["next_ino"] + number, "extents": extents, "count": count, "first": number}
        size = extents * PAGE
        db.execute(
            "INSERT INTO inode SELECT ?, 33188, uid, gid, 1, ?, mtime, mtime, mtime, 0, 0, 0, ?, NULL "
            "FROM inode WHERE ino = 1",
            (given["ino"], size, size),
        )
        entry = (name.encode(), given["ino"], counters["next_dentry"] + number)
        db.execute("INSERT INTO dentry VALUES (1, ?, ?, ?)", entry)
        db.execute(
            f"{numbers} INSERT INTO extent SELECT :ino, i * {PAGE}, {PAGE}, seg, pos, run, skip "
            f"FROM n JOIN page ON number = (i * {STEP} + :first) % :count",
            given,
        ).fetchall()
    db.execute(
        "UPDATE segment SET live = found, plain = max(plain, found) FROM "
        "(SELECT seg AS s, sum(len) AS found FROM extent GROUP BY seg) WHERE seg = s"
    )
    for key, step in (("next_ino", len(COPIES)), ("next_dentry", len(COPIES)), ("inodes", len(COPIES))):
        db.execute("UPDATE counters SET value = value + ? WHERE key = ?", (step, key))


class Work:
    """What programs do with them."""

    def __init__(self, place: GrowingPlace, keys: VolumeKeys, extents: int) -> None:
        self._at = place.directory
        self._size = extents * PAGE
        self._random = random.Random(4)
        self._books = open_meta(place.paths.meta_db, keys.metadata_key)

    def close(self) -> None:
        self._books.close()

    def _count(self, sql: str, *values: bytes | int) -> int:
        ((count,),) = self._books.execute(sql, values)
        assert isinstance(count, int)
        return count

    def _until(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > end:
                raise AssertionError("the background does not get on")
            time.sleep(0.1)

    def read_all(self) -> str:
        drop_kernel_caches()
        started = time.perf_counter()
        with (self._at / "read").open("rb", buffering=0) as file:
            while file.read(MIB):
                pass
        return f"{self._size / 1e6 / (time.perf_counter() - started):,.0f} MB/s"

    def read_somewhere(self) -> str:
        drop_kernel_caches()
        fd = os.open(self._at / "read", os.O_RDONLY)
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
            places = [(fd, PAGE, self._random.randrange(self._size // PAGE) * PAGE) for _ in range(5_000)]
            return shown(timed(os.pread, places))
        finally:
            os.close(fd)

    def cut(self) -> str:
        return self._gone(lambda: os.truncate(self._at / "cut", 10 * PAGE + 1), b"cut", 11)

    def remove(self) -> str:
        return self._gone((self._at / "removed").unlink, b"removed", 0)

    def _gone(self, call: Callable[[], object], name: bytes, left: int) -> str:
        ino = self._count("SELECT ino FROM dentry WHERE parent = 1 AND name = ?", name)
        started = time.perf_counter()
        call()
        returned = time.perf_counter() - started
        other = self._at / "other"
        stats = timed(lambda: other.write_bytes(b"x"), [()] * 200)  # what others notice of it meanwhile
        self._until(lambda: self._count("SELECT count(*) FROM extent WHERE ino = ?", ino) <= left)
        whole = time.perf_counter() - started
        return f"{returned * 1e3:.1f} ms, all committed after {whole:.1f} s; others meanwhile: {shown(stats)}"

    def join(self) -> str:
        """A new file of scattered pages: after a while its windows are in one piece each."""
        write_scattered(self._at / "joined", JOINED * MIB // PAGE)
        ino = self._count("SELECT ino FROM dentry WHERE parent = 1 AND name = ?", b"joined")
        extents = "SELECT count(*) FROM extent WHERE ino = ?"
        started, before = time.perf_counter(), self._count(extents, ino)
        self._until(lambda: self._count(extents, ino) <= 2 * JOINED)
        return f"{before} extents are {self._count(extents, ino)} after {time.perf_counter() - started:.0f} s"


def shown(figures: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:,.0f} us" for name, value in figures.items())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("extents", type=int, nargs="?", default=10**6)
    parser.add_argument("--written", type=int, default=10**5, help="extents written through the mount")
    parser.add_argument("--at", type=Path, default=Path("/var/tmp"), help="where to make the folder")
    given = parser.parse_args()
    # What was started is stopped on the way out, also when somebody ends this early.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with GrowingPlace(given.at / f"storjfs-fragments-{os.getpid()}") as place:
        took = write_scattered(place.directory / "written", given.written)
        print(f"written: {given.written / took:,.0f} pages/s", flush=True)
        place.settle()
        tell(place)
        place.unmount()
        keys = unlock_volume(place.paths)
        with open_meta(place.paths.meta_db, keys.metadata_key, cache_kib=256 << 10) as db:
            copy_extents(db, given.extents)
        db.close()
        place.mount()
        work = Work(place, keys, given.extents)
        for name, doing in (
            ("read all", work.read_all),
            ("read 4 KiB", work.read_somewhere),
            ("cut", work.cut),
            ("remove", work.remove),
            ("join", work.join),
        ):
            print(f"{name}: {doing()}", flush=True)
            tell(place)
        work.close()


def tell(place: GrowingPlace) -> None:
    loop = place.ask("loop")
    print(
        f"  resident {resident(place.pid) / MIB:.0f} MiB, at most {peak_memory(place.pid) / MIB:.0f};"
        f" longest step {loop['longest']:.1f} ms of processor"
    )
    for one in loop["holds"]:
        print(f"    {one['processor']:.1f} ms, {one['blocked']:.1f} asleep, {one['task']}: {one['where']}")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
