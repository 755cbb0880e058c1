"""What a farmer publishes of itself in the DHT, and where it is found; no I/O.

Format: docs/formats/discovery.md.
"""

import hashlib
from typing import Annotated, Final, Self

from msgspec import Meta, Struct

from storjfs.network.dht.items import LARGEST_VALUE, Item
from storjfs.network.dht.reachable import may_be_dialled
from storjfs.protocol.encoding import decode, encode
from storjfs.protocol.failures import ProtocolViolation
from storjfs.protocol.ids import NodeId, PublicKey, ShortText, Unsigned
from storjfs.protocol.networks import network_bytes
from storjfs.protocol.signing import SigningKey
from storjfs.protocol.terms import Addresses

VERSION: Final = 1


class FarmerRecord(Struct, frozen=True, array_like=True):
    """Where a farmer is and what it can do. A hint: what counts is its key at the other end, and its offer.

    Fields that later versions append are skipped.
    """

    addresses: Addresses
    capabilities: Annotated[tuple[ShortText, ...], Meta(max_length=32)] = ()
    version: Unsigned = VERSION

    def to_value(self) -> bytes:
        """As the value of an item; of addresses and capabilities, the last that do not fit are left out."""
        addresses, capabilities = self.addresses[:16], self.capabilities[:32]
        while True:
            value = encode(FarmerRecord(addresses, capabilities, self.version))
            if len(value) <= LARGEST_VALUE:
                return value
            addresses, capabilities = (addresses, capabilities[:-1]) if capabilities else (addresses[:-1], ())

    @classmethod
    def from_item(cls, item: Item, *, private: bool) -> Self:
        """The record in a checked item, without addresses that may not be dialled. ProtocolViolation."""
        record = decode(item.value, cls)
        good = tuple(one for one in record.addresses if may_be_dialled(one, private=private))
        return cls(good, record.capabilities, record.version)


def info_hash(network: str) -> bytes:
    """Where the farmers of a network announce themselves: 20 bytes. Raises ValueError for an unfit name."""
    return hashlib.sha1(b"storjfs/1 network\0" + network_bytes(network), usedforsecurity=False).digest()


def record_salt(network: str) -> bytes:
    """The salt of the records of a network's farmers; a farmer may be in several. Raises ValueError."""
    return b"storjfs/1 farmer " + hashlib.sha256(network_bytes(network)).digest()[:16]


def make_record(key: SigningKey, network: str, number: int, record: FarmerRecord) -> Item:
    """The signed item of a farmer's record."""
    return Item.make(key, record_salt(network), number, record.to_value())


def read_record(node_id: NodeId, network: str, item: Item, *, private: bool) -> FarmerRecord:
    """The record in an item that should be of that farmer. Raises ProtocolViolation or BadSignature."""
    if item.key != PublicKey(node_id) or item.salt != record_salt(network):
        raise ProtocolViolation("this item is not the record of that farmer in that network")
    return FarmerRecord.from_item(item.checked(), private=private)
