"""A sealed shard opens piece by piece, and a bad or misplaced piece is named."""

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storjfs.coding.geometry import PIECE, SEALED_PIECE, sealed_length
from storjfs.coding.shards import ShardCipher, ShardCorrupt

PIECES = 5
PLAIN = os.urandom(PIECES * PIECE)


@pytest.fixture
def cipher() -> ShardCipher:
    return ShardCipher(bytes(range(32)))


def test_any_run_of_pieces_opens(cipher: ShardCipher) -> None:
    sealed = cipher.seal(PLAIN)
    assert len(sealed) == sealed_length(len(PLAIN))
    for first in range(PIECES):
        for last in range(first, PIECES + 1):
            part = memoryview(sealed)[first * SEALED_PIECE : last * SEALED_PIECE]
            assert cipher.open_pieces(first, part) == PLAIN[first * PIECE : last * PIECE]


def test_pieces_open_into_a_larger_buffer(cipher: ShardCipher) -> None:
    sealed = cipher.seal(PLAIN)
    room = memoryview(bytearray(3 * PIECE))
    opened = cipher.open_pieces(1, sealed[SEALED_PIECE : 3 * SEALED_PIECE], room)
    assert len(opened) == 2 * PIECE
    assert room[: 2 * PIECE] == PLAIN[PIECE : 3 * PIECE]
    assert room[2 * PIECE :] == bytes(PIECE)


@settings(max_examples=30)
@given(st.integers(0, PIECES * SEALED_PIECE * 8 - 1))
def test_a_flipped_bit_names_its_piece(bit: int) -> None:
    cipher = ShardCipher(bytes(32))
    sealed = cipher.seal(PLAIN)
    sealed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(ShardCorrupt) as raised:
        cipher.open_pieces(0, sealed)
    assert raised.value.piece == bit // 8 // SEALED_PIECE


def test_a_piece_opens_only_in_its_place(cipher: ShardCipher) -> None:
    sealed = cipher.seal(PLAIN)
    with pytest.raises(ShardCorrupt) as raised:
        cipher.open_pieces(1, sealed[:SEALED_PIECE])
    assert raised.value.piece == 1


def test_a_piece_cut_short_is_corrupt(cipher: ShardCipher) -> None:
    sealed = cipher.seal(PLAIN)
    with pytest.raises(ShardCorrupt) as raised:
        cipher.open_pieces(2, sealed[2 * SEALED_PIECE : -1])
    assert raised.value.piece == 4


def test_the_same_shard_under_two_keys_has_nothing_in_common() -> None:
    one, two = (ShardCipher(bytes([n]) * 32).seal(PLAIN[:PIECE]) for n in (1, 2))
    same = sum(a == b for a, b in zip(one, two, strict=True))
    assert same < PIECE / 100


def test_only_whole_pieces_are_sealed(cipher: ShardCipher) -> None:
    with pytest.raises(ValueError):
        cipher.seal(bytes(PIECE + 1))
