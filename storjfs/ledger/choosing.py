"""The one place that knows which kind of settlement somebody uses."""

from storjfs.ledger.client import ServedLedger
from storjfs.protocol.signing import SigningKey
from storjfs.settlement import Ledger, Place, ServedAt, Settlement


def open_settlement(place: Place, key: SigningKey) -> Settlement:
    """The settlement at `place`, for whom `key` is its account's key there.

    A file is opened, and made where it is missing: raises SettlementError. A served ledger is dialled only
    when it is asked for something.
    """
    if isinstance(place, ServedAt):
        return ServedLedger(place, key)
    return Ledger(place)
