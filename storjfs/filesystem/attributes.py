"""What stat(2) tells of an inode."""

import stat


class Attributes:
    """The attributes of one inode. Times are nanoseconds since 1970, `rdev` as in stat(2).

    What the filesystem returns is its own live record, to spare a copy per request: read what you need before
    the next await, and change nothing but `lookups`.
    """

    __slots__ = (
        "atime",
        "ctime",
        "gid",
        "ino",
        "lookups",
        "mode",
        "mtime",
        "nlink",
        "opens",
        "rdev",
        "size",
        "stored",
        "uid",
    )

    ino: int
    mode: int
    nlink: int
    uid: int
    gid: int
    rdev: int
    size: int
    stored: int  # bytes that extents cover; holes are not counted
    atime: int
    mtime: int
    ctime: int
    opens: int  # handles
    lookups: int
    """How often the kernel was told of the inode since it is in memory, less what it has forgotten: whoever
    tells it counts. What happened before is not counted, so the kernel may know of more."""

    @property
    def blocks(self) -> int:
        """Units of 512 bytes, for du(1).

        Never 0 for an open file: it may have data that the kernel has not sent yet, and programs (tar -S)
        take 0 as "nothing but holes".
        """
        return (self.stored + 511) >> 9 or (1 if self.opens and stat.S_ISREG(self.mode) else 0)
