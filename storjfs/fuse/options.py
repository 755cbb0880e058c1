"""Mount options: what `-o` accepts, and what of it the kernel is told."""

import dataclasses
from collections.abc import Iterable, Set
from typing import Literal

from storjfs.errors import StorjfsError

FILESYSTEM_TYPE = "storjfs"

# Options that mount(8), fstab and file managers add on their own; true here anyway or without meaning for us.
ACCEPTED_SILENTLY = frozenset(
    {
        "rw",
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
        "suid",
        "dev",
    }
)
# Passed to the kernel as they are.
KERNEL = frozenset({"nosuid", "nodev", "noexec", "dirsync"})


class BadMountOption(StorjfsError):
    """An option after `-o` that is not known, or that contradicts another one."""


@dataclasses.dataclass(frozen=True, slots=True)
class MountOptions:
    """How a volume is mounted.

    atime: "relatime" (as a local disk does by default) or "noatime".
    sync_network: fsync returns only when the data survives the loss of this machine.
    kernel: further flags for the kernel.
    """

    read_only: bool = False
    allow_other: bool = False
    atime: Literal["relatime", "noatime"] = "relatime"
    sync_network: bool = False
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
        return said


def parse_options(given: Iterable[str]) -> MountOptions:
    """Options from the values of all `-o` (comma separated, later ones win).

    Raises BadMountOption.
    """
    read_only = allow_other = sync_network = False
    atime: Literal["relatime", "noatime"] = "relatime"
    kernel: set[str] = set()
    for word in (part.strip() for text in given for part in text.split(",")):
        if word in ("ro", "rw"):
            read_only = word == "ro"
        elif word == "allow_other":
            allow_other = True
        elif word == "noatime":
            atime = "noatime"
        elif word == "relatime":
            atime = "relatime"
        elif word in ("sync=network", "sync=local"):
            sync_network = word == "sync=network"
        elif word in KERNEL:
            kernel.add(word)
        elif word and word not in ACCEPTED_SILENTLY:
            raise BadMountOption(
                f"the mount option {word!r} is not known",
                hint="ro, allow_other, noatime, relatime, sync=network, nosuid, nodev, noexec, dirsync",
            )
    return MountOptions(read_only, allow_other, atime, sync_network, frozenset(kernel))
