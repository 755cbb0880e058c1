"""Random operations on the mount and on a local directory: same results, errnos, contents, attributes."""

import contextlib
import ctypes
import errno
import itertools
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from .drive import Drive

LIBC = ctypes.CDLL(None, use_errno=True)
AT_FDCWD = -100
NOREPLACE, EXCHANGE = 1, 2

NAMES = st.sampled_from(["a", "b", "c", "d", "long" * 50])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
OFFSETS = st.sampled_from(
    [0, 1, 100, 4095, 4096, 4097, 65_507, 65_508, 65_536, 200_000, 1_048_575, 1_048_577]
)
SIZES = st.sampled_from([0, 1, 10, 4096, 5000, 65_508, 70_000, 300_000])
MODES = st.sampled_from([0o600, 0o644, 0o755, 0o4755, 0o2755, 0o1777, 0o000])
TIMES = st.integers(0, 4_000_000_000_000_000_000)


def renameat2(old: bytes, new: bytes, flags: int) -> None:
    """rename(2) with flags; OSError as os.rename raises it."""
    if LIBC.renameat2(AT_FDCWD, old, AT_FDCWD, new, flags) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


@contextlib.contextmanager
def opened(path: Path, flags: int) -> Iterator[int]:
    """A descriptor; a FIFO does not block."""
    at = os.open(path, flags | os.O_NONBLOCK, 0o644)
    try:
        yield at
    finally:
        os.close(at)


def outcome(action: Callable[[Path], Any], root: Path) -> Any:
    """What a program sees: the result, or the errno."""
    try:
        return action(root)
    except OSError as failure:
        return errno.errorcode.get(failure.errno or 0, failure.errno)


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
                    x: os.getxattr(path, x) for x in sorted(os.listxattr(path)) if x.startswith("user.")
                }
            tree[key] = told
    return tree


class SameAsLocal(RuleBasedStateMachine):
    """Each rule does one thing to both; what comes back must be the same."""

    on_mount: Path
    on_disk: Path
    remount: Callable[[], None]
    rounds: Iterator[int]

    @initialize()
    def start(self) -> None:
        number = next(self.rounds)
        self.roots = (self.on_disk / str(number), self.on_mount / str(number))
        self.open: list[tuple[int, int]] = []
        for root in self.roots:
            root.mkdir()

    def both(self, action: Callable[[Path], Any]) -> None:
        local, mounted = (outcome(action, root) for root in self.roots)
        assert mounted == local, f"the mount gave {mounted!r}, a local directory {local!r}"

    @rule(path=PATHS, offset=OFFSETS, size=SIZES, seed=st.integers(0, 255))
    def write(self, path: str, offset: int, size: int, seed: int) -> None:
        data = (bytes([seed, 255 - seed, 7]) * (size // 3 + 1))[:size]

        def action(root: Path) -> int:
            with opened(root / path, os.O_RDWR | os.O_CREAT) as at:
                return os.pwrite(at, data, offset)

        self.both(action)

    @rule(path=PATHS, size=SIZES)
    def append(self, path: str, size: int) -> None:
        def action(root: Path) -> int:
            with opened(root / path, os.O_WRONLY | os.O_APPEND | os.O_CREAT) as at:
                return os.write(at, b"z" * size)

        self.both(action)

    @rule(path=PATHS, offset=OFFSETS, size=SIZES)
    def read(self, path: str, offset: int, size: int) -> None:
        def action(root: Path) -> bytes:
            with opened(root / path, os.O_RDONLY) as at:
                return os.pread(at, size, offset)

        self.both(action)

    @rule(path=PATHS, size=st.one_of(SIZES, OFFSETS))
    def truncate(self, path: str, size: int) -> None:
        self.both(lambda root: os.truncate(root / path, size))

    @rule(path=PATHS)
    def open_and_truncate(self, path: str) -> None:
        self.both(lambda root: os.close(os.open(root / path, os.O_WRONLY | os.O_TRUNC | os.O_NONBLOCK)))

    @rule(path=PATHS)
    def create_exclusively(self, path: str) -> None:
        self.both(lambda root: os.close(os.open(root / path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o640)))

    @rule(path=PATHS, mode=MODES)
    def mkdir(self, path: str, mode: int) -> None:
        self.both(lambda root: os.mkdir(root / path, mode))

    @rule(path=PATHS)
    def rmdir(self, path: str) -> None:
        self.both(lambda root: os.rmdir(root / path))

    @rule(path=PATHS)
    def unlink(self, path: str) -> None:
        self.both(lambda root: os.unlink(root / path))

    @rule(old=PATHS, new=PATHS, flags=st.sampled_from([0, 0, 0, NOREPLACE, EXCHANGE, NOREPLACE | EXCHANGE]))
    def rename(self, old: str, new: str, flags: int) -> None:
        self.both(lambda root: renameat2(os.fsencode(root / old), os.fsencode(root / new), flags))

    @rule(old=PATHS, new=PATHS)
    def link(self, old: str, new: str) -> None:
        self.both(lambda root: os.link(root / old, root / new, follow_symlinks=False))

    @rule(path=PATHS, points_to=NAMES)
    def symlink(self, path: str, points_to: str) -> None:
        self.both(lambda root: os.symlink(points_to, root / path))

    @rule(path=PATHS, kind=st.sampled_from([stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFREG]))
    def mknod(self, path: str, kind: int) -> None:
        self.both(lambda root: os.mknod(root / path, kind | 0o600))

    @rule(path=PATHS, mode=MODES)
    def chmod(self, path: str, mode: int) -> None:
        self.both(lambda root: os.chmod(root / path, mode))

    @rule(path=PATHS, uid=st.sampled_from([-1, 0, 12, 100_000]), gid=st.sampled_from([-1, 0, 34]))
    def chown(self, path: str, uid: int, gid: int) -> None:
        self.both(lambda root: os.chown(root / path, uid, gid, follow_symlinks=False))

    @rule(path=PATHS, access=TIMES, change=TIMES)
    def utimens(self, path: str, access: int, change: int) -> None:
        def action(root: Path) -> tuple[int, int]:
            os.utime(root / path, ns=(access, change), follow_symlinks=False)
            found = os.lstat(root / path)
            return found.st_atime_ns, found.st_mtime_ns

        self.both(action)

    @rule(path=PATHS, name=st.sampled_from(["user.a", "user.b"]), value=st.binary(max_size=300))
    def setxattr(self, path: str, name: str, value: bytes) -> None:
        self.both(lambda root: os.setxattr(root / path, name, value))

    @rule(path=PATHS, name=st.sampled_from(["user.a", "user.b"]))
    def removexattr(self, path: str, name: str) -> None:
        self.both(lambda root: os.removexattr(root / path, name))

    @rule(path=PATHS)
    def keep_open(self, path: str) -> None:
        def action(root: Path) -> int:
            return os.open(root / path, os.O_RDWR | os.O_NONBLOCK)

        local, mounted = (outcome(action, root) for root in self.roots)
        if isinstance(local, int) and isinstance(mounted, int):
            self.open.append((local, mounted))
        else:
            assert mounted == local

    @rule(which=st.integers(0, 3), offset=OFFSETS, size=SIZES)
    def use_open(self, which: int, offset: int, size: int) -> None:
        if which >= len(self.open) or not stat.S_ISREG(os.fstat(self.open[which][0]).st_mode):
            return
        results = []
        for at in self.open[which]:
            os.pwrite(at, b"o" * size, offset)
            found = os.fstat(at)
            results.append((found.st_size, found.st_nlink, os.pread(at, 5000, max(0, offset - 100))))
        assert results[0] == results[1]

    @rule()
    def close_all(self) -> None:
        for pair in self.open:
            for at in pair:
                os.close(at)
        self.open = []

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


def test_the_mount_behaves_as_a_local_directory(mounted: Drive, tmp_path: Path) -> None:
    local = tmp_path / "local"
    local.mkdir()
    rounds = itertools.count()
    remounts = iter(range(3))

    def remount() -> None:
        if next(remounts, None) is not None:
            mounted.umount()
            mounted.mount()

    machine = type(
        "Machine",
        (SameAsLocal,),
        {"on_mount": mounted.at, "on_disk": local, "rounds": rounds, "remount": staticmethod(remount)},
    )
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=60,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )
