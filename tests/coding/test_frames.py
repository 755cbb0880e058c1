"""A frame opens to what was sealed where it was sealed, and to nothing else anywhere else."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from storjfs.coding.frames import (
    Algorithm,
    FrameCipher,
    FrameCorrupt,
    preferred_algorithm,
    random_nonces,
)
from storjfs.coding.geometry import FRAME_OVERHEAD

KEY = bytes(range(32))
SEGMENT = bytes(range(100, 116))
NONCE = bytes(range(200, 212))

algorithms = st.sampled_from(list(Algorithm))
positions = st.integers(0, (32 << 20) - 1)


def flipped(data: bytes | bytearray, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@given(algorithms, positions, st.binary(max_size=5000))
def test_what_was_sealed_opens(algorithm: Algorithm, pos: int, plain: bytes) -> None:
    cipher = FrameCipher(KEY, SEGMENT, algorithm)
    room = memoryview(bytearray(b"\xee" * (len(plain) + FRAME_OVERHEAD + 3)))
    written = cipher.seal_into(pos, plain, room, NONCE)
    assert written == len(plain) + FRAME_OVERHEAD
    assert room[written:] == b"\xee" * 3
    assert bytes(room[:written]) == cipher.seal(pos, plain, NONCE)
    assert cipher.open(pos, room[:written]) == plain
    out = bytearray(len(plain))
    assert cipher.open_into(pos, room[:written], out) == len(plain)
    assert out == plain


@given(algorithms, st.binary(max_size=100), st.data())
def test_any_flipped_bit_is_found(algorithm: Algorithm, plain: bytes, data: st.DataObject) -> None:
    cipher = FrameCipher(KEY, SEGMENT, algorithm)
    sealed = cipher.seal(7, plain, NONCE)
    damaged = flipped(sealed, data.draw(st.integers(0, len(sealed) * 8 - 1)))
    with pytest.raises(FrameCorrupt) as raised:
        cipher.open(7, damaged)
    assert raised.value.pos == 7
    with pytest.raises(FrameCorrupt):
        cipher.open_into(7, damaged, bytearray(len(plain)))


@given(st.binary(min_size=1, max_size=100), positions, positions)
def test_a_frame_opens_only_at_its_position(plain: bytes, pos: int, other: int) -> None:
    cipher = FrameCipher(KEY, SEGMENT, Algorithm.AES_256_GCM)
    sealed = cipher.seal(pos, plain, NONCE)
    if other == pos:
        assert cipher.open(other, sealed) == plain
    else:
        with pytest.raises(FrameCorrupt):
            cipher.open(other, sealed)


@pytest.mark.parametrize("algorithm", Algorithm)
def test_a_frame_of_another_segment_key_or_algorithm_does_not_open(algorithm: Algorithm) -> None:
    sealed = FrameCipher(KEY, SEGMENT, algorithm).seal(0, b"content", NONCE)
    other = Algorithm.AES_256_GCM if algorithm != Algorithm.AES_256_GCM else Algorithm.CHACHA20_POLY1305
    for stranger in (
        FrameCipher(KEY, bytes(16), algorithm),
        FrameCipher(bytes(32), SEGMENT, algorithm),
        FrameCipher(KEY, SEGMENT, other),
    ):
        with pytest.raises(FrameCorrupt):
            stranger.open(0, sealed)


@pytest.mark.parametrize("length", range(FRAME_OVERHEAD))
def test_what_is_too_short_to_be_a_frame_is_corrupt(length: int) -> None:
    cipher = FrameCipher(KEY, SEGMENT, Algorithm.AES_256_GCM)
    with pytest.raises(FrameCorrupt):
        cipher.open(0, bytes(length))
    with pytest.raises(FrameCorrupt):
        cipher.open_into(0, bytes(length), bytearray())


@pytest.mark.parametrize(
    ("described", "expected"),
    [
        ("processor\t: 0\nflags\t\t: fpu aes sse2\n", Algorithm.AES_256_GCM),
        ("processor\t: 0\nflags\t\t: fpu sse2\n", Algorithm.CHACHA20_POLY1305),
        ("Features\t: fp asimd aes pmull\n", Algorithm.AES_256_GCM),
        ("Features\t: fp asimd\n", Algorithm.CHACHA20_POLY1305),
        ("processor : 0\n", Algorithm.AES_256_GCM),
    ],
)
def test_the_cipher_is_chosen_by_what_the_cpu_can_do(
    described: str, expected: Algorithm, monkeypatch: pytest.MonkeyPatch
) -> None:
    preferred_algorithm.cache_clear()
    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_text", lambda *_, **__: described)
        assert preferred_algorithm() == expected
    preferred_algorithm.cache_clear()


def test_nonces_are_fresh() -> None:
    nonces = random_nonces(1000)
    assert {len(nonce) for nonce in nonces} == {12}
    assert len(set(nonces)) == 1000


def test_a_frame_is_the_published_cipher_over_the_documented_associated_data() -> None:
    sealed = bytes(FrameCipher(KEY, SEGMENT, Algorithm.AES_256_GCM).seal(0x0102, b"content", NONCE))
    associated = SEGMENT + (0x0102).to_bytes(8, "big") + (7).to_bytes(4, "big")
    assert sealed[:12] == NONCE
    assert AESGCM(KEY).decrypt(NONCE, sealed[12:], associated) == b"content"


@pytest.mark.parametrize(("key", "segment"), [(b"short", SEGMENT), (KEY, b"short")])
def test_keys_and_ids_of_a_wrong_size_are_refused(key: bytes, segment: bytes) -> None:
    with pytest.raises(ValueError):
        FrameCipher(key, segment, Algorithm.AES_256_GCM)
