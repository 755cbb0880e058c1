"""POSIX ACLs: enforced, in step with the permission bits, handed down to what is new."""

import os
import stat
import struct
from pathlib import Path

import pytest

from .calls import fails
from .processes import FAR, NOBODY, as_user, needs_other_users

ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"
NO_ID = (1 << 32) - 1
TAGS = {"u": (1, 2), "g": (4, 8), "m": (16, 16), "o": (32, 32)}

pytestmark = pytest.mark.usefixtures("others")


@pytest.fixture
def others() -> None:
    needs_other_users()


def acl(text: str) -> bytes:
    """From the short form of setfacl(1): u::rwx,u:12:r--,g::r-x,m::rwx,o::---."""
    made = struct.pack("<I", 2)
    for entry in text.split(","):
        tag, who, bits = entry.split(":")
        value = sum(4 >> "rwx".index(bit) for bit in bits if bit != "-")
        made += struct.pack("<HHI", TAGS[tag][bool(who)], value, int(who) if who else NO_ID)
    return made


def text(value: bytes) -> str:
    """The other way round."""
    names = {number: tag for tag, numbers in TAGS.items() for number in numbers}
    return ",".join(
        f"{names[tag]}:{'' if who == NO_ID else who}:"
        + "".join("-rwx"[(bits >> 2 - i & 1) * (i + 1)] for i in range(3))
        for tag, bits, who in struct.iter_unpack("<HHI", value[4:])
    )


def access_list(path: Path) -> str | None:
    try:
        return text(os.getxattr(path, ACCESS))
    except OSError:
        return None


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def file(at: Path) -> Path:
    (at / "file").write_text("content")
    os.chmod(at / "file", 0o640)
    return at / "file"


def test_a_named_user_gets_what_the_list_says(file: Path) -> None:
    assert as_user(lambda: fails(os.open, file, os.O_RDONLY), FAR) == "EACCES"
    os.setxattr(file, ACCESS, acl(f"u::rw-,u:{FAR}:r--,g::---,m::r--,o::---"))
    assert as_user(lambda: fails(os.open, file, os.O_RDONLY), FAR) == "nothing"
    assert as_user(lambda: fails(os.open, file, os.O_WRONLY), FAR) == "EACCES"
    assert as_user(lambda: fails(os.open, file, os.O_RDONLY), NOBODY) == "EACCES"
    os.setxattr(file, ACCESS, acl(f"u::rw-,u:{FAR}:---,g::---,m::rwx,o::rwx"))
    assert as_user(lambda: fails(os.open, file, os.O_RDONLY), FAR) == "EACCES"
    assert as_user(lambda: fails(os.open, file, os.O_RDWR), NOBODY) == "nothing"


def test_a_named_group_gets_what_the_list_says(file: Path) -> None:
    os.setxattr(file, ACCESS, acl("u::rw-,g::---,g:77:rw-,m::rw-,o::---"))
    assert as_user(lambda: fails(os.open, file, os.O_RDWR), groups=(77,)) == "nothing"
    assert as_user(lambda: fails(os.open, file, os.O_RDONLY)) == "EACCES"


def test_the_mask_bounds_all_but_owner_and_others(file: Path) -> None:
    os.setxattr(file, ACCESS, acl(f"u::rw-,u:{FAR}:rw-,g::rw-,m::r--,o::---"))
    assert as_user(lambda: fails(os.open, file, os.O_RDONLY), FAR) == "nothing"
    assert as_user(lambda: fails(os.open, file, os.O_RDWR), FAR) == "EACCES"


def test_the_list_shows_in_the_permission_bits(file: Path) -> None:
    os.setxattr(file, ACCESS, acl(f"u::rwx,u:{FAR}:rw-,g::r--,m::rw-,o::--x"))
    assert mode(file) == 0o761
    assert os.stat(file).st_mode == stat.S_IFREG | 0o761


def test_chmod_changes_the_list(file: Path) -> None:
    os.setxattr(file, ACCESS, acl(f"u::rw-,u:{FAR}:rw-,g::r--,m::rw-,o::---"))
    os.chmod(file, 0o500)
    assert access_list(file) == f"u::r-x,u:{FAR}:rw-,g::r--,m::---,o::---"
    assert as_user(lambda: fails(os.open, file, os.O_RDONLY), FAR) == "EACCES"
    os.chmod(file, 0o464)
    assert access_list(file) == f"u::r--,u:{FAR}:rw-,g::r--,m::rw-,o::r--"
    assert as_user(lambda: fails(os.open, file, os.O_RDWR), FAR) == "nothing"


def test_a_list_that_says_no_more_than_the_bits_becomes_them(file: Path) -> None:
    os.setxattr(file, ACCESS, acl(f"u::rw-,u:{FAR}:rw-,g::r--,m::rw-,o::---"))
    os.setxattr(file, ACCESS, acl("u::rwx,g::r-x,o::--x"))
    assert (mode(file), access_list(file)) == (0o751, None)
    assert os.listxattr(file) == []


def test_a_removed_list_leaves_the_bits(file: Path) -> None:
    os.setxattr(file, ACCESS, acl(f"u::rw-,u:{FAR}:rw-,g::r--,m::rw-,o::---"))
    assert ACCESS in os.listxattr(file)
    os.removexattr(file, ACCESS)
    assert (mode(file), access_list(file)) == (0o660, None)
    assert as_user(lambda: fails(os.open, file, os.O_RDONLY), FAR) == "EACCES"
    assert fails(os.removexattr, file, ACCESS) == "nothing"


def test_new_things_inherit_the_default_list_and_the_umask_has_no_say(at: Path) -> None:
    default = f"u::rwx,u:{FAR}:rwx,g::r-x,m::rwx,o::---"
    os.setxattr(at, DEFAULT, acl(default))
    os.umask(0o077)
    os.close(os.open(at / "file", os.O_CREAT, 0o666))
    os.mkdir(at / "dir", 0o777)
    os.mkfifo(at / "fifo", 0o640)
    os.symlink("file", at / "link")
    assert access_list(at / "file") == f"u::rw-,u:{FAR}:rwx,g::r-x,m::rw-,o::---"
    assert mode(at / "file") == 0o660
    assert access_list(at / "dir") == default
    assert text(os.getxattr(at / "dir", DEFAULT)) == default
    assert mode(at / "dir") == 0o770
    assert access_list(at / "fifo") == f"u::rw-,u:{FAR}:rwx,g::r-x,m::r--,o::---"
    os.mkdir(at / "dir" / "sub", 0o700)
    assert text(os.getxattr(at / "dir" / "sub", DEFAULT)) == default
    assert mode(at / "dir" / "sub") == 0o700
    assert as_user(lambda: fails(os.open, at / "dir" / "new", os.O_CREAT | os.O_WRONLY), FAR) == "nothing"
    assert as_user(lambda: fails(os.open, at / "dir" / "new", os.O_RDONLY), NOBODY) == "EACCES"
    os.removexattr(at, DEFAULT)
    os.close(os.open(at / "plain", os.O_CREAT, 0o666))
    assert (mode(at / "plain"), access_list(at / "plain")) == (0o600, None)


def test_a_default_list_without_names_gives_bits_only(at: Path) -> None:
    os.setxattr(at, DEFAULT, acl("u::rwx,g::rwx,o::r-x"))
    os.umask(0o077)
    os.close(os.open(at / "file", os.O_CREAT, 0o666))
    assert (mode(at / "file"), access_list(at / "file")) == (0o664, None)


def test_what_is_refused(at: Path, file: Path) -> None:
    assert fails(os.setxattr, file, DEFAULT, acl("u::rwx,g::rwx,o::rwx")) == "EACCES"
    assert fails(os.setxattr, file, ACCESS, b"nonsense") == "EOPNOTSUPP"
    assert fails(os.setxattr, file, ACCESS, acl(f"u::rw-,u:{FAR}:rw-,g::r--,o::---")) == "EINVAL"
    assert as_user(lambda: fails(os.setxattr, file, ACCESS, acl("u::rwx,g::rwx,o::rwx"))) == "EPERM"
    os.symlink("file", at / "link")
    assert (
        fails(os.setxattr, at / "link", ACCESS, acl("u::rwx,g::r--,o::---"), follow_symlinks=False)
        == "EOPNOTSUPP"
    )


def test_who_is_not_in_the_group_does_not_keep_it_set_group_id(file: Path) -> None:
    os.chown(file, NOBODY, FAR)
    os.chmod(file, 0o2755)
    as_user(lambda: os.setxattr(file, ACCESS, acl("u::rwx,u:12:rwx,g::r-x,m::rwx,o::r-x")))
    assert mode(file) == 0o775
    os.chmod(file, 0o2755)
    as_user(lambda: os.setxattr(file, ACCESS, acl("u::rwx,u:12:rwx,g::r-x,m::rwx,o::r-x")), groups=(FAR,))
    assert mode(file) == 0o2775


def test_lists_survive_the_kernels_forgetting(at: Path, file: Path) -> None:
    """Enforced from what is stored, not only from what the kernel has cached: a hard link elsewhere."""
    os.setxattr(file, ACCESS, acl(f"u::rw-,u:{FAR}:r--,g::---,m::r--,o::---"))
    (at / "dir").mkdir()
    os.link(file, at / "dir" / "file")
    os.rename(file, at / "gone")
    os.unlink(at / "gone")
    assert as_user(lambda: fails(os.open, at / "dir" / "file", os.O_RDONLY), FAR) == "nothing"
    assert as_user(lambda: fails(os.open, at / "dir" / "file", os.O_RDONLY), NOBODY) == "EACCES"
