"""The least that a pyfuse3 filesystem can do: every request goes straight to a lower directory.

`passthrough.py LOWER MOUNTPOINT` mounts, prints "ready" and serves until it is unmounted. It is the ceiling
that the benchmark compares with, no filesystem to keep data on: one user, no links, no locks, inode numbers
of the lower directory, and paths that are forgotten only at unlink.
"""

import errno
import functools
import os
import stat
import sys
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, ParamSpec, TypeVar

import pyfuse3
import trio
from pyfuse3 import EntryAttributes, FileInfo, FUSEError, InodeT, ReaddirToken, RequestContext, SetattrFields

P = ParamSpec("P")
T = TypeVar("T")

TRUST_SECONDS = 3600.0


def answered(handler: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Tell the kernel the errno of the lower directory's error."""

    @functools.wraps(handler)
    async def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await handler(*args, **kwargs)
        except OSError as error:
            raise FUSEError(error.errno or errno.EIO) from None
        except KeyError:
            # The kernel sends times of a file it has written back after its last name went.
            raise FUSEError(errno.ENOENT) from None

    return wrapped


def entry(found: os.stat_result) -> EntryAttributes:
    made = EntryAttributes()
    made.entry_timeout = made.attr_timeout = TRUST_SECONDS
    made.st_ino = InodeT(found.st_ino)
    made.st_mode = found.st_mode
    made.st_nlink = found.st_nlink
    made.st_uid = found.st_uid
    made.st_gid = found.st_gid
    made.st_size = found.st_size
    made.st_blocks = found.st_blocks
    made.st_atime_ns = found.st_atime_ns
    made.st_mtime_ns = found.st_mtime_ns
    made.st_ctime_ns = found.st_ctime_ns
    return made


class Passthrough(pyfuse3.Operations):
    """Requests as system calls on the lower directory, all in the one trio thread."""

    enable_writeback_cache = True

    def __init__(self, lower: bytes) -> None:
        super().__init__()
        self._paths: dict[int, bytes] = {pyfuse3.ROOT_INODE: lower}
        self._listings: dict[int, list[os.DirEntry[bytes]]] = {}
        self._next_listing = 1

    def _child(self, parent: int, name: bytes) -> bytes:
        return self._paths[parent] + b"/" + name

    def _known(self, path: bytes) -> EntryAttributes:
        found = os.lstat(path)
        self._paths[found.st_ino] = path
        return entry(found)

    @answered
    async def lookup(self, parent_inode: int, name: bytes, ctx: RequestContext) -> EntryAttributes:
        return self._known(self._child(parent_inode, name))

    def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:  # type: ignore[override]
        pass

    @answered
    async def getattr(self, inode: int, ctx: RequestContext) -> EntryAttributes:
        return entry(os.lstat(self._paths[inode]))

    @answered
    async def setattr(
        self, inode: int, attr: EntryAttributes, fields: SetattrFields, fh: int | None, ctx: RequestContext
    ) -> EntryAttributes:
        path = self._paths[inode]
        if fields.update_size:
            os.truncate(path, attr.st_size)
        if fields.update_mode:
            os.chmod(path, stat.S_IMODE(attr.st_mode))
        if fields.update_atime or fields.update_mtime:
            now = os.lstat(path)
            os.utime(
                path,
                ns=(
                    attr.st_atime_ns if fields.update_atime else now.st_atime_ns,
                    attr.st_mtime_ns if fields.update_mtime else now.st_mtime_ns,
                ),
            )
        return entry(os.lstat(path))

    @answered
    async def mkdir(self, parent_inode: int, name: bytes, mode: int, ctx: RequestContext) -> EntryAttributes:
        path = self._child(parent_inode, name)
        os.mkdir(path, mode)
        return self._known(path)

    @answered
    async def unlink(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        path = self._child(parent_inode, name)
        found = os.lstat(path)
        os.unlink(path)
        self._paths.pop(found.st_ino, None)

    @answered
    async def rmdir(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        path = self._child(parent_inode, name)
        found = os.lstat(path)
        os.rmdir(path)
        self._paths.pop(found.st_ino, None)

    @answered
    async def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        path = self._child(parent_inode, name)
        fd = os.open(path, _lower_flags(flags) | os.O_CREAT, stat.S_IMODE(mode))
        return FileInfo(fh=fd, keep_cache=True), self._known(path)

    @answered
    async def open(self, inode: int, flags: int, ctx: RequestContext) -> FileInfo:
        fd = os.open(self._paths[inode], _lower_flags(flags))
        return FileInfo(fh=fd, keep_cache=True)

    @answered
    async def read(self, fh: int, off: int, size: int) -> bytes:
        return os.pread(fh, size, off)

    @answered
    async def write(self, fh: int, off: int, buf: bytes) -> int:
        return os.pwrite(fh, buf, off)

    async def flush(self, fh: int) -> None:
        raise FUSEError(errno.ENOSYS)

    @answered
    async def release(self, fh: int) -> None:
        os.close(fh)

    @answered
    async def fsync(self, fh: int, datasync: bool) -> None:
        # The only call that waits long; in the loop's thread it would keep everything else waiting.
        await trio.to_thread.run_sync(os.fdatasync if datasync else os.fsync, fh)

    @answered
    async def opendir(self, inode: int, ctx: RequestContext) -> int:
        handle = self._next_listing
        self._next_listing += 1
        with os.scandir(self._paths[inode]) as entries:
            self._listings[handle] = list(entries)
        return handle

    @answered
    async def readdir(self, fh: int, start_id: int, token: ReaddirToken) -> None:
        entries = self._listings[fh]
        for number in range(start_id, len(entries)):
            found = entries[number]
            attributes = self._known(found.path)
            if not pyfuse3.readdir_reply(token, found.name, attributes, number + 1):
                return

    @answered
    async def releasedir(self, fh: int) -> None:
        del self._listings[fh]

    @answered
    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        os.sync()

    @answered
    async def statfs(self, ctx: RequestContext) -> pyfuse3.StatvfsData:
        lower = os.statvfs(self._paths[pyfuse3.ROOT_INODE])
        made = pyfuse3.StatvfsData()
        for name in ("bsize", "frsize", "blocks", "bfree", "bavail", "files", "ffree", "favail", "namemax"):
            setattr(made, f"f_{name}", getattr(lower, f"f_{name}"))
        return made

    async def getxattr(self, inode: int, name: bytes, ctx: RequestContext) -> bytes:
        raise FUSEError(errno.ENOSYS)


def _lower_flags(flags: int) -> int:
    """With the writeback cache write-only handles are read too, and appending is the kernel's business."""
    kept = flags & ~(os.O_ACCMODE | os.O_APPEND)
    return kept | (os.O_RDONLY if flags & os.O_ACCMODE == os.O_RDONLY else os.O_RDWR)


async def serve(lower: str, mountpoint: str) -> None:
    operations: Any = Passthrough(os.fsencode(lower))
    pyfuse3.init(operations, mountpoint, {"default_permissions", "fsname=passthrough"})
    try:
        print("ready", flush=True)
        await pyfuse3.main()
    finally:
        pyfuse3.close(unmount=True)


if __name__ == "__main__":
    trio.run(serve, sys.argv[1], sys.argv[2])
