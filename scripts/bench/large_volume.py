"""Metadata of a volume with very many files, made directly in the meta.db of a real one that is not mounted.

The rows are as a mount would have left them: names in folders of a thousand and in one large directory, five
extents to a file, each the run of one write, full segments with n shards under the volume's own contracts. Of
the content only a little exists: some source files, written through the mount before, whose extents every
hundredth file shares, so that these can be read. The rest cannot be; the audits would find that out, hours
later. Shards are entered as shorter than they would be, to fit what farmers on one disk can promise.
"""

import time
from dataclasses import dataclass
from pathlib import Path

import apsw

from storjfs.store import ROOT_INODE, open_meta

PER_FOLDER = 1000
EXTENTS = 5
EXTENT = 20_480
SIZE = EXTENTS * EXTENT
READABLE = 100  # one file in so many has content
FRAME = EXTENT + 28
PIECE = 65536
PER_PIECE = PIECE // FRAME
PER_SEGMENT = 12 * 1024 * 1024 // PIECE * PER_PIECE
SEGMENT = 12 * 1024 * 1024
SHARD = 65536 + 16
BATCH = 1_000_000


@dataclass(frozen=True, slots=True)
class Filled:
    """How to find what was made: file number i is `path(i)`; the first `large` ones lie in one directory."""

    files: int
    large: int
    first_ino: int
    segments: int
    shards: int
    seconds: float

    def path(self, number: int) -> str:
        folder = "large" if number < self.large else f"d{number // PER_FOLDER:06d}"
        return f"{folder}/f{number:08d}"


def fill(meta_db: Path, key: bytes, files: int, large: int) -> Filled:
    """Add `files` files, `large` of them in one directory, both whole thousands.

    The source files must lie in the root as source-0, source-1 and so on.
    """
    started = time.perf_counter()
    db = open_meta(meta_db, key, cache_kib=512 << 10)
    # Half a database is thrown away, not recovered.
    for setting in ("locking_mode=EXCLUSIVE", "journal_mode=OFF", "synchronous=OFF"):
        db.execute(f"PRAGMA {setting}").fetchall()
    with db:
        filling = _Filling(db, files, large)
        filling.names()
        filling.content()
        filling.segments()
        filling.counters()
    db.execute("PRAGMA journal_mode=WAL").fetchall()
    db.close()
    return Filled(
        files,
        large,
        filling.first_ino,
        filling.segment_count,
        filling.segment_count * filling.n,
        time.perf_counter() - started,
    )


class _Filling:
    def __init__(self, db: apsw.Connection, files: int, large: int) -> None:
        self.db = db
        self.files = files
        self.large = large
        self.counter = dict(db.execute("SELECT key, value FROM counters").fetchall())
        self.folders = (files - large) // PER_FOLDER
        self.large_ino = int(self.counter["next_ino"])
        self.first_folder = self.large_ino + 1 - large // PER_FOLDER  # of files 0 to 999, were they not there
        self.first_ino = self.large_ino + 1 + self.folders
        self.first_segment = int(self.counter["next_seg"])
        self.written = files - -(-files // READABLE)
        self.segment_count = -(-self.written * EXTENTS // PER_SEGMENT)
        ((self.k, self.n, self.algorithm),) = db.execute(
            "SELECT k, n, algorithm FROM segment WHERE state = 2 LIMIT 1"
        )
        self.now = time.time_ns()

    def _insert(self, statement: str, count: int, first: int = 0, **values: int) -> None:
        """Run `INSERT ... SELECT ... FROM n` for i from `first` to below `count`, some at a time."""
        for start in range(first, count, BATCH):
            numbers = (
                "WITH RECURSIVE n(i) AS (VALUES (:start) UNION ALL SELECT i + 1 FROM n WHERE i + 1 < :end) "
            )
            bounds = {"start": start, "end": min(start + BATCH, count)}
            self.db.execute(numbers + statement, {**values, **bounds}).fetchall()

    def names(self) -> None:
        directory = "16877, :uid, :gid, 2, 0, :now, :now, :now, 0, 1, 0, 0, NULL"
        root: tuple[int, int] = self.db.execute("SELECT uid, gid FROM inode WHERE ino = 1").fetchall()[0]
        owner = {"uid": root[0], "gid": root[1], "now": self.now}
        dentry = int(self.counter["next_dentry"])
        first = self.large // PER_FOLDER
        last = first + self.folders
        self.db.execute(f"INSERT INTO inode VALUES (:ino, {directory})", {"ino": self.large_ino, **owner})
        self.db.execute("INSERT INTO dentry VALUES (1, ?, ?, ?)", (b"large", self.large_ino, dentry))
        folder = {"base": self.first_folder, "id": dentry + 1}
        self._insert(f"INSERT INTO inode SELECT :base + i, {directory} FROM n", last, first,
                     base=self.first_folder, **owner)  # fmt: skip
        self._insert(
            "INSERT INTO dentry SELECT 1, CAST(printf('d%06d', i) AS BLOB), :base + i, :id + i FROM n",
            last, first, **folder,
        )  # fmt: skip
        self.db.execute("UPDATE inode SET nlink = nlink + ? WHERE ino = 1", (self.folders + 1,))
        self._insert(
            "INSERT INTO inode SELECT :base + i, 33188, :uid, :gid, 1, :size, :now, :now, :now, 0, 0, 0, "
            ":size, NULL FROM n",
            self.files, base=self.first_ino, size=SIZE, **owner,
        )  # fmt: skip
        self._insert(
            "INSERT INTO dentry SELECT CASE WHEN i < :large THEN :large_ino ELSE :folder + i / 1000 END, "
            "CAST(printf('f%08d', i) AS BLOB), :base + i, :id + i FROM n",
            self.files, large=self.large, large_ino=self.large_ino, folder=self.first_folder,
            base=self.first_ino, id=dentry + 1 + last,
        )  # fmt: skip
        self.next_dentry = dentry + 1 + last + self.files

    def content(self) -> None:
        # x counts the extents that have runs of their own.
        self._insert(
            f"INSERT INTO extent SELECT :base + i, j * {EXTENT}, {EXTENT}, :seg + x / {PER_SEGMENT}, "
            f"x % {PER_SEGMENT} / {PER_PIECE} * {PIECE} + x % {PER_PIECE} * {FRAME}, {EXTENT}, 0 "
            f"FROM (SELECT i, j, (i - i / {READABLE} - 1) * {EXTENTS} + j AS x FROM n CROSS JOIN "
            f"(SELECT column1 AS j FROM (VALUES (0), (1), (2), (3), (4))) WHERE i % {READABLE})",
            self.files, base=self.first_ino, seg=self.first_segment,
        )  # fmt: skip
        self._insert(
            f"INSERT INTO run SELECT :seg + x / {PER_SEGMENT}, "
            f"x % {PER_SEGMENT} / {PER_PIECE} * {PIECE} + x % {PER_PIECE} * {FRAME}, {EXTENT}, "
            f":base + y / {READABLE - 1} * {READABLE} + y % {READABLE - 1} + 1, x % {EXTENTS} * {EXTENT} "
            f"FROM (SELECT i AS x, i / {EXTENTS} AS y FROM n)",
            self.written * EXTENTS, base=self.first_ino, seg=self.first_segment,
        )  # fmt: skip
        self.db.execute("CREATE TEMP TABLE source (number INTEGER PRIMARY KEY, ino INTEGER)")
        sources = self.db.execute(
            "SELECT name, ino FROM dentry WHERE parent = ? AND name LIKE 'source-%'", (ROOT_INODE,)
        ).fetchall()
        for number, (_, ino) in enumerate(sources):
            self.db.execute("INSERT INTO source VALUES (?, ?)", (number, ino))
        self._insert(
            f"INSERT INTO extent SELECT :base + i * {READABLE}, e.off, e.len, e.seg, e.pos, e.run, e.skip "
            "FROM n JOIN source s ON s.number = i % :sources JOIN extent e ON e.ino = s.ino",
            -(-self.files // READABLE), base=self.first_ino, sources=len(sources),
        )  # fmt: skip
        self.db.execute(
            "UPDATE segment SET live = "
            "(SELECT sum(e.len * (1 + (:files - s.number + :sources - 1) / :sources)) "
            "FROM source s JOIN extent e ON e.ino = s.ino WHERE e.seg = segment.seg) "
            "WHERE seg IN (SELECT e.seg FROM source s JOIN extent e ON e.ino = s.ino)",
            {"files": -(-self.files // READABLE), "sources": len(sources)},
        )
        # More live bytes than were ever written, then: that content is shared is no garbage.
        self.db.execute("UPDATE segment SET plain = max(plain, live)")

    def segments(self) -> None:
        self._insert(
            f"INSERT INTO segment SELECT :seg + i, randomblob(16), 2, :algorithm, :k, :n, {SEGMENT}, "
            f"{PER_SEGMENT * EXTENT}, :now, {PER_SEGMENT * EXTENT} FROM n",
            self.segment_count, seg=self.first_segment, algorithm=self.algorithm, k=self.k, n=self.n,
            now=self.now,
        )  # fmt: skip
        ((contracts,),) = self.db.execute("SELECT max(contract) FROM contract")
        self._insert(
            f"INSERT INTO shard SELECT randomblob(32), :seg + i / :n, i % :n, 1 + (i / :n + i % :n) % "
            f":contracts, randomblob(32), randomblob(32), {SHARD}, 1 FROM n",
            self.segment_count * self.n, seg=self.first_segment, n=self.n, contracts=contracts,
        )  # fmt: skip

    def counters(self) -> None:
        count = self.segment_count
        made = {
            "next_ino": self.first_ino + self.files,
            "next_dentry": self.next_dentry,
            "inodes": self.first_ino + self.files - 1,
            "next_seg": self.first_segment + count,
            "segments_full": int(self.counter.get("segments_full", 0)) + count,
            "segments_stored_bytes": int(self.counter.get("segments_stored_bytes", 0)) + count * SEGMENT,
        }
        for key, value in made.items():
            self.db.execute("REPLACE INTO counters VALUES (?, ?)", (key, value))
