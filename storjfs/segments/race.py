"""One range of a shard by several ways at once: from the farmer that has it, and by a decode from k others.

The first complete answer wins. Others are asked once the farmer takes longer than it usually does, or at once
where it lags and they can do without it.
"""

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Final

import trio

from storjfs.coding.buffers import Buffer
from storjfs.coding.erasure import erasure_code
from storjfs.coding.geometry import SEALED_PIECE
from storjfs.errors import StorjfsError
from storjfs.renter.speed import Way
from storjfs.segments.records import Segment, Shard, shard_pieces
from storjfs.segments.values import Placement, SegmentUnreadable

if TYPE_CHECKING:
    from storjfs.segments.fetch import Fetcher

INLINE: Final = 2
"""Pieces up to which opening or decoding is done on the loop: a thread would cost more."""
SHORTEST_HEDGE: Final = 0.03
HEDGE_AFTER_USUAL: Final = 2.0
"""Times a farmer's usual latency that a read waits before it asks others."""
HEDGE_AFTER_TYPICAL: Final = 3.0
"""Times what such ranges take of late, whoever is asked: when all are slow, asking more only adds to it."""
OVERTAKEN: Final = 8
"""Ranges that have come since one was asked for, for each other shard that a whole segment is read from:
however long such things take at the moment, this one takes far longer."""
LOOK_EVERY: Final = 0.1
"""Seconds between two looks at that."""
MOST_HEDGES: Final = 8
BY_CATCH: Final = 4
"""Pieces from which on a range is part of a longer read, which will want what comes along with it."""
PATIENCE: Final = 2.0
"""Seconds for which what nobody waits for is not hedged."""


class Hedging:
    """How long a range is waited for until others are asked as well, and how many ranges do so now."""

    def __init__(self, placement: Placement) -> None:
        self._placement = placement
        self._typical = 0.0
        self.count = 0
        self.answers = 0
        """Ranges that have come so far."""

    def delay(self, shard: Shard) -> float:
        """Seconds from asking the farmer of this shard."""
        if self._placement.contained(shard.contract):
            return SHORTEST_HEDGE
        usual = HEDGE_AFTER_USUAL * self._placement.usual_latency(shard.contract)
        return max(SHORTEST_HEDGE, usual, HEDGE_AFTER_TYPICAL * self._typical)

    def took(self, seconds: float) -> None:
        """A range came after so long."""
        self.answers += 1
        self._typical += 0.1 * (seconds - self._typical)


class Race:
    """One range wanted, several ways to it; `hedged` is 1 once it counts among those that hedge."""

    def __init__(
        self,
        fetcher: "Fetcher",
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
        held = fetcher.catalogue.held(segment)
        placement = fetcher.placement
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
        if self._to_be_spared():
            self._direct, self._spared = None, self._direct
        self._around = False
        """Whether others were asked because the farmer has begun to lag since."""
        self._answers_before = fetcher.hedging.answers
        self._running = 0
        self._since: dict[int, tuple[Shard, float, float]] = {}
        """When those were asked who have not answered yet, and from when on they take too long."""
        self._got: dict[int, Buffer] = {}
        self.hedged = 0
        self._reasons: list[str] = []
        self._send, self._receive = trio.open_memory_channel[tuple[Shard, Buffer | None]](512)

    def _to_be_spared(self) -> bool:
        """Whether the farmer that has the range lags and the others can do without it."""
        lagging = self._fetcher.placement.lagging
        if self._direct is None or not lagging(self._direct.contract, Way.GET):
            return False
        swift = [one for one in self._others if not lagging(one.contract, Way.GET)]
        return len(swift) >= self._segment.k

    async def run(self) -> Buffer:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            if self._direct is not None:
                deadline = min(self._start(self._direct), trio.current_time() + LOOK_EVERY)
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
        have = len(self._fetcher.catalogue.held(self._segment))
        why = "; ".join(self._reasons[-3:]) or "none is left"
        raise SegmentUnreadable(
            self._segment.seg, f"{self._segment.k} shards are needed, {have} are not known to be lost: {why}"
        )

    def _won(self, nursery: trio.Nursery) -> None:
        """The range is there: note who was waited for longer than usual, and wait no more."""
        nursery.cancel_scope.cancel()
        fetcher, now = self._fetcher, trio.current_time()
        for shard, since, due in self._since.values():
            if now >= due or (shard is self._direct and self._overtaken()):
                fetcher.placement.late(shard.contract, Way.GET, self._count * SEALED_PIECE, now - since)

    def _start(self, shard: Shard) -> float:
        """Ask its farmer; returns when it is late."""
        self._running += 1
        now = trio.current_time()
        due = now + self._fetcher.hedging.delay(shard)
        self._since[shard.idx] = shard, now, due
        self._nursery.start_soon(self._one, shard)
        return due

    def _ask_enough(self) -> float:
        """Have k others asked, failed ones replaced; returns when to look again."""
        wanted = self._segment.k - len(self._got)
        asked = self._running - (1 if self._direct_runs() else 0)
        latest = trio.current_time() + SHORTEST_HEDGE
        while asked < wanted and self._others:
            latest = max(latest, self._start(self._others.pop()))
            asked += 1
        if self._spared is not None and asked < wanted:
            self._ask_spared()
        return latest if self._others or self._spared else float("inf")

    def _ask_spared(self) -> None:
        """The others cannot do without the farmer that lags."""
        self._direct, self._spared = self._spared, None
        assert self._direct is not None
        self._start(self._direct)

    def _hedge(self) -> float:
        """Somebody takes too long: ask others, or one more. Returns when to look again."""
        fetcher = self._fetcher
        if self._direct_runs() and not self._around and not self.hedged:
            if self._to_be_spared():
                self._around = True
                return self._ask_enough()
            due = self._since[self._idx][2]
            if trio.current_time() < due and not self._overtaken():
                return min(due, trio.current_time() + LOOK_EVERY)
        if trio.current_time() < self._patient_until and not self._waited_for():
            return trio.current_time() + SHORTEST_HEDGE
        if not self.hedged and fetcher.hedging.count >= MOST_HEDGES:
            return trio.current_time() + SHORTEST_HEDGE
        if not self.hedged:
            self.hedged = 1
            fetcher.hedging.count += 1
            if self._direct_runs():
                return self._ask_enough()
        if not self._others:
            if self._spared is not None:
                self._ask_spared()
            return float("inf")
        return self._start(self._others.pop())

    def _overtaken(self) -> bool:
        """Whether so much came from others since the farmer was asked that it cannot be the line."""
        came = self._fetcher.hedging.answers - self._answers_before
        return came >= OVERTAKEN * max(1, self._segment.k - 1)

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
                fetcher.hedging.took(trio.current_time() - started)
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
        held = fetcher.catalogue.held(segment)
        return [
            idx
            for idx in range(segment.k)
            if idx not in (self._idx, *self._got)
            and (idx not in held or fetcher.placement.lagging(held[idx].contract, Way.GET))
            and not self._is_here(idx)
        ]

    async def _decode(self) -> Buffer:
        segment = self._segment
        code = erasure_code(segment.k, segment.n)
        if self._count <= INLINE:
            return code.reconstruct(self._got, (self._idx,))[self._idx]
        found = await trio.to_thread.run_sync(
            code.reconstruct, self._got, (self._idx, *self._lacking()), limiter=self._fetcher.threads
        )
        for idx, data in found.items():
            if idx != self._idx:
                self._note_caught(idx, data)
        return found[self._idx]
