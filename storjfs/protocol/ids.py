"""Identifiers: each kind of byte string has its own type, and its length is checked where it is decoded."""

import hashlib
from typing import Annotated, NewType

from msgspec import Meta

NodeId = NewType("NodeId", bytes)
"""Raw Ed25519 public key of a farmer, or of a renter as that farmer knows it; 32 bytes."""
PublicKey = NewType("PublicKey", bytes)
"""Raw Ed25519 public key that pays or is paid; 32 bytes."""
ContractId = NewType("ContractId", bytes)
"""SHA-256 over the first doubly signed terms (`terms.Contract.digest`); 32 bytes."""
ShardId = NewType("ShardId", bytes)
"""Random, new at each upload; 32 bytes."""
SegmentId = NewType("SegmentId", bytes)
"""Random, new for each segment; 16 bytes."""
LaneId = NewType("LaneId", bytes)
"""Names the payment lane of one payer and one payee in one settlement (`lane_id`); 32 bytes."""
Digest = NewType("Digest", bytes)
"""A SHA-256 digest; 32 bytes."""
Signature = NewType("Signature", bytes)
"""An Ed25519 signature; 64 bytes."""

# The same types for fields of messages: the decoder refuses any other length.
NodeIdField = Annotated[NodeId, Meta(min_length=32, max_length=32)]
PublicKeyField = Annotated[PublicKey, Meta(min_length=32, max_length=32)]
ContractIdField = Annotated[ContractId, Meta(min_length=32, max_length=32)]
ShardIdField = Annotated[ShardId, Meta(min_length=32, max_length=32)]
LaneIdField = Annotated[LaneId, Meta(min_length=32, max_length=32)]
DigestField = Annotated[Digest, Meta(min_length=32, max_length=32)]
SignatureField = Annotated[Signature, Meta(min_length=64, max_length=64)]
NonceField = Annotated[bytes, Meta(min_length=32, max_length=32)]

Unsigned = Annotated[int, Meta(ge=0, le=2**63 - 1)]
"""Counts, sizes in bytes and times in seconds: what an SQLite integer holds."""
ShortText = Annotated[str, Meta(max_length=256)]

NO_CONTRACT = ContractId(bytes(32))
"""Stands in the first terms of a contract, which has no id before both have signed."""
NO_PREDECESSOR = Digest(bytes(32))
"""Stands in the first terms of a contract, which follow no others."""


def lane_id(settlement: str, payer: PublicKey, payee: PublicKey) -> LaneId:
    """The lane of `payer` and `payee` in `settlement`: the same for ever, since its totals never reset."""
    name = settlement.encode()
    head = b"storjfs/1 lane\0" + len(name).to_bytes(4, "big") + name
    return LaneId(hashlib.sha256(head + payer + payee).digest())


def short(identifier: bytes) -> str:
    """The first eight hex digits, as shown to people and written to logs."""
    return identifier[:4].hex()
