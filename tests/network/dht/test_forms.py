"""Bencoding, packets, items and records: what is read, what is refused, and the vectors."""

import json
import os
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storjfs.network.dht import FarmerRecord, Item, make_record, next_number
from storjfs.network.dht.bencode import LARGEST, Value, decode, encode
from storjfs.network.dht.items import HIGHEST, LARGEST_VALUE, newest, target_of
from storjfs.network.dht.krpc import (
    Answer,
    Refusal,
    pack,
    question,
    read_answer,
    read_only,
    unpack,
)
from storjfs.network.dht.reachable import is_private, may_be_dialled
from storjfs.network.dht.records import info_hash, read_record, record_salt
from storjfs.protocol.failures import BadSignature, ProtocolViolation
from storjfs.protocol.hosts import network_of, on_the_internet
from storjfs.protocol.ids import PublicKey, Signature
from storjfs.protocol.signing import SigningKey
from storjfs.protocol.terms import Address

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "discovery.json").read_text())
KEY = SigningKey(bytes(range(32)))

values: st.SearchStrategy[Value] = st.recursive(
    st.one_of(st.integers(-(2**62), 2**62), st.binary(max_size=40)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.binary(max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)


@given(values)
def test_what_is_encoded_is_decoded(value: Value) -> None:
    assert decode(encode(value), 1 << 20) == value


@given(st.binary(max_size=200))
def test_any_bytes_are_a_value_or_refused(data: bytes) -> None:
    try:
        decode(data)
    except ValueError:
        return
    read_only(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"i",
        b"ie",
        b"i-e",
        b"i--1e",
        b"i" + b"9" * 400 + b"e",
        b"l",
        b"d",
        b"d1:ae",
        b"di1e1:ae",
        b"5:abc",
        b"-1:a",
        b"99999999999999999999999999:a",
        b"1:ab",
        b"l" * 2000 + b"e" * 2000,
        b"x" * (LARGEST + 1),
    ],
)
def test_malformed_bencoding_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        decode(data)


@given(values)
def test_any_message_is_an_answer_or_refused(value: Value) -> None:
    for body in (value, {b"y": b"r", b"t": b"abcd", b"r": value}, {b"y": b"e", b"t": b"abcd", b"e": value}):
        try:
            read_answer(encode(body))
        except ValueError:
            continue


def test_an_answer_is_bounded_whatever_it_claims() -> None:
    body: dict[bytes, Value] = {
        b"id": bytes(20),
        b"nodes": os.urandom(26 * 40),
        b"values": [os.urandom(6) for _ in range(300)],
        b"token": bytes(500),
    }
    answer = read_answer(encode({b"y": b"r", b"t": b"abcd", b"r": body}))
    assert isinstance(answer, Answer)
    assert (len(answer.nodes), len(answer.peers), answer.token) == (16, 128, None)


def test_a_refusal_is_told_from_an_answer() -> None:
    packet = encode({b"y": b"e", b"t": b"abcd", b"e": [302, b"old"]})
    assert read_answer(packet) == Refusal(b"abcd", 302, "old")


def test_who_asks_us_hears_that_we_answer_nothing() -> None:
    asked = question(b"abcd", bytes(20), b"ping", {})
    answer = read_only(asked)
    assert answer is not None
    assert len(answer) < len(asked)
    assert read_answer(answer) == Refusal(b"abcd", 202, "read-only")
    assert read_only(answer) is None
    assert read_only(question(bytes(100), bytes(20), b"ping", {})) is None


def test_nobody_gets_more_bytes_of_us_than_were_sent_in_its_name() -> None:
    assert read_only(encode({b"y": b"q"})) is None
    assert read_only(encode({b"t": b"abcd", b"y": b"q"})) is None


@given(st.ip_addresses().map(str), st.integers(0, 65535))
def test_endpoints_are_packed_and_unpacked(host: str, port: int) -> None:
    assert unpack(pack((host, port))) == (host, port)


@pytest.mark.parametrize("vector", VECTORS["bep44"], ids=lambda vector: vector["name"])
def test_items_of_others_are_verified_as_bep_44_says(vector: dict[str, Any]) -> None:
    item = Item(
        PublicKey(bytes.fromhex(vector["key"])),
        vector["salt"].encode(),
        vector["number"],
        vector["value"].encode(),
        Signature(bytes.fromhex(vector["signature"])),
    )
    assert item.checked() is item
    assert item.target.hex() == vector["target"]


@given(st.binary(max_size=64), st.integers(0, HIGHEST), st.binary(max_size=LARGEST_VALUE))
def test_an_item_made_here_is_valid_and_no_part_of_it_can_be_changed(
    salt: bytes, number: int, value: bytes
) -> None:
    item = Item.make(KEY, salt, number, value).checked()
    for changed in (
        Item(item.key, salt + b"x" if len(salt) < 64 else b"", number, value, item.signature),
        Item(item.key, salt, number - 1 if number else 1, value, item.signature),
        Item(item.key, salt, number, value[:-1] if value else b"x", item.signature),
        Item(SigningKey(bytes(32)).public, salt, number, value, item.signature),
    ):
        with pytest.raises(BadSignature):
            changed.checked()


def test_items_beyond_what_nodes_take_are_not_made_and_not_believed() -> None:
    for salt, number, value in (
        (b"s" * 65, 1, b""),
        (b"", -1, b""),
        (b"", HIGHEST + 1, b""),
        (b"", 1, bytes(LARGEST_VALUE + 1)),
    ):
        with pytest.raises(ValueError):
            Item.make(KEY, salt, number, value)
        with pytest.raises(ProtocolViolation):
            Item(KEY.public, salt, number, value, Signature(bytes(64))).checked()
    assert len(encode(bytes(LARGEST_VALUE))) < 1000


def test_the_number_never_falls_whatever_the_clock_says() -> None:
    number = next_number(now=1000.0)
    assert number == 1000
    for now in (2000.0, 500.0, -3.0, 1e15, 3000.0):
        after = next_number(number, now=now)
        assert after > number
        number = after
    assert next_number(5, 9, 7, now=0.0) == 10
    with pytest.raises(ValueError, match="used up"):
        next_number(HIGHEST, now=0.0)


def test_of_two_records_with_one_number_all_choose_the_same() -> None:
    items = [Item.make(KEY, b"", 5, value) for value in (b"a", b"c", b"b")]
    random.shuffle(items)
    chosen = newest(items)
    assert chosen is not None
    assert chosen.value == b"c"
    assert newest([]) is None


def test_a_record_that_is_too_long_leaves_out_its_end() -> None:
    addresses = tuple(Address(f"{'x' * 60}.{number}.example.org", 7420) for number in range(20))
    record = FarmerRecord(addresses, tuple(f"capability {number}" * 8 for number in range(32)))
    item = make_record(KEY, "test", 1, record)
    read = read_record(KEY.node_id, "test", item, private=False)
    assert len(item.value) <= LARGEST_VALUE
    assert read.addresses == addresses[: len(read.addresses)]
    assert len(read.addresses) > 8


def test_a_record_of_a_later_version_is_read_as_far_as_it_is_known() -> None:
    value = b"\x94\x91\x92\xa9192.0.2.1\x07\x91\xa3new\x02\xa4more"
    item = Item.make(KEY, record_salt("test"), 1, value)
    read = read_record(KEY.node_id, "test", item, private=True)
    assert read == FarmerRecord((Address("192.0.2.1", 7),), ("new",), 2)


@pytest.mark.parametrize("value", [b"", b"\x00", b"\x91\x05", b"\xff" * 100, bytes(range(50))])
def test_a_malformed_record_is_refused(value: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        read_record(KEY.node_id, "test", Item.make(KEY, record_salt("test"), 1, value), private=False)


def test_a_record_of_another_farmer_or_network_is_refused() -> None:
    item = make_record(KEY, "test", 1, FarmerRecord(()))
    with pytest.raises(ProtocolViolation):
        read_record(SigningKey(bytes(32)).node_id, "test", item, private=False)
    with pytest.raises(ProtocolViolation):
        read_record(KEY.node_id, "other", item, private=False)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "10.1.2.3",
        "192.168.1.1",
        "172.16.0.1",
        "169.254.1.1",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "::1",
        "::",
        "fe80::1",
        "fd00::1",
        "ff02::1",
        "::ffff:10.0.0.1",
        "2002:0a00:0001::1",
        "64:ff9b::a00:1",
        "localhost",
        "router.local",
        "nas",
        "printer.lan",
        "10.1",
        "a..example.org",
        "-x.example.org",
        "x" * 64 + ".example.org",
        "farm.example.org/path",
        "färm.example.org",
    ],
)
def test_addresses_that_are_not_of_the_internet_are_not_dialled(host: str) -> None:
    assert not may_be_dialled(Address(host, 7420), private=False)
    assert not may_be_dialled(Address(host, 7420).through(), private=False)
    assert not may_be_dialled(Address("192.0.43.8", 0), private=False)


@pytest.mark.parametrize("host", ["8.8.8.8", "2a00:1450:4001::1", "farm.example.org"])
def test_addresses_of_the_internet_are(host: str) -> None:
    assert may_be_dialled(Address(host, 7420), private=False)
    assert may_be_dialled(Address(host, 7420).through(), private=False)


def test_what_lies_together_counts_as_one() -> None:
    assert network_of("192.0.43.8") == network_of("192.0.43.200") != network_of("192.0.44.8")
    assert (
        network_of("2a00:1450:4001::1")
        == network_of("2a00:1450:4001:ffff::9")
        != network_of("2a00:1450:4002::1")
    )
    assert is_private("127.0.0.1")
    assert is_private("10.0.0.1")
    assert not is_private("0.0.0.0")
    assert not is_private("farm.example.org")
    assert on_the_internet("8.8.8.8")


@pytest.mark.parametrize("vector", VECTORS["farmer_records"], ids=lambda vector: vector["network"])
def test_farmer_records_match_the_vectors(vector: dict[str, Any]) -> None:
    key = SigningKey(bytes.fromhex(vector["seed"]))
    record = FarmerRecord(
        tuple(Address(host, port) for host, port in vector["addresses"]), tuple(vector["capabilities"])
    )
    item = make_record(key, vector["network"], vector["number"], record)
    assert info_hash(vector["network"]).hex() == vector["info_hash"]
    assert item.salt.hex() == vector["salt"]
    assert item.value.hex() == vector["value"]
    assert item.signature.hex() == vector["signature"]
    assert target_of(item.key, item.salt).hex() == vector["target"]


@pytest.mark.parametrize("network", ["", "x" * 129, "ü" * 65])
def test_the_name_of_a_network_is_bounded(network: str) -> None:
    with pytest.raises(ValueError):
        info_hash(network)
