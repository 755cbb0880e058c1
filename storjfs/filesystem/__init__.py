"""Names, inodes, extents: what a file is.

`Filesystem` answers every request of a mount, by inode number and name as bytes; nothing here knows FUSE.
Changes gather in memory and reach meta.db in groups (storjfs.store); file bytes go to storjfs.segments.

All coroutines of `Filesystem`; errors are FilesystemError with the errno of the system call. `Attributes` is
the live record: read it before the next await.

    lookup(parent, name) -> Attributes                 getattr(ino) -> Attributes
    setattr(ino, mode=, uid=, gid=, size=, atime=, mtime=, ctime=) -> Attributes      (None: unchanged)
    create(parent, name, mode, uid, gid, flags, umask) -> (handle, Attributes)
    mknod(parent, name, mode, rdev, uid, gid, umask) | mkdir(parent, name, mode, uid, gid, umask)
    symlink(parent, name, target, uid, gid) | link(ino, parent, name) -> Attributes
    readlink(ino) -> bytes         unlink(parent, name)         rmdir(parent, name)
    rename(parent, name, new_parent, new_name, flags)
    open(ino, flags) -> handle     read(handle, offset, size) -> bytes     write(handle, offset, data) -> int
    flush(handle)   fsync(handle)  release(handle)
    opendir(ino) -> handle         readdir(handle, cookie, limit) -> [(name, Attributes, next cookie)]
    fsyncdir(handle)               releasedir(handle)
    setxattr(ino, name, value, flags)   getxattr(ino, name) -> bytes   listxattr(ino) -> [name]
    removexattr(ino, name)         access(ino, mode, uid, gid)   statfs() -> Capacity
    forget([(ino, count)])         not a coroutine: the kernel no longer knows these inodes
"""

from storjfs.filesystem.attributes import Attributes
from storjfs.filesystem.core import Capacity, Policy
from storjfs.filesystem.filesystem import Filesystem
from storjfs.filesystem.seam import SegmentRoom

__all__ = ["Attributes", "Capacity", "Filesystem", "Policy", "SegmentRoom"]
