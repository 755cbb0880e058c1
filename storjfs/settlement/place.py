"""Where a ledger is, as settings name it: a file of this machine, or a node that serves one."""

import re
from dataclasses import dataclass
from pathlib import Path

from storjfs.protocol.ids import NodeId
from storjfs.protocol.terms import Address
from storjfs.settlement.interface import SettlementError

DEFAULT_PORT = 7430
_SERVED = re.compile(r"([0-9A-Fa-f]{64})@(.+)")


class PlaceError(SettlementError, ValueError):
    """A text that names no ledger."""


@dataclass(frozen=True, slots=True)
class ServedAt:
    """A ledger that is served: whose key answers there, and where."""

    node_id: NodeId
    address: Address

    @property
    def name(self) -> str:
        """Of the settlement, as offers, terms and lane ids have it."""
        return served_name(self.node_id)

    def __str__(self) -> str:
        return f"{self.node_id.hex()}@{self.address}"


def served_name(node_id: NodeId) -> str:
    """The settlement that the node of this id serves."""
    return f"ledger:{node_id.hex()}"


Place = Path | ServedAt


def parse_place(text: str) -> Place:
    """`NODEID@host:port` (the port may be left out), or a path. Raises PlaceError."""
    found = _SERVED.fullmatch(text)
    if found is None:
        if re.match(r"[0-9A-Fa-f]{8,}@", text) and not Path(text).exists():
            raise PlaceError(
                f"{text!r} is not the address of a ledger",
                hint="Write NODEID@host:port with the 64 hex digits that `storjfs ledger serve` shows.",
            )
        if not text:
            raise PlaceError("the ledger is not named", hint="Write NODEID@host:port, or a path.")
        return Path(text)
    where = found[2]
    try:
        address = Address.parse(where if ":" in where.rpartition("]")[2] else f"{where}:{DEFAULT_PORT}")
    except ValueError as error:
        raise PlaceError(
            f"{where!r} is not where a ledger can be reached: {error}",
            hint="Write it as in NODEID@ledger.example.org:7430.",
        ) from None
    return ServedAt(NodeId(bytes.fromhex(found[1])), address)
