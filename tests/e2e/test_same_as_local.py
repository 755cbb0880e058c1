"""Random operations on the mount and on a local directory: same results, errnos, contents, attributes.

Three processes take turns, one of them as another user (where we are root): what one does the others see.
"""

import itertools
import os
import shutil
import stat
import struct
import tempfile
from collections.abc import Callable, Iterator
from fcntl import LOCK_EX, LOCK_SH, LOCK_UN
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from .drive import Drive
from .operations import Worker

NOREPLACE, EXCHANGE = 1, 2
OTHER = (65_534, 65_534, (34,))
NO_ID = (1 << 32) - 1
SHARED = ("-o", "allow_other") if os.getuid() == 0 else ()

WORKERS = st.integers(0, 2)
NAMES = st.sampled_from(["a", "b", "c", "d", "long" * 50])
# Mostly the few that are there from the start, so that operations meet each other.
PATHS = st.one_of(
    st.sampled_from(["a", "b", "b/a"]),
    st.sampled_from(["a", "b", "c", "b/a", "b/c"]),
    st.lists(NAMES, min_size=1, max_size=3).map("/".join),
)
OFFSETS = st.sampled_from(
    [0, 1, 100, 4095, 4096, 4097, 65_507, 65_508, 65_536, 200_000, 1_048_575, 1_048_577]
)
SIZES = st.sampled_from([0, 1, 10, 4096, 5000, 65_508, 70_000, 300_000])
# Without set-id bits: on a shared mount any write takes them away, see docs/reference/semantics.md.
MODES = st.sampled_from([0o600, 0o644, 0o666, 0o755, 0o777, 0o1777, 0o060, 0o000])
TIMES = st.integers(0, 4_000_000_000_000_000_000)
HELD = st.integers(0, 1)
HOW_TO_OPEN = st.sampled_from(
    [
        os.O_WRONLY | os.O_TRUNC,
        os.O_CREAT | os.O_EXCL | os.O_WRONLY,
        os.O_RDONLY | os.O_CREAT,
        os.O_RDONLY | os.O_DIRECTORY,
        os.O_RDONLY | os.O_NOFOLLOW,
    ]
)
HOW_TO_KEEP = st.sampled_from([os.O_RDWR, os.O_RDWR, os.O_RDWR | os.O_APPEND, os.O_RDONLY])


@st.composite
def acls(draw: st.DrawFn) -> bytes:
    """A valid list of acl(5), as the kernel takes it."""
    bits = [draw(st.integers(0, 7)) for _ in range(5)]
    named = [(2, bits[3], draw(st.sampled_from([12, 65_534])))] if draw(st.booleans()) else []
    entries = [(1, bits[0], NO_ID), *named, (4, bits[1], NO_ID), (32, bits[2], NO_ID)]
    if named:
        entries.insert(3, (16, bits[4], NO_ID))
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def attributes(path: Path) -> dict[str, Any]:
    """What stat tells that must be equal on any filesystem (a directory's size is not)."""
    found = os.lstat(path)
    told: dict[str, Any] = {
        "mode": found.st_mode,
        "uid": found.st_uid,
        "gid": found.st_gid,
        "nlink": found.st_nlink,
    }
    if not stat.S_ISDIR(found.st_mode):
        told["size"] = found.st_size
        told["rdev"] = found.st_rdev
    return told


def picture(root: Path) -> dict[str, Any]:
    """The whole tree: names, attributes, contents, targets, xattrs, and which names are one inode."""
    tree: dict[str, Any] = {}
    inodes: dict[int, str] = {}
    for folder, folders, files in os.walk(root):
        folders.sort()
        for name in sorted(folders + files):
            path = Path(folder, name)
            key = str(path.relative_to(root))
            told = attributes(path)
            found = os.lstat(path)
            told["same as"] = inodes.setdefault(found.st_ino, key)
            if stat.S_ISREG(found.st_mode):
                told["content"] = hash(path.read_bytes())
            elif stat.S_ISLNK(found.st_mode):
                told["target"] = os.readlink(path)
            if not stat.S_ISLNK(found.st_mode):
                told["xattrs"] = {
                    x: os.getxattr(path, x)
                    for x in sorted(os.listxattr(path))
                    if x.startswith(("user.", "system.posix_acl"))
                }
            tree[key] = told
    return tree


class SameAsLocal(RuleBasedStateMachine):
    """Each rule does one thing to both, in one of the processes; what comes back must be the same."""

    on_mount: Path
    on_disk: Path
    remount: Callable[[], None]
    rounds: Iterator[int]
    workers: list[Worker]

    @initialize()
    def start(self) -> None:
        number = next(self.rounds)
        self.roots = (self.on_disk / str(number), self.on_mount / str(number))
        for root in self.roots:
            root.mkdir()
            root.chmod(0o777)
        for worker in self.workers:
            worker.run("umask", self.roots, 0o022)
        self.both(0, "write", "a", 0, 100, 1)
        self.both(1, "mkdir", "b", 0o755)
        self.both(2, "append", "c", 5000)
        self.both(1, "write", "b/a", 0, 70_000, 2)

    def both(self, worker: int, name: str, *values: Any) -> None:
        local, mounted = self.workers[worker].run(name, self.roots, *values)
        assert mounted == local, f"{name}{values}: the mount gave {mounted!r}, a local directory {local!r}"

    @rule(worker=WORKERS, path=PATHS, offset=OFFSETS, size=SIZES, seed=st.integers(0, 255))
    def write(self, worker: int, path: str, offset: int, size: int, seed: int) -> None:
        self.both(worker, "write", path, offset, size, seed)

    @rule(worker=WORKERS, path=PATHS, size=SIZES)
    def append(self, worker: int, path: str, size: int) -> None:
        self.both(worker, "append", path, size)

    @rule(worker=WORKERS, path=PATHS, offset=OFFSETS, size=SIZES)
    def read(self, worker: int, path: str, offset: int, size: int) -> None:
        self.both(worker, "read", path, offset, size)

    @rule(worker=WORKERS, old=PATHS, new=PATHS)
    def copy(self, worker: int, old: str, new: str) -> None:
        self.both(worker, "copy", old, new)

    @rule(worker=WORKERS, path=PATHS, size=st.one_of(SIZES, OFFSETS))
    def truncate(self, worker: int, path: str, size: int) -> None:
        self.both(worker, "truncate", path, size)

    @rule(worker=WORKERS, path=PATHS, flags=HOW_TO_OPEN)
    def open(self, worker: int, path: str, flags: int) -> None:
        self.both(worker, "open_with", path, flags)

    @rule(worker=WORKERS, path=PATHS, mode=MODES)
    def mkdir(self, worker: int, path: str, mode: int) -> None:
        self.both(worker, "mkdir", path, mode)

    @rule(worker=WORKERS, path=PATHS)
    def rmdir(self, worker: int, path: str) -> None:
        self.both(worker, "rmdir", path)

    @rule(worker=WORKERS, path=PATHS)
    def unlink(self, worker: int, path: str) -> None:
        self.both(worker, "unlink", path)

    @rule(
        worker=WORKERS,
        old=PATHS,
        new=PATHS,
        flags=st.sampled_from([0, 0, 0, NOREPLACE, EXCHANGE, NOREPLACE | EXCHANGE]),
    )
    def rename(self, worker: int, old: str, new: str, flags: int) -> None:
        self.both(worker, "rename", old, new, flags)

    @rule(worker=WORKERS, old=PATHS, new=PATHS)
    def link(self, worker: int, old: str, new: str) -> None:
        self.both(worker, "link", old, new)

    @rule(worker=WORKERS, path=PATHS, points_to=NAMES)
    def symlink(self, worker: int, path: str, points_to: str) -> None:
        self.both(worker, "symlink", path, points_to)

    @rule(worker=WORKERS, path=PATHS, kind=st.sampled_from([stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFREG]))
    def mknod(self, worker: int, path: str, kind: int) -> None:
        self.both(worker, "mknod", path, kind)

    @rule(worker=WORKERS, path=PATHS, mode=MODES)
    def chmod(self, worker: int, path: str, mode: int) -> None:
        self.both(worker, "chmod", path, mode)

    @rule(
        worker=WORKERS,
        path=PATHS,
        uid=st.sampled_from([-1, 0, 12, 65_534, 3_000_000_000]),
        gid=st.sampled_from([-1, 0, 34]),
    )
    def chown(self, worker: int, path: str, uid: int, gid: int) -> None:
        self.both(worker, "chown", path, uid, gid)

    @rule(worker=WORKERS, path=PATHS, mode=st.integers(0, 7))
    def access(self, worker: int, path: str, mode: int) -> None:
        self.both(worker, "access", path, mode)

    @rule(worker=WORKERS, path=PATHS, access=TIMES, change=TIMES)
    def utimens(self, worker: int, path: str, access: int, change: int) -> None:
        self.both(worker, "utimens", path, access, change)

    @rule(
        worker=WORKERS,
        path=PATHS,
        name=st.sampled_from(["user.a", "user.b"]),
        value=st.binary(max_size=300),
    )
    def setxattr(self, worker: int, path: str, name: str, value: bytes) -> None:
        self.both(worker, "setxattr", path, name, value)

    @rule(worker=WORKERS, path=PATHS, value=acls(), mode=st.none() | MODES)
    def set_acl(self, worker: int, path: str, value: bytes, mode: int | None) -> None:
        self.both(worker, "setxattr", path, "system.posix_acl_access", value)
        if mode is not None:
            self.both(worker, "chmod", path, mode)

    @rule(worker=WORKERS, maker=WORKERS, path=PATHS, name=NAMES, value=acls(), mode=MODES)
    def set_default_acl(self, worker: int, maker: int, path: str, name: str, value: bytes, mode: int) -> None:
        self.both(worker, "setxattr", path, "system.posix_acl_default", value)
        self.both(maker, "mkdir", f"{path}/{name}", mode)

    @rule(
        worker=WORKERS,
        path=PATHS,
        name=st.sampled_from(["user.a", "user.b", "system.posix_acl_access", "system.posix_acl_default"]),
    )
    def removexattr(self, worker: int, path: str, name: str) -> None:
        self.both(worker, "removexattr", path, name)

    @rule(worker=WORKERS, path=PATHS, size=st.sampled_from([300, 4096]))
    def listing(self, worker: int, path: str, size: int) -> None:
        self.both(worker, "listing", path, size)

    @rule(worker=WORKERS, mask=st.sampled_from([0, 0o022, 0o077]))
    def umask(self, worker: int, mask: int) -> None:
        self.both(worker, "umask", mask)

    @rule(worker=WORKERS, number=HELD, path=PATHS, flags=HOW_TO_KEEP)
    def keep_open(self, worker: int, number: int, path: str, flags: int) -> None:
        self.both(worker, "keep_open", number, path, flags)

    @rule(worker=WORKERS, number=HELD, offset=OFFSETS, size=SIZES)
    def write_open(self, worker: int, number: int, offset: int, size: int) -> None:
        self.both(worker, "write_open", number, offset, size)

    @rule(worker=WORKERS, number=HELD, offset=OFFSETS, size=SIZES)
    def map_open(self, worker: int, number: int, offset: int, size: int) -> None:
        self.both(worker, "map_open", number, offset, size)

    @rule(
        worker=WORKERS,
        number=HELD,
        kind=st.sampled_from(["flock", "lockf"]),
        how=st.sampled_from([LOCK_SH, LOCK_EX, LOCK_UN]),
    )
    def lock_open(self, worker: int, number: int, kind: str, how: int) -> None:
        self.both(worker, "lock_open", number, kind, how)

    @rule(worker=WORKERS, number=HELD, mode=MODES, size=SIZES)
    def change_open(self, worker: int, number: int, mode: int, size: int) -> None:
        self.both(worker, "change_open", number, mode, size)

    @rule(worker=WORKERS, number=HELD)
    def close(self, worker: int, number: int) -> None:
        self.both(worker, "close", number)

    def close_all(self) -> None:
        for worker, number in itertools.product(range(len(self.workers)), range(2)):
            self.both(worker, "close", number)

    @rule()
    def mount_again(self) -> None:
        self.close_all()
        self.remount()

    @invariant()
    def same_tree(self) -> None:
        if hasattr(self, "roots"):
            assert picture(self.roots[1]) == picture(self.roots[0])

    def teardown(self) -> None:
        if hasattr(self, "roots"):
            self.close_all()
            for root in self.roots:
                shutil.rmtree(root)


@pytest.fixture
def shared() -> Iterator[Drive]:
    """A drive, mounted for everybody if we may, in a folder that other users may enter, unlike pytest's."""
    home = Path(tempfile.mkdtemp(prefix="storjfs-same-"))
    home.chmod(0o755)
    drive = Drive(home)
    drive.mount(*SHARED)
    yield drive
    drive.stop()
    shutil.rmtree(home)


@pytest.fixture
def workers(shared: Drive) -> Iterator[list[Worker]]:
    """Two as ourselves, one as somebody else, if we may."""
    users = [None, None, OTHER if SHARED else None]
    made = [Worker(user) for user in users]
    yield made
    for worker in made:
        worker.stop()


def test_the_mount_behaves_as_a_local_directory(shared: Drive, workers: list[Worker]) -> None:
    local = shared.home / "local"
    local.mkdir()
    remounts = iter(range(3))

    def remount() -> None:
        if next(remounts, None) is not None:
            shared.umount()
            shared.mount(*SHARED)

    machine = type(
        "Machine",
        (SameAsLocal,),
        {
            "on_mount": shared.at,
            "on_disk": local,
            "rounds": itertools.count(),
            "remount": staticmethod(remount),
            "workers": workers,
        },
    )
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=90,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )
