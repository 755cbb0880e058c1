"""What the cache gives up first: never in favour of what is read once."""

import random
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

import trio
from hypothesis import given
from hypothesis import strategies as st

from storjfs.coding.geometry import PIECE
from storjfs.segments.cached import CachedFiles
from storjfs.segments.descriptors import Descriptors
from storjfs.segments.eviction import LOOKED_AT, Eviction, least_wanted
from storjfs.segments.files import byte_ranges
from storjfs.segments.folders import Folders
from storjfs.segments.order import MOST_COUNTED, Entry, Order
from tests.segments.conftest import Volume, until

MIB = 1 << 20
PIECES = 16
"""Of a segment in the simulation."""

Access = tuple[int, int]
"""Segment and piece."""


class Lru:
    """What is compared with: exact LRU of single pieces."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._pieces: OrderedDict[Access, None] = OrderedDict()

    def access(self, segment: int, piece: int) -> bool:
        hit = (segment, piece) in self._pieces
        self._pieces[segment, piece] = None
        self._pieces.move_to_end((segment, piece))
        if len(self._pieces) > self._capacity:
            self._pieces.popitem(last=False)
        return hit


class Simulated:
    """A cache of `capacity` pieces that follows the order, with bits in place of files."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self.order = Order(capacity * PIECE // 10, capacity // 20)
        self.present: dict[bytes, int] = {}
        self._entries: dict[bytes, Entry] = {}
        self.used = 0

    def access(self, segment: int, piece: int) -> bool:
        name = segment.to_bytes(16, "big")
        hit = bool(self.present.get(name, 0) >> piece & 1)
        if not hit:
            self._insert(name, 1 << piece)
        self.order.reference(self._entries[name], piece, 1)
        while self.used > self._capacity:
            self._evict()
        return hit

    def _insert(self, name: bytes, mask: int) -> None:
        if name not in self._entries:
            self._entries[name] = Entry(name)
            self.order.add(self._entries[name])
        self._set(name, self.present.get(name, 0) | mask)

    def _set(self, name: bytes, present: int) -> None:
        self.used += present.bit_count() - self.present.get(name, 0).bit_count()
        self.present[name] = present
        self.order.resize(self._entries[name], present.bit_count() * PIECE)

    def _evict(self) -> None:
        visit = self.order.visit()
        assert visit is not None
        name = visit.entry.segment_id
        present = self.present[name]
        if visit.keep:
            self._set(name, present & visit.entry.read if visit.entry.read else present)
            visit.entry.read = 0
            return
        chosen = least_wanted(present, visit.entry.read, self.used - self._capacity)
        if chosen != present:
            self._set(name, present & ~chosen)
            return
        self.used -= present.bit_count()
        self.order.give_up(visit.entry)
        del self.present[name], self._entries[name]


def hit_rate(cache: Lru | Simulated, accesses: list[Access]) -> float:
    return sum(cache.access(*access) for access in accesses) / len(accesses)


def zipf(rng: random.Random, segments: int, count: int) -> Iterator[Access]:
    """Segments by a power law, the popular ones anywhere; pieces evenly."""
    names = list(range(segments))
    rng.shuffle(names)
    weights = [1 / (rank + 1) for rank in range(segments)]
    for segment in rng.choices(names, weights, k=count):
        yield segment, rng.randrange(PIECES)


def scan(first: int, segments: int) -> list[Access]:
    return [(segment, piece) for segment in range(first, first + segments) for piece in range(PIECES)]


def test_one_pass_over_four_times_the_cache_leaves_what_is_in_use() -> None:
    rng = random.Random(4)
    capacity = 200 * PIECES
    ours, lru = Simulated(capacity), Lru(capacity)
    for cache in (ours, lru):
        hit_rate(cache, list(zipf(random.Random(5), 1000, 60_000)))
        hit_rate(cache, scan(5000, 800))
    after = list(zipf(random.Random(5), 1000, 1000))
    rng.shuffle(after)
    assert hit_rate(ours, after) > hit_rate(lru, after) + 0.2


def test_scans_in_between_cost_little() -> None:
    capacity = 200 * PIECES
    accesses: list[Access] = []
    counted: list[bool] = []
    rng = random.Random(6)
    for number in range(12):
        some = list(zipf(random.Random(7), 600, 5000))
        rng.shuffle(some)
        accesses += some
        counted += [True] * len(some)
        once = scan(10_000 + 300 * number, 300)
        accesses += once
        counted += [False] * len(once)
    rates = []
    for cache in (Simulated(capacity), Lru(capacity)):
        hits = [cache.access(*access) for access in accesses]
        rates.append(sum(hit for hit, wanted in zip(hits, counted, strict=True) if wanted) / sum(counted))
    assert rates[0] > rates[1] + 0.15


def test_without_scans_it_is_no_worse_than_lru() -> None:
    capacity = 200 * PIECES
    accesses = list(zipf(random.Random(8), 1000, 80_000))
    assert hit_rate(Simulated(capacity), accesses) > hit_rate(Lru(capacity), accesses) - 0.03


def test_a_working_set_that_changes_is_followed() -> None:
    capacity = 200 * PIECES
    cache = Simulated(capacity)
    hit_rate(cache, list(zipf(random.Random(9), 150, 60_000)))
    moved = [(segment + 7000, piece) for segment, piece in zipf(random.Random(10), 150, 60_000)]
    hit_rate(cache, moved[:40_000])
    assert hit_rate(cache, moved[40_000:]) > 0.8


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, PIECES - 1)), max_size=400))
def test_the_limit_holds_and_everything_can_be_given_up(accesses: list[Access]) -> None:
    cache = Simulated(40)
    for access in accesses:
        cache.access(*access)
        assert cache.used <= 40
        assert cache.used == sum(present.bit_count() for present in cache.present.values())
        assert len(cache.order) == len(cache.present)
    steps = 0
    while cache.used:
        cache._capacity = 0
        cache._evict()
        steps += 1
        assert steps < 40 * 6
    assert cache.order.visit() is None


@given(st.integers(0, (1 << 64) - 1), st.integers(0, (1 << 64) - 1), st.integers(0, 70))
def test_pieces_that_were_read_go_first(present: int, read: int, count: int) -> None:
    chosen = least_wanted(present, read, count)
    assert chosen & ~present == 0
    assert chosen.bit_count() == min(count, present.bit_count())
    if chosen & ~read:
        assert present & read & ~chosen == 0
    covered = 0
    for start, length in byte_ranges(chosen):
        covered |= ((1 << length // PIECE) - 1) << start // PIECE
    assert covered == chosen


def entries(count: int) -> list[Entry]:
    made = [Entry(number.to_bytes(16, "big")) for number in range(count)]
    for entry in made:
        entry.size = PIECE
    return made


def test_the_order_comes_back_after_a_restart() -> None:
    before, after = Order(2 * PIECE, 0), Order(2 * PIECE, 0)
    known = entries(6)
    for entry in known:
        before.add(entry)
    for number in (1, 3):
        before.reference(known[number], 0, 1)
    for _ in range(2):
        visit = before.visit()
        assert visit is not None
        if not visit.keep:
            before.give_up(visit.entry)
    packed = before.pack()
    # Number 0 was given up, 1 has moved to the main queue; 9 came after the order was written.
    found = [*entries(6)[1:], *entries(10)[9:]]
    after.restore(packed, found)
    assert after.pack()[: len(packed)] == packed
    assert len(after) == 6
    assert [entry.main for entry in found] == [True, False, False, False, False, False]
    again = Entry(bytes(16))
    after.add(again)
    assert again.main


@given(st.binary(max_size=100))
def test_an_order_that_cannot_be_understood_is_ignored(packed: bytes) -> None:
    order = Order(PIECE, 1)
    order.restore(b"storjfs order 1\n" + packed, entries(3))
    assert len(order) == 3
    order.restore(packed, [Entry(b"x" * 16)])
    assert len(order) == 4


# --- with files ---


async def hot_and_cold(volume: Volume) -> tuple[int, int]:
    """Twelve MiB that were read twice, some time apart, and 100 MiB that were not; the runs of each."""
    volume.farm.scheme = (1, 2)
    volume.limit = 48 * MIB
    async with volume.running() as segments:
        for _ in range(112):
            volume.append_random(MIB)
            await segments.room()
        await segments.flush()
        await until(lambda: not segments._cache.unsent, volume.store)
    volume.drop_cache()
    return 12, 112


async def read_runs(volume: Volume, first: int, last: int) -> int:
    """How many requests to farmers that took."""
    before = volume.farm.gets()
    for run, data in list(volume.written.items())[first:last]:
        assert await volume.read(run) == data
    return volume.farm.gets() - before


async def test_a_file_in_use_outlasts_a_pass_over_twice_the_cache(volume: Volume) -> None:
    hot, end = await hot_and_cold(volume)
    async with volume.running():
        assert await read_runs(volume, 0, hot) > 0
        await read_runs(volume, hot, hot + 14)
        assert await read_runs(volume, 0, hot) == 0
        assert await read_runs(volume, hot + 14, end) > 80
        assert await read_runs(volume, 0, hot) == 0


async def test_the_cache_is_warm_and_in_order_after_a_restart(volume: Volume) -> None:
    hot, end = await hot_and_cold(volume)
    async with volume.running():
        for part in ((0, hot), (hot, hot + 14), (0, hot), (hot + 14, end - 20)):
            await read_runs(volume, *part)
    async with volume.running():
        assert await read_runs(volume, 0, hot) == 0
    async with volume.running():
        await read_runs(volume, end - 20, end)
        assert await read_runs(volume, 0, hot) == 0


def replace_order(volume: Volume, content: bytes | None) -> None:
    order: Path = volume.cache / "order"
    if content is None:
        order.unlink()
    else:
        order.write_bytes(content)


async def test_without_its_order_the_cache_is_warm_all_the_same(volume: Volume) -> None:
    hot, _ = await hot_and_cold(volume)
    async with volume.running():
        await read_runs(volume, 0, hot)
    for content in (b"not an order at all", None):
        replace_order(volume, content)
        async with volume.running():
            assert await read_runs(volume, 0, hot) == 0


async def test_looking_for_something_to_give_up_lets_others_run(tmp_path: Path) -> None:
    """Where everything was read again and again, all of it gets another round before anything goes."""
    folders = Folders(tmp_path / "journal", tmp_path / "cache")
    folders.make()
    cached = CachedFiles(folders, Order(0, 1), Descriptors())
    ids = [number.to_bytes(16, "big") for number in range(4 * LOOKED_AT)]
    cached.found((segment_id, PIECE) for segment_id in ids)
    for segment_id in ids:
        file = cached.get(segment_id)
        assert file is not None
        file.entry.again = MOST_COUNTED
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    enough = cached.used - PIECE
    seen: list[int] = []

    def wanted() -> int:
        seen.append(turns)
        return cached.used - enough

    async with trio.open_nursery() as nursery:
        nursery.start_soon(others)
        assert await Eviction(cached, cached.opened).give_up(wanted) > 0
        nursery.cancel_scope.cancel()
    assert len(seen) > 4
    # Which of two tasks that could run runs first is up to chance, once.
    assert all(later > earlier for earlier, later in zip(seen, seen[2:], strict=False))
