"""The table [ledger] of a volume's settings: which ledger its farmers are paid in."""

import json
from pathlib import Path

from storjfs.settlement import Place, PlaceError, parse_place
from storjfs.volume.errors import SettingsError

_EXAMPLE = "NODEID@ledger.example.org:7430"


def parse_ledger(table: object) -> Place | None:
    """The ledger that the table names; None where it names none. Raises SettingsError."""
    match table:
        case {"address": str(text), **rest} if not rest:
            place = ledger_named(text)
            if isinstance(place, Path) and not place.is_absolute():
                raise SettingsError(
                    f"setting ledger: {text!r} is a path that begins nowhere",
                    hint=f'Give the whole path, or a ledger that is served: address = "{_EXAMPLE}"',
                )
            return place
        case dict() if not table:
            return None
    raise SettingsError(
        "setting ledger: it must say address = a text, and nothing else",
        hint=f'As in: address = "{_EXAMPLE}"',
    )


def show_ledger(ledger: Place | None) -> str:
    """The lines of the table from which `parse_ledger` gives the same back."""
    if ledger is None:
        return f'# address = "{_EXAMPLE}"'
    return f"address = {json.dumps(str(ledger), ensure_ascii=False)}"


def ledger_named(text: str) -> Place:
    """`NODEID@host:port`, or a path. Raises SettingsError."""
    try:
        return parse_place(text)
    except PlaceError as error:
        raise SettingsError(f"setting ledger: {error}", hint=error.hint) from None
