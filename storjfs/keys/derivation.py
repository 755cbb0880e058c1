"""HKDF-SHA256 (RFC 5869) from the entropy of the recovery phrase to every key of a volume.

One extract per volume, one expand per key. The info string of an expand is

    ASCII label | 0x00 | u32 key generation, big endian | id

where the label names purpose and algorithm. A label contains no NUL and the generation has a fixed length, so
two different (label, generation, id) never give one info string.
"""

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

from storjfs.keys.phrase import ENTROPY_BYTES

GENERATION = 1
"""The key generation of new volumes."""

AES_256_GCM = 1
CHACHA20_POLY1305 = 2
"""Frame algorithms, numbered as segments record them."""

SEGMENT_ID_BYTES = 16
SHARD_ID_BYTES = 32
NODE_ID_BYTES = 32
VOLUME_ID_BYTES = 16

_EXTRACT_SALT = b"storjfs volume"
_CONTENT_LABELS = {
    AES_256_GCM: b"content AES-256-GCM",
    CHACHA20_POLY1305: b"content ChaCha20-Poly1305",
}
_SHARD_LABEL = b"shard AES-256-GCM"
_RENTER_LABEL = b"renter identity Ed25519"
_PAYMENT_LABEL = b"payment identity Ed25519"
_METADATA_LABEL = b"metadata database SQLite3MC"
_PAY_LABEL = b"payment database SQLite3MC"
_LOCAL_LABEL = b"local database SQLite3MC"
_ROOT_RECORD_LABEL = b"root record AES-256-GCM"
_ROOT_RECORD_SIGNER_LABEL = b"root record Ed25519"
_DISCOVERY_RECORD_LABEL = b"discovery record AES-256-GCM"
_DISCOVERY_RECORD_SIGNER_LABEL = b"discovery record Ed25519"
_VOLUME_ID_LABEL = b"volume id"


class VolumeKeys:
    """All keys of one volume; each is 32 bytes and depends on nothing but the entropy, its label and its id.

    Keys per segment, shard or farmer are derived at each call (a few microseconds) and not kept. Ed25519
    identities are returned as seeds (RFC 8032 private keys). Raises ValueError for an id of the wrong length:
    a truncated id would silently give a key that nobody can derive again.
    """

    __slots__ = (
        "_generation",
        "_root",
        "discovery_record_key",
        "discovery_record_signer",
        "local_key",
        "metadata_key",
        "pay_key",
        "root_record_key",
        "root_record_signer",
        "volume_id",
    )

    def __init__(self, entropy: bytes, *, generation: int = GENERATION) -> None:
        if len(entropy) != ENTROPY_BYTES:
            raise ValueError(f"the entropy of a volume is {ENTROPY_BYTES} bytes, not {len(entropy)}")
        self._generation = generation.to_bytes(4, "big")
        self._root = HKDF.extract(SHA256(), _EXTRACT_SALT, entropy)
        self.metadata_key = self._expand(_METADATA_LABEL)
        self.pay_key = self._expand(_PAY_LABEL)
        self.local_key = self._expand(_LOCAL_LABEL)
        self.root_record_key = self._expand(_ROOT_RECORD_LABEL)
        self.root_record_signer = self._expand(_ROOT_RECORD_SIGNER_LABEL)
        self.discovery_record_key = self._expand(_DISCOVERY_RECORD_LABEL)
        self.discovery_record_signer = self._expand(_DISCOVERY_RECORD_SIGNER_LABEL)
        # Public: tells two volumes apart and a wrong phrase from the right one, and gives nothing else away.
        self.volume_id = self._expand(_VOLUME_ID_LABEL)[:VOLUME_ID_BYTES]

    def content_key(self, segment_id: bytes, algorithm: int = AES_256_GCM) -> bytes:
        """The key of a segment's frames, for the algorithm the segment records. Never leaves the renter."""
        return self._expand(_CONTENT_LABELS[algorithm], _checked(segment_id, SEGMENT_ID_BYTES))

    def shard_key(self, shard_id: bytes) -> bytes:
        """The key of the seal around one shard; may be lent to a Bridge, which reads no content with it."""
        return self._expand(_SHARD_LABEL, _checked(shard_id, SHARD_ID_BYTES))

    def renter_identity(self, farmer: bytes) -> bytes:
        """The Ed25519 seed with which this volume appears to one farmer (its node id) and to no other."""
        return self._expand(_RENTER_LABEL, _checked(farmer, NODE_ID_BYTES))

    def payment_identity(self, farmer: bytes) -> bytes:
        """The Ed25519 seed that pays one farmer (its node id): signs vouchers, owns the lane's deposit."""
        return self._expand(_PAYMENT_LABEL, _checked(farmer, NODE_ID_BYTES))

    def _expand(self, label: bytes, id_: bytes = b"") -> bytes:
        return HKDFExpand(SHA256(), 32, label + b"\0" + self._generation + id_).derive(self._root)

    def __repr__(self) -> str:
        return f"<VolumeKeys of volume {self.volume_id.hex()}>"


def _checked(id_: bytes, length: int) -> bytes:
    if len(id_) != length:
        raise ValueError(f"this id has {len(id_)} bytes instead of {length}")
    return id_
