"""Contracts, keys and terms to test with."""

from typing import Any

from storjfs.keys import VolumeKeys
from storjfs.protocol.ids import lane_id
from storjfs.protocol.signing import SigningKey
from storjfs.protocol.terms import CREDIT, Contract, Proposal, Terms

KEYS = VolumeKeys(bytes(range(32)))
FARMER = SigningKey(b"f" * 32)
PAYEE = SigningKey(b"p" * 32)
NOW = 1_800_000_000


def terms(**changes: Any) -> Terms:
    """Terms between the volume KEYS and FARMER that both may sign."""
    farmer = changes.get("farmer", FARMER.node_id)
    payer = SigningKey(KEYS.payment_identity(farmer)).public
    values: dict[str, Any] = {
        "farmer": farmer,
        "renter": SigningKey(KEYS.renter_identity(farmer)).node_id,
        "payer": payer,
        "payee": PAYEE.public,
        "settlement": "test",
        "lane": lane_id("test", payer, PAYEE.public),
        "capacity": 1 << 30,
        "price": CREDIT // 100,
        "egress_price": CREDIT // 20,
        "start": NOW,
        "end": NOW + 30 * 86400,
        "audit_period": 86400,
        "samples": 4,
        "answer_deadline": 60,
        "payment_grace": 86400,
        "offline_grace": 4 * 86400,
        "end_grace": 86400,
        "accept_by": NOW + 3600,
    }
    return Terms(**(values | changes))


def contract(farmer: SigningKey = FARMER, **changes: Any) -> Contract:
    """A doubly signed contract."""
    agreed = terms(farmer=farmer.node_id, **changes)
    renter = SigningKey(KEYS.renter_identity(farmer.node_id))
    return Proposal.make(renter, agreed).countersign(farmer)
