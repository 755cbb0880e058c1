"""Receipts and orders about shards: what a farmer says it holds, and what a renter no longer wants."""

from typing import Annotated

from msgspec import Meta, Struct

from storjfs.protocol.failures import ProtocolViolation
from storjfs.protocol.ids import ContractIdField, DigestField, NodeId, ShardIdField, Unsigned
from storjfs.protocol.signing import Kind, Signed, SigningKey

MAX_SHARD = 64 << 20
"""Bytes of one sealed shard; nobody makes room for more."""
MAX_DELETE = 4096
"""Shards named in one order."""

ShardLength = Annotated[int, Meta(ge=1, le=MAX_SHARD)]


class Receipt(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A farmer holds this shard under this contract; signed with its node key (`Kind.RECEIPT`)."""

    contract_id: ContractIdField
    revision: Unsigned
    shard_id: ShardIdField
    root: DigestField
    """Merkle root over the sealed bytes as the farmer received them."""
    length: ShardLength


class DeleteOrder(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The renter no longer wants these shards, nor pays for them; signed by it (`Kind.DELETE`).

    Idempotent: shard ids are never used twice, so the order may be repeated for ever.
    """

    contract_id: ContractIdField
    shard_ids: Annotated[tuple[ShardIdField, ...], Meta(max_length=MAX_DELETE)]


def sign_receipt(key: SigningKey, receipt: Receipt) -> Signed:
    """The farmer's signature under a receipt."""
    return Signed.make(key, Kind.RECEIPT, receipt)


def open_receipt(signed: Signed, farmer: NodeId, expected: Receipt) -> Receipt:
    """The receipt, if `farmer` signed exactly what we `expected`, in any revision.

    Raises BadSignature, ProtocolViolation.
    """
    receipt = signed.open(farmer, Kind.RECEIPT, Receipt)
    for name in ("contract_id", "shard_id", "root", "length"):
        if getattr(receipt, name) != getattr(expected, name):
            raise ProtocolViolation(f"the receipt is for another {name.replace('_', ' ')}")
    return receipt


def sign_delete(key: SigningKey, order: DeleteOrder) -> Signed:
    """The renter's signature under an order to delete."""
    return Signed.make(key, Kind.DELETE, order)


def open_delete(signed: Signed, renter: NodeId) -> DeleteOrder:
    """The order, if `renter` signed it. Raises BadSignature, ProtocolViolation."""
    return signed.open(renter, Kind.DELETE, DeleteOrder)
