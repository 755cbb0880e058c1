"""How long fsck takes, and how much memory, as a volume grows: books made directly, then checked.

    python scripts/bench/integrity.py [files ...]        default 10000 100000 1000000

Each file has five extents of 4 KiB, scattered over segments of 12 MiB; one process per size. The books are
those of a sound volume, so that finding nothing is part of what is measured.
"""

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from storjfs.coding.geometry import FRAME_OVERHEAD, sealed_length, shard_length
from storjfs.integrity import View, check
from storjfs.store import open_meta

KEY = bytes(32)
PER_FOLDER = 1000
PARTS = 5
PART = 4096
PER_SEGMENT = 3000
K, N = 3, 5

Row = tuple[object, ...]


def fill(path: Path, files: int) -> None:
    """Rows as the rooms would have made them."""
    folders = -(-files // PER_FOLDER)
    extents = files * PARTS
    segments = -(-extents // PER_SEGMENT)
    size = PER_SEGMENT * (PART + FRAME_OVERHEAD)
    first = 2 + folders
    db = open_meta(path, KEY)

    def many(table: str, rows: Iterator[Row], columns: int) -> None:
        db.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * columns)})", rows)  # type: ignore[arg-type]

    def places() -> Iterator[tuple[int, int, int, int]]:
        """(file, part, segment, position): the parts of a file lie far from each other."""
        for number in range(files):
            for part in range(PARTS):
                at = part * files + number
                yield number, part, 1 + at // PER_SEGMENT, at % PER_SEGMENT * (PART + FRAME_OVERHEAD)

    with db:
        db.execute(
            "INSERT INTO inode VALUES (1, 16877, 0, 0, ?, 0, 0, 0, 0, 0, 1, 0, 0, NULL)", (2 + folders,)
        )
        many("inode", ((2 + n, 16877, 0, 0, 2, 0, 0, 0, 0, 0, 1, 0, 0, None) for n in range(folders)), 14)
        whole = PARTS * PART
        many(
            "inode",
            ((first + n, 33188, 0, 0, 1, whole, 0, 0, 0, 0, 0, 0, whole, None) for n in range(files)),
            14,
        )
        many("dentry", ((1, b"d%d" % n, 2 + n, n + 1) for n in range(folders)), 4)
        many(
            "dentry",
            ((2 + n // PER_FOLDER, b"f%d" % n, first + n, folders + n + 1) for n in range(files)),
            4,
        )
        many("extent", ((first + f, p * PART, PART, s, at, PART, 0) for f, p, s, at in places()), 7)
        many("run", ((s, at, PART, first + f, p * PART) for f, p, s, at in places()), 5)
        filled = [min(PER_SEGMENT, extents - n * PER_SEGMENT) * PART for n in range(segments)]
        many(
            "segment",
            (
                (n + 1, n.to_bytes(16, "big"), 2, 1, K, N, size, live, 0, live)
                for n, live in enumerate(filled)
            ),
            10,
        )
        length = sealed_length(shard_length(size, K))
        many(
            "shard",
            (
                ((n * N + i).to_bytes(32, "big"), n + 1, i, 1 + i, bytes(32), bytes(32), length, 1)
                for n in range(segments)
                for i in range(N)
            ),
            8,
        )
        counters = {
            "next_ino": first + files,
            "next_dentry": folders + files + 1,
            "next_seg": segments + 1,
            "segments_full": segments,
            "segments_stored_bytes": segments * size,
        }
        db.executemany("REPLACE INTO counters VALUES (?, ?)", counters.items())
    db.close()


def use(path: Path, files: int) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    started = time.perf_counter()
    with View(path, KEY) as view:
        found = check(view, contracts=False)
    seconds = time.perf_counter() - started
    assert not found, found.report()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{files:>11,} files {files * PARTS:>12,} extents  meta.db {path.stat().st_size / 2**20:7.0f} MiB"
        f"  {seconds:8.2f} s  {seconds / files * 1e6:6.1f} us a file"
        f"  peak memory {memory:4.0f} MiB, {before:.0f} of it before",
        flush=True,
    )


def main() -> None:
    if sys.argv[1:2] == ["use"]:
        use(Path(sys.argv[2]), int(sys.argv[3]))
        return
    for files in map(int, sys.argv[1:] or ["10000", "100000", "1000000"]):
        with tempfile.TemporaryDirectory(dir="/var/tmp") as made:
            path = Path(made) / "meta.db"
            fill(path, files)
            subprocess.run([sys.executable, __file__, "use", str(path), str(files)], check=True)


if __name__ == "__main__":
    main()
