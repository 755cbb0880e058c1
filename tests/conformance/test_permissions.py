"""Who may do what: permission bits, sticky directories, owners, set-id bits, for root and for others."""

import mmap
import os
import stat
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from .calls import fails, opened
from .processes import FAR, NOBODY, as_user, needs_other_users

pytestmark = pytest.mark.usefixtures("others")


@pytest.fixture
def others() -> None:
    needs_other_users()


def owned(path: Path, uid: int, gid: int, mode: int) -> Path:
    """Make a file, or take a directory, and give it away."""
    if not path.exists():
        path.write_text("content")
    os.chown(path, uid, gid)
    os.chmod(path, mode)
    return path


def mode(path: Path) -> int:
    return stat.S_IMODE(os.lstat(path).st_mode)


READ, WRITE, RUN = os.O_RDONLY, os.O_WRONLY, None


@pytest.mark.parametrize("user", [NOBODY, FAR])
@pytest.mark.parametrize(
    ("bits", "owner", "group", "may"),
    [
        (0o400, True, False, {READ}),
        (0o200, True, False, {WRITE}),
        (0o077, True, False, set()),  # the owner's bits hold, not the more generous ones
        (0o040, False, True, {READ}),
        (0o060, False, True, {READ, WRITE}),
        (0o707, False, True, set()),
        (0o004, False, False, {READ}),
        (0o002, False, False, {WRITE}),
        (0o770, False, False, set()),
    ],
)
def test_the_bits_of_the_class_decide(
    at: Path, user: int, bits: int, owner: bool, group: bool, may: set[int]
) -> None:
    file = owned(at / "file", user if owner else 0, 1_500_000_000 if group else 0, bits)
    for flags in (READ, WRITE):
        found = as_user(lambda flags=flags: fails(os.open, file, flags), user, 1, (1_500_000_000,))  # type: ignore[misc]
        assert found == ("nothing" if flags in may else "EACCES")
    if bits == 0o004:
        assert as_user(lambda: os.access(file, os.R_OK) and not os.access(file, os.W_OK), user)


def test_root_reads_and_writes_anything_and_runs_what_somebody_may_run(at: Path) -> None:
    file = owned(at / "file", FAR, FAR, 0)
    assert fails(os.open, file, os.O_RDWR) == "nothing"
    assert not os.access(file, os.X_OK)
    file.chmod(0o001)
    assert os.access(file, os.X_OK)


def test_a_directory_needs_x_to_pass_r_to_list_and_w_to_change(at: Path) -> None:
    (at / "dir").mkdir()
    owned(at / "dir" / "file", NOBODY, NOBODY, 0o666)

    def outcomes() -> list[str]:
        return [
            fails(os.stat, at / "dir" / "file"),
            fails(os.listdir, at / "dir"),
            fails(os.mkdir, at / "dir" / "new"),
            fails(os.rmdir, at / "dir" / "new"),
        ]

    expected = {
        0o700: ["EACCES"] * 4,
        0o701: ["nothing", "EACCES", "EACCES", "ENOENT"],
        0o704: ["EACCES", "nothing", "EACCES", "EACCES"],
        0o705: ["nothing", "nothing", "EACCES", "ENOENT"],
        0o703: ["nothing", "EACCES", "nothing", "nothing"],
        0o702: ["EACCES", "EACCES", "EACCES", "EACCES"],
        0o707: ["nothing"] * 4,
    }
    found = {}
    for bits in expected:
        os.chmod(at / "dir", bits)
        found[bits] = as_user(outcomes)
    assert found == expected


def test_in_a_sticky_directory_only_owners_remove_and_rename(at: Path) -> None:
    (at / "shared").mkdir()
    os.chmod(at / "shared", 0o1777)
    owned(at / "shared" / "mine", FAR, FAR, 0o666)
    owned(at / "shared" / "theirs", NOBODY, NOBODY, 0o666)
    os.chmod(at, 0o777)
    shared = at / "shared"

    def as_far() -> list[str]:
        return [
            fails(os.unlink, shared / "theirs"),
            fails(os.rename, shared / "theirs", at / "x"),
            fails(os.rename, shared / "mine", shared / "theirs"),
            fails(os.rename, shared / "mine", shared / "renamed"),
            fails(os.unlink, shared / "renamed"),
        ]

    assert as_user(as_far, FAR, FAR) == ["EPERM", "EPERM", "EPERM", "nothing", "nothing"]
    os.chown(shared, FAR, FAR)
    assert as_user(lambda: fails(os.unlink, shared / "theirs"), FAR, FAR) == "nothing"


def test_only_the_owner_changes_the_mode_and_only_root_the_owner(at: Path) -> None:
    file = owned(at / "file", NOBODY, NOBODY, 0o644)
    assert as_user(lambda: fails(os.chmod, file, 0o600), FAR, FAR) == "EPERM"
    assert as_user(lambda: fails(os.chmod, file, 0o600)) == "nothing"
    assert as_user(lambda: fails(os.chown, file, FAR, -1)) == "EPERM"
    assert as_user(lambda: fails(os.chown, file, -1, FAR)) == "EPERM"
    assert as_user(lambda: fails(os.chown, file, -1, FAR), groups=(FAR,)) == "nothing"
    assert as_user(lambda: fails(os.chown, file, NOBODY, -1)) == "nothing"
    found = file.stat()
    assert (found.st_uid, found.st_gid, mode(file)) == (NOBODY, FAR, 0o600)


@pytest.mark.parametrize("user", [NOBODY, 70_000, FAR, (1 << 32) - 2])
def test_new_things_belong_to_who_makes_them(at: Path, user: int) -> None:
    os.chmod(at, 0o777)

    def make() -> None:
        (at / "file").touch()
        (at / "dir").mkdir()
        (at / "link").symlink_to("x")
        os.mkfifo(at / "fifo")

    as_user(make, user, user - 1)
    for name in ("file", "dir", "link", "fifo"):
        found = os.lstat(at / name)
        assert (found.st_uid, found.st_gid) == (user, user - 1)


def test_a_set_group_id_directory_hands_its_group_down(at: Path) -> None:
    (at / "dir").mkdir()
    os.chown(at / "dir", -1, FAR)
    os.chmod(at / "dir", 0o2777)

    def make() -> None:
        (at / "dir" / "file").touch()
        (at / "dir" / "sub").mkdir()
        (at / "dir" / "sub" / "file").touch()

    as_user(make)
    for name in ("file", "sub", "sub/file"):
        assert os.lstat(at / "dir" / name).st_gid == FAR
    assert mode(at / "dir" / "sub") == 0o2755
    assert mode(at / "dir" / "file") == 0o644


def test_who_is_not_in_the_group_cannot_make_a_file_set_group_id(at: Path) -> None:
    file = owned(at / "file", NOBODY, FAR, 0o644)
    as_user(lambda: os.chmod(file, 0o2755))
    assert mode(file) == 0o755
    as_user(lambda: os.chmod(file, 0o2755), groups=(FAR,))
    assert mode(file) == 0o2755
    (at / "dir").mkdir()
    os.chown(at / "dir", -1, FAR)
    os.chmod(at / "dir", 0o2777)
    as_user(lambda: os.close(os.open(at / "dir" / "new", os.O_CREAT, 0o2775)))
    assert mode(at / "dir" / "new") == 0o755


def _write(path: Path) -> None:
    with opened(path, os.O_WRONLY) as file:
        os.write(file, b"x")


def _write_mapped(path: Path) -> None:
    with opened(path, os.O_RDWR) as file, mmap.mmap(file, 4) as memory:
        memory[0:1] = b"y"
        os.pwrite(file, b"x", 0)


CHANGES: list[tuple[str, Callable[[Path], object]]] = [
    ("write", _write),
    ("write beside a mapping", _write_mapped),
    ("truncate", lambda path: os.truncate(path, 3)),
    ("open with O_TRUNC", lambda path: os.close(os.open(path, os.O_WRONLY | os.O_TRUNC))),
]
CAPABILITIES = struct.pack("<5I", 0x02000001, 1 << 10, 0, 0, 0)  # cap_net_bind_service+ep


@pytest.mark.parametrize("change", [case[1] for case in CHANGES], ids=[case[0] for case in CHANGES])
@pytest.mark.parametrize(
    ("before", "after"), [(0o4777, 0o777), (0o2777, 0o777), (0o6777, 0o777), (0o1777, 0o1777)]
)
def test_who_changes_the_content_takes_set_id_bits_away(
    at: Path, change: Callable[[Path], object], before: int, after: int
) -> None:
    file = owned(at / "file", 0, 0, before)
    as_user(lambda: change(file))
    assert mode(file) == after


@pytest.mark.parametrize("change", [case[1] for case in CHANGES], ids=[case[0] for case in CHANGES])
def test_any_change_takes_capabilities_away(at: Path, change: Callable[[Path], object]) -> None:
    file = owned(at / "file", 0, 0, 0o755)
    os.setxattr(file, "security.capability", CAPABILITIES)
    assert os.getxattr(file, "security.capability") == CAPABILITIES
    change(file)
    assert fails(os.getxattr, file, "security.capability") == "ENODATA"


def test_a_new_owner_takes_set_id_bits_and_capabilities_away(at: Path) -> None:
    for before, after in ((0o6755, 0o755), (0o2745, 0o2745), (0o4711, 0o711)):
        file = owned(at / f"{before:o}", 0, 0, before)
        os.setxattr(file, "security.capability", CAPABILITIES)
        os.chown(file, 0, 0)
        assert mode(file) == after
        assert fails(os.getxattr, file, "security.capability") == "ENODATA"
    (at / "dir").mkdir()
    os.chmod(at / "dir", 0o6755)
    os.chown(at / "dir", FAR, FAR)
    assert mode(at / "dir") == 0o6755


def test_the_umask_takes_bits_away(at: Path) -> None:
    os.chmod(at, 0o777)

    def make() -> None:
        os.umask(0o027)
        os.close(os.open(at / "file", os.O_CREAT, 0o666))
        os.mkdir(at / "dir", 0o777)
        os.mkfifo(at / "fifo", 0o666)
        os.symlink("x", at / "link")

    as_user(make)
    assert [mode(at / name) for name in ("file", "dir", "fifo", "link")] == [0o640, 0o750, 0o640, 0o777]
