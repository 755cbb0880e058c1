"""The same random operations here and in a local directory give the same results, errnos and contents."""

import ctypes
import errno
import os
import shutil
import stat
import tempfile
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import trio
from hypothesis import HealthCheck, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from storjfs.daemon.watch import watching
from storjfs.errors import FilesystemError
from storjfs.filesystem import Attributes, Filesystem
from storjfs.filesystem.names import RENAME_EXCHANGE, RENAME_NOREPLACE
from storjfs.store import ROOT_INODE
from tests.filesystem.memory_segments import MemorySegments
from tests.filesystem.volumes import Volume, check_accounts, check_tables, volume
from tests.watching import LIMIT, again_and_again

T = TypeVar("T")
Path_ = tuple[bytes, ...]

NAMES = [b"a", b"b", b"c\xff", b"d" * 255]
names = st.sampled_from(NAMES)
paths = st.one_of(st.tuples(names), st.tuples(names, names), st.tuples(names, names, names))
modes = st.integers(0, 0o7777)
offsets = st.one_of(st.integers(0, 40_000), st.integers((1 << 20) - 5000, (1 << 20) + 5000), st.just(7 << 20))
contents = st.one_of(st.binary(min_size=1, max_size=40), st.integers(1, 30_000).map(lambda n: os.urandom(n)))
xattr_names = st.sampled_from([b"user.a", b"user.b", b"trusted.c"])
MEMORY = Path("/dev/shm")  # commits need not be durable here
LIBC = ctypes.CDLL(None, use_errno=True)
AT_FDCWD = -100
O_NOFOLLOW_RDWR = os.O_RDWR | os.O_NOFOLLOW


def renameat2(old: bytes, new: bytes, flags: int) -> None:
    """renameat2(2), which Python does not offer."""
    if LIBC.renameat2(AT_FDCWD, old, AT_FDCWD, new, flags):
        raise OSError(ctypes.get_errno(), "renameat2")


class Loop:
    """A trio loop on its own thread, for tests that are no coroutines."""

    def __init__(self) -> None:
        self._ready = threading.Event()
        self._thread = threading.Thread(target=trio.run, args=(self._main,))
        self._thread.start()
        self._ready.wait()

    async def _main(self) -> None:
        self._stop = trio.Event()
        self._token = trio.lowlevel.current_trio_token()
        with watching(LIMIT) as self.watch:
            async with trio.open_nursery() as self._nursery:
                self._ready.set()
                await self._stop.wait()

    def run(self, function: Callable[..., Awaitable[T]], *args: Any) -> T:
        return trio.from_thread.run(function, *args, trio_token=self._token)

    def start(self, function: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        return self.run(self._nursery.start, function, *args)

    def close(self) -> None:
        trio.from_thread.run_sync(self._stop.set, trio_token=self._token)
        self._thread.join()


def outcome(function: Callable[[], Any]) -> Any:
    """What a call returns, or the name of its errno."""
    try:
        return function()
    except OSError as error:
        return errno.errorcode[error.errno or 0]


def local_attributes(found: os.stat_result, count_links: bool) -> tuple[Any, ...]:
    links = found.st_nlink if count_links or not stat.S_ISDIR(found.st_mode) else None
    size = None if stat.S_ISDIR(found.st_mode) else found.st_size
    return found.st_mode, links, found.st_uid, found.st_gid, size, found.st_rdev


def our_attributes(found: Attributes, count_links: bool) -> tuple[Any, ...]:
    links = found.nlink if count_links or not stat.S_ISDIR(found.mode) else None
    size = None if stat.S_ISDIR(found.mode) else found.size
    return found.mode, links, found.uid, found.gid, size, found.rdev


class LikeLocal(RuleBasedStateMachine):
    files = Bundle("files")

    def __init__(self) -> None:
        super().__init__()
        os.umask(0)
        self.directory = Path(tempfile.mkdtemp(dir=MEMORY if MEMORY.is_dir() else None))
        self.local = os.fsencode(tempfile.mkdtemp())
        os.chmod(self.local, 0o755)
        os.mkdir(self.where((b"a",)))
        self.count_links = os.stat(self.local).st_nlink > 2
        os.rmdir(self.where((b"a",)))
        self.loop = Loop()
        self.handles: dict[int, int] = {}  # ours: local
        self.segments: MemorySegments | None = None
        self.open_volume()

    def open_volume(self) -> None:
        async def serve(task_status: trio.TaskStatus[Volume]) -> None:
            async with volume(self.directory, segments=self.segments, slow=True, capacity=60_000) as opened:
                self.closing = trio.Event()
                self.closed = trio.Event()
                task_status.started(opened)
                await self.closing.wait()
                await opened.store.sync()
                check_accounts(opened.store, opened.segments)
            self.closed.set()

        self.volume: Volume = self.loop.start(serve)
        self.fs: Filesystem = self.volume.fs

    async def close_volume(self) -> None:
        self.segments = self.volume.segments
        self.closing.set()
        await self.closed.wait()

    def teardown(self) -> None:
        try:
            for ours, local in self.handles.items():
                self.loop.run(self.fs.release, ours)
                os.close(local)
            self.compare_trees()
            self.loop.run(self.close_volume)
            self.open_volume()
            self.compare_trees()
            self.loop.run(self.close_volume)
            check_tables(self.directory)
            # The task `serve` checks all accounts; every other one is a single request.
            held = again_and_again(self.loop.watch.holds, lambda task: not task.endswith("serve"))
            assert not held, self.loop.watch.holds
        finally:
            self.loop.close()
            shutil.rmtree(self.directory)
            shutil.rmtree(self.local)

    # --- paths ---

    def where(self, path: Path_) -> bytes:
        return os.path.join(self.local, *path)

    async def parent_of(self, path: Path_) -> int:
        """As the kernel walks: links in between lead nowhere in this test."""
        ino = ROOT_INODE
        for name in path[:-1]:
            found = await self.fs.lookup(ino, name)
            if stat.S_ISLNK(found.mode):
                raise FilesystemError(errno.ENOENT)
            if not stat.S_ISDIR(found.mode):
                raise FilesystemError(errno.ENOTDIR)
            ino = found.ino
        return ino

    async def find(self, path: Path_) -> Attributes:
        return await self.fs.lookup(await self.parent_of(path), path[-1])

    def both(self, ours: Callable[[], Awaitable[Any]], local: Callable[[], Any]) -> Any:
        expected = outcome(local)
        found = outcome(lambda: self.loop.run(ours))
        note(f"{expected!r:.60}")
        assert found == expected
        return found

    async def forget(self, ino: int) -> None:
        self.fs.forget([(ino, 1)])

    # --- rules ---

    @initialize()
    def begin(self) -> None:
        self.mkdir((NAMES[0],), 0o755)

    @rule(path=paths, mode=modes)
    def mkdir(self, path: Path_, mode: int) -> None:
        async def ours() -> None:
            await self.fs.mkdir(await self.parent_of(path), path[-1], mode, 0, 0)

        def local() -> None:
            os.mkdir(self.where(path), mode)
            # mkdir(2) leaves the set-id bits to the filesystem; ours takes what the kernel passes on.
            if mode & 0o6000:
                inherited = os.stat(os.path.dirname(self.where(path))).st_mode & stat.S_ISGID
                os.chmod(self.where(path), mode | inherited)

        self.both(ours, local)

    @rule(target=files, path=paths, mode=modes, exclusive=st.booleans(), truncate=st.booleans())
    def create(self, path: Path_, mode: int, exclusive: bool, truncate: bool) -> Any:
        flags = (
            O_NOFOLLOW_RDWR | os.O_CREAT | (os.O_EXCL if exclusive else 0) | (os.O_TRUNC if truncate else 0)
        )
        handles: list[int] = []

        async def ours() -> None:
            parent = await self.parent_of(path)
            try:
                found = await self.fs.lookup(parent, path[-1])
            except FilesystemError as error:
                if error.errno != errno.ENOENT:
                    raise
                handle, _ = await self.fs.create(parent, path[-1], mode, 0, 0, flags)
            else:
                if exclusive:
                    raise FilesystemError(errno.EEXIST)
                if stat.S_ISLNK(found.mode):
                    raise FilesystemError(errno.ELOOP)
                handle = await self.fs.open(found.ino, flags)
            handles.append(handle)

        def local() -> None:
            if os.path.lexists(self.where(path)) and stat.S_ISFIFO(os.lstat(self.where(path)).st_mode):
                raise OSError(errno.EBUSY, "not compared")
            handles.append(os.open(self.where(path), flags, mode))
            os.fchmod(handles[0], mode) if os.fstat(handles[0]).st_size == 0 and exclusive else None

        expected = outcome(local)
        if expected == "EBUSY":
            return multiple()
        found = outcome(lambda: self.loop.run(ours))
        assert found == expected
        if len(handles) < 2:
            return multiple()
        self.handles[handles[1]] = handles[0]
        return handles[1]

    @rule(handle=files, offset=offsets, content=contents)
    def write(self, handle: int, offset: int, content: bytes) -> None:
        self.both(
            lambda: self.fs.write(handle, offset, content),
            lambda: os.pwrite(self.handles[handle], content, offset),
        )

    @rule(handle=files, offset=offsets, size=st.integers(0, 60_000))
    def read(self, handle: int, offset: int, size: int) -> None:
        async def ours() -> bytes:
            return bytes(await self.fs.read(handle, offset, size))

        self.both(ours, lambda: os.pread(self.handles[handle], size, offset))

    @rule(handle=files, size=st.one_of(st.integers(0, 70_000), offsets))
    def truncate(self, handle: int, size: int) -> None:
        async def ours() -> None:
            await self.fs.setattr(self.fs._file(handle).inode.ino, size=size)

        self.both(ours, lambda: os.ftruncate(self.handles[handle], size))

    @rule(handle=consumes(files))
    def close(self, handle: int) -> None:
        local = self.handles.pop(handle)
        self.loop.run(self.fs.release, handle)
        os.close(local)

    @rule(handle=files)
    def fstat(self, handle: int) -> None:
        ino = self.fs._file(handle).inode.ino
        found = our_attributes(self.loop.run(self.fs.getattr, ino), self.count_links)
        assert found == local_attributes(os.fstat(self.handles[handle]), self.count_links)

    @rule(path=paths)
    def unlink(self, path: Path_) -> None:
        async def ours() -> None:
            parent = await self.parent_of(path)
            found = await self.fs.lookup(parent, path[-1])
            await self.fs.unlink(parent, path[-1])
            await self.forget(found.ino)

        self.both(ours, lambda: os.unlink(self.where(path)))

    @rule(path=paths)
    def rmdir(self, path: Path_) -> None:
        async def ours() -> None:
            parent = await self.parent_of(path)
            found = await self.fs.lookup(parent, path[-1])
            await self.fs.rmdir(parent, path[-1])
            await self.forget(found.ino)

        self.both(ours, lambda: os.rmdir(self.where(path)))

    @rule(path=paths, new=paths, flags=st.sampled_from([0, 0, 0, RENAME_NOREPLACE, RENAME_EXCHANGE]))
    def rename(self, path: Path_, new: Path_, flags: int) -> None:
        async def ours() -> None:
            parent, new_parent = await self.parent_of(path), await self.parent_of(new)
            try:
                replaced = (await self.fs.lookup(new_parent, new[-1])).ino
            except FilesystemError:
                replaced = 0
            await self.fs.rename(parent, path[-1], new_parent, new[-1], flags)
            if replaced:
                await self.forget(replaced)

        self.both(ours, lambda: renameat2(self.where(path), self.where(new), flags))

    @rule(path=paths, new=paths)
    def link(self, path: Path_, new: Path_) -> None:
        async def ours() -> None:
            found = await self.find(path)
            new_parent = await self.parent_of(new)
            await self.fs.link(found.ino, new_parent, new[-1])

        self.both(ours, lambda: os.link(self.where(path), self.where(new), follow_symlinks=False))

    @rule(path=paths)
    def symlink(self, path: Path_) -> None:
        async def ours() -> None:
            await self.fs.symlink(await self.parent_of(path), path[-1], b"nowhere/at/all", 0, 0)

        self.both(ours, lambda: os.symlink(b"nowhere/at/all", self.where(path)))

    @rule(path=paths)
    def readlink(self, path: Path_) -> None:
        async def ours() -> bytes:
            return await self.fs.readlink((await self.find(path)).ino)

        self.both(ours, lambda: os.readlink(self.where(path)))

    @rule(path=paths, mode=modes)
    def mkfifo(self, path: Path_, mode: int) -> None:
        async def ours() -> None:
            await self.fs.mknod(await self.parent_of(path), path[-1], stat.S_IFIFO | mode, 0, 0, 0)

        def local() -> None:
            os.mkfifo(self.where(path), mode)
            os.chmod(self.where(path), mode)

        self.both(ours, local)

    @rule(path=paths, mode=modes)
    def chmod(self, path: Path_, mode: int) -> None:
        async def ours() -> None:
            found = await self.find(path)
            if stat.S_ISLNK(found.mode):
                raise FilesystemError(errno.ENOENT)
            await self.fs.setattr(found.ino, mode=mode)

        self.both(ours, lambda: os.chmod(self.where(path), mode))

    @rule(path=paths, uid=st.integers(0, 3), gid=st.integers(0, 3))
    def chown(self, path: Path_, uid: int, gid: int) -> None:
        async def ours() -> None:
            await self.fs.setattr((await self.find(path)).ino, uid=uid, gid=gid)

        self.both(ours, lambda: os.chown(self.where(path), uid, gid, follow_symlinks=False))

    @rule(path=paths, atime=st.integers(0, 2**61), mtime=st.integers(0, 2**61))
    def utime(self, path: Path_, atime: int, mtime: int) -> None:
        async def ours() -> tuple[int, int]:
            found = await self.fs.setattr((await self.find(path)).ino, atime=atime, mtime=mtime)
            return found.atime, found.mtime

        def local() -> tuple[int, int]:
            os.utime(self.where(path), ns=(atime, mtime), follow_symlinks=False)
            return atime, mtime

        self.both(ours, local)

    @rule(path=paths, name=xattr_names, value=st.binary(max_size=40), flags=st.sampled_from([0, 1, 2]))
    def setxattr(self, path: Path_, name: bytes, value: bytes, flags: int) -> None:
        async def ours() -> None:
            found = await self.find(path)
            if name.startswith(b"user.") and not stat.S_ISREG(found.mode) and not stat.S_ISDIR(found.mode):
                raise FilesystemError(errno.EPERM)  # the kernel's rule
            await self.fs.setxattr(found.ino, name, value, flags)

        self.both(ours, lambda: os.setxattr(self.where(path), name, value, flags, follow_symlinks=False))

    @rule(path=paths, name=xattr_names)
    def removexattr(self, path: Path_, name: bytes) -> None:
        async def ours() -> None:
            found = await self.find(path)
            if name.startswith(b"user.") and not stat.S_ISREG(found.mode) and not stat.S_ISDIR(found.mode):
                raise FilesystemError(errno.EPERM)
            await self.fs.removexattr(found.ino, name)

        self.both(ours, lambda: os.removexattr(self.where(path), name, follow_symlinks=False))

    @rule(path=paths)
    def listdir(self, path: Path_) -> None:
        async def ours() -> list[bytes]:
            found = await self.find(path)
            if stat.S_ISLNK(found.mode):
                raise FilesystemError(errno.ENOENT)
            return sorted(await self.volume.names(found.ino, 1))

        self.both(ours, lambda: sorted(os.listdir(self.where(path))))

    # --- what programs do not see ---

    @rule()
    def commit(self) -> None:
        self.loop.run(self.volume.store.sync)

    @rule()
    def evict(self) -> None:
        async def ours() -> None:
            self.volume.evict()

        self.loop.run(ours)

    @rule()
    def compact(self) -> None:
        self.loop.run(self.fs.compact)

    @rule()
    def defragment(self) -> None:
        async def ours() -> None:
            for key in [*self.fs._extents._cache.young]:
                await self.fs.defragment(key >> 24, key & 0xFFFFFF)

        self.loop.run(ours)

    @invariant()
    def same_root(self) -> None:
        assert sorted(self.loop.run(self.volume.names)) == sorted(os.listdir(self.local))

    def compare_trees(self) -> None:
        self.loop.run(self.compare, ROOT_INODE, self.local)

    async def compare(self, ino: int, local: bytes) -> None:
        entries = dict(await self.volume.entries(ino))
        assert sorted(entries) == sorted(os.listdir(local))
        for name, child in entries.items():
            path = os.path.join(local, name)
            found, expected = await self.fs.getattr(child), os.lstat(path)
            assert (await self.fs.lookup(ino, name)).ino == child
            assert our_attributes(found, self.count_links) == local_attributes(expected, self.count_links)
            kept = {name: await self.fs.getxattr(child, name) for name in await self.fs.listxattr(child)}
            listed = [
                name for name in os.listxattr(path, follow_symlinks=False) if not name.startswith("sec")
            ]
            assert kept == {os.fsencode(x): os.getxattr(path, x, follow_symlinks=False) for x in listed}
            if stat.S_ISDIR(found.mode):
                await self.compare(child, path)
            elif stat.S_ISREG(found.mode):
                with open(path, "rb") as local_file:  # noqa: ASYNC230
                    assert await self.volume.read_file(child) == local_file.read()


LikeLocal.TestCase.settings = settings(
    max_examples=40,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestLikeLocal = LikeLocal.TestCase
