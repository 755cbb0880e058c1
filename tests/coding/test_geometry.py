"""Frames of a run never cross a piece, and arithmetic finds the same frames as going through all of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storjfs.coding.geometry import (
    FRAME_OVERHEAD,
    MIN_FRAME_ROOM,
    PIECE,
    SEALED_PIECE,
    frames_covering,
    place_run,
    run_end,
    run_frames,
    sealed_length,
    segment_capacity,
    shard_length,
)

CAPACITY = 4 * PIECE


@st.composite
def runs(draw: st.DrawFn) -> tuple[int, int]:
    """A run as the allocator makes them, biased to piece boundaries."""
    near = draw(st.sampled_from([0, PIECE, 2 * PIECE])) + draw(st.integers(-4200, 4200))
    filled = draw(st.one_of(st.integers(0, 3 * PIECE), st.just(max(0, near))))
    length = draw(st.one_of(st.integers(1, 5 * PIECE), st.integers(1, 70)))
    pos, fits = place_run(filled, length, 16 * PIECE)
    return pos, fits


@given(runs())
def test_the_frames_of_a_run_are_consecutive_stay_in_their_piece_and_hold_its_bytes(
    run: tuple[int, int],
) -> None:
    pos, length = run
    frames = list(run_frames(pos, length))
    expected = pos
    for at, plain in frames:
        assert at == expected
        assert plain >= 1
        end = at + plain + FRAME_OVERHEAD
        assert at // PIECE == (end - 1) // PIECE
        expected = end
    assert sum(plain for _, plain in frames) == length
    assert run_end(pos, length) == expected


@given(runs())
def test_only_the_last_frame_of_a_run_ends_inside_a_piece(run: tuple[int, int]) -> None:
    for at, plain in list(run_frames(*run))[:-1]:
        assert (at + plain + FRAME_OVERHEAD) % PIECE == 0


def test_an_empty_run_has_no_frames_and_takes_no_room() -> None:
    assert list(run_frames(100, 0)) == []
    assert run_end(100, 0) == 100
    assert place_run(100, 0, PIECE) == (100, 0)
    assert frames_covering(100, 50, 10, 0) == []


@given(st.integers(0, CAPACITY), st.integers(1, 6 * PIECE))
def test_a_placed_run_never_crosses_the_capacity_and_takes_all_that_fits(filled: int, length: int) -> None:
    pos, fits = place_run(filled, length, CAPACITY)
    assert filled <= pos < filled + FRAME_OVERHEAD + MIN_FRAME_ROOM
    assert 0 <= fits <= length
    assert run_end(pos, fits) <= max(CAPACITY, pos)
    if fits < length:
        assert run_end(pos, fits + 1) > CAPACITY


@given(st.integers(0, CAPACITY), st.integers(1, 6 * PIECE))
def test_a_run_moves_to_the_next_piece_only_where_neither_a_page_nor_all_of_it_fits(
    filled: int, length: int
) -> None:
    pos, _ = place_run(filled, length, CAPACITY)
    room = PIECE - filled % PIECE - FRAME_OVERHEAD
    if pos != filled:
        assert pos % PIECE == 0
        assert room < min(length, MIN_FRAME_ROOM)
    else:
        assert room >= min(length, MIN_FRAME_ROOM)


@given(st.lists(st.integers(1, 3 * PIECE), max_size=30))
def test_runs_placed_one_after_the_other_do_not_overlap(lengths: list[int]) -> None:
    filled = 0
    for length in lengths:
        pos, fits = place_run(filled, length, CAPACITY)
        assert pos >= filled
        if not fits:
            break
        filled = run_end(pos, fits)
    assert filled <= CAPACITY


@given(runs(), st.data())
def test_covering_frames_are_those_that_iteration_finds(run: tuple[int, int], data: st.DataObject) -> None:
    pos, length = run
    skip = data.draw(st.integers(0, length - 1))
    count = data.draw(st.integers(1, length - skip))
    found = []
    start = 0
    for at, plain in run_frames(pos, length):
        low, high = max(skip, start), min(skip + count, start + plain)
        if low < high:
            found.append((at, plain, low - start, high - start))
        start += plain
    assert frames_covering(pos, length, skip, count) == found


@pytest.mark.parametrize("k", range(1, 21))
def test_a_full_segment_divides_into_k_shards_of_whole_pieces(k: int) -> None:
    capacity = segment_capacity(k)
    assert capacity <= 32 << 20
    assert capacity % (k * PIECE) == 0
    assert shard_length(capacity, k) * k == capacity
    assert capacity == k * 4 << 20 if k <= 8 else capacity > (32 << 20) - k * PIECE


@given(st.integers(0, 32 << 20), st.integers(1, 20))
def test_k_shards_hold_the_segment_and_none_is_longer_than_needed(size: int, k: int) -> None:
    length = shard_length(size, k)
    assert length % PIECE == 0
    assert length * k >= size
    assert length == PIECE or (length - PIECE) * k < size
    assert sealed_length(length) == length // PIECE * SEALED_PIECE
