"""Attributes of an inode as the kernel wants them."""

import stat

from pyfuse3 import EntryAttributes

from storjfs.filesystem import Attributes

# We are the only writer of a volume, so what the kernel knows stays true until it changes it itself.
TRUST_SECONDS = 3600.0

SET_ID = stat.S_ISUID | stat.S_ISGID


def entry(attributes: Attributes) -> EntryAttributes:
    """Attributes and a directory entry for them; called for each request, so kept flat.

    A file with a set-id bit loses it when it is written, which the kernel leaves to us: it asks for the
    attributes of such a file each time.
    """
    made = EntryAttributes()
    mode = attributes.mode
    made.entry_timeout = TRUST_SECONDS
    made.attr_timeout = 0 if mode & SET_ID and stat.S_ISREG(mode) else TRUST_SECONDS
    made.st_ino = attributes.ino
    made.st_mode = mode
    made.st_nlink = attributes.nlink
    made.st_uid = attributes.uid
    made.st_gid = attributes.gid
    made.st_rdev = attributes.rdev
    made.st_size = attributes.size
    made.st_blocks = attributes.blocks
    made.st_atime_ns = attributes.atime
    made.st_mtime_ns = attributes.mtime
    made.st_ctime_ns = attributes.ctime
    return made


def told(attributes: Attributes) -> EntryAttributes:
    """The same for an answer that makes the kernel remember the inode until it says that it forgets it."""
    attributes.lookups += 1
    return entry(attributes)


def without_set_id(mode: int) -> int:
    """A file's mode after a write: no set-user-id, and no set-group-id where the group may execute it."""
    if not stat.S_ISREG(mode):
        return mode
    mode &= ~stat.S_ISUID
    return mode & ~stat.S_ISGID if mode & stat.S_IXGRP else mode


def no_entry() -> EntryAttributes:
    """The answer "there is no such name", which the kernel then remembers."""
    made = EntryAttributes()
    made.st_ino = 0
    made.entry_timeout = TRUST_SECONDS
    return made


def dot_entry(ino: int) -> EntryAttributes:
    """For "." and ".." in a listing, of which the kernel takes number and type only."""
    made = EntryAttributes()
    made.st_ino = ino
    made.st_mode = stat.S_IFDIR | 0o755
    return made
