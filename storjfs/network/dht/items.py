"""Mutable items of the DHT (BEP 44): a value under a public key and a salt, signed with its number.

Nodes keep the highest number that they have seen. What an item says is as true as its key is known.
"""

import hashlib
from dataclasses import dataclass
from typing import Final, Self

from storjfs.protocol.failures import ProtocolViolation
from storjfs.protocol.ids import PublicKey, Signature
from storjfs.protocol.signing import SigningKey, verify_dht_item

LARGEST_VALUE: Final = 992
"""Bytes of a value: bencoded it stays below the 1000 that nodes take."""
LONGEST_SALT: Final = 64
HIGHEST: Final = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Item:
    """One item. Made here it is signed; what came from elsewhere is checked by `checked`."""

    key: PublicKey
    salt: bytes
    number: int
    """BEP 44's `seq`."""
    value: bytes
    signature: Signature

    @classmethod
    def make(cls, key: SigningKey, salt: bytes, number: int, value: bytes) -> Self:
        """A new item. Raises ValueError where it is beyond what nodes take."""
        _check_size(salt, number, value)
        return cls(key.public, salt, number, value, key.sign_dht_item(salt, number, value))

    def checked(self) -> Self:
        """The same. Raises ProtocolViolation where it has no valid form, BadSignature."""
        try:
            _check_size(self.salt, self.number, self.value)
        except ValueError as error:
            raise ProtocolViolation(str(error)) from None
        verify_dht_item(self.key, self.salt, self.number, self.value, self.signature)
        return self

    @property
    def target(self) -> bytes:
        """Where in the DHT it lies."""
        return target_of(self.key, self.salt)


def target_of(key: bytes, salt: bytes) -> bytes:
    """Where in the DHT the item of `key` and `salt` lies: 20 bytes."""
    return hashlib.sha1(key + salt, usedforsecurity=False).digest()


def next_number(*known: int, now: float) -> int:
    """The number for new content: above all that is known to have been used, whatever the clock says.

    Usually seconds since 1970, so that a farmer whose files are lost goes on above what it had. A clock that
    was far ahead for a while leaves numbers that only count up from then on.
    Raises ValueError beyond HIGHEST.
    """
    number = max(int(now), 1, *(one + 1 for one in known))
    if number > HIGHEST:
        raise ValueError("the numbers of this item are used up")
    return number


def newest(items: "list[Item]") -> Item | None:
    """The one that counts, of valid items at one target; of two with one number the greater value.

    The same choice everywhere, so that two records with one number (a copied identity) do not alternate.
    """
    return max(items, key=lambda item: (item.number, item.value), default=None)


def _check_size(salt: bytes, number: int, value: bytes) -> None:
    if len(value) > LARGEST_VALUE or len(salt) > LONGEST_SALT:
        raise ValueError(f"a value has {LARGEST_VALUE} bytes at most and a salt {LONGEST_SALT}")
    if not 0 <= number <= HIGHEST:
        raise ValueError(f"{number} is not the number of an item")


def put_arguments(item: Item) -> dict[bytes, int | bytes]:
    """The item as BEP 44's `put` carries it."""
    arguments: dict[bytes, int | bytes] = {
        b"k": item.key,
        b"seq": item.number,
        b"sig": item.signature,
        b"v": item.value,
    }
    if item.salt:
        arguments[b"salt"] = item.salt
    return arguments
