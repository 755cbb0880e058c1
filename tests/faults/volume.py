"""A real volume without a mount: MetaStore, Segments and Filesystem on a directory, farmers in memory.

Small segments and a small log, so that little data goes through every stage of their lives.
"""

import os
import stat
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from unittest import mock

import trio

from storjfs.coding.buffers import Buffer
from storjfs.coding.frames import FrameCipher
from storjfs.filesystem import Attributes, Capacity, Filesystem
from storjfs.keys import VolumeKeys
from storjfs.segments.segments import Segments
from storjfs.store import ROOT_INODE, MetaStore
from storjfs.volume.files import make_private
from tests.faults.history import Request, Tree, described
from tests.segments.farm import Farm, Receipt

KEYS: Final = VolumeKeys(bytes(range(32)))
SEGMENT: Final = 256 << 10
LOG_PAGES: Final = 40
CACHE: Final = 64 << 20


class TellingFarm(Farm):
    """Farmers whose every change is told first: `put <contract> <shard id>` with its bytes, `delete ...`."""

    def __init__(self, tell: Callable[[str, bytes], None] = lambda name, data: None) -> None:
        super().__init__()
        self._tell = tell

    async def put(self, contract: int, shard_id: bytes, sealed: Buffer, root: bytes | None = None) -> Receipt:
        await trio.lowlevel.checkpoint()
        self._tell(f"put {contract} {shard_id.hex()}", bytes(sealed))
        return await super().put(contract, shard_id, sealed, root)

    async def delete(self, contract: int, shard_ids: Sequence[bytes]) -> None:
        for shard_id in shard_ids:
            self._tell(f"delete {contract} {shard_id.hex()}", b"")
        await super().delete(contract, shard_ids)

    def note(self, words: list[str], data: bytes) -> None:
        """What another one told."""
        farmer, shard_id = self.farmers[int(words[1])], bytes.fromhex(words[2])
        if words[0] == "put":
            farmer.shards[shard_id] = bytearray(data)
        else:
            farmer.shards.pop(shard_id, None)

    def copy(self) -> "TellingFarm":
        """Farmers with the same shards."""
        copied = TellingFarm()
        copied.seen = self.seen
        for number, farmer in self.farmers.items():
            copied.farmers[number].shards = {name: bytearray(shard) for name, shard in farmer.shards.items()}
        return copied


@contextmanager
def sealing(note: Callable[[bytes, bytes], None]) -> Iterator[None]:
    """Tell of each frame that is sealed: segment id (which the key follows from) and nonce."""
    seal = FrameCipher.seal_into

    def noted(self: FrameCipher, pos: int, plain: Buffer, out: memoryview, nonce: bytes) -> int:
        note(self.segment_id, nonce)
        return seal(self, pos, plain, out, nonce)

    with mock.patch.object(FrameCipher, "seal_into", noted):
        yield


@dataclass
class Volume:
    fs: Filesystem
    store: MetaStore
    segments: Segments
    farm: Farm
    held: dict[bytes, int] = field(default_factory=dict)
    compacted: int = 0

    # --- what programs do ---

    async def do(self, request: Request) -> None:
        """Carry a request out; when this returns, it is acknowledged. Raises FilesystemError, StoreError."""
        kind, path = request.kind, request.path
        parent, name = await self._place(path) if path else (ROOT_INODE, b"")
        match kind:
            case "make":
                handle, _ = await self.fs.create(parent, name, 0o644, 0, 0)
                await self.fs.release(handle)
            case "write":
                handle = await self._opened(path, os.O_WRONLY)
                try:
                    await self.fs.write(handle, request.offset, request.data)
                finally:
                    await self.fs.release(handle)
            case "cut":
                await self.fs.setattr((await self._find(path)).ino, size=request.size)
            case "move":
                await self._replacing(request.other)
                await self.fs.rename(parent, name, *await self._place(request.other))
            case "link":
                await self.fs.link((await self._find(path)).ino, *await self._place(request.other))
            case "remove":
                await self._replacing(path)
                await self.fs.unlink(parent, name)
            case "mkdir":
                await self.fs.mkdir(parent, name, 0o755, 0, 0)
            case "rmdir":
                found = await self._find(path)
                await self.fs.rmdir(parent, name)
                self.fs.forget([(found.ino, 1)])
            case "symlink":
                await self.fs.symlink(parent, name, request.other, 0, 0)
            case "xattr":
                await self.fs.setxattr((await self._find(path)).ino, request.other, request.data)
            case "hold":
                self.held[path] = await self._opened(path, os.O_RDONLY)
            case "let go":
                await self.fs.release(self.held.pop(path))
            case "fsync":
                handle = await self.fs.opendir(ROOT_INODE)
                try:
                    await self.fs.fsyncdir(handle)
                finally:
                    await self.fs.releasedir(handle)
            case _:
                await self._daemon_does(kind)

    async def _daemon_does(self, kind: str) -> None:
        match kind:
            case "nudge":
                self.store.request_commit()
                await trio.lowlevel.checkpoint()
            case "flush":
                await self.segments.flush()
            case "compact":
                self.compacted += await self.fs.compact()
            case "checkpoint":
                # As after a commit that leaves a long log.
                self.store._log.ask()
            case "evict":
                await self.segments._cache.evict(1)
            case "pause":
                await trio.sleep(0.005)
            case _:
                raise ValueError(kind)

    async def _replacing(self, path: bytes) -> None:
        """The kernel forgets an inode whose last name goes; it is reaped once nobody has it open."""
        parent, name = await self._place(path)
        ino = self.fs._dentries.find(parent, name)[0]
        if ino:
            self.fs._inodes.get(ino).forgotten = True

    async def _place(self, path: bytes) -> tuple[int, bytes]:
        folder, _, name = path.rpartition(b"/")
        return (await self._find(folder)).ino if folder else ROOT_INODE, name

    async def _find(self, path: bytes) -> Attributes:
        parent, name = await self._place(path)
        return await self.fs.lookup(parent, name)

    async def _opened(self, path: bytes, flags: int) -> int:
        return await self.fs.open((await self._find(path)).ino, flags)

    # --- what is there ---

    async def tree(self) -> Tree:
        """Everything that a program can see. Raises FilesystemError where it cannot be read."""
        found: Tree = {}
        await self._walk(ROOT_INODE, b"", found)
        return found

    async def _walk(self, ino: int, path: bytes, found: Tree) -> None:
        handle = await self.fs.opendir(ino)
        cookie = 0
        children = []
        while several := await self.fs.readdir(handle, cookie, 64):
            children += [(name, attributes.ino) for name, attributes, _ in several]
            cookie = several[-1][2]
        await self.fs.releasedir(handle)
        for name, child in children:
            whole = path + b"/" + name if path else name
            attributes = await self.fs.getattr(child)
            xattrs = {key: await self.fs.getxattr(child, key) for key in await self.fs.listxattr(child)}
            if stat.S_ISDIR(attributes.mode):
                found[whole] = described("directory", b"", xattrs, 0)
                await self._walk(child, whole, found)
            elif stat.S_ISLNK(attributes.mode):
                found[whole] = described("symlink", await self.fs.readlink(child), xattrs, attributes.nlink)
            else:
                content = await self._content(child, attributes.size)
                found[whole] = described("file", content, xattrs, attributes.nlink)

    async def _content(self, ino: int, size: int) -> bytes:
        handle = await self.fs.open(ino, os.O_RDONLY)
        try:
            content = bytes(await self.fs.read(handle, 0, size))
        finally:
            await self.fs.release(handle)
        assert len(content) == size
        return content

    async def read(self, path: bytes) -> bytes:
        """A whole file."""
        found = await self._find(path)
        return await self._content(found.ino, found.size)

    async def settled(self) -> None:
        """Return when what an earlier run left to be reaped is gone, and that is durable."""
        with trio.fail_after(30):
            while self.fs._orphans.known:  # noqa: ASYNC110 - the reaper tells nobody
                await trio.sleep(0.001)
            await self.store.sync()

    def check_accounts(self) -> None:
        """What must hold of the tables when all is committed and nothing is left to be reaped."""
        self.store.read("BEGIN")  # one moment, whatever is committed meanwhile
        try:
            self._check_tables()
        finally:
            self.store.read("COMMIT")

    def _check_tables(self) -> None:
        read = self.store.read
        live = {seg: size for seg, size in read("SELECT seg, live FROM segment") if size}
        assert live == dict(read("SELECT seg, sum(len) FROM extent GROUP BY seg")), (
            "live bytes are miscounted"
        )
        assert not read("SELECT 1 FROM orphan")
        named = {ino for (ino,) in read("SELECT ino FROM dentry")} | {ROOT_INODE}
        assert {ino for (ino,) in read("SELECT ino FROM inode")} == named, (
            "inodes without names, or names without"
        )
        stored = {ino: size for ino, size in read("SELECT ino, stored FROM inode") if size}
        assert stored == dict(read("SELECT ino, sum(len) FROM extent GROUP BY ino"))
        last = (0, 0)
        for ino, off, length in read("SELECT ino, off, len FROM extent ORDER BY ino, off"):
            assert (ino, off) >= last, "extents overlap"
            last = (ino, off + length)
        ((bytes_stored,),) = read("SELECT coalesce(sum(size), 0) FROM segment WHERE state = 2")
        counted = dict(read("SELECT key, value FROM counters")).get("segments_stored_bytes", 0)
        assert counted == bytes_stored

    async def no_orphans(self) -> None:
        """Return when farmers hold the shards that the tables name, and no others."""
        with trio.move_on_after(30):
            while True:
                await self.store.sync()
                known = {row[0] for row in self.store.read("SELECT shard_id FROM shard WHERE state = 1")}
                there = {shard_id for farmer in self.farm.farmers.values() for shard_id in farmer.shards}
                if known == there and not self.segments.report().to_delete:
                    return
                await trio.sleep(0.002)
        raise AssertionError(
            f"{len(there - known)} shards that nobody knows, {len(known - there)} that nobody has, "
            f"{self.segments.report().to_delete} still to be deleted"
        )


@asynccontextmanager
async def opened(folder: Path, farm: Farm) -> AsyncIterator[Volume]:
    """A volume, made if there is none, by the code that a mount runs. Leaving it is a crash, as far as
    uncommitted things go."""
    make_private(folder)
    with (
        mock.patch("storjfs.segments.journal.segment_capacity", return_value=SEGMENT),
        mock.patch("storjfs.store.log.WAL_PAGES", LOG_PAGES),
        mock.patch("storjfs.store.log.FINISH_PAGES", 5),
    ):
        async with trio.open_nursery() as below:
            store = MetaStore.open(folder / "meta.db", KEYS.metadata_key)
            segments = Segments(
                store,
                KEYS,
                farm,
                journal_dir=folder / "journal",
                cache_dir=folder / "cache",
                limit=CACHE,
                disk_reserve=0,
            )
            fs = Filesystem(store, segments, lambda: Capacity(1 << 40, 1 << 39))
            await below.start(store.run)
            async with trio.open_nursery() as above:
                await above.start(segments.run)
                await above.start(fs.run)
                yield Volume(fs, store, segments, farm)
                above.cancel_scope.cancel()
            below.cancel_scope.cancel()
