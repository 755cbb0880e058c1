"""Names: looking up, making, linking, unlinking."""

import errno
import stat

from storjfs.errors import FilesystemError
from storjfs.filesystem import acl, core
from storjfs.filesystem.attributes import Attributes
from storjfs.filesystem.inodes import HAS_XATTRS, Inode
from storjfs.filesystem.reaper import Reaper
from storjfs.store import ROOT_INODE

TARGET_MAX = 4095
RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2


class Names(Reaper):
    async def lookup(self, parent: int, name: bytes) -> Attributes:
        """The attributes of a name. Raises ENOENT, ENOTDIR, ENAMETOOLONG.

        "." finds the inode itself, whatever it is: so the kernel asks for one that it knows only by a file
        handle (NFS, open_by_handle_at(2)). ESTALE where it is gone.
        """
        if self._store.aside.distant:
            await self._fetched(self._dentries.missing(parent, name))
        if name == b".":
            inode = self._inodes.get(parent)
            if not inode.nlink:
                raise FilesystemError(errno.ESTALE)  # deleted, and about to be reaped: the kernel forgot it
            return inode
        if name == b"..":
            return self._inodes.get(self._directory(parent).parent)
        return self._child(parent, name)

    # --- making ---

    def _make(
        self,
        parent: int,
        name: bytes,
        mode: int,
        uid: int,
        gid: int,
        *,
        umask: int = 0,
        rdev: int = 0,
        target: bytes | None = None,
    ) -> Inode:
        """Callers have awaited `_take_in`.

        A default ACL of the directory takes the place of the umask (umask(2), acl(5)).
        """
        if self._dentries.find(parent, name)[0]:
            raise FilesystemError(errno.EEXIST)
        directory = self._parent(parent, name)
        is_directory = mode & 0o170000 == stat.S_IFDIR
        if directory.mode & stat.S_ISGID:
            gid = directory.gid
            if is_directory:
                mode |= stat.S_ISGID
        lists: list[tuple[bytes, bytes]] = []
        if target is None:
            default = self._xattrs.all(directory).get(acl.DEFAULT) if directory.flags & HAS_XATTRS else None
            if default is None:
                mode &= ~umask
            else:
                mode, lists = _inherited(default, mode)
        now = self._clock()
        inode = self._inodes.new(
            mode, uid, gid, now, parent=parent if is_directory else 0, rdev=rdev, target=target
        )
        for attribute, value in lists:
            self._xattrs.set(inode, attribute, value)
        self._dentries.add(parent, name, inode.ino)
        if is_directory:
            directory.nlink += 1
            self._dentries.begin(inode.ino)
        self._touch_directory(directory, now)
        return inode

    async def mknod(
        self, parent: int, name: bytes, mode: int, rdev: int, uid: int, gid: int, umask: int = 0
    ) -> Attributes:
        """A file, FIFO, socket or device. Raises EEXIST, EINVAL for another type, ENOSPC."""
        await self._take_in()
        kind = stat.S_IFMT(mode) or stat.S_IFREG
        if kind not in (stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK):
            raise FilesystemError(errno.EINVAL)
        is_device = kind in (stat.S_IFCHR, stat.S_IFBLK)
        rdev = rdev if is_device else 0
        return self._make(parent, name, kind | mode & 0o7777, uid, gid, umask=umask, rdev=rdev)

    async def mkdir(
        self, parent: int, name: bytes, mode: int, uid: int, gid: int, umask: int = 0
    ) -> Attributes:
        await self._take_in()
        return self._make(parent, name, stat.S_IFDIR | mode & 0o7777, uid, gid, umask=umask)

    async def symlink(self, parent: int, name: bytes, target: bytes, uid: int, gid: int) -> Attributes:
        await self._take_in()
        if len(target) > TARGET_MAX:
            raise FilesystemError(errno.ENAMETOOLONG)
        if not target:
            raise FilesystemError(errno.ENOENT)
        return self._make(parent, name, stat.S_IFLNK | 0o777, uid, gid, target=target)

    async def readlink(self, ino: int) -> bytes:
        inode = self._inodes.get(ino)
        if inode.target is None:
            raise FilesystemError(errno.EINVAL)
        self._accessed(inode)
        return inode.target

    async def link(self, ino: int, parent: int, name: bytes) -> Attributes:
        """Another name for an inode. Raises EPERM for a directory, EMLINK, EEXIST."""
        await self._store.room()
        inode = self._inodes.get(ino)
        if self._dentries.find(parent, name)[0]:
            raise FilesystemError(errno.EEXIST)
        directory = self._parent(parent, name)
        if stat.S_ISDIR(inode.mode):
            raise FilesystemError(errno.EPERM)
        if not inode.nlink:
            raise FilesystemError(errno.ENOENT)
        if inode.nlink >= core.LINK_MAX:
            raise FilesystemError(errno.EMLINK)
        self._check_writable()
        now = self._clock()
        inode.nlink += 1
        inode.ctime = now
        self._inodes.mark(inode)
        self._dentries.add(parent, name, ino)
        self._touch_directory(directory, now)
        return inode

    # --- removing ---

    async def unlink(self, parent: int, name: bytes) -> None:
        """Raises EISDIR for a directory."""
        await self._store.room()
        directory = self._directory(parent)
        inode = self._child(parent, name)
        if stat.S_ISDIR(inode.mode):
            raise FilesystemError(errno.EISDIR)
        self._check_removable()
        now = self._clock()
        self._dentries.remove(parent, name)
        self._touch_directory(directory, now)
        self._drop_link(inode, now)

    async def rmdir(self, parent: int, name: bytes) -> None:
        """Raises ENOTDIR, ENOTEMPTY."""
        await self._store.room()
        if name == b".":
            raise FilesystemError(errno.EINVAL)
        if name == b"..":
            raise FilesystemError(errno.ENOTEMPTY)
        inode = self._child(parent, name)
        if not stat.S_ISDIR(inode.mode):
            raise FilesystemError(errno.ENOTDIR)
        looked_at = inode.ino
        if not await self._dentries.emptied(looked_at):
            raise FilesystemError(errno.ENOTEMPTY)
        directory, inode = self._directory(parent), self._child(parent, name)
        if inode.ino != looked_at:
            raise FilesystemError(errno.ENOENT)  # it was replaced meanwhile
        self._check_removable()
        now = self._clock()
        self._dentries.remove(parent, name)
        directory.nlink -= 1
        self._touch_directory(directory, now)
        self._drop_directory(inode, now)

    def _drop_link(self, inode: Inode, now: int) -> None:
        inode.nlink -= 1
        inode.ctime = now
        self._inodes.mark(inode)
        if not inode.nlink:
            self._orphan(inode)

    def _drop_directory(self, inode: Inode, now: int) -> None:
        inode.nlink = 0
        inode.ctime = now
        self._inodes.mark(inode)
        self._orphan(inode)

    # --- renaming ---

    async def rename(
        self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int = 0
    ) -> None:
        """renameat2(2): with RENAME_NOREPLACE or RENAME_EXCHANGE. Replacing is atomic, also across a crash.

        Raises EEXIST, ENOENT, ENOTEMPTY, EISDIR, ENOTDIR, EINVAL (into its own child, unknown flags).
        """
        if flags not in (0, RENAME_NOREPLACE, RENAME_EXCHANGE):
            raise FilesystemError(errno.EINVAL)
        await self._store.room()
        source = self._directory(parent)
        inode = self._child(parent, name)
        target = self._parent(new_parent, new_name)
        existing_ino = self._dentries.find(new_parent, new_name)[0]
        existing = self._inodes.get(existing_ino) if existing_ino else None
        if flags == RENAME_NOREPLACE and existing is not None:
            raise FilesystemError(errno.EEXIST)
        if flags == RENAME_EXCHANGE and existing is None:
            raise FilesystemError(errno.ENOENT)
        self._check_no_loop(inode, target)
        if flags == RENAME_EXCHANGE and existing is not None:
            self._check_no_loop(existing, source)
            self._check_writable()
            self._exchange(source, name, inode, target, new_name, existing)
            return
        if existing is inode:
            return  # two names of one inode: rename(2) does nothing
        if existing is not None:
            self._check_replaceable(inode, existing, source)
        self._check_writable()
        now = self._clock()
        is_directory = stat.S_ISDIR(inode.mode)
        self._dentries.remove(parent, name)
        self._dentries.add(new_parent, new_name, inode.ino)
        if is_directory:
            source.nlink -= 1
            target.nlink += 1
            inode.parent = new_parent
        inode.ctime = now
        self._inodes.mark(inode)
        if existing is not None and is_directory:
            target.nlink -= 1
            self._drop_directory(existing, now)
        elif existing is not None:
            self._drop_link(existing, now)
        self._touch_directory(source, now)
        self._touch_directory(target, now)

    def _check_no_loop(self, inode: Inode, into: Inode) -> None:
        """EINVAL where `into` is `inode` or lies below it."""
        if self._is_below(into, inode):
            raise FilesystemError(errno.EINVAL)

    def _is_below(self, directory: Inode, ancestor: Inode) -> bool:
        """Whether `directory` is `ancestor` or lies below it."""
        if not stat.S_ISDIR(ancestor.mode):
            return False
        while directory is not ancestor:
            if directory.ino == ROOT_INODE:
                return False
            directory = self._inodes.get(directory.parent)
        return True

    def _check_replaceable(self, inode: Inode, existing: Inode, source: Inode) -> None:
        if self._is_below(source, existing):
            raise FilesystemError(errno.ENOTEMPTY)
        if not stat.S_ISDIR(existing.mode):
            if stat.S_ISDIR(inode.mode):
                raise FilesystemError(errno.ENOTDIR)
        elif not stat.S_ISDIR(inode.mode):
            raise FilesystemError(errno.EISDIR)
        elif not self._dentries.is_empty(existing.ino):
            raise FilesystemError(errno.ENOTEMPTY)

    def _exchange(
        self, source: Inode, name: bytes, inode: Inode, target: Inode, new_name: bytes, existing: Inode
    ) -> None:
        if existing is inode:
            return
        now = self._clock()
        self._dentries.add(source.ino, name, existing.ino)
        self._dentries.add(target.ino, new_name, inode.ino)
        for moved, left, entered in ((inode, source, target), (existing, target, source)):
            if stat.S_ISDIR(moved.mode):
                left.nlink -= 1
                entered.nlink += 1
                moved.parent = entered.ino
            moved.ctime = now
            self._inodes.mark(moved)
        self._touch_directory(source, now)
        self._touch_directory(target, now)


def _inherited(default: bytes, mode: int) -> tuple[int, list[tuple[bytes, bytes]]]:
    """Mode and ACLs, as extended attributes, of what is made with `mode` under a default ACL."""
    entries = acl.inherited(acl.parse(default), mode)
    lists = [(acl.ACCESS, acl.build(entries))] if acl.says_more(entries) else []
    if stat.S_ISDIR(mode):
        lists.append((acl.DEFAULT, default))
    return mode & ~0o777 | acl.permissions(entries), lists
