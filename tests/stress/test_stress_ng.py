"""stress-ng's filesystem stressors, with their own checks on: all at once, or in turn where there is time."""

import re

from tests.e2e.drive import Drive

from .conftest import Told
from .length import SECONDS
from .programs import run

# The class "filesystem" and what else works on files, as far as it has to do with the mount.
# docs/conformance.md says why some are left out.
STRESSORS = [
    "access",
    "aio",
    "aiol",
    "chdir",
    "chmod",
    "chown",
    "copy-file",
    "dentry",
    "dir",
    "dirdeep",
    "dirmany",
    "dnotify",
    "dup",
    "fallocate",
    "fanotify",
    "fcntl",
    "filename",
    "flock",
    "fpunch",
    "fstat",
    "getdent",
    "handle",
    "hdd",
    "inotify",
    "iomix",
    "lease",
    "link",
    "locka",
    "lockf",
    "lockofd",
    "mknod",
    "mmap",
    "msync",
    "open",
    "readahead",
    "rename",
    "revio",
    "seek",
    "sendfile",
    "splice",
    "symlink",
    "sync-file",
    "touch",
    "utime",
    "xattr",
]
# Asks for what went wrong on the whole mount, so it runs alone and first: where a program is killed in a
# rename or unlink, the kernel counts its own interrupted update of times as an error of writing.
ALONE = "io"
# Their emulation of fallocate(2) is cut off when the time is up, which they count as a failure: by number.
COUNTED = {"fsize": 500, "file-ioctl": 500}
# The defaults fill a file of 1 GiB first.
SIZES = (
    "fallocate-bytes hdd-bytes iomix-bytes mmap-bytes msync-bytes readahead-bytes seek-size sync-file-bytes"
)
SMALL = [word for size in SIZES.split() for word in (f"--{size}", "16m")]

BAD = re.compile(r"fail:|skipp|unsuccessful|terminated by|not implemented")


def stress(drive: Drive, stressors: list[str], seconds: int, *more: str) -> str:
    """Two processes of each stressor at once; fails where one fails or does nothing."""
    at = drive.at / "stress"
    at.mkdir()
    started = [word for name in stressors for word in (f"--{name}", "2")]
    options = ["--verify", "--metrics", "--timeout", f"{seconds}s", "--temp-path", str(at), *more]
    printed = run(["stress-ng", *started, *SMALL, *options], drive.home)
    bad = [line for line in printed.splitlines() if BAD.search(line)]
    assert not bad, "\n".join(bad)
    assert list(at.iterdir()) == []
    at.rmdir()
    return printed


def test_stress_ng(mounted: Drive, tell: Told) -> None:
    stress(mounted, [ALONE], 1)
    # With time for it, groups small enough to see what each one does.
    groups = min(len(STRESSORS), max(1, SECONDS // 12))
    for number in range(groups):
        stress(mounted, STRESSORS[number::groups], max(1, SECONDS // groups))
    for name, operations in COUNTED.items():
        stress(mounted, [name], 10 * SECONDS, f"--{name}-ops", str(operations))
    total = len(STRESSORS) + 1 + len(COUNTED)
    tell(f"{total} stressors, two of each, {len(STRESSORS) // groups} or more at once")
