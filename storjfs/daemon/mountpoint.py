"""The directory that becomes the mount: is it fit, is something on it, and how to take the mount off it."""

import contextlib
import dataclasses
import errno
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from storjfs.errors import StorjfsError

FUSE_DEVICE = Path("/dev/fuse")
OUR_TYPE = "fuse.storjfs"
TRIES = 100
"""Times that an unmount is tried where the mount is in use: who only looks at mounts soon lets go of it."""
BETWEEN = 0.05
"""Seconds between two tries."""


class MountpointError(StorjfsError):
    """The directory cannot be mounted on."""


class AlreadyMounted(StorjfsError):
    """A storjfs mount is alive there."""


class NoFuse(StorjfsError):
    """This system cannot mount a FUSE filesystem."""


class MountpointBusy(StorjfsError):
    """Programs still use files under the mount point."""


@dataclasses.dataclass(frozen=True, slots=True)
class MountEntry:
    """One line of /proc/self/mountinfo (proc(5)): where, which type, which source."""

    target: Path
    kind: str
    source: str


def parse_mountinfo(text: str) -> list[MountEntry]:
    """All mounts of a mountinfo text, oldest first (a later one on the same directory hides the earlier)."""
    entries = []
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        fields, kinds = before.split(" "), after.split(" ")
        if len(fields) > 4 and len(kinds) > 1:
            entries.append(MountEntry(Path(_unescaped(fields[4])), kinds[0], _unescaped(kinds[1])))
    return entries


def _unescaped(field: str) -> str:
    """Undo the kernel's \\040 for space, tab, newline and backslash; bytes that are no UTF-8 survive."""
    raw = re.sub(rb"\\([0-7]{3})", lambda found: bytes([int(found[1], 8)]), os.fsencode(field))
    return os.fsdecode(raw)


def mounts() -> list[MountEntry]:
    """What is mounted as this process sees it."""
    return parse_mountinfo(Path("/proc/self/mountinfo").read_text(errors="surrogateescape"))


def mounted_at(target: Path) -> MountEntry | None:
    """The mount whose root is exactly `target` (an absolute path without links in its parents), if any."""
    found = [entry for entry in mounts() if entry.target == target]
    return found[-1] if found else None


def canonical(given: str | Path) -> Path:
    """The mount point as the kernel names it, without touching what may be mounted there (it may be dead)."""
    path = Path(os.path.abspath(os.path.expanduser(given)))
    if os.path.islink(path):  # False where it cannot be asked
        path = path.parent / os.readlink(path)
    return Path(os.path.realpath(path.parent)) / path.name if path.name else path


def note_mount(note: Path, target: Path) -> None:
    """Keep where the volume is mounted. Not durable: where the note is gone, it is looked for."""
    with contextlib.suppress(OSError):
        note.write_bytes(os.fsencode(target))


def dead_mount(volume: str, control_socket: Path, note: Path) -> Path | None:
    """Where a mount of that volume stands whose process died, leaving its control socket behind.

    `note` says where that was. Without it any dead mount of a volume of this name is taken for it, though
    another home may have one of the same name.
    """
    if not control_socket.exists():
        return None
    try:
        noted: Path | None = Path(os.fsdecode(note.read_bytes()))
    except OSError:
        noted = None
    for entry in reversed(mounts()):
        ours = entry.kind == OUR_TYPE and entry.source == f"storjfs:{volume}"
        if ours and noted in (None, entry.target) and not answers(entry.target):
            return entry.target
    return None


@contextlib.contextmanager
def taken_back(target: Path) -> Iterator[None]:
    """Directories on the way to `target` that are made inside are removed again where the block fails.

    What somebody put into them meanwhile keeps them.
    """
    made = []
    with contextlib.suppress(OSError):
        made = [path for path in (target, *target.parents) if not os.path.lexists(path)]
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            for path in made:
                path.rmdir()
        raise


def refuse_own(target: Path, directories: Iterable[Path]) -> None:
    """Raises MountpointError if the mount would hide one of the volume's own `directories`, or lie in one."""
    for directory in directories:
        own = Path(os.path.realpath(directory))
        if own.is_relative_to(target) or target.is_relative_to(own):
            raise MountpointError(
                f"{target} cannot be mounted on: the volume keeps its own files in {own}",
                hint="give another directory; these must stay reachable while it is mounted",
            )


def require_fuse() -> None:
    """Raises NoFuse with what to do about it."""
    if not FUSE_DEVICE.exists():
        raise NoFuse(
            f"{FUSE_DEVICE} does not exist, so nothing can be mounted here",
            hint="load the kernel module (modprobe fuse); in a container, start it with --device /dev/fuse",
        )
    if not os.access(FUSE_DEVICE, os.R_OK | os.W_OK):
        raise NoFuse(
            f"this user may not use {FUSE_DEVICE}",
            hint="its usual mode is 0666 (chmod 666, as root); some systems want you in the group fuse",
        )
    if shutil.which("fusermount3") is None:
        raise NoFuse("the program fusermount3 is missing", hint="install the package fuse3")


def prepare(target: Path, *, nonempty: bool = False) -> Path:
    """Make `target` fit to be mounted on and return it; a dead mount of ours on it is taken off.

    The directory is made if it does not exist. Raises AlreadyMounted or MountpointError.
    """
    entry = mounted_at(target)
    if entry is not None and entry.kind == OUR_TYPE:
        if answers(target):
            raise AlreadyMounted(f"{target} is already a storjfs mount", hint=f"storjfs umount {target}")
        detach(target, lazy=True)
    try:
        target.mkdir(parents=True, exist_ok=True)
        with os.scandir(target) as entries:
            occupied = next(entries, None) is not None
    except FileExistsError:
        raise MountpointError(f"{target} is not a directory", hint="give a directory to mount on") from None
    except OSError as error:
        if error.errno == errno.ENOTDIR:
            raise MountpointError(
                f"{target} is not a directory", hint="give a directory to mount on"
            ) from None
        raise MountpointError(
            f"{target} cannot be mounted on: {error.strerror}", hint="give a directory that you may write to"
        ) from None
    if occupied and not nonempty:
        raise MountpointError(
            f"{target} is not empty; its files would be hidden by the mount",
            hint="give an empty directory or one that does not exist yet",
        )
    return target


def answers(target: Path) -> bool:
    """Whether somebody serves the mount; a mount whose process died says ENOTCONN.

    statvfs, because the kernel may answer stat from what it remembers.
    """
    try:
        os.statvfs(target)
    except OSError as error:
        return error.errno not in (errno.ENOTCONN, errno.ECONNABORTED)
    return True


def detach(target: Path, *, lazy: bool) -> None:
    """Take the mount off `target`. Blocks until the kernel has sent all dirty pages to the mount process.

    lazy: take the name away at once and leave open files to the kernel. Raises MountpointBusy, or
    MountpointError with what the system said. Never call it on the thread that serves the mount.
    """
    tool = shutil.which("fusermount3") or shutil.which("fusermount")
    command = [tool, "-u"] if tool else ["umount"]
    if lazy:
        command.append("-z" if tool else "-l")
    for _ in range(TRIES):
        done = subprocess.run(
            [*command, "--", str(target)], capture_output=True, text=True, check=False, env=_plain()
        )
        if done.returncode == 0 or mounted_at(target) is None:
            return
        said = done.stderr.strip()
        if "busy" not in said.lower():
            raise MountpointError(f"{target} could not be unmounted: {said}")
        time.sleep(BETWEEN)
    raise MountpointBusy(
        f"{target} is in use: a program has a file open or its working directory there",
        hint=f"close it, or unmount with --lazy; fuser -vm {target} (package psmisc), or "
        f"ls -l /proc/[0-9]*/cwd /proc/[0-9]*/fd | grep {target}, shows which",
    )


def _plain() -> dict[str, str]:
    """The environment for the system's tool: messages we can recognise, nothing that is not its business."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
