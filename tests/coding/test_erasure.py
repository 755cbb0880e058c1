"""Any k of n blocks give every other back, for any byte range, with and without the accelerator alike."""

import itertools
import logging
import os
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storjfs.coding import erasure
from storjfs.coding.buffers import Buffer
from storjfs.coding.erasure import ErasureCode, generator_matrix

CODES = [(1, 1), (1, 3), (2, 2), (3, 5), (3, 10), (5, 15), (8, 20), (20, 50)]

# The set-up installs ISA-L where it may; where everything is to be tested its absence is a failure.
needs_accelerator = pytest.mark.skipif(
    not ErasureCode(3, 5).accelerated and "CI" not in os.environ, reason="ISA-L is not installed here"
)


@st.composite
def coded(draw: st.DrawFn) -> tuple[ErasureCode, list[bytes]]:
    """A code, accelerated or not, and all blocks of some data by zfec alone."""
    k, n = draw(st.sampled_from(CODES))
    length = draw(st.integers(1, 300))
    data = [os.urandom(length) for _ in range(k)]
    parity = ErasureCode(k, n, accelerate=False).encode(data)
    return ErasureCode(k, n, accelerate=draw(st.booleans())), data + [bytes(block) for block in parity]


@settings(deadline=None)
@given(coded(), st.data())
def test_any_k_blocks_give_back_any_range_of_any_others(
    code_and_blocks: tuple[ErasureCode, list[bytes]], data: st.DataObject
) -> None:
    code, blocks = code_and_blocks
    rows = data.draw(st.permutations(range(code.n)))[: data.draw(st.integers(code.k, code.n))]
    wanted = data.draw(st.lists(st.integers(0, code.n - 1), max_size=5))
    start = data.draw(st.integers(0, len(blocks[0]) - 1))
    end = data.draw(st.integers(start, len(blocks[0])))
    found = code.reconstruct({row: blocks[row][start:end] for row in rows}, wanted)
    assert found == {index: bytearray(blocks[index][start:end]) for index in wanted}


@pytest.mark.parametrize("accelerate", [True, False])
def test_each_choice_of_three_of_five_gives_all_five_back(accelerate: bool) -> None:
    code = ErasureCode(3, 5, accelerate=accelerate)
    data = [os.urandom(1000) for _ in range(3)]
    blocks: list[Buffer] = [*data, *code.encode(data)]
    for rows in itertools.combinations(range(5), 3):
        found = code.reconstruct({row: blocks[row] for row in rows}, range(5))
        assert [found[index] for index in range(5)] == blocks


@needs_accelerator
@pytest.mark.parametrize(("k", "n"), CODES)
@pytest.mark.parametrize("length", [1, 31, 32, 33, 4096, 65536 + 7])
def test_the_accelerator_makes_zfecs_bytes(k: int, n: int, length: int) -> None:
    data = [os.urandom(length) for _ in range(k)]
    fast = ErasureCode(k, n)
    assert fast.accelerated
    assert fast.encode(data) == ErasureCode(k, n, accelerate=False).encode(data)


@pytest.mark.parametrize("accelerate", [True, False])
def test_parity_goes_into_given_blocks_and_any_kind_of_buffer_is_taken(accelerate: bool) -> None:
    code = ErasureCode(3, 5, accelerate=accelerate)
    segment = os.urandom(3 * 500)
    views = [memoryview(segment)[at : at + 500] for at in (0, 500, 1000)]
    room = bytearray(1000)
    code.encode_into(views, [memoryview(room)[:500], memoryview(room)[500:]])
    assert [bytearray(room[:500]), bytearray(room[500:])] == code.encode(views)
    available: dict[int, Buffer] = {1: bytearray(views[1]), 3: memoryview(room)[:500], 4: bytes(room[500:])}
    assert code.reconstruct(available, [0, 2]) == {0: bytearray(views[0]), 2: bytearray(views[2])}
    available.clear()
    room.append(0)  # the code holds no buffer any more, else this could not resize it


def test_empty_blocks_have_empty_parity() -> None:
    code = ErasureCode(3, 5)
    assert code.encode([b"", b"", b""]) == [b"", b""]


@pytest.mark.parametrize(("k", "n"), [(0, 1), (3, 2), (1, 256)])
def test_impossible_codes_are_refused(k: int, n: int) -> None:
    with pytest.raises(ValueError):
        ErasureCode(k, n)


def test_wrong_numbers_lengths_and_indices_are_refused() -> None:
    code = ErasureCode(3, 5)
    with pytest.raises(ValueError):
        code.encode([b"a", b"b"])
    with pytest.raises(ValueError):
        code.encode([b"a", b"b", b"cc"])
    with pytest.raises(ValueError):
        code.encode_into([b"a", b"b", b"c"], [bytearray(1), bytearray(2)])
    with pytest.raises(ValueError):
        code.reconstruct({0: b"a", 1: b"b"}, [2])
    with pytest.raises(ValueError):
        code.reconstruct({0: b"a", 1: b"b", 5: b"c"}, [2])
    with pytest.raises(ValueError):
        code.reconstruct({0: b"a", 1: b"b", 2: b"c"}, [-1])


def test_the_first_rows_of_the_matrix_are_the_data_itself() -> None:
    matrix = generator_matrix(4, 7)
    assert len(matrix) == 28
    assert matrix[:16] == bytes(column == row for row in range(4) for column in range(4))


@pytest.fixture
def fresh_check(monkeypatch: pytest.MonkeyPatch) -> Any:
    erasure._checked_accelerator.cache_clear()
    erasure._library.cache_clear()
    yield monkeypatch
    monkeypatch.undo()
    erasure._checked_accelerator.cache_clear()
    erasure._library.cache_clear()


def test_without_the_library_zfec_does_the_work_and_the_log_says_so(
    fresh_check: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fresh_check.setattr(erasure, "_ISAL", "libno-such-accelerator.so.0")
    with caplog.at_level(logging.WARNING):
        code = ErasureCode(3, 5)
    assert not code.accelerated
    assert "libno-such-accelerator" in caplog.text
    assert code.encode([b"a", b"b", b"c"]) == ErasureCode(3, 5, accelerate=False).encode([b"a", b"b", b"c"])


@needs_accelerator
def test_an_accelerator_that_differs_from_zfec_is_dropped_and_the_log_says_so(
    fresh_check: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def other_code(k: int, n: int) -> bytes:
        matrix = bytearray(generator_matrix(k, n))
        matrix[-1] ^= 1
        return bytes(matrix)

    fresh_check.setattr(erasure, "generator_matrix", other_code)
    with caplog.at_level(logging.WARNING):
        assert not ErasureCode(3, 5).accelerated
    assert "3/5" in caplog.text
