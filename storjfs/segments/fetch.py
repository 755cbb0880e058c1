"""Byte ranges of shards from farmers: the one that has them, or any k others and a decode of only that range.

A slow farmer is not waited for to a timeout: after the time it usually takes, others are asked as well and
the first complete answer wins; one that lags is not asked where others can do without it. What a decode needs
is taken from the local copy and from what is on its way to others as far as it is there, and what it brings
along is kept: so reading a file around a farmer moves no more bytes than reading it from all. A piece that
does not prove itself is pinned to its farmer and never used.
"""

import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection
from typing import Final

import trio

from storjfs.coding.buffers import Buffer
from storjfs.coding.geometry import SEALED_PIECE
from storjfs.coding.shards import ShardCipher, ShardCorrupt
from storjfs.errors import StorjfsError
from storjfs.keys import VolumeKeys
from storjfs.protocol.priorities import Priority
from storjfs.renter.errors import FarmerUnavailable, ShardMissing
from storjfs.segments.catalogue import Catalogue
from storjfs.segments.flights import Flights
from storjfs.segments.race import INLINE, Hedging, Race
from storjfs.segments.records import Segment, Shard
from storjfs.segments.values import Placement, SegmentUnreadable

_LOG = logging.getLogger(__name__)

OUTAGE: Final = 30.0
"""Seconds for which a read waits for farmers that do not answer, unless the mount says otherwise."""
ASK_AGAIN: Final = 0.25
"""Seconds until they are asked again, at first; the pause doubles up to LAST_PAUSE."""
LAST_PAUSE: Final = 2.0
SHORT_OUTAGE: Final = 5.0
"""Seconds for which one is waited for that was silent for a whole outage before; twice as long each time."""
MOST_NOTED: Final = 256


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
        self.catalogue = catalogue
        self.placement = placement
        self._shard_key = keys.shard_key
        self.threads = threads
        self._faulty = faulty
        self.hedging = Hedging(placement)
        self._flights = Flights()
        self.has: Callable[[Segment, int, int], bool] = lambda segment, first, count: False
        """has(segment, first, count): whether these pieces of a segment are in its local copy."""
        self.local: Callable[[Segment, int, int], Awaitable[Buffer | None]] = _nothing
        """local(segment, first, count): these pieces, sealed as frames, from there; None where that fails."""
        self.caught: Callable[[Segment, int, Buffer], None] = lambda segment, first, data: None
        """Called with pieces from `first` on that came along and were not asked for."""

    async def shard(
        self,
        segment: Segment,
        shard: Shard,
        first: int,
        count: int,
        priority: Priority = Priority.READ,
    ) -> Buffer:
        """The unsealed pieces `[first, first + count)` of one shard, from its farmer.

        Raises ShardCorrupt (noted as lost), ShardMissing (likewise), or what the renter's `get` raises;
        FarmerUnavailable too after `outage` seconds without an answer from this farmer, to whomever.
        """

        async def ask() -> Buffer:
            return await self._from_farmer(segment, shard, first, count, priority)

        return await self._flights.get(shard.shard_id, first, count, ask)

    async def _from_farmer(
        self, segment: Segment, shard: Shard, first: int, count: int, priority: Priority
    ) -> Buffer:
        try:
            sealed = await self._get(shard, first * SEALED_PIECE, count * SEALED_PIECE, priority)
            if len(sealed) != count * SEALED_PIECE:
                raise ShardCorrupt(first + len(sealed) // SEALED_PIECE)
            cipher = ShardCipher(self._shard_key(shard.shard_id))
            if count <= INLINE:
                return cipher.open_pieces(first, sealed)
            return await trio.to_thread.run_sync(cipher.open_pieces, first, sealed, limiter=self.threads)
        except (ShardCorrupt, ShardMissing) as error:
            _LOG.warning(
                "shard %d of segment %d under contract %d: %s", shard.idx, segment.seg, shard.contract, error
            )
            if shard in self.catalogue.shards(segment):
                self.catalogue.shard_lost(segment, shard)
                self._faulty(shard, error)
            raise

    async def _get(self, shard: Shard, offset: int, length: int, priority: Priority) -> Buffer:
        contract = shard.contract
        asked = self._asked.setdefault(contract, set())
        patience = self._patience(contract)
        scope = trio.CancelScope(deadline=trio.current_time() + patience)
        asked.add(scope)
        try:
            with scope:
                sealed = await self.placement.get(contract, shard.shard_id, offset, length, priority)
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
            race = Race(self, segment, idx, first, count, avoid, waited_for, trust_local)
            try:
                found = await race.run()
                self._out_of_reach.pop(segment.seg, None)
                return found
            except SegmentUnreadable:
                there = self.catalogue.held(segment).keys() - set(avoid)
                if len(there) < segment.k or not waited_for():
                    raise
                if trio.current_time() >= until:
                    self._note_out_of_reach(segment, until - self._outage)
                    raise
            finally:
                self.hedging.count -= race.hedged
            back = self._back
            with trio.move_on_after(min(pause, until - trio.current_time())):
                await back.wait()
            pause = min(2 * pause, LAST_PAUSE)

    def _note_out_of_reach(self, segment: Segment, since: float) -> None:
        self._out_of_reach[segment.seg] = since
        while len(self._out_of_reach) > MOST_NOTED:
            self._out_of_reach.popitem(last=False)


async def _nothing(segment: Segment, first: int, count: int) -> Buffer | None:
    """Without a local copy."""
    await trio.lowlevel.checkpoint()
    return None
