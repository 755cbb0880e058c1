"""Extents of a window behave like an array of bytes."""

from hypothesis import given
from hypothesis import strategies as st

from storjfs.filesystem.windows import WINDOW, WINDOW_BITS, Extent, covering, place, splice
from storjfs.segments import Run

SIZE = 200


def origins(extents: list[Extent]) -> list[tuple[int, int, int] | None]:
    """For each byte of the window: which byte of which run it is."""
    found: list[tuple[int, int, int] | None] = [None] * SIZE
    for off, length, seg, pos, run, skip in extents:
        assert length > 0
        assert skip >= 0
        assert skip + length <= run
        for n in range(length):
            assert found[off + n] is None, "extents overlap"
            found[off + n] = (seg, pos, skip + n)
    return found


ranges = st.tuples(st.integers(0, SIZE - 1), st.integers(1, SIZE)).map(
    lambda r: (r[0], min(r[0] + r[1], SIZE))
)


@given(st.lists(st.tuples(ranges, st.booleans()), max_size=30))
def test_splicing_is_overwriting(steps: list[tuple[tuple[int, int], bool]]) -> None:
    extents: list[Extent] = []
    model: list[tuple[int, int, int] | None] = [None] * SIZE
    rows: dict[int, Extent] = {}
    for number, ((start, end), writes) in enumerate(steps):
        new = [(start, end - start, 7, number * 1000, end - start, 0)] if writes else []
        removed, added = splice(extents, start, end, new)
        for n in range(start, end):
            model[n] = (7, number * 1000, n - start) if writes else None
        assert origins(extents) == model
        assert extents == sorted(extents)
        for extent in removed:
            assert rows.pop(extent[0]) == extent
        for extent in added:
            assert extent[0] not in rows
            rows[extent[0]] = extent
        assert sorted(rows.values()) == extents


@given(st.lists(ranges, max_size=12), ranges)
def test_covering_finds_every_byte_that_is_not_a_hole(
    writes: list[tuple[int, int]], asked: tuple[int, int]
) -> None:
    extents: list[Extent] = []
    for number, (start, end) in enumerate(writes):
        splice(extents, start, end, [(start, end - start, 7, number * 1000, end - start, 0)])
    found: list[tuple[int, int, int] | None] = [None] * SIZE
    last = asked[0]
    for off, part in covering(extents, *asked):
        assert last <= off
        last = off + part.length
        for n in range(part.length):
            found[off + n] = (part.seg, part.pos, part.skip + n)
    assert last <= asked[1]
    assert found[asked[0] : asked[1]] == origins(extents)[asked[0] : asked[1]]


@given(st.integers(0, 3 * WINDOW), st.lists(st.integers(1, 2 * WINDOW), min_size=1, max_size=4))
def test_placed_runs_follow_each_other_and_never_cross_a_window(off: int, lengths: list[int]) -> None:
    runs = [Run(seg, 64 * seg, length) for seg, length in enumerate(lengths)]
    at = off
    taken = dict.fromkeys(range(len(runs)), 0)
    for index, several in place(off, runs):
        for start, length, seg, pos, run, skip in several:
            assert start == at
            assert start >> WINDOW_BITS == (start + length - 1) >> WINDOW_BITS == index
            assert (pos, run, skip) == (64 * seg, lengths[seg], taken[seg])
            taken[seg] += length
            at += length
    assert taken == dict(enumerate(lengths))
