"""Pieces of segments on their way from farmers: what is asked for once serves all, and what is read ahead."""

import logging
import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Final

import trio

from storjfs.coding.buffers import Buffer
from storjfs.coding.geometry import PIECE, frames_covering
from storjfs.segments.cache import Cache
from storjfs.segments.catalogue import Catalogue
from storjfs.segments.fetch import Fetcher
from storjfs.segments.files import LocalFile, pieces_of, write_all
from storjfs.segments.race import INLINE
from storjfs.segments.records import Segment, shard_pieces
from storjfs.segments.values import Part, SegmentDamaged, SegmentUnreadable

_LOG = logging.getLogger(__name__)

LARGEST_FETCH: Final = 16
"""Pieces of one range request."""
MOST_PREFETCH: Final = 32 << 20
"""Bytes on their way because of `prefetch`."""
STALE_PREFETCH: Final = 5.0
"""Seconds after which one that nobody waits for gives way to newer ones."""
MOST_KEPT: Final = 8 << 20
"""Bytes of fetched pieces kept in memory because the cache had no room for them."""


class Fetch:
    """Pieces of a segment on their way. `done` is set with either `data` or `failed`.

    `failed` says why, and is no exception: one would lead to whoever has this at hand, and so to itself.
    """

    __slots__ = ("count", "data", "done", "failed", "first", "prefetch", "scope", "seg", "started", "waiting")

    def __init__(self, seg: int, first: int, count: int, *, prefetch: bool) -> None:
        self.seg = seg
        self.first = first
        self.count = count
        self.prefetch = prefetch
        self.data: Buffer | None = None
        self.failed = ""
        self.done = trio.Event()
        self.waiting = 0
        self.started = trio.current_time()
        self.scope = trio.CancelScope()

    def covers(self, first: int, count: int) -> bool:
        """Whether these pieces are all among its own."""
        return self.first <= first and first + count <= self.first + self.count


class Pieces:
    """Sealed pieces of segments, fetched as far as they are not here, and kept in the cache.

    Methods belong to the loop's thread; `run` owns the fetches.
    """

    def __init__(
        self, catalogue: Catalogue, cache: Cache, fetcher: Fetcher, threads: trio.CapacityLimiter
    ) -> None:
        self._catalogue = catalogue
        self._cache = cache
        self._fetcher = fetcher
        self._threads = threads
        self._flying: dict[int, Fetch] = {}
        self._prefetching: OrderedDict[Fetch, None] = OrderedDict()
        self._prefetch_bytes = 0
        self._kept: OrderedDict[int, Buffer] = OrderedDict()
        self._nursery: trio.Nursery | None = None
        fetcher.has, fetcher.local, fetcher.caught = self._has, self._local_row, self._caught

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Own the fetches until cancelled; waiting reads are then cancelled or fail."""
        try:
            async with trio.open_nursery() as self._nursery:
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._nursery = None
            for fetch in set(self._flying.values()):
                fetch.failed = "the drive is being unmounted"
                fetch.done.set()
            self._flying.clear()

    async def get(self, segment: Segment, first: int, count: int) -> memoryview:
        """The sealed pieces `[first, first + count)` of a segment that the caller has pinned.

        Raises SegmentUnreadable. Cancelled, it gives up the fetches that nobody else waits for.
        """
        if segment.k == 0 or (segment.unsent and not self._catalogue.held(segment)):
            raise SegmentDamaged(segment.seg, "its local file is missing or damaged; no farmer has it yet")
        file = self._cache.find(segment)
        if file is not None and (file.unsent or not self._cache.opened(file)):
            file = None
        fetches: list[Fetch] = []
        for low, pieces in _absent(file, first, count):
            fetches += [
                one for one in self._start(segment, low, pieces, prefetch=False) if one not in fetches
            ]
        for fetch in fetches:
            fetch.waiting += 1
        out: memoryview | None = None
        try:
            if len(fetches) != 1 or not fetches[0].covers(first, count):
                out = await self._local_pieces(segment, file, first, count)
            for fetch in fetches:
                await fetch.done.wait()
                if fetch.failed:
                    raise SegmentUnreadable(fetch.seg, fetch.failed)
        finally:
            for fetch in fetches:
                fetch.waiting -= 1
                if not fetch.waiting and not fetch.prefetch and not fetch.done.is_set():
                    self._give_up(fetch)
        if out is None:
            whole = fetches[0]
            assert whole.data is not None
            return memoryview(whole.data)[
                (first - whole.first) * PIECE : (first - whole.first + count) * PIECE
            ]
        for fetch in fetches:
            assert fetch.data is not None
            low, high = max(first, fetch.first), min(first + count, fetch.first + fetch.count)
            source = memoryview(fetch.data)[(low - fetch.first) * PIECE : (high - fetch.first) * PIECE]
            out[(low - first) * PIECE : (high - first) * PIECE] = source
        return out

    async def from_others(self, segment: Segment, first: int, count: int) -> memoryview:
        """The same without the shards that they lie in, decoded from the others; nothing of it is kept."""
        parts = [
            await self._fetcher.rows(segment, idx, at, pieces, avoid=(idx,), trust_local=False)
            for idx, at, pieces in ranges_of(segment, first, count)
        ]
        return memoryview(b"".join(parts))

    async def _local_pieces(
        self, segment: Segment, file: LocalFile | None, first: int, count: int
    ) -> memoryview:
        """Room for the pieces, filled with what the local file has of them."""
        out = memoryview(bytearray(count * PIECE))
        if file is None or not (file.present or 0) >> first & ((1 << count) - 1):
            return out
        file.users += 1
        try:
            await trio.to_thread.run_sync(os.preadv, file.fd, [out], first * PIECE, limiter=self._threads)
        except OSError as error:
            _LOG.warning("local data of segment %d cannot be read: %s", segment.seg, error)
        finally:
            file.users -= 1
        return out

    def _start(self, segment: Segment, first: int, count: int, *, prefetch: bool) -> list[Fetch]:
        """The fetches that cover these pieces: those under way, and new ones for the rest."""
        fetches: list[Fetch] = []
        base = segment.seg << 10
        for at, pieces in self._unfetched(segment, first, count, fetches):
            for low, size in _cut(at, pieces, shard_pieces(segment)):
                fetch = Fetch(segment.seg, low, size, prefetch=prefetch)
                kept = self._kept_pieces(segment, fetch)
                if kept is not None:
                    fetch.data = kept
                    fetch.done.set()
                    fetches.append(fetch)
                    continue
                if self._nursery is None:
                    raise SegmentUnreadable(segment.seg, "the drive is being unmounted")
                for piece in range(low, low + fetch.count):
                    self._flying[base + piece] = fetch
                fetches.append(fetch)
                pin = ExitStack()
                pin.enter_context(self._catalogue.pinned(segment))
                self._nursery.start_soon(self._fetch, segment, fetch, pin)
        return fetches

    def _unfetched(
        self, segment: Segment, first: int, count: int, fetches: list[Fetch]
    ) -> Iterator[tuple[int, int]]:
        """Gaps that no fetch covers, within one shard each; adds the fetches that cover the rest."""
        base = segment.seg << 10
        per_shard = shard_pieces(segment)
        piece, end = first, first + count
        while piece < end:
            fetch = self._flying.get(base + piece)
            if fetch is not None:
                if fetch not in fetches:
                    fetches.append(fetch)
                piece = fetch.first + fetch.count
                continue
            start = piece
            piece += 1
            while piece < end and piece % per_shard and base + piece not in self._flying:
                piece += 1
            yield start, piece - start

    async def _fetch(self, segment: Segment, fetch: Fetch, pin: ExitStack) -> None:
        """`pin` holds the segment from before this starts: prefetch looks at others meanwhile."""
        with pin:
            try:
                with fetch.scope:
                    ((idx, first, count),) = ranges_of(segment, fetch.first, fetch.count)
                    fetch.data = await self._fetcher.rows(
                        segment, idx, first, count, waited_for=lambda: fetch.waiting > 0
                    )
                    fetch.done.set()
                    if not await self._cache_pieces(segment, fetch):
                        self._keep(fetch)
            except SegmentUnreadable as error:
                fetch.failed = error.reason
            except Exception as error:
                # Whoever waits is told; a defect or a failing disk must not end the mount.
                _LOG.exception("fetching pieces of segment %d failed", segment.seg)
                fetch.failed = str(error) or type(error).__name__
            finally:
                self._landed(fetch)
                if fetch.data is None and not fetch.failed:
                    fetch.failed = "the read was given up"
                fetch.done.set()

    def _give_up(self, fetch: Fetch) -> None:
        """Nobody needs it any more; who comes later starts anew."""
        self._landed(fetch)
        fetch.scope.cancel()

    def _landed(self, fetch: Fetch) -> None:
        base = fetch.seg << 10
        for piece in range(fetch.first, fetch.first + fetch.count):
            if self._flying.get(base + piece) is fetch:
                del self._flying[base + piece]
        if fetch in self._prefetching:
            del self._prefetching[fetch]
            self._prefetch_bytes -= fetch.count * PIECE

    # --- for decodes ---

    def _has(self, segment: Segment, first: int, count: int) -> bool:
        file = self._cache.find(segment)
        return file is not None and not file.unsent and file.has(first, count)

    async def _local_row(self, segment: Segment, first: int, count: int) -> Buffer | None:
        file = self._cache.find(segment)
        if file is None or not self._has(segment, first, count) or not self._cache.opened(file):
            return None
        out = bytearray(count * PIECE)
        file.users += 1
        try:
            await trio.to_thread.run_sync(os.preadv, file.fd, [out], first * PIECE, limiter=self._threads)
        except OSError as error:
            _LOG.info("local data of segment %d cannot be read: %s", segment.seg, error)
            return None
        finally:
            file.users -= 1
        return out

    def _caught(self, segment: Segment, first: int, data: Buffer) -> None:
        """Put pieces into the cache that nobody has asked for yet, unless they are on their way."""
        base = segment.seg << 10
        count = min(len(data) // PIECE, -(-segment.size // PIECE) - first)
        asked = any(base + piece in self._flying for piece in range(first, first + count))
        if self._nursery is None or count <= 0 or asked or self._has(segment, first, count):
            return
        fetch = Fetch(segment.seg, first, count, prefetch=False)
        fetch.data = data
        pin = ExitStack()
        pin.enter_context(self._catalogue.pinned(segment))
        self._nursery.start_soon(self._keep_caught, segment, fetch, pin)

    async def _keep_caught(self, segment: Segment, fetch: Fetch, pin: ExitStack) -> None:
        with pin:
            await self._cache_pieces(segment, fetch)

    async def _cache_pieces(self, segment: Segment, fetch: Fetch) -> bool:
        size = fetch.count * PIECE
        file = await self._cache.writable(segment, size)
        if file is None:
            return False
        written = False
        try:
            assert fetch.data is not None
            start = fetch.first * PIECE
            data = memoryview(fetch.data)[: segment.size - start]
            if fetch.count <= INLINE:
                write_all(file.fd, data, start)
            else:
                await trio.to_thread.run_sync(write_all, file.fd, data, start, limiter=self._threads)
            written = True
        except OSError as error:
            _LOG.info("fetched data is not cached: %s", error)
        finally:
            self._cache.filled(file, fetch.first, fetch.count, size, written=written)
        return written

    def _keep(self, fetch: Fetch) -> None:
        assert fetch.data is not None
        view = memoryview(fetch.data)
        for number in range(fetch.count):
            self._kept[(fetch.seg << 10) + fetch.first + number] = view[number * PIECE : (number + 1) * PIECE]
        while len(self._kept) * PIECE > MOST_KEPT:
            self._kept.popitem(last=False)

    def _kept_pieces(self, segment: Segment, fetch: Fetch) -> Buffer | None:
        base = segment.seg << 10
        keys = range(base + fetch.first, base + fetch.first + fetch.count)
        if not self._kept or not all(key in self._kept for key in keys):
            return None
        return b"".join(self._kept[key] for key in keys)

    # --- read-ahead ---

    def prefetch(self, parts: Sequence[Part]) -> None:
        """Start bringing these parts here. Never waits or fails; what exceeds the budget is left out."""
        if self._nursery is None:
            return
        for seg, first, count in merged(parts):
            try:
                segment = self._catalogue.get(seg)
            except SegmentUnreadable:
                continue
            if segment.unsent or segment.k == 0:
                continue
            file = self._cache.find(segment)
            for low, pieces in _absent(file, first, count):
                if not self._budget(pieces * PIECE):
                    return
                for fetch in self._start(segment, low, pieces, prefetch=True):
                    if fetch.prefetch and fetch not in self._prefetching and not fetch.done.is_set():
                        self._prefetching[fetch] = None
                        self._prefetch_bytes += fetch.count * PIECE

    def _budget(self, size: int) -> bool:
        now = trio.current_time()
        while self._prefetch_bytes + size > MOST_PREFETCH and self._prefetching:
            oldest = next(iter(self._prefetching))
            if oldest.waiting or now - oldest.started < STALE_PREFETCH:
                return False
            self._give_up(oldest)
        return True


def ranges_of(segment: Segment, first: int, count: int) -> list[tuple[int, int, int]]:
    """Segment pieces as (index of the shard, first piece in it, number of pieces)."""
    per_shard = shard_pieces(segment)
    ranges = []
    end = first + count
    while first < end:
        idx, at = divmod(first, per_shard)
        pieces = min(end - first, per_shard - at)
        ranges.append((idx, at, pieces))
        first += pieces
    return ranges


def merged(parts: Sequence[Part]) -> list[tuple[int, int, int]]:
    """The pieces that `parts` lie in as (seg, first, count), in their order, neighbours joined."""
    found: list[tuple[int, int, int]] = []
    for part in parts:
        frames = frames_covering(part.pos, part.run, part.skip, part.length)
        if not frames:
            continue
        first, count = pieces_of(frames)
        if found:
            seg, start, known = found[-1]
            if seg == part.seg and start <= first <= start + known:
                found[-1] = (seg, start, max(known, first + count - start))
                continue
        found.append((part.seg, first, count))
    return found


def _absent(file: LocalFile | None, first: int, count: int) -> Iterator[tuple[int, int]]:
    """The runs of pieces within `[first, first + count)` that `file` has not."""
    if file is None:
        yield first, count
        return
    piece, end = first, first + count
    while piece < end:
        if file.has(piece, 1):
            piece += 1
            continue
        start = piece
        while piece < end and not file.has(piece, 1):
            piece += 1
        yield start, piece - start


def _cut(first: int, count: int, per_shard: int) -> Iterator[tuple[int, int]]:
    """Ranges of LARGEST_FETCH pieces at most, of `count` within one shard; cut at the same places in every
    shard, so that a decode and reads of the other rows want the same."""
    end = first + count
    while first < end:
        size = min(LARGEST_FETCH - first % per_shard % LARGEST_FETCH, end - first)
        yield first, size
        first += size
