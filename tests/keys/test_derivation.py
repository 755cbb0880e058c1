import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storjfs.keys import AES_256_GCM, CHACHA20_POLY1305, VolumeKeys

VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "keys.json").read_text())
ENTROPY = bytes(range(32))
NAMED_KEYS = (
    "metadata_key",
    "pay_key",
    "local_key",
    "root_record_key",
    "root_record_signer",
    "discovery_record_key",
    "discovery_record_signer",
)

ids = st.binary(min_size=32, max_size=32)


@pytest.mark.parametrize("vector", VECTORS["derivation"])
def test_keys_match_the_vectors(vector: dict[str, Any]) -> None:
    keys = VolumeKeys(bytes.fromhex(vector["entropy"]), generation=vector["generation"])
    segment_id, shard_id, farmer = (
        bytes.fromhex(vector[name]) for name in ("segment_id", "shard_id", "farmer")
    )
    assert keys.volume_id.hex() == vector["volume_id"]
    for name in NAMED_KEYS:
        assert getattr(keys, name).hex() == vector[name]
    assert keys.content_key(segment_id).hex() == vector["content_key_aes_256_gcm"]
    assert keys.content_key(segment_id, CHACHA20_POLY1305).hex() == vector["content_key_chacha20_poly1305"]
    assert keys.shard_key(shard_id).hex() == vector["shard_key"]
    assert keys.renter_identity(farmer).hex() == vector["renter_identity"]
    assert keys.payment_identity(farmer).hex() == vector["payment_identity"]


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=16, max_size=16), st.integers(1, 2**32 - 1))
def test_derivation_is_the_documented_hkdf(entropy: bytes, segment_id: bytes, generation: int) -> None:
    root = hmac.digest(b"storjfs volume", entropy, hashlib.sha256)
    info = b"content AES-256-GCM\0" + generation.to_bytes(4, "big") + segment_id
    expected = hmac.digest(root, info + b"\x01", hashlib.sha256)
    assert VolumeKeys(entropy, generation=generation).content_key(segment_id) == expected


@given(ids, ids)
def test_no_two_purposes_ids_algorithms_or_generations_share_a_key(one: bytes, other: bytes) -> None:
    derived = []
    for keys in (VolumeKeys(ENTROPY), VolumeKeys(ENTROPY, generation=2), VolumeKeys(bytes(32))):
        derived += [getattr(keys, name) for name in NAMED_KEYS]
        for id_ in {one, other}:
            derived += [keys.shard_key(id_), keys.renter_identity(id_), keys.payment_identity(id_)]
        for segment_id in {one[:16], other[:16]}:
            derived += [
                keys.content_key(segment_id, algorithm) for algorithm in (AES_256_GCM, CHACHA20_POLY1305)
            ]
    assert all(len(key) == 32 for key in derived)
    assert len(set(derived)) == len(derived)


def test_truncated_ids_are_refused() -> None:
    keys = VolumeKeys(ENTROPY)
    with pytest.raises(ValueError, match="15 bytes"):
        keys.content_key(bytes(15))
    for derive in (keys.shard_key, keys.renter_identity, keys.payment_identity):
        with pytest.raises(ValueError, match="31 bytes"):
            derive(bytes(31))


def test_entropy_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        VolumeKeys(bytes(16))


def test_repr_shows_no_key() -> None:
    keys = VolumeKeys(ENTROPY)
    assert repr(keys) == f"<VolumeKeys of volume {keys.volume_id.hex()}>"
