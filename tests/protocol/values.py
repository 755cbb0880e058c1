"""Values that the tests of several rooms' formats start from: fixed keys and one set of terms."""

from hashlib import sha256
from typing import Any

from storjfs.protocol.ids import ContractId, Digest, ShardId, lane_id
from storjfs.protocol.signing import SigningKey
from storjfs.protocol.terms import GIB, Address, Offer, Terms


def key(name: str) -> SigningKey:
    return SigningKey(sha256(name.encode()).digest())


def shard_id(number: int) -> ShardId:
    return ShardId(sha256(b"shard %d" % number).digest())


def digest(text: str) -> Digest:
    return Digest(sha256(text.encode()).digest())


FARMER, RENTER, PAYER, STRANGER = (key(name) for name in ("farmer", "renter", "payer", "stranger"))
LEDGER = key("ledger")
CONTRACT_ID = ContractId(digest("contract"))
LANE = lane_id("ledger", PAYER.public, FARMER.public)


def terms(**changes: Any) -> Terms:
    fields: dict[str, Any] = {
        "farmer": FARMER.node_id,
        "renter": RENTER.node_id,
        "payer": PAYER.public,
        "payee": FARMER.public,
        "settlement": "ledger",
        "lane": LANE,
        "capacity": 10 * GIB,
        "price": 1_500_000,
        "egress_price": 700_000,
        "start": 1_800_000_000,
        "end": 1_810_000_000,
        "audit_period": 86400,
        "samples": 4,
        "answer_deadline": 30,
        "payment_grace": 7 * 86400,
        "offline_grace": 3 * 86400,
        "end_grace": 14 * 86400,
        "accept_by": 1_800_000_600,
    }
    return Terms(**(fields | changes))


def offer(**changes: Any) -> Offer:
    fields: dict[str, Any] = {
        "farmer": FARMER.node_id,
        "payee": FARMER.public,
        "capacity": 100 * GIB,
        "price": 1_000_000,
        "egress_price": 500_000,
        "term_min": 86400,
        "term_max": 366 * 86400,
        "period_min": 60,
        "period_max": 30 * 86400,
        "grace_max": 30 * 86400,
        "settlement": "ledger",
        "addresses": (Address("192.0.2.7", 4007), Address("2001:db8::7", 4007)),
        "group": "example",
        "expires": 1_800_003_600,
        "region": "EU-DE",
    }
    return Offer(**(fields | changes))
