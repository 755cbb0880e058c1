"""A ledger that is served over the network, and its client; which ledger renter and farmer use.

Decision 17. The accounts themselves are in `settlement`, what is said in `protocol.ledger`.
"""

from storjfs.ledger.choosing import open_settlement
from storjfs.ledger.client import ServedLedger

__all__ = ["ServedLedger", "open_settlement"]
