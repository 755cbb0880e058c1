import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storjfs.keys import KnownFarmer, RecoveryRecordUnusable, VolumeKeys, open_farmers, seal_farmers
from storjfs.keys.recovery import SALT, SEALED_BYTES
from storjfs.network.dht import Item
from storjfs.protocol.ids import NodeId
from storjfs.protocol.signing import SigningKey
from storjfs.protocol.terms import Address

VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "discovery.json").read_text())
KEYS = VolumeKeys(bytes(range(32)))
OTHERS = VolumeKeys(bytes(32))


def farmer(host: str, port: int = 7420) -> KnownFarmer:
    return KnownFarmer(NodeId(os.urandom(32)), Address(host, port))


hosts = st.one_of(
    st.ip_addresses().map(str), st.from_regex(r"[a-z]{1,60}(\.[a-z]{1,60}){0,3}", fullmatch=True)
)
farmers = st.lists(st.builds(farmer, hosts, st.integers(1, 65535)), max_size=40)


@given(farmers)
def test_what_is_sealed_is_opened_by_the_same_phrase_only(listed: list[KnownFarmer]) -> None:
    value, count = seal_farmers(KEYS, listed)
    assert len(value) == SEALED_BYTES
    assert open_farmers(KEYS, value) == listed[:count]
    with pytest.raises(RecoveryRecordUnusable):
        open_farmers(OTHERS, value)


def test_there_is_room_for_many_farmers_and_the_first_count() -> None:
    many = [farmer(f"192.0.2.{number}") for number in range(50)]
    value, count = seal_farmers(KEYS, many)
    assert count >= 24
    assert open_farmers(KEYS, value) == many[:count]


def test_every_record_is_unlike_every_other() -> None:
    one, other = (seal_farmers(KEYS, [farmer("192.0.2.1")])[0] for _ in range(2))
    assert sum(a == b for a, b in zip(one, other, strict=True)) < 40


@pytest.mark.parametrize("place", [0, 1, 20, SEALED_BYTES - 1])
def test_a_changed_record_is_refused(place: int) -> None:
    value = bytearray(seal_farmers(KEYS, [farmer("192.0.2.1")])[0])
    value[place] ^= 1
    with pytest.raises(RecoveryRecordUnusable):
        open_farmers(KEYS, bytes(value))


@pytest.mark.parametrize("length", [0, 1, SEALED_BYTES - 1, SEALED_BYTES + 1])
def test_another_length_is_refused(length: int) -> None:
    with pytest.raises(RecoveryRecordUnusable, match="bytes instead of"):
        open_farmers(KEYS, bytes([1]).ljust(length, b"x")[:length])


def test_an_address_that_has_no_place_is_an_error_of_the_caller() -> None:
    with pytest.raises(ValueError):
        seal_farmers(KEYS, [farmer("x" * 254)])


def test_it_fits_into_an_item_of_the_dht() -> None:
    signer = SigningKey(KEYS.discovery_record_signer)
    item = Item.make(signer, SALT, 1, seal_farmers(KEYS, [farmer("192.0.2.1")])[0])
    assert item.checked().key == signer.public


@pytest.mark.parametrize("vector", VECTORS["recovery_records"], ids=lambda vector: vector["name"])
def test_recovery_records_match_the_vectors(vector: dict[str, Any]) -> None:
    keys = VolumeKeys(bytes.fromhex(vector["entropy"]))
    listed = [
        KnownFarmer(NodeId(bytes.fromhex(node_id)), Address(host, port))
        for node_id, host, port in vector["farmers"]
    ]
    value = bytes.fromhex(vector["value"])
    assert seal_farmers(keys, listed, nonce=bytes.fromhex(vector["nonce"])) == (value, len(listed))
    assert open_farmers(keys, value) == listed
    assert SigningKey(keys.discovery_record_signer).public.hex() == vector["key"]
