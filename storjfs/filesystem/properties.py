"""What can be asked and set about an inode: attributes, extended attributes, space."""

import errno
import stat
from dataclasses import replace

from storjfs.errors import FilesystemError
from storjfs.filesystem import acl
from storjfs.filesystem.attributes import Attributes
from storjfs.filesystem.core import Capacity
from storjfs.filesystem.directories import Directories
from storjfs.filesystem.inodes import HAS_XATTRS, Inode

XATTR_CREATE = 1
XATTR_REPLACE = 2
XATTR_NAME_MAX = 255
XATTR_SIZE_MAX = 65_536
XATTRS_MAX = 1 << 20  # bytes of names and values of one inode: they are held in memory together
LIST_MAX = 65_536

# Of system.* nothing but the ACLs: to keep what nobody enforces would promise what does not hold.
NAMESPACES = (b"user.", b"trusted.", b"security.", *acl.NAMES)

# What a signed number of 64 bits holds: the years 1677 to 2262.
TIME_MIN, TIME_MAX = -(1 << 63), (1 << 63) - 1


class Properties(Directories):
    async def getattr(self, ino: int) -> Attributes:
        """Raises ESTALE for an inode that is gone."""
        if self._store.aside.distant:
            await self._fetched(self._inodes.missing(ino))
        return self._inodes.get(ino)

    async def setattr(
        self,
        ino: int,
        *,
        mode: int | None = None,
        uid: int | None = None,
        gid: int | None = None,
        size: int | None = None,
        atime: int | None = None,
        mtime: int | None = None,
        ctime: int | None = None,
    ) -> Attributes:
        """Change what is not None: permission bits, owner, size, times in nanoseconds.

        A new size sets mtime, any change sets ctime, unless they are given. A new owner of a file clears its
        set-uid bit, and its set-gid bit if it is executable by the group (chown(2)); a new owner or size
        takes its capabilities away. An access ACL follows new permission bits (acl(5)). A time beyond what is
        kept becomes the nearest that is, as with any filesystem of Linux. Raises EFBIG, EINVAL.
        """
        await self._store.room()
        inode = self._inodes.get(ino)
        if size is not None and size < inode.size:
            self._check_removable()
        else:
            self._check_writable()
        if size is not None:
            with self._inodes.pinned(inode):
                await self._resize(inode, size)
            self._drop_capability(inode)
        now = self._clock()
        if uid is not None or gid is not None:
            self._drop_capability(inode)
            inode.uid = inode.uid if uid is None else uid
            inode.gid = inode.gid if gid is None else gid
            if not stat.S_ISDIR(inode.mode):
                inode.mode &= ~stat.S_ISUID
                if inode.mode & stat.S_IXGRP:
                    inode.mode &= ~stat.S_ISGID
        if mode is not None:
            self._chmod(inode, mode)
        if atime is not None:
            inode.atime = _kept(atime)
        if mtime is not None:
            inode.mtime = _kept(mtime)
        elif size is not None:
            inode.mtime = now
        inode.ctime = now if ctime is None else _kept(ctime)
        self._inodes.mark(inode)
        return inode

    def _chmod(self, inode: Inode, mode: int) -> None:
        inode.mode = stat.S_IFMT(inode.mode) | mode & 0o7777
        if inode.flags & HAS_XATTRS and (value := self._xattrs.all(inode).get(acl.ACCESS)) is not None:
            entries = acl.with_permissions(acl.parse(value), mode)
            self._xattrs.set(inode, acl.ACCESS, acl.build(entries))

    async def access(self, ino: int, mode: int, uid: int, gids: set[int]) -> bool:
        """Whether a user with these groups may access the inode (access(2)), by permission bits alone."""
        inode = self._inodes.get(ino)
        if uid == 0:
            return not mode & 1 or stat.S_ISDIR(inode.mode) or bool(inode.mode & 0o111)
        shift = 6 if uid == inode.uid else 3 if inode.gid in gids else 0
        return mode & (inode.mode >> shift) == mode

    async def statfs(self) -> Capacity:
        """Contracted space, and how many inodes there are."""
        return replace(self._space(), files=self._inodes.count)

    # --- extended attributes ---

    async def getxattr(self, ino: int, name: bytes) -> bytes:
        """Raises ENODATA, EOPNOTSUPP for a namespace that is not kept."""
        inode = self._inodes.get(ino)
        if inode.flags & HAS_XATTRS and (value := self._xattrs.all(inode).get(name)) is not None:
            return value
        if not name.startswith(NAMESPACES):
            raise FilesystemError(errno.EOPNOTSUPP)
        raise FilesystemError(errno.ENODATA)

    async def listxattr(self, ino: int) -> list[bytes]:
        return list(self._xattrs.all(self._inodes.get(ino)))

    async def setxattr(self, ino: int, name: bytes, value: bytes, flags: int = 0) -> None:
        """XATTR_CREATE and XATTR_REPLACE as in setxattr(2). Raises EEXIST, ENODATA, E2BIG, ERANGE, ENOSPC.

        An access ACL sets the permission bits as well, and is not kept where they say all of it. Raises
        EINVAL for one that is none, EACCES for a default ACL of what is no directory.
        """
        await self._store.room()
        inode = self._inodes.get(ino)
        self._check_xattr_name(name)
        if len(value) > XATTR_SIZE_MAX:
            raise FilesystemError(errno.E2BIG)
        xattrs = self._xattrs.all(inode)
        if flags & XATTR_CREATE and name in xattrs:
            raise FilesystemError(errno.EEXIST)
        if flags & XATTR_REPLACE and name not in xattrs:
            raise FilesystemError(errno.ENODATA)
        self._check_writable()
        others = [(other, held) for other, held in xattrs.items() if other != name]
        if sum(len(other) + len(held) for other, held in others) + len(name) + len(value) > XATTRS_MAX or (
            sum(len(other) + 1 for other, _ in others) + len(name) + 1 > LIST_MAX
        ):
            raise FilesystemError(errno.ENOSPC)
        if name in acl.NAMES:
            self._set_acl(inode, name, bytes(value))
        else:
            self._xattrs.set(inode, name, bytes(value))
        self._xattr_changed(inode)

    def _set_acl(self, inode: Inode, name: bytes, value: bytes) -> None:
        entries = acl.parse(value)
        if name == acl.DEFAULT:
            if not stat.S_ISDIR(inode.mode):
                raise FilesystemError(errno.EACCES)
            self._xattrs.set(inode, name, value)
            return
        inode.mode = inode.mode & ~0o777 | acl.permissions(entries)
        if acl.says_more(entries):
            self._xattrs.set(inode, name, value)
        elif name in self._xattrs.all(inode):
            self._xattrs.remove(inode, name)

    async def removexattr(self, ino: int, name: bytes) -> None:
        """Raises ENODATA; for an ACL that is not there nothing happens, as on a local filesystem."""
        await self._store.room()
        inode = self._inodes.get(ino)
        self._check_xattr_name(name)
        if name not in self._xattrs.all(inode):
            if name in acl.NAMES:
                return
            raise FilesystemError(errno.ENODATA)
        self._check_removable()
        self._xattrs.remove(inode, name)
        self._xattr_changed(inode)

    def _xattr_changed(self, inode: Inode) -> None:
        inode.ctime = self._clock()
        self._inodes.mark(inode)

    def _check_xattr_name(self, name: bytes) -> None:
        if len(name) > XATTR_NAME_MAX or not name or b"\0" in name:
            raise FilesystemError(errno.ERANGE)
        if not name.startswith(NAMESPACES):
            raise FilesystemError(errno.EOPNOTSUPP)


def _kept(time: int) -> int:
    return min(max(time, TIME_MIN), TIME_MAX)
