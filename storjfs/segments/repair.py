"""What is rebuilt when: the most endangered segment first, one at a time, until all is well."""

import heapq
import logging
from collections.abc import Callable
from typing import Final

import trio

from storjfs.errors import StorjfsError
from storjfs.renter.repair_policy import SegmentHealth, Urgency, danger, repair_order, urgency
from storjfs.segments.cache import Cache
from storjfs.segments.catalogue import Catalogue
from storjfs.segments.rebuild import OnlySlow, Rebuilder, RebuildFailed
from storjfs.segments.records import Segment
from storjfs.segments.values import SegmentUnreadable, ShardState, State
from storjfs.store import outlasting

_LOG = logging.getLogger(__name__)

BATCH: Final = 32
"""Segments looked at without letting others run, about 3 ms."""
MOST_IN_SIGHT: Final = 1024
"""Segments of one survey; what is less endangered comes with the next."""
FIRST_RETRY: Final = 5.0
LAST_RETRY: Final = 600.0


class Repair:
    """The repair task. Methods belong to the loop's thread.

    `contained(contract)` tells whether its farmer is silent now; `problem(seg, text)` is told what keeps a
    segment from being repaired, with an empty text once it is. `older`: see Segments.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        cache: Cache,
        rebuilder: Rebuilder,
        *,
        contained: Callable[[int], bool],
        problem: Callable[[int, str], None],
        older: bool = False,
    ) -> None:
        self._older = older
        self._contained = contained
        self._catalogue = catalogue
        self._cache = cache
        self._rebuilder = rebuilder
        self._problem = problem
        self._hurt: set[int] = set()
        self._wake = trio.Event()
        self._turn = trio.Lock()
        self._delay = FIRST_RETRY
        self._slow: dict[int, None] = {}
        """Segments whose missing shards only farmers that lag could take."""
        self._more_slow = trio.Event()
        self._changed = trio.Event()

    def hurt(self, segment: Segment) -> None:
        """The segment lost a shard."""
        if len(self._hurt) < MOST_IN_SIGHT:
            self._hurt.add(segment.seg)
        self._wake.set()

    def again(self) -> None:
        """Something changed for the better: try what failed without waiting, also with those that do not lag
        where there was none."""
        self._delay = FIRST_RETRY
        self._slow.clear()
        self._changed.set()
        self._changed = trio.Event()
        self._wake.set()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Survey and repair until cancelled."""
        task_status.started()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(outlasting, self._work)
            nursery.start_soon(outlasting, self._work_slowly)

    async def _work(self) -> None:
        while True:
            if self._wake.is_set():
                self._wake = trio.Event()
            failed = await self.all()
            with trio.move_on_after(self._delay if failed else float("inf")):
                await self._wake.wait()
            self._delay = min(2 * self._delay, LAST_RETRY) if failed else FIRST_RETRY

    async def all(self) -> int:
        """Rebuild what the policy wants, the most endangered first; returns how many segments failed."""
        with self._rebuilder.buffers.at_work():
            return await self._all()

    async def _all(self) -> int:
        failed: set[int] = set()
        while wanted := [seg for seg in await self.survey() if seg not in failed]:
            for seg in wanted:
                try:
                    await self._one(self._catalogue.get(seg), patient=False)
                except OnlySlow:
                    failed.add(seg)
                    if len(self._slow) < MOST_IN_SIGHT:
                        self._slow[seg] = None
                        self._more_slow.set()
                except (StorjfsError, OSError) as error:
                    failed.add(seg)
                    _LOG.warning("%s", error)
                    if isinstance(error, RebuildFailed):
                        self._problem(seg, str(error))
                if self._hurt - failed - set(wanted):
                    break  # perhaps something more urgent
        return len(failed)

    async def _work_slowly(self) -> None:
        """Place what only farmers that lag can take, one segment at a time and beside everything else, so
        that nothing more urgent waits for them."""
        delay = FIRST_RETRY
        while True:
            while not self._slow:
                self._more_slow = trio.Event()
                await self._more_slow.wait()
            seg, changed = next(iter(self._slow)), self._changed
            try:
                await self._rebuilder.rebuild(self._catalogue.get(seg))
                self._problem(seg, "")
                delay = FIRST_RETRY
            except (StorjfsError, OSError) as error:
                _LOG.info("%s", error)
                with trio.move_on_after(delay) as waiting:
                    await changed.wait()
                delay = min(2 * delay, LAST_RETRY) if waiting.cancelled_caught else FIRST_RETRY
            # The next survey names it again if it lacks a shard still.
            self._slow.pop(seg, None)
            self._hurt.add(seg)
            self._wake.set()

    async def one(self, segment: Segment) -> int:
        """Rebuild one segment; returns the number of shards made. Raises RebuildFailed."""
        return await self._one(segment, patient=True)

    async def _one(self, segment: Segment, *, patient: bool) -> int:
        with self._catalogue.pinned(segment):
            async with self._turn:
                self._hurt.discard(segment.seg)
                if segment.state is not State.STORED:
                    return 0
                made = await self._rebuilder.rebuild(segment, patient=patient)
                self._problem(segment.seg, "")
                return made

    async def survey(self) -> list[int]:
        """Segments to be rebuilt now, in order. Removes rows of uploads that were cut off."""
        found: dict[int, SegmentHealth] = {}
        rescued: list[int] = []
        for count, seg in enumerate(sorted(self._hurt), 1):
            self._look(seg, found, rescued)
            if count % BATCH == 0:
                await trio.lowlevel.checkpoint()
        after = -1
        while batch := self._catalogue.unwell(after, BATCH):
            for seg in batch:
                self._look(seg, found, rescued)
            after = batch[-1]
            if len(found) > MOST_IN_SIGHT:
                kept = heapq.nsmallest(MOST_IN_SIGHT, found.values(), key=danger)
                found = {one.seg: one for one in kept}
            await trio.lowlevel.checkpoint()
        return rescued[:MOST_IN_SIGHT] + [one.seg for one in repair_order(found.values())]

    def _look(self, seg: int, found: dict[int, SegmentHealth], rescued: list[int]) -> None:
        try:
            segment = self._catalogue.get(seg)
        except SegmentUnreadable:
            self._hurt.discard(seg)
            return
        if seg in self._slow:
            # It is being seen to; left among the hurt it would have `all` survey anew after each repair.
            self._hurt.discard(seg)
            return
        known = seg in found or seg in rescued
        if segment.state is not State.STORED or segment.busy or known:
            return
        for shard in list(self._catalogue.shards(segment)):
            if shard.state is ShardState.UPLOADING:
                self._catalogue.remove_shard(segment, shard, leave=self._older)
        self._catalogue.note_missing(segment)
        shards = self._catalogue.held(segment)
        contained = sum(self._contained(shard.contract) for shard in shards.values())
        state = SegmentHealth(seg, segment.k, segment.n, len(shards), contained)
        need = urgency(state.k, state.n, state.healthy)
        if need is Urgency.TOO_LATE and self._cache.complete(segment) is not None:
            rescued.append(seg)
        elif need in (Urgency.ROUTINE, Urgency.AT_ONCE):
            found[seg] = state
        else:
            self._hurt.discard(seg)
