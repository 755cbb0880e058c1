"""The recovery record: the farmers of a volume, sealed, for whoever has nothing but the phrase.

It lies in the DHT under a key that follows from the phrase, so that a new machine finds it and nobody else
can tell whose it is or what is in it. Pure: bytes in, bytes out. Format: docs/formats/discovery.md.
"""

import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from storjfs.errors import StorjfsError
from storjfs.keys.derivation import VolumeKeys
from storjfs.protocol.ids import NodeId
from storjfs.protocol.terms import Address

VERSION: Final = 1
SALT: Final = b"storjfs/1 recovery"
"""Of the item in the DHT, whose key is the volume's discovery-record signer."""
SEALED_BYTES: Final = 992
"""Always, so that the length does not tell how many farmers there are: the most that the DHT takes."""
NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16
PLAIN_BYTES: Final = SEALED_BYTES - 1 - NONCE_BYTES - TAG_BYTES
_NODE_BYTES: Final = 32
_LONGEST_NAME: Final = 253


@dataclass(frozen=True, slots=True)
class KnownFarmer:
    """One farmer of a volume, and one address at which it was."""

    node_id: NodeId
    address: Address


class RecoveryRecordUnusable(StorjfsError):
    """It is not of this phrase, was changed, or is of a newer version."""


def seal_farmers(
    keys: VolumeKeys, farmers: Sequence[KnownFarmer], *, nonce: bytes | None = None
) -> tuple[bytes, int]:
    """The value of the record, SEALED_BYTES long, and how many of `farmers`, from the first on, are in it.

    There is room for about 24; one that answers is enough to recover. `nonce`: fresh and random unless given,
    which only test vectors do. Raises ValueError for an address that has no place in a record.
    """
    nonce = os.urandom(NONCE_BYTES) if nonce is None else nonce
    plain, count = b"", 0
    for farmer in farmers[:255]:
        packed = _pack(farmer)
        if 1 + len(plain) + len(packed) > PLAIN_BYTES:
            break
        plain, count = plain + packed, count + 1
    padded = (bytes([count]) + plain).ljust(PLAIN_BYTES, b"\0")
    sealed = AESGCM(keys.discovery_record_key).encrypt(nonce, padded, _associated(keys))
    return bytes([VERSION]) + nonce + sealed, count


def open_farmers(keys: VolumeKeys, value: bytes) -> list[KnownFarmer]:
    """The farmers in the value of a record. Raises RecoveryRecordUnusable."""
    if len(value) != SEALED_BYTES:
        raise _unusable(f"it has {len(value)} bytes instead of {SEALED_BYTES}")
    if value[0] != VERSION:
        raise _unusable(f"it has version {value[0]}, and this storjfs knows version {VERSION}")
    nonce, sealed = value[1 : 1 + NONCE_BYTES], value[1 + NONCE_BYTES :]
    try:
        plain = AESGCM(keys.discovery_record_key).decrypt(nonce, sealed, _associated(keys))
    except InvalidTag:
        raise _unusable("it is not of this recovery phrase") from None
    found, at = [], 1
    for _ in range(plain[0]):
        farmer, at = _unpack(plain, at)
        found.append(farmer)
    return found


def _associated(keys: VolumeKeys) -> bytes:
    return b"storjfs/1 recovery\0" + bytes([VERSION]) + keys.volume_id


def _pack(farmer: KnownFarmer) -> bytes:
    """Node id, form (4 or 6: numeric; 0: a name, with its length), address, port."""
    host, port = farmer.address.host, farmer.address.port
    if len(farmer.node_id) != _NODE_BYTES or not 1 <= port <= 65535:
        raise ValueError(f"{farmer.address} of a farmer cannot be recorded")
    try:
        numeric = ipaddress.ip_address(host)
        place = bytes([numeric.version]) + numeric.packed
    except ValueError:
        name = host.encode("ascii")
        if not 1 <= len(name) <= _LONGEST_NAME:
            raise ValueError(f"the name {host!r} of a farmer is too long to be recorded") from None
        place = bytes([0, len(name)]) + name
    return farmer.node_id + place + port.to_bytes(2, "big")


def _unpack(plain: bytes, at: int) -> tuple[KnownFarmer, int]:
    node_id, at = NodeId(plain[at : at + _NODE_BYTES]), at + _NODE_BYTES
    form = plain[at : at + 1]
    if form in (b"\4", b"\6"):
        length, at = (4 if form == b"\4" else 16), at + 1
    elif form == b"\0" and at + 1 < len(plain):
        length, at = plain[at + 1], at + 2
    else:
        raise _unusable("it is malformed")
    place, port, end = plain[at : at + length], plain[at + length : at + length + 2], at + length + 2
    if end > len(plain):
        raise _unusable("it is malformed")
    try:
        host = place.decode("ascii") if form == b"\0" else str(ipaddress.ip_address(place))
    except ValueError:
        raise _unusable("it is malformed") from None
    return KnownFarmer(node_id, Address(host, int.from_bytes(port, "big"))), end


def _unusable(what: str) -> RecoveryRecordUnusable:
    return RecoveryRecordUnusable(
        f"the recovery record in the DHT cannot be used: {what}",
        hint="Give the address of a farmer of the volume instead; the recovery kit has some.",
    )
