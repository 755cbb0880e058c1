"""Byte ranges of shards from farmers: the one that has them, or any k others and a decode of only that range.

A slow farmer is not waited for to a timeout: after the time it usually takes, others are asked as well and
the first complete answer wins; one that lags is not asked where others can do without it. What a decode needs
is taken from the local copy and from what is on its way to others as far as it is there, and what it brings
along is kept: so reading a file around a farmer moves no more bytes than reading it from all. A piece that
does not prove itself is pinned to its farmer and never used.
"""

import functools
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection
from typing import Final

import trio

from storjfs.coding.buffers import Buffer
from storjfs.coding.erasure import ErasureCode
from storjfs.coding.geometry import PIECE, SEALED_PIECE
from storjfs.coding.shards import ShardCipher, ShardCorrupt
from storjfs.errors import StorjfsError
from storjfs.keys import VolumeKeys
from storjfs.renter.errors import FarmerUnavailable, ShardMissing
from storjfs.renter.speed import Way
from storjfs.segments.catalogue import Catalogue
from storjfs.segments.flights import Flights
from storjfs.segments.records import Segment, Shard
from storjfs.segments.values import Placement, SegmentUnreadable

_LOG = logging.getLogger(__name__)

INLINE: Final = 2
"""Pieces up to which opening or decoding is done on the loop: a thread would cost more."""
SHORTEST_HEDGE: Final = 0.03
HEDGE_AFTER_USUAL: Final = 2.0
"""Times a farmer's usual latency that a read waits before it asks others."""
HEDGE_AFTER_TYPICAL: Final = 3.0
"""Times what such ranges take of late, whoever is asked: when all are slow, asking more only adds to it."""
MOST_HEDGES: Final = 8
OUTAGE: Final = 30.0
"""Seconds for which a read waits for farmers that do not answer, unless the mount says otherwise."""
ASK_AGAIN: Final = 0.25
"""Seconds until they are asked again, at first; the pause doubles up to LAST_PAUSE."""
LAST_PAUSE: Final = 2.0
SHORT_OUTAGE: Final = 5.0
"""Seconds for which one is waited for that was silent for a whole outage before; twice as long each time."""
MOST_NOTED: Final = 256
BY_CATCH: Final = 4
"""Pieces from which on a range is part of a longer read, which will want what comes along with it."""
PATIENCE: Final = 2.0
"""Seconds for which what nobody waits for is not hedged."""


@functools.cache
def erasure_code(k: int, n: int) -> ErasureCode:
    """The code, checked once per process."""
    return ErasureCode(k, n)


class Fetcher:
    """Fetches rows of segments: `rows(segment, idx, first, count)`.

    `faulty(shard, error)` is told which farmer failed; the catalogue has noted it already. `back` is called
    when one answers again; it, or somebody else, then calls `farmers_changed`. `threads` bounds
    the worker threads used for opening and decoding. `outage`: seconds for which farmers may be silent before
    a read fails, infinity for a read that waits until they are back.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        placement: Placement,
        keys: VolumeKeys,
        threads: trio.CapacityLimiter,
        *,
        outage: float = OUTAGE,
        faulty: Callable[[Shard, StorjfsError], None] = lambda shard, error: None,
        back: Callable[[], None] = lambda: None,
    ) -> None:
        self._tell_back = back
        self._outage = outage
        self._asked: dict[int, set[trio.CancelScope]] = {}
        self._silent: dict[int, int] = {}
        """Contracts whose farmers did not answer last; how often in a row they were waited for in vain."""
        self._out_of_reach: OrderedDict[int, float] = OrderedDict()
        """Segments and since when reads of them fail: who reads again does not wait all over again."""
        self._back = trio.Event()
        self._catalogue = catalogue
        self._placement = placement
        self._shard_key = keys.shard_key
        self._threads = threads
        self._faulty = faulty
        self._typical = 0.0
        self._hedges = 0
        self._flights = Flights()
        self.has: Callable[[Segment, int, int], bool] = lambda segment, first, count: False
        """has(segment, first, count): whether these pieces of a segment are in its local copy."""
        self.local: Callable[[Segment, int, int], Awaitable[Buffer | None]] = _nothing
        """local(segment, first, count): these pieces, sealed as frames, from there; None where that fails."""
        self.caught: Callable[[Segment, int, Buffer], None] = lambda segment, first, data: None
        """Called with pieces from `first` on that came along and were not asked for."""

    async def shard(self, segment: Segment, shard: Shard, first: int, count: int) -> Buffer:
        """The unsealed pieces `[first, first + count)` of one shard, from its farmer.

        Raises ShardCorrupt (noted as lost), ShardMissing (likewise), or what the renter's `get` raises;
        FarmerUnavailable too after `outage` seconds without an answer from this farmer, to whomever.
        """

        async def ask() -> Buffer:
            return await self._from_farmer(segment, shard, first, count)

        return await self._flights.get(shard.shard_id, first, count, ask)

    async def _from_farmer(self, segment: Segment, shard: Shard, first: int, count: int) -> Buffer:
        try:
            sealed = await self._get(shard, first * SEALED_PIECE, count * SEALED_PIECE)
            if len(sealed) != count * SEALED_PIECE:
                raise ShardCorrupt(first + len(sealed) // SEALED_PIECE)
            cipher = ShardCipher(self._shard_key(shard.shard_id))
            if count <= INLINE:
                return cipher.open_pieces(first, sealed)
            return await trio.to_thread.run_sync(cipher.open_pieces, first, sealed, limiter=self._threads)
        except (ShardCorrupt, ShardMissing) as error:
            _LOG.warning(
                "shard %d of segment %d under contract %d: %s", shard.idx, segment.seg, shard.contract, error
            )
            if shard in self._catalogue.shards(segment):
                self._catalogue.shard_lost(segment, shard)
                self._faulty(shard, error)
            raise

    async def _get(self, shard: Shard, offset: int, length: int) -> Buffer:
        contract = shard.contract
        asked = self._asked.setdefault(contract, set())
        patience = self._patience(contract)
        scope = trio.CancelScope(deadline=trio.current_time() + patience)
        asked.add(scope)
        try:
            with scope:
                sealed = await self._placement.get(contract, shard.shard_id, offset, length)
                self._answered(contract)
                return sealed
        except FarmerUnavailable:
            self._silent.setdefault(contract, 0)
            raise
        finally:
            asked.discard(scope)
        self._silent[contract] = self._silent.get(contract, 0) + 1
        raise FarmerUnavailable(f"no answer under contract {contract} for {patience:.3g} s")

    def _patience(self, contract: int) -> float:
        cuts = self._silent.get(contract, 0)
        return min(self._outage, SHORT_OUTAGE * 2.0 ** (cuts - 1)) if cuts else self._outage

    def _answered(self, contract: int) -> None:
        # Others that wait for this farmer may just stand in a queue.
        for other in self._asked[contract]:
            other.deadline = max(other.deadline, trio.current_time() + self._outage)
        if self._silent.pop(contract, None) is not None:
            self._tell_back()

    def farmers_changed(self) -> None:
        """Farmers came or came back: reads that wait for them ask again now."""
        self._silent.clear()
        self._out_of_reach.clear()
        self._back.set()
        self._back = trio.Event()

    async def rows(
        self,
        segment: Segment,
        idx: int,
        first: int,
        count: int,
        *,
        avoid: Collection[int] = (),
        waited_for: Callable[[], bool] = lambda: True,
        trust_local: bool = True,
    ) -> Buffer:
        """Pieces `[first, first + count)` of row `idx` of the erasure code, wherever they come from.

        Shards with an index in `avoid` are not asked. As long as `waited_for()` says that nobody waits, a
        slow farmer is given more time. Farmers that do not answer are asked again for `outage` seconds, so
        that one that starts anew costs a pause and no error; but only once as long as they are away. Without
        `trust_local` nothing of the local copy is used for a decode. The caller has pinned the segment.
        Raises SegmentUnreadable where fewer than k shards answer rightly.
        """
        until = self._out_of_reach.get(segment.seg, trio.current_time()) + self._outage
        pause = ASK_AGAIN
        while True:
            race = _Race(self, segment, idx, first, count, avoid, waited_for, trust_local)
            try:
                found = await race.run()
                self._out_of_reach.pop(segment.seg, None)
                return found
            except SegmentUnreadable:
                there = self._catalogue.held(segment).keys() - set(avoid)
                if len(there) < segment.k or not waited_for():
                    raise
                if trio.current_time() >= until:
                    self._note_out_of_reach(segment, until - self._outage)
                    raise
            finally:
                self._hedges -= race.hedged
            back = self._back
            with trio.move_on_after(min(pause, until - trio.current_time())):
                await back.wait()
            pause = min(2 * pause, LAST_PAUSE)

    def _note_out_of_reach(self, segment: Segment, since: float) -> None:
        self._out_of_reach[segment.seg] = since
        while len(self._out_of_reach) > MOST_NOTED:
            self._out_of_reach.popitem(last=False)

    def _hedge_delay(self, shard: Shard) -> float:
        if self._placement.contained(shard.contract):
            return SHORTEST_HEDGE
        usual = HEDGE_AFTER_USUAL * self._placement.usual_latency(shard.contract)
        return max(SHORTEST_HEDGE, usual, HEDGE_AFTER_TYPICAL * self._typical)

    def _took(self, seconds: float) -> None:
        self._typical += 0.1 * (seconds - self._typical)


class _Race:
    """One range wanted, several ways to it."""

    def __init__(
        self,
        fetcher: Fetcher,
        segment: Segment,
        idx: int,
        first: int,
        count: int,
        avoid: Collection[int],
        waited_for: Callable[[], bool],
        trust_local: bool,
    ) -> None:
        self._fetcher = fetcher
        self._segment = segment
        self._idx = idx
        self._first = first
        self._count = count
        self._waited_for = waited_for
        self._patient_until = trio.current_time() + PATIENCE
        held = fetcher._catalogue.held(segment)
        placement = fetcher._placement
        self._trust_local = trust_local
        self._direct = held.get(idx) if idx not in avoid else None
        self._spared: Shard | None = None
        """The shard that has the range itself, at a farmer that lags."""
        others = [shard for shard in held.values() if shard.idx != idx and shard.idx not in avoid]
        # Best last, to be popped: what is here, those that answer, rows that will be read too, the fastest.
        self._others = sorted(
            others,
            key=lambda one: (
                not self._is_here(one.idx),
                placement.contained(one.contract),
                placement.lagging(one.contract, Way.GET),
                one.idx >= segment.k,
                placement.usual_latency(one.contract),
            ),
            reverse=True,
        )
        if self._direct is not None and placement.lagging(self._direct.contract, Way.GET):
            swift = [one for one in others if not placement.lagging(one.contract, Way.GET)]
            if len(swift) >= segment.k:
                self._direct, self._spared = None, self._direct
        self._running = 0
        self._since: dict[int, tuple[Shard, float]] = {}
        """When those were asked who have not answered yet."""
        self._got: dict[int, Buffer] = {}
        self._asked_others = 0
        self.hedged = 0
        self._reasons: list[str] = []
        self._send, self._receive = trio.open_memory_channel[tuple[Shard, Buffer | None]](512)

    async def run(self) -> Buffer:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            if self._direct is not None:
                self._start(self._direct)
                deadline = trio.current_time() + self._fetcher._hedge_delay(self._direct)
            else:
                deadline = self._ask_enough()
            while self._running:
                with trio.move_on_at(deadline) as patience:
                    shard, data = await self._receive.receive()
                if patience.cancelled_caught:
                    deadline = self._hedge()
                    continue
                self._running -= 1
                del self._since[shard.idx]
                if data is None:
                    deadline = self._ask_enough()
                    if self._hopeless():
                        nursery.cancel_scope.cancel()
                        break
                    continue
                if shard.idx == self._idx:
                    self._won(nursery)
                    return data
                self._got[shard.idx] = data
                if len(self._got) >= self._segment.k:
                    self._won(nursery)
                    break
        if len(self._got) >= self._segment.k > 0:
            return await self._decode()
        have = len(self._fetcher._catalogue.held(self._segment))
        why = "; ".join(self._reasons[-3:]) or "none is left"
        raise SegmentUnreadable(
            self._segment.seg, f"{self._segment.k} shards are needed, {have} are not known to be lost: {why}"
        )

    def _won(self, nursery: trio.Nursery) -> None:
        """The range is there: note who was waited for longer than usual, and wait no more."""
        nursery.cancel_scope.cancel()
        fetcher, now = self._fetcher, trio.current_time()
        for shard, since in self._since.values():
            if now - since >= fetcher._hedge_delay(shard):
                fetcher._placement.late(shard.contract, Way.GET, self._count * SEALED_PIECE, now - since)

    def _start(self, shard: Shard) -> None:
        self._running += 1
        self._since[shard.idx] = shard, trio.current_time()
        self._nursery.start_soon(self._one, shard)

    def _ask_enough(self) -> float:
        """Have k others asked, failed ones replaced; returns when to look again."""
        wanted = self._segment.k - len(self._got)
        asked = self._running - (1 if self._direct_runs() else 0)
        latest = 0.0
        while asked < wanted and self._others:
            shard = self._others.pop()
            self._start(shard)
            asked += 1
            latest = max(latest, self._fetcher._hedge_delay(shard))
        if self._spared is not None and asked < wanted:
            self._ask_spared()
        more = self._others or self._spared
        return trio.current_time() + max(latest, SHORTEST_HEDGE) if more else float("inf")

    def _ask_spared(self) -> None:
        """The others cannot do without the farmer that lags."""
        self._direct, self._spared = self._spared, None
        assert self._direct is not None
        self._start(self._direct)

    def _hedge(self) -> float:
        """Somebody takes too long: ask others, or one more. Returns when to look again."""
        fetcher = self._fetcher
        if trio.current_time() < self._patient_until and not self._waited_for():
            return trio.current_time() + SHORTEST_HEDGE
        if not self.hedged and fetcher._hedges >= MOST_HEDGES:
            return trio.current_time() + SHORTEST_HEDGE
        if not self.hedged:
            self.hedged = 1
            fetcher._hedges += 1
            if self._direct_runs():
                return self._ask_enough()
        if not self._others:
            if self._spared is not None:
                self._ask_spared()
            return float("inf")
        shard = self._others.pop()
        self._start(shard)
        return trio.current_time() + fetcher._hedge_delay(shard)

    def _hopeless(self) -> bool:
        nobody = self._direct is None and self._spared is None
        return nobody and len(self._got) + self._running + len(self._others) < self._segment.k

    def _direct_runs(self) -> bool:
        return self._direct is not None

    async def _one(self, shard: Shard) -> None:
        fetcher, segment = self._fetcher, self._segment
        started = trio.current_time()
        data: Buffer | None = None
        try:
            if shard is not self._direct and self._is_here(shard.idx):
                data = await fetcher.local(segment, self._piece(shard.idx), self._count)
            if data is None:
                data = await fetcher.shard(segment, shard, self._first, self._count)
                fetcher._took(trio.current_time() - started)
                if shard is not self._direct:
                    self._note_caught(shard.idx, data)
        except (StorjfsError, OSError) as error:
            self._reasons.append(str(error))
        if data is None and shard is self._direct:
            self._direct = None
        self._send.send_nowait((shard, data))

    def _piece(self, idx: int) -> int:
        """Where in the segment this range of row `idx` begins."""
        return idx * shard_pieces(self._segment) + self._first

    def _is_here(self, idx: int) -> bool:
        return (
            self._trust_local
            and idx < self._segment.k
            and self._fetcher.has(self._segment, self._piece(idx), self._count)
        )

    def _note_caught(self, idx: int, data: Buffer) -> None:
        if self._count >= BY_CATCH and idx < self._segment.k:
            self._fetcher.caught(self._segment, self._piece(idx), data)

    def _lacking(self) -> list[int]:
        """Other rows of data that cannot be had directly, or only from farmers that lag."""
        if self._count < BY_CATCH:
            return []
        fetcher, segment = self._fetcher, self._segment
        held = fetcher._catalogue.held(segment)
        return [
            idx
            for idx in range(segment.k)
            if idx not in (self._idx, *self._got)
            and (idx not in held or fetcher._placement.lagging(held[idx].contract, Way.GET))
            and not self._is_here(idx)
        ]

    async def _decode(self) -> Buffer:
        segment = self._segment
        code = erasure_code(segment.k, segment.n)
        if self._count <= INLINE:
            return code.reconstruct(self._got, (self._idx,))[self._idx]
        found = await trio.to_thread.run_sync(
            code.reconstruct, self._got, (self._idx, *self._lacking()), limiter=self._fetcher._threads
        )
        for idx, data in found.items():
            if idx != self._idx:
                self._note_caught(idx, data)
        return found[self._idx]


async def _nothing(segment: Segment, first: int, count: int) -> Buffer | None:
    """Without a local copy."""
    await trio.lowlevel.checkpoint()
    return None


def shard_pieces(segment: Segment) -> int:
    """Pieces in each shard of a segment whose code is set."""
    return max(1, -(-segment.size // (segment.k * PIECE)))
