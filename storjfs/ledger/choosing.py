"""The one place that knows which kind of settlement somebody uses."""

from pathlib import Path

from storjfs.ledger.client import ServedLedger
from storjfs.ledger.memory import FILE
from storjfs.protocol.signing import SigningKey
from storjfs.settlement import Ledger, Place, ServedAt, Settlement


def open_settlement(place: Place, key: SigningKey, folder: Path | None = None) -> Settlement:
    """The settlement at `place`, for whom `key` is its account's key there.

    A file is opened, and made where it is missing: raises SettlementError. A served ledger is dialled only
    when it is asked for something; in `folder`, if there is one, lies how far it has said that it is.
    """
    if isinstance(place, ServedAt):
        return ServedLedger(place, key, None if folder is None else folder / FILE)
    return Ledger(place)
