"""A small volume with everything in it, on real segments and farmers in memory, to be copied and damaged."""

import copy
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import apsw
import trio

from storjfs.filesystem import Capacity, Filesystem
from storjfs.integrity import Examination, Findings, LocalFiles, View, check, mend
from storjfs.keys import VolumeKeys
from storjfs.protocol.contracts import State
from storjfs.protocol.terms import Proposal
from storjfs.renter.book import STATE_NUMBERS
from storjfs.segments import Segments
from storjfs.store import ROOT_INODE, MetaStore, open_meta
from tests.protocol import values
from tests.segments.farm import Farm

KEYS = VolumeKeys(bytes(range(32)))
MIB = 1 << 20


@dataclass
class Sample:
    """`content`: what each file reads as, by its path; `inodes`: the numbers of paths."""

    folder: Path
    farm: Farm = field(default_factory=Farm)
    content: dict[str, bytes] = field(default_factory=dict)
    inodes: dict[str, int] = field(default_factory=dict)

    @property
    def meta_db(self) -> Path:
        return self.folder / "meta.db"

    @property
    def journal(self) -> Path:
        return self.folder / "journal"

    def copy_to(self, folder: Path) -> "Sample":
        """The same once more, to be damaged."""
        shutil.copytree(self.folder, folder)
        return Sample(folder, copy.deepcopy(self.farm), dict(self.content), dict(self.inodes))

    def database(self) -> apsw.Connection:
        return open_meta(self.meta_db, KEYS.metadata_key)

    def damage(self, *statements: str) -> None:
        connection = self.database()
        for sql in statements:
            connection.execute(sql).fetchall()
            assert connection.changes() or sql.startswith("PRAGMA"), f"nothing damaged by {sql}"
        connection.close()

    def rows(self, sql: str) -> list[tuple[object, ...]]:
        connection = self.database()
        found = connection.execute(sql).fetchall()
        connection.close()
        return found

    def check(self) -> Findings:
        with View(self.meta_db, KEYS.metadata_key) as view:
            return check(view, journal=self.journal, keys=KEYS)

    def mend(self) -> Examination:
        local = LocalFiles(KEYS, self.journal, self.folder / "cache")
        return mend(self.meta_db, KEYS.metadata_key, self.check(), self.check, local=local)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Filesystem]:
        """Mounted but for the kernel; leaving it is a crash as far as uncommitted things go."""
        async with trio.open_nursery() as below:
            store = MetaStore.open(self.meta_db, KEYS.metadata_key)
            segments = Segments(
                store,
                KEYS,
                self.farm,
                journal_dir=self.journal,
                cache_dir=self.folder / "cache",
                limit=256 * MIB,
                disk_reserve=0,
            )
            fs = Filesystem(store, segments, lambda: Capacity(1 << 40, 1 << 39), clock=time.time_ns)
            await below.start(store.run)
            async with trio.open_nursery() as above:
                await above.start(segments.run)
                await above.start(fs.run)
                yield fs
                above.cancel_scope.cancel()
            below.cancel_scope.cancel()

    def drop_cache(self) -> None:
        shutil.rmtree(self.folder / "cache", ignore_errors=True)

    async def write(self, fs: Filesystem, path: str, content: bytes, at: int = 0) -> None:
        """Write into a file, made if it does not exist, and remember what it should be."""
        *folders, name = path.split("/")
        parent = ROOT_INODE
        for depth, folder in enumerate(folders, 1):
            known = self.inodes.get("/".join(folders[:depth]))
            if known is None:
                known = (await fs.mkdir(parent, folder.encode(), 0o755, 0, 0)).ino
                self.inodes["/".join(folders[:depth])] = known
            parent = known
        if path in self.inodes:
            handle = await fs.open(self.inodes[path], 1)
        else:
            handle, made = await fs.create(parent, name.encode(), 0o644, 0, 0, 1)
            self.inodes[path] = made.ino
        await fs.write(handle, at, content)
        await fs.release(handle)
        before = self.content.get(path, b"").ljust(at, b"\0")
        self.content[path] = before[:at] + content + before[at + len(content) :]

    async def read_back(self, fs: Filesystem, path: str, ino: int | None = None) -> bytes:
        """The content under a path as it is now."""
        if ino is None:
            ino = ROOT_INODE
            for name in path.split("/"):
                ino = (await fs.lookup(ino, name.encode())).ino
        handle = await fs.open(ino, 0)
        try:
            return bytes(await fs.read(handle, 0, 1 << 30))
        finally:
            await fs.release(handle)


async def make(sample: Sample) -> None:
    """Fill it: folders, links, attributes, holes, overwritten and unsent content."""
    sample.folder.mkdir()
    connection = sample.database()
    for number in range(1, 7):
        contract = Proposal.make(values.RENTER, values.terms(start=1000 + number)).countersign(values.FARMER)
        terms = contract.open()
        row = (number, contract.contract_id, terms.farmer, STATE_NUMBERS[State.ACTIVE])
        connection.execute(
            "INSERT INTO contract VALUES (?, ?, ?, ?, ?, x'90')", (*row, contract.to_bytes())
        ).fetchall()
    connection.close()
    block = bytes(range(256)) * 400
    async with sample.running() as fs:
        await sample.write(fs, "small", b"a few bytes")
        await sample.write(fs, "other", b"bytes of another")
        await sample.write(fs, "docs/letter", block)
        await sample.write(fs, "docs/old/deep/note", b"down here")
        await sample.write(fs, "docs/old/draft", block[::-1])
        await sample.write(fs, "large", block * 30)
        await sample.write(fs, "large", b"over it" * 5000, at=2 * MIB - 1000)
        await sample.write(fs, "sparse", b"end", at=3 * MIB)
        await sample.write(fs, "askew", block[:90_000] * 2, at=MIB - 100_000)
        await fs.link(sample.inodes["small"], sample.inodes["docs"], b"second")
        link = await fs.symlink(ROOT_INODE, b"link", b"small", 0, 0)
        sample.inodes["link"] = link.ino
        await fs.setxattr(sample.inodes["docs/letter"], b"user.colour", b"red")
        await fs._segments.flush()
        await sample.write(fs, "unsent", block * 3)
        await fs._store.sync()
        await fs._store.sync()
