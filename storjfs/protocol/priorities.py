"""What goes first where not all can go at once: reads, then audits, then uploads."""

import enum
from typing import Any, Final

from storjfs.protocol.messages import Audit, Delete, ListShards, Put, Request


class Priority(enum.IntEnum):
    """Lower goes first."""

    READ = 0
    """A program waits for it; and all small requests, which hold nobody up."""
    AUDIT = 1
    """It has a deadline of its own, and proofs are worth money; no program waits."""
    UPLOAD = 2
    """The data lies safe elsewhere meanwhile."""


_OTHERS: Final[dict[type[Request[Any]], Priority]] = {
    Audit: Priority.AUDIT,
    ListShards: Priority.AUDIT,
    Put: Priority.UPLOAD,
    Delete: Priority.UPLOAD,
}


def priority_of(request: Request[Any]) -> Priority:
    """The priority of a request, on either side of it."""
    return _OTHERS.get(type(request), Priority.READ)
