"""Mount options: what `-o` accepts, and what of it the kernel is told."""

import dataclasses
from collections.abc import Iterable, Set
from typing import Any, Literal

from storjfs.errors import StorjfsError

FILESYSTEM_TYPE = "storjfs"
OFFLINE_TIMEOUT = 30
LONGEST_TIMEOUT = 86_400

# Options that mount(8), fstab and file managers add on their own, without meaning for us.
ACCEPTED_SILENTLY = frozenset(
    {
        "defaults",
        "async",
        "auto",
        "noauto",
        "user",
        "users",
        "nouser",
        "nofail",
        "_netdev",
        "exec",
    }
)
# Passed to the kernel as they are.
KERNEL = frozenset({"nosuid", "nodev", "noexec", "dirsync"})


# What cannot be had: a mount without privileges is always nosuid and nodev.
NEVER = frozenset({"suid", "dev"})
KNOWN = (
    "ro, rw, allow_other, noatime, relatime, sync=network, sync=local, offline=wait, offline=fail, "
    "offline_timeout=SECONDS, nosuid, nodev, noexec, dirsync"
)


class BadMountOption(StorjfsError):
    """An option after `-o` that is not known, or that contradicts another one."""


@dataclasses.dataclass(frozen=True, slots=True)
class MountOptions:
    """How a volume is mounted.

    atime: "relatime" (as a local disk does by default) or "noatime".
    sync_network: fsync returns only when the data survives the loss of this machine.
    offline_wait: reads of what is not here, and writes that find no room, wait as long as farmers are away.
    offline_timeout: otherwise the seconds after which they fail.
    kernel: further flags for the kernel.
    """

    read_only: bool = False
    allow_other: bool = False
    atime: Literal["relatime", "noatime"] = "relatime"
    sync_network: bool = False
    offline_wait: bool = False
    offline_timeout: int = OFFLINE_TIMEOUT
    kernel: frozenset[str] = frozenset()

    def for_kernel(self, volume: str) -> Set[str]:
        """The options for pyfuse3.init; permission checks are the kernel's."""
        told = {"default_permissions", f"fsname=storjfs:{volume}", f"subtype={FILESYSTEM_TYPE}", *self.kernel}
        if self.read_only:
            told.add("ro")
        if self.allow_other:
            told.add("allow_other")
        if self.atime == "noatime":
            told.add("noatime")
        return told

    def words(self) -> list[str]:
        """These options as one would give them after `-o`."""
        said = ["ro" if self.read_only else "rw", self.atime, *sorted(self.kernel)]
        if self.allow_other:
            said.append("allow_other")
        if self.sync_network:
            said.append("sync=network")
        said.append("offline=wait" if self.offline_wait else f"offline_timeout={self.offline_timeout}")
        return said


def parse_options(given: Iterable[str]) -> MountOptions:
    """Options from the values of all `-o` (comma separated, later ones win).

    Raises BadMountOption.
    """
    options = MountOptions()
    kernel: set[str] = set()
    for word in (part.strip() for text in given for part in text.split(",")):
        if word in KERNEL:
            kernel.add(word)
        elif word in _MEANINGS:
            options = dataclasses.replace(options, **_MEANINGS[word])
        elif word.startswith("offline_timeout="):
            options = dataclasses.replace(options, offline_timeout=_seconds(word), offline_wait=False)
        elif word in NEVER:
            raise BadMountOption(
                f"the mount option {word!r} cannot be had: nosuid and nodev always hold here",
                hint="leave it out",
            )
        elif word and word not in ACCEPTED_SILENTLY:
            raise BadMountOption(f"the mount option {word!r} is not known", hint=f"known are {KNOWN}")
    return dataclasses.replace(options, kernel=frozenset(kernel))


_MEANINGS: dict[str, dict[str, Any]] = {
    "ro": {"read_only": True},
    "rw": {"read_only": False},
    "allow_other": {"allow_other": True},
    "noatime": {"atime": "noatime"},
    "relatime": {"atime": "relatime"},
    "sync=network": {"sync_network": True},
    "sync=local": {"sync_network": False},
    "offline=wait": {"offline_wait": True},
    "offline=fail": {"offline_wait": False},
}


def _seconds(word: str) -> int:
    text = word.partition("=")[2]
    if text.isascii() and text.isdecimal() and 1 <= int(text) <= LONGEST_TIMEOUT:
        return int(text)
    raise BadMountOption(
        f"{word!r} is not a time", hint=f"offline_timeout is in seconds, from 1 to {LONGEST_TIMEOUT}"
    )
