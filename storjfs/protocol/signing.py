"""Ed25519 signatures with a domain per kind of value, over exact bytes that are kept and never made again.

MessagePack has several encodings of one value, so whoever signs, signs bytes; whoever verifies, verifies the
bytes that came; both store those bytes. `Signed` carries them with their signature.
"""

import enum
from typing import Self, TypeVar

from msgspec import Struct
from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey as _SecretKey
from nacl.signing import VerifyKey as _VerifyKey

from storjfs.protocol.encoding import decode, encode
from storjfs.protocol.failures import BadSignature
from storjfs.protocol.ids import NodeId, PublicKey, Signature, SignatureField

T = TypeVar("T")


class Kind(enum.Enum):
    """What a signature is about. A signature for one kind is worth nothing for another."""

    OFFER = b"storjfs/1 offer\0"
    TERMS_RENTER = b"storjfs/1 terms, renter\0"
    TERMS_FARMER = b"storjfs/1 terms, farmer\0"
    RECEIPT = b"storjfs/1 receipt\0"
    VOUCHER = b"storjfs/1 voucher\0"
    AUDIT_REQUEST = b"storjfs/1 audit request\0"
    AUDIT_REPLY = b"storjfs/1 audit reply\0"
    DELETE = b"storjfs/1 delete\0"
    LEDGER_ORDER = b"storjfs/1 ledger order\0"
    LEDGER_STATEMENT = b"storjfs/1 ledger statement\0"


class SigningKey:
    """An Ed25519 secret key. Its representation never shows the secret."""

    __slots__ = ("_secret", "public")

    public: PublicKey

    def __init__(self, seed: bytes) -> None:
        """`seed`: the 32 secret bytes of RFC 8032. Raises ValueError for any other length."""
        if len(seed) != 32:
            raise ValueError("an Ed25519 seed has 32 bytes")
        self._secret = _SecretKey(seed)
        self.public = PublicKey(bytes(self._secret.verify_key))

    @property
    def node_id(self) -> NodeId:
        """The public key as the name of a node."""
        return NodeId(self.public)

    def sign(self, kind: Kind, body: bytes) -> Signature:
        """The signature of `body` as a value of `kind`."""
        return Signature(self._secret.sign(kind.value + body).signature)

    def sign_dht_item(self, salt: bytes, number: int, value: bytes) -> Signature:
        """The signature that BEP 44 wants under an item of the DHT, whose value is a byte string.

        What is signed begins with `4:salt` or `3:seq`, as no other value here does.
        """
        return Signature(self._secret.sign(_dht_item(salt, number, value)).signature)

    def __repr__(self) -> str:
        return f"SigningKey({self.public.hex()[:8]})"


def verify_dht_item(signer: bytes, salt: bytes, number: int, value: bytes, signature: bytes) -> None:
    """Raise BadSignature unless `signature` is that of `signer` for this item of the DHT."""
    try:
        _VerifyKey(signer).verify(_dht_item(salt, number, value), signature)
    except (BadSignatureError, ValueError, TypeError) as error:
        raise BadSignature("bad signature on an item of the DHT") from error


def _dht_item(salt: bytes, number: int, value: bytes) -> bytes:
    """The bytes that BEP 44 has signed: the parts in bencoding, without the dictionary around them."""
    salted = b"4:salt%d:%b" % (len(salt), salt) if salt else b""
    return salted + b"3:seqi%de1:v%d:%b" % (number, len(value), value)


def verify(signer: bytes, kind: Kind, body: bytes, signature: bytes) -> None:
    """Raise BadSignature unless `signature` is that of `signer` (raw public key) for `body` as a `kind`."""
    try:
        _VerifyKey(signer).verify(kind.value + body, signature)
    except (BadSignatureError, ValueError, TypeError) as error:
        raise BadSignature(f"bad signature on {kind.name.lower().replace('_', ' ')}") from error


class Signed(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The exact bytes of a value and one signature over them. Store it as `to_bytes()`."""

    body: bytes
    signature: SignatureField

    @classmethod
    def make(cls, key: SigningKey, kind: Kind, value: Struct) -> Self:
        """Encode `value` once and sign those bytes."""
        body = encode(value)
        return cls(body, key.sign(kind, body))

    def open(self, signer: bytes, kind: Kind, wanted: type[T]) -> T:
        """The value, if `signer` signed it as `kind`. Raises BadSignature, else ProtocolViolation."""
        verify(signer, kind, self.body, self.signature)
        return decode(self.body, wanted)

    def peek(self, wanted: type[T]) -> T:
        """The value without a look at the signature: to learn who should have signed. ProtocolViolation."""
        return decode(self.body, wanted)

    def to_bytes(self) -> bytes:
        """What is stored and sent."""
        return encode(self)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The inverse of `to_bytes`. Raises ProtocolViolation."""
        return decode(data, cls)
