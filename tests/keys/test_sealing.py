import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl import pwhash

from storjfs.errors import StorjfsError
from storjfs.keys import (
    Hardness,
    KeyFileDamaged,
    PassphraseNeeded,
    WrongPassphrase,
    needs_passphrase,
    open_sealed,
    plain_entropy,
    seal_entropy,
)

VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "keys.json").read_text())
ENTROPY = bytes(range(32))
EASY = Hardness(ops=1, mem_kib=8)
SEALED = seal_entropy(ENTROPY, "open sesame", EASY)


@pytest.mark.parametrize("vector", VECTORS["key_files"], ids=lambda vector: vector["form"])
def test_key_files_match_the_vectors(vector: dict[str, Any]) -> None:
    entropy, file = bytes.fromhex(vector["entropy"]), bytes.fromhex(vector["file"])
    assert open_sealed(file, vector.get("passphrase")) == entropy
    if vector["form"] == "plain":
        assert plain_entropy(entropy) == file
    else:
        salt, nonce = bytes.fromhex(vector["salt"]), bytes.fromhex(vector["nonce"])
        hardness = Hardness(vector["ops"], vector["mem_kib"])
        assert seal_entropy(entropy, vector["passphrase"], hardness, salt=salt, nonce=nonce) == file


@given(st.binary(min_size=32, max_size=32), st.text(st.characters(codec="utf-8"), min_size=1))
@settings(deadline=None)
def test_the_passphrase_opens_what_it_sealed(entropy: bytes, passphrase: str) -> None:
    sealed = seal_entropy(entropy, passphrase, EASY)
    assert needs_passphrase(sealed)
    assert open_sealed(sealed, passphrase) == entropy


def test_the_same_passphrase_in_another_unicode_form_opens_it() -> None:
    assert open_sealed(seal_entropy(ENTROPY, "Z\u00fcrich", EASY), "Zu\u0308rich") == ENTROPY


def test_sealing_twice_shares_nothing_but_the_header() -> None:
    again = seal_entropy(ENTROPY, "open sesame", EASY)
    assert again[18:34] != SEALED[18:34]
    assert again[34:58] != SEALED[34:58]
    assert ENTROPY not in SEALED


def test_wrong_passphrase_is_told_from_a_damaged_file() -> None:
    with pytest.raises(WrongPassphrase):
        open_sealed(SEALED, "open sesam")
    with pytest.raises(PassphraseNeeded):
        open_sealed(SEALED)


@given(st.integers(0, len(SEALED) - 1), st.integers(1, 255))
def test_any_changed_byte_is_found_before_the_passphrase_is_tried(place: int, change: int) -> None:
    damaged = bytearray(SEALED)
    damaged[place] ^= change
    with pytest.raises(KeyFileDamaged):
        open_sealed(bytes(damaged), "open sesame")


@given(st.integers(0, len(SEALED) - 1))
def test_a_cut_file_is_damaged(length: int) -> None:
    with pytest.raises(KeyFileDamaged):
        open_sealed(SEALED[:length], "open sesame")


def test_plain_key_file_opens_without_a_passphrase() -> None:
    plain = plain_entropy(ENTROPY)
    assert not needs_passphrase(plain)
    assert open_sealed(plain) == ENTROPY


def with_checksum(body: bytes) -> bytes:
    return body + hashlib.sha256(body).digest()[:8]


def test_a_newer_version_is_named() -> None:
    with pytest.raises(KeyFileDamaged, match="version 2"):
        open_sealed(with_checksum(b"STORJFSK\x02\x00" + ENTROPY))


@pytest.mark.parametrize(
    "body",
    [
        b"STORJFSK\x01\x07" + ENTROPY,
        b"STORJFSK\x01\x00" + ENTROPY[1:],
        b"STORJFSK\x01\x01" + bytes(10),
        b"STORJFSK\x01\x01" + b"\xff\xff\xff\xff\x00\x00\x20\x00" + bytes(88),
        b"STORJFSK\x01\x01" + b"\x00\x00\x00\x01\xff\xff\xff\xff" + bytes(88),
    ],
    ids=["unknown form", "short entropy", "short header", "endless passes", "endless memory"],
)
def test_nonsense_with_a_right_checksum_is_refused(body: bytes) -> None:
    with pytest.raises(KeyFileDamaged):
        open_sealed(with_checksum(body), "open sesame")


def test_too_little_memory_is_said_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def out_of_memory(*_: object, **__: object) -> bytes:
        raise RuntimeError("Unexpected failure in key derivation")

    monkeypatch.setattr(pwhash.argon2id, "kdf", out_of_memory)
    with pytest.raises(StorjfsError, match="needs 256 MiB of free memory"):
        seal_entropy(ENTROPY, "open sesame")
