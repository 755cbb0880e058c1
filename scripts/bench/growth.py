"""How the filesystem room behaves as a volume grows: metadata of many files, made directly, then used cold.

    python scripts/bench/growth.py [files ...]        default 10000 100000 1000000

For each size: the time to open the volume, look-ups and reads of random files with nothing cached, files
created beside them, and the peak memory of the process that did it (one process per size).
"""

import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import apsw
import trio
from filesystem import NoSegments

from storjfs.filesystem import Capacity, Filesystem
from storjfs.store import ROOT_INODE, MetaStore, open_database
from storjfs.store.schema import META_SCHEMA, META_VERSION

KEY = bytes(32)
PER_FOLDER = 1000
SIZE = 20_000  # bytes of each file, one extent
TRIES = 5_000
NOW = 1_700_000_000_000_000_000


def folder_ino(number: int) -> int:
    return 10 + number


def file_ino(number: int) -> int:
    return 1_000_000_000 + number


def fill(path: Path, files: int) -> None:
    """Rows as the filesystem would have made them."""
    folders = -(-files // PER_FOLDER)
    db = open_database(path, KEY, META_SCHEMA, version=META_VERSION)
    with db:
        db.execute("INSERT INTO inode VALUES (1, 16877, 0, 0, 2, 0, 0, 0, 0, 0, 1, 0, 0, NULL)")
        many(
            db,
            "inode",
            14,
            ((folder_ino(n), 16877, 0, 0, 2, 0, NOW, NOW, NOW, 0, 1, 0, 0, None) for n in range(folders)),
        )
        many(db, "dentry", 4, ((1, b"d%d" % n, folder_ino(n), n + 1) for n in range(folders)))
        many(
            db,
            "inode",
            14,
            ((file_ino(n), 33188, 0, 0, 1, SIZE, NOW, NOW, NOW, 0, 0, 0, SIZE, None) for n in range(files)),
        )
        many(
            db,
            "dentry",
            4,
            ((folder_ino(n // PER_FOLDER), b"f%d" % n, file_ino(n), folders + n + 1) for n in range(files)),
        )
        many(
            db,
            "extent",
            7,
            ((file_ino(n), 0, SIZE, 1 + n // 600, n % 600 * SIZE, SIZE, 0) for n in range(files)),
        )
        db.execute("UPDATE counters SET value = ? WHERE key = 'next_ino'", (file_ino(files),))
        db.execute("UPDATE counters SET value = ? WHERE key = 'next_dentry'", (folders + files + 1,))
    db.close()


def many(db: apsw.Connection, table: str, columns: int, rows: Iterator[tuple[object, ...]]) -> None:
    marks = ", ".join("?" * columns)
    db.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)  # type: ignore[arg-type]


async def use(path: Path, files: int, size: int) -> None:
    started = time.perf_counter()
    store = MetaStore.open(path, KEY)
    fs = Filesystem(store, NoSegments(), lambda: Capacity(1 << 50, 1 << 49))
    opened = time.perf_counter() - started
    chosen = random.Random(1).sample(range(files), TRIES)
    async with trio.open_nursery() as nursery:
        await nursery.start(store.run)
        started = time.perf_counter()
        for number in chosen:
            folder = await fs.lookup(ROOT_INODE, b"d%d" % (number // PER_FOLDER))
            await fs.lookup(folder.ino, b"f%d" % number)
        looked_up = (time.perf_counter() - started) / TRIES
        started = time.perf_counter()
        for number in chosen:
            handle = await fs.open(file_ino(number), os.O_RDONLY)
            assert len(await fs.read(handle, 0, 4096)) == 4096
            await fs.release(handle)
        read = (time.perf_counter() - started) / TRIES
        started = time.perf_counter()
        for number in range(TRIES):
            handle, _ = await fs.create(folder_ino(number % 10), b"new%d" % number, 0o644, 0, 0, os.O_WRONLY)
            await fs.write(handle, 0, bytes(4096))
            await fs.release(handle)
        await store.sync()
        made = (time.perf_counter() - started) / TRIES
        nursery.cancel_scope.cancel()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{files:>11,} files  meta.db {size / 2**20:7.0f} MiB  open {opened * 1e3:6.1f} ms"
        f"  look-up {looked_up * 1e6:5.0f} us  read {read * 1e6:5.0f} us  create {made * 1e6:5.0f} us"
        f"  peak memory {memory:4.0f} MiB",
        flush=True,
    )


def main() -> None:
    if sys.argv[1:2] == ["use"]:
        path = Path(sys.argv[2])
        trio.run(use, path, int(sys.argv[3]), path.stat().st_size)
        return
    for files in map(int, sys.argv[1:] or ["10000", "100000", "1000000"]):
        with tempfile.TemporaryDirectory(dir="/var/tmp") as made:
            path = Path(made) / "meta.db"
            fill(path, files)
            subprocess.run([sys.executable, __file__, "use", str(path), str(files)], check=True)


if __name__ == "__main__":
    main()
