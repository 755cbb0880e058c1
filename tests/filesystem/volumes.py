"""A filesystem on a real database, with segments in memory."""

import stat
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trio

from storjfs.errors import FilesystemError
from storjfs.filesystem import Capacity, Filesystem, Policy
from storjfs.filesystem.generations import Generations
from storjfs.integrity import View, check
from storjfs.store import ROOT_INODE, MetaStore
from tests.filesystem.memory_segments import MemorySegments

KEY = bytes(range(32))


class Clock:
    """Each look at it is a nanosecond later."""

    def __init__(self) -> None:
        self.now = 1_700_000_000 * 10**9

    def __call__(self) -> int:
        self.now += 1
        return self.now


@dataclass
class Volume:
    fs: Filesystem
    store: MetaStore
    segments: MemorySegments
    clock: Clock

    def evict(self) -> None:
        """Forget all that memory does not have to hold."""
        evict(self.fs)

    async def write_file(self, name: bytes, content: bytes, parent: int = ROOT_INODE) -> int:
        handle, attributes = await self.fs.create(parent, name, 0o644, 0, 0)
        ino = attributes.ino
        if content:
            await self.fs.write(handle, 0, content)
        await self.fs.release(handle)
        return ino

    async def read_file(self, ino: int) -> bytes:
        handle = await self.fs.open(ino, 0)
        content = bytes(await self.fs.read(handle, 0, 1 << 30))
        await self.fs.release(handle)
        return content

    async def remove(self, name: bytes, parent: int = ROOT_INODE) -> None:
        """Unlink or rmdir, as the kernel does it: it forgets the inode afterwards."""
        found = await self.fs.lookup(parent, name)
        if stat.S_ISDIR(found.mode):
            await self.fs.rmdir(parent, name)
        else:
            await self.fs.unlink(parent, name)
        self.fs.forget([(found.ino, 1)])

    async def names(self, ino: int = ROOT_INODE, limit: int = 7) -> list[bytes]:
        return [name for name, _ in await self.entries(ino, limit)]

    async def entries(self, ino: int = ROOT_INODE, limit: int = 7) -> list[tuple[bytes, int]]:
        handle = await self.fs.opendir(ino)
        cookie = 0
        found = []
        while several := await self.fs.readdir(handle, cookie, limit):
            found += [(name, attributes.ino) for name, attributes, _ in several]
            cookie = several[-1][2]
        await self.fs.releasedir(handle)
        return found


def forget_unpinned(cache: Generations[Any]) -> None:
    for held in (cache.young, cache.old, cache._leaving):
        for key in [key for key, item in held.items() if not item.pins]:
            del held[key]


def evict(fs: Filesystem) -> None:
    forget_unpinned(fs._inodes.cache)
    forget_unpinned(fs._extents._cache)
    fs._dentries._young.clear()
    fs._dentries._old.clear()


@asynccontextmanager
async def volume(
    directory: Path,
    *,
    segments: MemorySegments | None = None,
    policy: Policy | None = None,
    slow: bool = False,
    background: bool = False,
    capacity: int = 1 << 20,
) -> AsyncIterator[Volume]:
    """Opens or creates; `segments` of an earlier volume in the same directory keep their data."""
    store = MetaStore.open(directory / "meta.db", KEY)
    room = MemorySegments(store, capacity, slow=slow)
    if segments is not None:
        room.data.update(segments.data)
        room.lives.update(segments.lives)
        room._open = max(room._open, segments._open + 1)
    clock = Clock()
    fs = Filesystem(store, room, lambda: Capacity(1 << 40, 1 << 39), policy, (0, 0), clock)
    async with trio.open_nursery() as nursery:
        await nursery.start(store.run)
        if background:
            await nursery.start(fs.run)
        yield Volume(fs, store, room, clock)
        nursery.cancel_scope.cancel()


@contextmanager
def fails(errno: int) -> Iterator[None]:
    with pytest.raises(FilesystemError) as caught:
        yield
    assert caught.value.errno == errno


def check_accounts(store: MetaStore, segments: MemorySegments) -> None:
    """What must hold of the tables whenever everything is committed and every orphan reaped."""
    sums: dict[int, int] = {}
    per_segment: dict[int, int] = {}
    last: tuple[int, int] = (0, 0)
    for ino, off, length, seg, _pos, run, skip in store.read("SELECT * FROM extent ORDER BY ino, off"):
        assert (ino, off) >= last, "extents overlap"
        assert off >> 20 == (off + length - 1) >> 20, "an extent crosses a window"
        assert skip + length <= run
        last = (ino, off + length)
        sums[ino] = sums.get(ino, 0) + length
        per_segment[seg] = per_segment.get(seg, 0) + length
    assert per_segment == {seg: live for seg, live in segments.lives.items() if live}
    inodes = {ino: (stored, size) for ino, stored, size in store.read("SELECT ino, stored, size FROM inode")}
    assert {ino: stored for ino, (stored, _) in inodes.items() if stored} == sums
    for ino, end in store.read("SELECT ino, max(off + len) FROM extent GROUP BY ino"):
        assert end <= inodes[ino][1], "an extent lies beyond the end of its file"
    assert store.read("SELECT * FROM orphan") == []
    named = {ino for (ino,) in store.read("SELECT ino FROM dentry")}
    assert set(inodes) == named | {ROOT_INODE}
    assert not store.read("SELECT 1 FROM xattr WHERE ino NOT IN (SELECT ino FROM inode)")


def check_tables(directory: Path) -> None:
    """What fsck says of names and content, as committed: nothing."""
    with View(directory / "meta.db", KEY) as view:
        found = check(view, segments=False)
    assert not found, found.report()
