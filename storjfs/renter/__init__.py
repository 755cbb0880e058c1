"""Who holds what, is it still there, what was agreed and what is owed: the renter's side of every contract.

Placement, audits, pay and the policy of repair; the doing of a repair is the segments room's.
"""

from storjfs.renter.auditor import AuditSummary
from storjfs.renter.errors import (
    FarmerUnavailable,
    ReceiptInvalid,
    RenterError,
    ServiceRefused,
    ShardMissing,
)
from storjfs.renter.renter import Renter
from storjfs.renter.report import ContractReport, RenterReport
from storjfs.renter.settings import KnownFarmer, RenterSettings, known_farmers

__all__ = [
    "AuditSummary",
    "ContractReport",
    "FarmerUnavailable",
    "KnownFarmer",
    "ReceiptInvalid",
    "Renter",
    "RenterError",
    "RenterReport",
    "RenterSettings",
    "ServiceRefused",
    "ShardMissing",
    "known_farmers",
]
