"""What stat(2) tells of an inode."""


class Attributes:
    """The attributes of one inode. Times are nanoseconds since 1970, `rdev` as in stat(2).

    What the filesystem returns is its own live record, to spare a copy per request: read what you need before
    the next await, and change nothing.
    """

    __slots__ = (
        "atime",
        "ctime",
        "gid",
        "ino",
        "mode",
        "mtime",
        "nlink",
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

    @property
    def blocks(self) -> int:
        """Units of 512 bytes, for du(1)."""
        return (self.stored + 511) >> 9
