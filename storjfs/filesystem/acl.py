"""POSIX access control lists: pure arithmetic on what system.posix_acl_access and ..._default hold.

The kernel enforces them (and checks them before it passes one on); what is left to a filesystem is to keep
list and permission bits in step, and to give new inodes what their directory's default list says. The rules
are those of acl(5), the encoding that of linux/posix_acl_xattr.h: a version, then entries (tag, permissions,
user or group id).
"""

import errno
import struct
from collections.abc import Iterator, Sequence

from storjfs.errors import FilesystemError

ACCESS = b"system.posix_acl_access"
DEFAULT = b"system.posix_acl_default"
NAMES = (ACCESS, DEFAULT)

USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20

_VERSION = struct.pack("<I", 2)
_ENTRY = struct.Struct("<HHI")

Entry = tuple[int, int, int]  # tag, permissions, id


def parse(value: bytes) -> list[Entry]:
    """The entries of a list. Raises EINVAL where it lacks one of the three that each list must have."""
    if value[:4] != _VERSION or (len(value) - 4) % _ENTRY.size:
        raise FilesystemError(errno.EINVAL)
    entries = list(_ENTRY.iter_unpack(value[4:]))
    tags = [tag for tag, _, _ in entries]
    if any(tags.count(tag) != 1 for tag in (USER_OBJ, GROUP_OBJ, OTHER)) or tags.count(MASK) > 1:
        raise FilesystemError(errno.EINVAL)
    return entries


def build(entries: Sequence[Entry]) -> bytes:
    """The other way round."""
    return _VERSION + b"".join(_ENTRY.pack(*entry) for entry in entries)


def permissions(entries: Sequence[Entry]) -> int:
    """The nine permission bits that go with an access list: the group's are those of the mask, if any."""
    found = {tag: bits & 7 for tag, bits, _ in entries if tag not in (USER, GROUP)}
    return found[USER_OBJ] << 6 | found.get(MASK, found[GROUP_OBJ]) << 3 | found[OTHER]


def says_more(entries: Sequence[Entry]) -> bool:
    """Whether the list says anything that permission bits cannot."""
    return any(tag in (USER, GROUP, MASK) for tag, _, _ in entries)


def with_permissions(entries: Sequence[Entry], mode: int) -> list[Entry]:
    """An access list after chmod(2)."""
    return [
        (tag, bits if share is None else share, who) for (tag, bits, who), share in _shares(entries, mode)
    ]


def inherited(default: Sequence[Entry], mode: int) -> list[Entry]:
    """The access list of something new in a directory with this default list: `mode`, as the program gave it
    to open(2) or mkdir(2), takes away; the umask has no say."""
    return [
        (tag, bits if share is None else bits & share, who)
        for (tag, bits, who), share in _shares(default, mode)
    ]


def _shares(entries: Sequence[Entry], mode: int) -> Iterator[tuple[Entry, int | None]]:
    """Each entry with the three bits of `mode` that stand for it, None where none do."""
    has_mask = any(tag == MASK for tag, _, _ in entries)
    shifts = {USER_OBJ: 6, MASK if has_mask else GROUP_OBJ: 3, OTHER: 0}
    for entry in entries:
        shift = shifts.get(entry[0])
        yield entry, None if shift is None else mode >> shift & 7
