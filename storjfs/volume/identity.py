"""The key of a node: 32 secret bytes in a file that only its owner reads."""

import os
from pathlib import Path

from storjfs.errors import StorjfsError
from storjfs.network.identity import Identity
from storjfs.store.durable import write_atomically

FILE = "identity"


class IdentityUnusable(StorjfsError):
    """The identity file is damaged or readable by others."""


def load_identity(folder: Path, *, whose: str = "farmer") -> Identity:
    """The identity in `folder`, made if there is none. Raises IdentityUnusable.

    `whose`: what kind of node it is, for messages.
    """
    path = folder / FILE
    if not path.exists():
        write_atomically(path, os.urandom(32))
    if path.stat().st_mode & 0o077:
        raise IdentityUnusable(
            f"{path} may be read by others", hint=f"If nobody has copied it: chmod 600 {path}"
        )
    seed = path.read_bytes()
    if len(seed) != 32:
        raise IdentityUnusable(
            f"{path} is damaged: it must hold 32 bytes", hint=f"Restore it from a backup: it is this {whose}."
        )
    return Identity(seed)
