"""Content: opening, reading, writing, making files longer and shorter."""

import errno
import os
import stat
from itertools import islice

import trio

from storjfs.errors import FilesystemError
from storjfs.filesystem.attributes import Attributes
from storjfs.filesystem.core import SIZE_MAX
from storjfs.filesystem.inodes import Inode
from storjfs.filesystem.names import Names
from storjfs.filesystem.seam import Bytes
from storjfs.segments import Part

READ_AHEAD_FIRST = 1 << 20
READ_AHEAD_MAX = 16 << 20
# Concurrent requests of one sequential reader reach us out of order by about this much.
READ_JITTER = 1 << 20
RETRIES = 3
AT_ONCE = 64  # parts that are read without letting others run, about a millisecond
AHEAD_MOST = 512  # parts that a read-ahead asks for


class FileHandle:
    """An open file. `next`: where a sequential reader goes on; `ahead`: up to where it was read ahead;
    `span`: how far the next read-ahead reaches."""

    __slots__ = ("ahead", "inode", "next", "span")

    def __init__(self, inode: Inode) -> None:
        self.inode = inode
        self.next = 0
        self.ahead = 0
        self.span = READ_AHEAD_FIRST


class Content(Names):
    """Handles are small ints, never reused while open.

    Every handle can be read and written: with the writeback cache the kernel reads through handles opened for
    writing only, and it has checked the access mode before.
    """

    def _prepare_content(self) -> None:
        self._written = 0
        """Bytes that programs wrote since the start."""
        self._files: dict[int, FileHandle] = {}
        self._next_handle = 1

    def _new_handle(self) -> int:
        handle = self._next_handle
        self._next_handle = handle + 1
        return handle

    def _file(self, handle: int) -> FileHandle:
        file = self._files.get(handle)
        if file is None:
            raise FilesystemError(errno.EBADF)
        return file

    def _open(self, inode: Inode) -> int:
        handle = self._new_handle()
        self._files[handle] = FileHandle(inode)
        inode.opens += 1
        inode.pins += 1
        return handle

    async def create(
        self, parent: int, name: bytes, mode: int, uid: int, gid: int, flags: int = 0, umask: int = 0
    ) -> tuple[int, Attributes]:
        """Make a regular file and open it; an existing one is opened unless O_EXCL is in `flags`.

        Raises ENOSPC while no more is taken in, before anything is made.
        """
        await self._take_in()
        ino = self._dentries.find(parent, name)[0]
        if ino and not flags & os.O_EXCL:
            return await self.open(ino, flags), self._inodes.get(ino)
        inode = self._make(parent, name, stat.S_IFREG | mode & 0o7777, uid, gid, umask=umask)
        return self._open(inode), inode

    async def open(self, ino: int, flags: int) -> int:
        """A handle. O_TRUNC empties the file here: the kernel sends no SETATTR for it.

        Raises ENOSPC where a file is opened for writing while nothing new is taken in, unless that empties
        it, which frees space.
        """
        if self._store.aside.distant:
            await self._fetched(self._inodes.missing(ino))
        inode = self._inodes.get(ino)
        if stat.S_ISDIR(inode.mode):
            raise FilesystemError(errno.EISDIR)
        if flags & os.O_TRUNC and stat.S_ISREG(inode.mode) and inode.size:
            await self._store.room()
            self._check_removable()
        elif flags & os.O_TRUNC or flags & os.O_ACCMODE != os.O_RDONLY:
            await self._take_in()
        inode = self._inodes.get(ino)  # memory may have dropped the one above while we waited
        if flags & os.O_TRUNC and stat.S_ISREG(inode.mode):
            now = self._clock()
            self._drop_capability(inode)
            if inode.size:
                self._shrink(inode, 0)
            inode.mtime = inode.ctime = now
            self._inodes.mark(inode)
        return self._open(inode)

    async def flush(self, handle: int) -> None:
        """A descriptor of the file was closed: nothing becomes durable by that (close(2))."""
        self._file(handle)

    async def release(self, handle: int) -> None:
        """The last descriptor of the handle was closed."""
        inode = self._file(handle).inode
        del self._files[handle]
        inode.opens -= 1
        inode.pins -= 1
        if not inode.nlink:
            self._reap_if_free(inode)

    async def fsync(self, handle: int) -> None:
        """Return when all that was written until now survives a power loss."""
        self._file(handle)
        await self._sync()

    # --- writing ---

    async def write(self, handle: int, offset: int, data: bytes) -> int:
        """Write all of `data`; the length. Raises ENOSPC, EFBIG, EROFS.

        Leaves the times alone: with the writeback cache the kernel keeps them and sends them by itself.
        """
        inode = self._file(handle).inode
        length = len(data)
        end = offset + length
        if end > SIZE_MAX:
            raise FilesystemError(errno.EFBIG)
        self._check_writable()
        if not length:
            return 0
        await self._store.room()
        await self._segments.room()
        while inode.ino in self._to_cut and end > inode.size:
            await self._cut_tail(inode)
            await self._segments.room()  # others may have taken it meanwhile
        # From here to the end nothing waits: a group holds all of it or nothing.
        self._written += length
        self._drop_capability(inode)
        self._extents.put(inode, offset, self._segments.append(inode.ino, offset, data))
        if end > inode.size:
            inode.size = end
        self._inodes.mark(inode)
        return length

    async def _resize(self, inode: Inode, size: int) -> None:
        """truncate(2), without the times."""
        if not stat.S_ISREG(inode.mode):
            raise FilesystemError(errno.EISDIR if stat.S_ISDIR(inode.mode) else errno.EINVAL)
        if size > SIZE_MAX:
            raise FilesystemError(errno.EFBIG)
        if size < 0:
            raise FilesystemError(errno.EINVAL)
        while inode.ino in self._to_cut and size > inode.size:
            await self._cut_tail(inode)
        if size < inode.size:
            self._shrink(inode, size)
        else:
            inode.size = size
            self._inodes.mark(inode)

    # --- reading ---

    async def read(self, handle: int, offset: int, size: int) -> Bytes:
        """The bytes of [offset, offset + size) up to the end of the file.

        They are those of one moment, unless a segment vanished under a read that waited. Raises EIO where too
        few farmers answer.
        """
        file = self._file(handle)
        inode = file.inode
        if self._store.aside.distant:
            await self._fetched(self._extents.missing(inode, offset, offset + size + file.span))
        end = min(offset + size, inode.size)
        if offset >= end:
            return b""
        self._accessed(inode)
        if file.next - READ_JITTER <= offset <= file.next + READ_JITTER:
            await self._read_ahead(file, offset, end)
        else:
            file.ahead, file.span = end, READ_AHEAD_FIRST
        file.next = end
        return await self._content(inode, offset, end)

    async def _content(self, inode: Inode, start: int, end: int) -> Bytes:
        for attempt in range(RETRIES):
            parts = list(self._extents.parts(inode, start, end))
            try:
                return await self._assembled(parts, start, end)
            except FilesystemError:
                # Overwritten or compacted while we waited: the segment is gone, the bytes are elsewhere.
                if attempt + 1 == RETRIES or parts == list(self._extents.parts(inode, start, end)):
                    raise
        raise AssertionError("the last attempt returns or raises")

    async def _assembled(self, parts: list[tuple[int, Part]], start: int, end: int) -> Bytes:
        if len(parts) == 1 and parts[0][1].length == end - start:
            part = parts[0][1]
            whole = self._segments.read_now(*part)
            return whole if whole is not None else await self._segments.read(*part)
        pieces: list[Bytes | None] = []
        missing: list[tuple[int, Part]] = []
        at = start
        for number, (off, part) in enumerate(parts, 1):
            if not number % AT_ONCE:
                await trio.lowlevel.checkpoint()
            if off > at:
                pieces.append(bytes(off - at))
            found = self._segments.read_now(*part)
            if found is None:
                missing.append((len(pieces), part))
            pieces.append(found)
            at = off + part.length
        if at < end:
            pieces.append(bytes(end - at))
        if missing:
            if len(missing) > 1:
                self._segments.prefetch([part for _, part in missing])
            for position, part in missing:
                pieces[position] = await self._segments.read(*part)
        return b"".join(pieces)  # type: ignore[arg-type]

    async def _read_ahead(self, file: FileHandle, offset: int, end: int) -> None:
        """Have the segments room fetch what a sequential reader will want, once half of the last read-ahead
        is used up; twice as far each time."""
        size = file.inode.size
        if file.ahead - end > file.span >> 1 or file.ahead >= size or (not offset and end >= size):
            return
        start = max(file.ahead, end)
        until = min(end + file.span, size)
        if start < until:
            file.ahead = until
            parts = list(islice(self._extents.parts(file.inode, start, until), AHEAD_MOST))
            if len(parts) == AHEAD_MOST:  # a file in many pieces: the rest with the next reads
                file.ahead = parts[-1][0] + parts[-1][1].length
            for first in range(0, len(parts), AT_ONCE):
                if first:
                    await trio.lowlevel.checkpoint()
                self._segments.prefetch([part for _, part in parts[first : first + AT_ONCE]])
        file.span = min(file.span * 2, READ_AHEAD_MAX)
