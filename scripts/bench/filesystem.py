"""Time the hot paths of the filesystem room alone: a real meta.db, segments that only keep bytes in memory.

    python scripts/bench/filesystem.py [directory]

Microseconds per operation, without FUSE, encryption of content, or farmers. Compare ratios, not absolutes.
"""

import contextlib
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import trio

from storjfs.errors import FilesystemError
from storjfs.filesystem import Capacity, Filesystem
from storjfs.segments import Part, Run
from storjfs.store import ROOT_INODE, MetaStore

FILES = 10_000
BLOCK = bytes(4096)
MIB = 1 << 20


class NoSegments:
    """Positions without bytes."""

    def __init__(self) -> None:
        self._seg = 1
        self._pos = 0

    def append(self, ino: int, off: int, data: bytes) -> Sequence[Run]:
        length = len(data)
        if self._pos + length > 12 * MIB:
            self._seg += 1
            self._pos = 0
        run = Run(self._seg, self._pos, length)
        self._pos += length + 28
        return (run,)

    async def room(self, *, new: bool = False) -> None: ...

    def read_now(self, seg: int, pos: int, run: int, skip: int, length: int) -> bytes | None:
        return bytes(length)

    async def read(self, seg: int, pos: int, run: int, skip: int, length: int) -> bytes:
        return bytes(length)

    def prefetch(self, parts: Sequence[Part]) -> None: ...

    def live(self, seg: int, delta: int) -> None: ...

    async def flush(self) -> None: ...

    pressed = False

    def victims(self) -> Sequence[int]:
        return ()

    def runs(self, seg: int, after: int, limit: int) -> list[tuple[int, int, int, int]]:
        return []


def row(name: str, started: float, count: int, of: str = "") -> None:
    spent = time.perf_counter() - started
    print(f"{name:44} {spent / count * 1e6:9.1f} us {count / spent:11,.0f} /s  {of}")


def drop_caches(fs: Filesystem) -> None:
    for _ in range(2):
        fs._inodes.cache._rotate()
        fs._extents._cache._rotate()
    fs._dentries._young.clear()
    fs._dentries._old.clear()


async def small_files(fs: Filesystem, store: MetaStore) -> None:
    directory = (await fs.mkdir(ROOT_INODE, b"small", 0o755, 0, 0)).ino
    names = [b"file%06d" % n for n in range(FILES)]
    started = time.perf_counter()
    for name in names:
        with contextlib.suppress(FilesystemError):
            await fs.lookup(directory, name)
        handle, attributes = await fs.create(directory, name, 0o644, 0, 0)
        ino = attributes.ino
        with contextlib.suppress(FilesystemError):
            await fs.getxattr(ino, b"security.capability")
        await fs.write(handle, 0, BLOCK)
        await fs.flush(handle)
        await fs.setattr(ino, mtime=time.time_ns(), ctime=time.time_ns())
        await fs.release(handle)
    row("create a file of 4 KiB", started, FILES, "lookup create getxattr write flush setattr release")
    started = time.perf_counter()
    await store.sync()
    row("... and its share of the commit", started, FILES)
    drop_caches(fs)
    started = time.perf_counter()
    for name in names:
        await fs.getattr((await fs.lookup(directory, name)).ino)
    row("lookup and getattr from the database", started, FILES)
    drop_caches(fs)
    started = time.perf_counter()
    handle = await fs.opendir(directory)
    cookie = 0
    while several := await fs.readdir(handle, cookie, 32):
        cookie = several[-1][2]
    await fs.releasedir(handle)
    row("readdir with attributes, per entry", started, FILES)
    drop_caches(fs)
    started = time.perf_counter()
    for name in names:
        ino = (await fs.lookup(directory, name)).ino
        await fs.unlink(directory, name)
        fs.forget([(ino, 1)])
    row("unlink", started, FILES)
    await store.sync()


async def one_file(fs: Filesystem, store: MetaStore) -> None:
    handle, attributes = await fs.create(ROOT_INODE, b"large", 0o644, 0, 0)
    ino = attributes.ino
    data = bytes(MIB)
    started = time.perf_counter()
    for n in range(256):
        await fs.write(handle, n * MIB, data)
    row("write 1 MiB in sequence", started, 256)
    await store.sync()
    shuffled = random.Random(1)
    offsets = [shuffled.randrange(256 * 256) * 4096 for _ in range(64_000)]
    started = time.perf_counter()
    for offset in offsets:
        await fs.write(handle, offset, BLOCK)
    row("write 4 KiB at random", started, len(offsets))
    await store.sync()
    started = time.perf_counter()
    for at in range(0, 6400, 64):
        for offset in offsets[at : at + 64]:
            await fs.write(handle, offset, BLOCK)
        await fs.fsync(handle)
    row("write 4 KiB at random, fsync per 64", started, 6400)
    started = time.perf_counter()
    for offset in offsets[:20_000]:
        await fs.read(handle, offset, 4096)
    row("read 4 KiB at random, much fragmented", started, 20_000)
    drop_caches(fs)
    started = time.perf_counter()
    for n in range(256):
        await fs.read(handle, n * MIB, MIB)
    row("read 1 MiB, much fragmented, from the database", started, 256)
    await fs.release(handle)
    started = time.perf_counter()
    await fs.unlink(ROOT_INODE, b"large")
    fs.forget([(ino, 1)])
    row("unlink 256 MiB in 40,000 extents", started, 1)
    await store.sync()


async def main(directory: Path) -> None:
    store = MetaStore.open(directory / "meta.db", bytes(32))
    fs = Filesystem(store, NoSegments(), lambda: Capacity(1 << 40, 1 << 39))
    async with trio.open_nursery() as nursery:
        await nursery.start(store.run)
        await small_files(fs, store)
        await one_file(fs, store)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as made:
        trio.run(main, Path(made))
