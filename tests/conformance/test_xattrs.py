"""Extended attributes: namespaces, limits, who may."""

import os
import stat
from pathlib import Path

import pytest

from .calls import fails
from .conftest import Place
from .processes import FAR, as_user, needs_other_users


@pytest.fixture
def file(at: Path) -> Path:
    (at / "file").touch()
    return at / "file"


def test_values_of_any_bytes_are_kept(file: Path) -> None:
    values = {"user.a": b"", "user.b": b"\0\xff" * 100, "user.ünï 1": b"x", "user." + "n" * 250: b"long"}
    for name, value in values.items():
        os.setxattr(file, name, value)
    assert {name: os.getxattr(file, name) for name in os.listxattr(file)} == values


def test_create_replace_and_remove(file: Path) -> None:
    assert fails(os.setxattr, file, "user.a", b"1", os.XATTR_REPLACE) == "ENODATA"
    os.setxattr(file, "user.a", b"1", os.XATTR_CREATE)
    assert fails(os.setxattr, file, "user.a", b"2", os.XATTR_CREATE) == "EEXIST"
    os.setxattr(file, "user.a", b"3", os.XATTR_REPLACE)
    assert os.getxattr(file, "user.a") == b"3"
    os.removexattr(file, "user.a")
    assert fails(os.removexattr, file, "user.a") == "ENODATA"
    assert fails(os.getxattr, file, "user.a") == "ENODATA"


def test_names_that_are_refused(file: Path) -> None:
    assert fails(os.setxattr, file, "user." + "n" * 251, b"") == "ERANGE"
    assert fails(os.setxattr, file, "", b"") == "ERANGE"
    assert fails(os.setxattr, file, "other.a", b"") == "EOPNOTSUPP"
    assert fails(os.setxattr, file, "none", b"") == "EOPNOTSUPP"
    assert fails(os.setxattr, file, "system.nfs4_acl", b"") == "EOPNOTSUPP"
    assert fails(os.getxattr, file, "system.nfs4_acl") == "EOPNOTSUPP"


def test_how_large_a_value_may_be(place: Place) -> None:
    """64 KiB is the kernel's limit, and ours; ext4 keeps what fits into a block."""
    file = place.at / "file"
    file.touch()
    assert fails(os.setxattr, file, "user.a", bytes(65_537)) == "E2BIG"
    if place.mounted:
        os.setxattr(file, "user.a", b"x" * 65_536)
        assert os.getxattr(file, "user.a") == b"x" * 65_536
        outcomes = [fails(os.setxattr, file, f"user.{n}", b"x" * 65_536) for n in range(17)]
        assert outcomes[-1] == "ENOSPC"
    else:
        assert fails(os.setxattr, file, "user.a", b"x" * 65_536) in ("ENOSPC", "nothing")


def test_user_attributes_belong_to_files_and_directories_only(at: Path) -> None:
    os.mkfifo(at / "fifo")
    (at / "link").symlink_to("nowhere")
    (at / "dir").mkdir()
    os.setxattr(at / "dir", "user.a", b"1")
    for name in ("fifo", "link"):
        assert fails(os.setxattr, at / name, "user.a", b"1", follow_symlinks=False) == "EPERM"
        assert fails(os.getxattr, at / name, "user.a", follow_symlinks=False) == "ENODATA"


def test_they_are_gone_with_the_file_and_stay_with_its_names(at: Path, file: Path) -> None:
    os.setxattr(file, "user.a", b"1")
    os.link(file, at / "other")
    os.rename(file, at / "moved")
    os.unlink(at / "moved")
    assert os.getxattr(at / "other", "user.a") == b"1"
    os.unlink(at / "other")
    (at / "other").touch()
    assert os.listxattr(at / "other") == []


def test_trusted_attributes_are_for_root_only(file: Path) -> None:
    needs_other_users()
    os.setxattr(file, "trusted.a", b"1")
    os.chmod(file, 0o666)
    os.setxattr(file, "user.a", b"1")
    assert sorted(os.listxattr(file)) == ["trusted.a", "user.a"]
    assert as_user(lambda: os.listxattr(file)) == ["user.a"]
    assert as_user(lambda: fails(os.getxattr, file, "trusted.a")) == "ENODATA"
    assert as_user(lambda: fails(os.setxattr, file, "trusted.a", b"2")) == "EPERM"
    assert as_user(lambda: fails(os.removexattr, file, "trusted.a")) == "EPERM"


def test_user_attributes_follow_the_permission_bits(at: Path, file: Path) -> None:
    needs_other_users()
    os.chmod(file, 0o644)
    os.setxattr(file, "user.a", b"1")
    assert as_user(lambda: os.getxattr(file, "user.a")) == b"1"
    assert as_user(lambda: fails(os.setxattr, file, "user.a", b"2")) == "EACCES"
    os.chmod(file, 0o600)
    assert as_user(lambda: fails(os.getxattr, file, "user.a")) == "EACCES"
    (at / "sticky").mkdir()
    os.chmod(at / "sticky", 0o1777)
    assert as_user(lambda: fails(os.setxattr, at / "sticky", "user.a", b"2"), FAR) == "EPERM"


def test_security_attributes_are_kept(file: Path) -> None:
    needs_other_users()
    os.setxattr(file, "security.note", b"1")
    assert os.getxattr(file, "security.note") == b"1"
    os.chmod(file, 0o666)
    assert as_user(lambda: fails(os.setxattr, file, "security.note", b"2")) == "EPERM"
    assert stat.S_IMODE(file.stat().st_mode) == 0o666
