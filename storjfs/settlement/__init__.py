"""Where lanes are opened, topped up, claimed, closed and refunded: the interface and the embedded ledger.

`Ledger` is a double-entry ledger in one SQLite file that several processes may use at once; `shared` has the
books of one that is served (the room `ledger`). Formats and invariants are in docs/formats/ledger.md.
"""

from storjfs.settlement.interface import (
    ClaimRefused,
    InsufficientBalance,
    Lane,
    LaneClosed,
    LaneState,
    Movement,
    NotAllowed,
    OrderConflict,
    Settlement,
    SettlementError,
    SettlementFull,
    SettlementUnreachable,
    UnknownLane,
)
from storjfs.settlement.ledger import Ledger
from storjfs.settlement.money import CREDIT, UNITS_PER_CREDIT, AmountError, Currency, Units
from storjfs.settlement.place import Place, PlaceError, ServedAt, parse_place

__all__ = [
    "CREDIT",
    "UNITS_PER_CREDIT",
    "AmountError",
    "ClaimRefused",
    "Currency",
    "InsufficientBalance",
    "Lane",
    "LaneClosed",
    "LaneState",
    "Ledger",
    "Movement",
    "NotAllowed",
    "OrderConflict",
    "Place",
    "PlaceError",
    "ServedAt",
    "Settlement",
    "SettlementError",
    "SettlementFull",
    "SettlementUnreachable",
    "Units",
    "UnknownLane",
    "parse_place",
]
