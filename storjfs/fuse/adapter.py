"""Requests of the kernel, one handler each, as calls on a Filesystem.

Handlers never tell the kernel to invalidate anything: with a dirty page that waits for itself.
"""

import errno
import logging
import os
import stat
from collections.abc import Sequence

import pyfuse3
from pyfuse3 import (
    EntryAttributes,
    FileInfo,
    FUSEError,
    ReaddirToken,
    RequestContext,
    SetattrFields,
    StatvfsData,
)

from storjfs.errors import FilesystemError
from storjfs.filesystem import Filesystem, acl

from .attributes import SET_ID, dot_entry, entry, no_entry, told, without_set_id
from .errors import answered
from .killed import unless_killed

log = logging.getLogger(__name__)

# Entries asked for at a time in a listing; a page of the kernel's takes about 25.
LISTING_STEP = 32
# The cookies of "." and ".."; the filesystem's own ones follow.
DOTS = 2

_NO_ENTRY = no_entry()


class Adapter(pyfuse3.Operations):
    """The handlers of one mount. Permission checks are the kernel's (default_permissions).

    `only_root`: nobody but root can reach the mount. Root may write to a file with set-id bits and leave
    them; from a file that somebody else may have written they are taken away.
    `sync_network`: fsync may wait for farmers, without end if they are away.
    """

    enable_writeback_cache = True
    supports_dot_lookup = True
    enable_acl = True

    def __init__(
        self, filesystem: Filesystem, *, only_root: bool = False, sync_network: bool = False
    ) -> None:
        super().__init__()
        self._only_root = only_root
        self._sync_network = sync_network
        self._openers: dict[int, int] = {}  # of handles, where sync_network
        self._filesystem = filesystem
        self._listed: dict[int, int] = {}
        self._opened: dict[int, int] = {}
        self._set_id: set[int] = set()
        self.refused = 0
        """Writes that failed, so far."""

    @answered
    async def lookup(self, parent_inode: int, name: bytes, ctx: RequestContext) -> EntryAttributes:
        """A name that does not exist is remembered by the kernel as well."""
        try:
            return told(await self._filesystem.lookup(parent_inode, name))
        except FilesystemError as error:
            if error.errno == errno.ENOENT:
                return _NO_ENTRY
            raise

    def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:  # type: ignore[override]
        """Not a coroutine: pyfuse3 awaits only what is not None."""
        try:
            self._filesystem.forget(inode_list)
        except Exception:  # nobody waits for an answer; what is not reaped now goes at the next start
            log.exception("forgetting failed")

    @answered
    async def getattr(self, inode: int, ctx: RequestContext) -> EntryAttributes:
        """See Filesystem.getattr."""
        attributes = await self._filesystem.getattr(inode)
        if attributes.mode & SET_ID and stat.S_ISREG(attributes.mode) and not self._only_root:
            self._set_id.add(inode)
        return entry(attributes)

    @answered
    async def setattr(
        self, inode: int, attr: EntryAttributes, fields: SetattrFields, fh: int | None, ctx: RequestContext
    ) -> EntryAttributes:
        """With the writeback cache the kernel keeps mtime and ctime itself and sends them here."""
        mode = attr.st_mode if fields.update_mode else None
        if fields.update_size and ctx.uid != 0 and mode is None:
            mode = without_set_id((await self._filesystem.getattr(inode)).mode)
        return entry(
            await self._filesystem.setattr(
                inode,
                mode=mode,
                uid=attr.st_uid if fields.update_uid else None,
                gid=attr.st_gid if fields.update_gid else None,
                size=attr.st_size if fields.update_size else None,
                atime=attr.st_atime_ns if fields.update_atime else None,
                mtime=attr.st_mtime_ns if fields.update_mtime else None,
                ctime=attr.st_ctime_ns if fields.update_ctime else None,
            )
        )

    @answered
    async def readlink(self, inode: int, ctx: RequestContext) -> bytes:
        """See Filesystem.readlink."""
        return await self._filesystem.readlink(inode)

    @answered
    async def mknod(
        self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: RequestContext
    ) -> EntryAttributes:
        """See Filesystem.mknod."""
        return told(await self._filesystem.mknod(parent_inode, name, mode, rdev, ctx.uid, ctx.gid, ctx.umask))

    @answered
    async def mkdir(self, parent_inode: int, name: bytes, mode: int, ctx: RequestContext) -> EntryAttributes:
        """See Filesystem.mkdir."""
        return told(await self._filesystem.mkdir(parent_inode, name, mode, ctx.uid, ctx.gid, ctx.umask))

    @answered
    async def symlink(
        self, parent_inode: int, name: bytes, target: bytes, ctx: RequestContext
    ) -> EntryAttributes:
        """See Filesystem.symlink."""
        return told(await self._filesystem.symlink(parent_inode, name, target, ctx.uid, ctx.gid))

    @answered
    async def link(
        self, inode: int, new_parent_inode: int, new_name: bytes, ctx: RequestContext
    ) -> EntryAttributes:
        """See Filesystem.link."""
        return told(await self._filesystem.link(inode, new_parent_inode, new_name))

    @answered
    async def unlink(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        """See Filesystem.unlink."""
        await self._filesystem.unlink(parent_inode, name)

    @answered
    async def rmdir(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        """See Filesystem.rmdir."""
        await self._filesystem.rmdir(parent_inode, name)

    @answered
    async def rename(
        self,
        parent_inode_old: int,
        name_old: bytes,
        parent_inode_new: int,
        name_new: bytes,
        flags: int,
        ctx: RequestContext,
    ) -> None:
        """See Filesystem.rename."""
        await self._filesystem.rename(parent_inode_old, name_old, parent_inode_new, name_new, flags)

    @answered
    async def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        """See Filesystem.create."""
        handle, attributes = await self._filesystem.create(
            parent_inode, name, mode, ctx.uid, ctx.gid, flags, ctx.umask
        )
        self._opened[handle] = attributes.ino
        if self._sync_network:
            self._openers[handle] = ctx.pid
        return FileInfo(fh=handle, keep_cache=True), told(attributes)

    @answered
    async def open(self, inode: int, flags: int, ctx: RequestContext) -> FileInfo:
        """The kernel may keep what it has cached of the file: nobody else changes it."""
        handle = await self._filesystem.open(inode, flags)
        self._opened[handle] = inode
        if self._sync_network:
            self._openers[handle] = ctx.pid
        if flags & os.O_TRUNC and ctx.uid != 0:
            await self._drop_set_id(inode)
        return FileInfo(fh=handle, keep_cache=True)

    @answered
    async def read(self, fh: int, off: int, size: int) -> bytes:
        """See Filesystem.read; pyfuse3 takes any buffer."""
        return await self._filesystem.read(fh, off, size)  # type: ignore[return-value]

    @answered
    async def write(self, fh: int, off: int, buf: bytes) -> int:
        """See Filesystem.write. Takes away set-id bits, which we promised the kernel (HANDLE_KILLPRIV_V2).

        A failure is logged: the kernel tells it late, to whoever calls fsync or syncfs next, as EIO.
        """
        try:
            written = await self._filesystem.write(fh, off, buf)
        except Exception as error:
            self.refused += 1
            if isinstance(error, FilesystemError):
                log.warning("%d bytes of inode %s at %d: %s", len(buf), self._opened.get(fh), off, error)
            raise
        if self._set_id and self._opened[fh] in self._set_id:
            await self._drop_set_id(self._opened[fh])
        return written

    async def _drop_set_id(self, inode: int) -> None:
        """As local filesystems do it, where the mount is shared for root too: who writes is not told.

        The kernel asks for the attributes of such files each time (`attributes.entry`), also just before a
        write, and so all of them are in the set.
        """
        self._set_id.discard(inode)
        attributes = await self._filesystem.getattr(inode)
        mode = without_set_id(attributes.mode)
        if mode != attributes.mode:
            await self._filesystem.setattr(inode, mode=mode, ctime=attributes.ctime)

    async def flush(self, fh: int) -> None:
        """close(2) promises nothing here that the kernel does not do: it has sent all dirty pages.

        ENOSYS makes it not ask again, which saves a request per file.
        """
        raise FUSEError(errno.ENOSYS)

    @answered
    async def release(self, fh: int) -> None:
        """See Filesystem.release."""
        self._opened.pop(fh, None)
        self._openers.pop(fh, None)
        await self._filesystem.release(fh)

    @answered
    async def fsync(self, fh: int, datasync: bool) -> None:
        """See Filesystem.fsync. A program that is killed while it waits for farmers ends."""
        if self._sync_network:
            await unless_killed(self._openers[fh], lambda: self._filesystem.fsync(fh))
        else:
            await self._filesystem.fsync(fh)

    @answered
    async def opendir(self, inode: int, ctx: RequestContext) -> int:
        """See Filesystem.opendir."""
        handle = await self._filesystem.opendir(inode)
        self._listed[handle] = inode
        if self._sync_network:
            self._openers[handle] = ctx.pid
        return handle

    @answered
    async def readdir(self, fh: int, start_id: int, token: ReaddirToken) -> None:
        """Entries with their attributes, as many as the kernel takes."""
        if start_id < DOTS and not await self._reply_dots(fh, start_id, token):
            return
        filesystem, reply = self._filesystem, pyfuse3.readdir_reply
        cookie = max(start_id - DOTS, 0)
        while True:
            step = await filesystem.readdir(fh, cookie, LISTING_STEP)
            for name, attributes, cookie in step:
                if not reply(token, name, entry(attributes), cookie + DOTS):
                    return
                attributes.lookups += 1
            if len(step) < LISTING_STEP:
                return

    async def _reply_dots(self, fh: int, start_id: int, token: ReaddirToken) -> bool:
        """The entries "." and ".."; False when the kernel takes no more."""
        here = self._listed[fh]
        if start_id == 0 and not pyfuse3.readdir_reply(token, b".", dot_entry(here), 1):
            return False
        above = (await self._filesystem.lookup(here, b"..")).ino
        return pyfuse3.readdir_reply(token, b"..", dot_entry(above), DOTS)

    @answered
    async def releasedir(self, fh: int) -> None:
        """See Filesystem.releasedir."""
        self._listed.pop(fh, None)
        self._openers.pop(fh, None)
        await self._filesystem.releasedir(fh)

    @answered
    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        """As fsync."""
        if self._sync_network:
            await unless_killed(self._openers[fh], lambda: self._filesystem.fsyncdir(fh))
        else:
            await self._filesystem.fsyncdir(fh)

    @answered
    async def statfs(self, ctx: RequestContext) -> StatvfsData:
        """See Filesystem.statfs."""
        capacity = await self._filesystem.statfs()
        made = StatvfsData()
        made.f_bsize = made.f_frsize = capacity.block_size
        made.f_blocks = capacity.blocks
        made.f_bfree = capacity.free_blocks
        made.f_bavail = capacity.available_blocks
        made.f_files = capacity.files + capacity.free_files
        made.f_ffree = made.f_favail = capacity.free_files
        made.f_namemax = capacity.name_max
        return made

    @answered
    async def setxattr(self, inode: int, name: bytes, value: bytes, ctx: RequestContext) -> None:
        """pyfuse3 has checked XATTR_CREATE and XATTR_REPLACE by asking getxattr."""
        await self._filesystem.setxattr(inode, name, value)
        if name == acl.ACCESS:
            await self._drop_set_group_id(inode, ctx)

    async def _drop_set_group_id(self, inode: int, ctx: RequestContext) -> None:
        """A new ACL is as good as chmod(2): who is not in the file's group may not leave it set-group-id."""
        attributes = await self._filesystem.getattr(inode)
        if not attributes.mode & stat.S_ISGID or ctx.uid == 0 or ctx.gid == attributes.gid:
            return
        if attributes.gid not in pyfuse3.get_sup_groups(ctx.pid):
            await self._filesystem.setattr(inode, mode=attributes.mode & ~stat.S_ISGID)

    @answered
    async def getxattr(self, inode: int, name: bytes, ctx: RequestContext) -> bytes:
        """See Filesystem.getxattr."""
        return await self._filesystem.getxattr(inode, name)

    @answered
    async def listxattr(self, inode: int, ctx: RequestContext) -> Sequence[bytes]:
        """See Filesystem.listxattr. Names in trusted.* are for root only, as xattr(7) says."""
        names = await self._filesystem.listxattr(inode)
        return names if ctx.uid == 0 else [name for name in names if not name.startswith(b"trusted.")]

    @answered
    async def removexattr(self, inode: int, name: bytes, ctx: RequestContext) -> None:
        """See Filesystem.removexattr."""
        await self._filesystem.removexattr(inode, name)
