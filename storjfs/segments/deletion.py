"""From the last live byte to the farmers' word that the shards are gone."""

import logging
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Final

import trio

from storjfs.errors import StorjfsError
from storjfs.segments.cache import Cache
from storjfs.segments.catalogue import Catalogue
from storjfs.segments.records import Segment
from storjfs.segments.together import Together
from storjfs.segments.values import Placement, State
from storjfs.store import outlasting

_LOG = logging.getLogger(__name__)

BATCH: Final = 256
FARMERS_AT_ONCE: Final = 8
AT_ONCE: Final = 32
"""Segments looked at without letting others run."""
FIRST_RETRY: Final = 5.0
LAST_RETRY: Final = 600.0
STILL_IN_USE: Final = 1.0
"""Seconds until doomed segments that could not be dropped are looked at again."""


def may_delete(segment: Segment) -> bool:
    """Whether the shards of a doomed segment may be deleted at the farmers now.

    The one place for this decision. Nothing that recovery could go back to refers to segments yet, so as
    soon as the group is committed in which the last extent let go of it.
    """
    return segment.state is State.DOOMED


def _ready(segment: Segment) -> bool:
    return not (segment.pins or segment.dirty or segment.flying) and may_delete(segment)


def _steps(segments: Mapping[int, Segment]) -> Iterator[Sequence[Segment]]:
    """Those that are there now, a few at a time."""
    some = list(segments.values())
    return (some[at : at + AT_ONCE] for at in range(0, len(some), AT_ONCE))


class Deleter:
    """Dooms empty segments, drops what may be dropped, and has farmers delete. Belongs to the loop's thread.

    `gone(segment)` is told what was dropped, `kept(segment)` what was not because files point to it.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        cache: Cache,
        placement: Placement,
        *,
        gone: Callable[[Segment], None],
        kept: Callable[[Segment], None] = lambda segment: None,
    ) -> None:
        self._catalogue = catalogue
        self._cache = cache
        self.asking = Asking(catalogue, placement)
        self._gone = gone
        self._kept = kept
        self._empty: dict[int, Segment] = {}
        self._doomed: dict[int, Segment] = {}
        self._wake = trio.Event()
        self._sweeping = trio.Lock()

    def wake(self) -> None:
        """Look again at what there is to do."""
        self._wake.set()
        self.asking.wake()

    def emptied(self, segment: Segment) -> None:
        """The segment has no live byte left; whether that stays so shows at the end of the group."""
        if segment.seg not in self._empty:
            self._empty[segment.seg] = segment
            self._catalogue.when_committed(self.wake)

    def load(self) -> None:
        """Take up what an earlier run had doomed."""
        for segment in self._catalogue.doomed_segments():
            self._doomed[segment.seg] = segment
        self._wake.set()

    def _doom(self, segment: Segment) -> None:
        """Nothing points to the segment: have it deleted once that is committed."""
        if segment.state in (State.CLOSED, State.STORED):
            self._catalogue.doom(segment)
            self._doomed[segment.seg] = segment
            self._catalogue.when_committed(self.wake)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Work until cancelled. Deletions not confirmed by then are asked for again at the next start."""
        task_status.started()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(outlasting, self._sweep_again)
            nursery.start_soon(outlasting, self.asking.run)

    async def _sweep_again(self) -> None:
        while True:
            if self._wake.is_set():
                self._wake = trio.Event()
            await self.sweep()
            # A reader or an upload may still have some.
            with trio.move_on_after(STILL_IN_USE if self._doomed else math.inf):
                await self._wake.wait()

    async def sweep(self) -> None:
        """Doom what is empty and committed; drop what is doomed, committed and in nobody's hands.

        Nothing is dropped that files still point to, whatever the sum of its live bytes says: that is left to
        fsck. Looks at each segment once, in steps that let others run. Several calls take turns;
        cancelled, it leaves the rest for the next time.
        """
        async with self._sweeping:
            for some in _steps(self._empty):
                for segment in some:
                    if segment.state is State.DOOMED or segment.live > 0:
                        self._empty.pop(segment.seg, None)
                    elif segment.state is not State.OPEN:
                        self._empty.pop(segment.seg, None)
                        self._doom(segment)
                await trio.lowlevel.checkpoint()
            for some in _steps(self._doomed):
                await self._drop([segment for segment in some if _ready(segment)])
                await trio.lowlevel.checkpoint()

    async def _drop(self, ready: Sequence[Segment]) -> None:
        needed = await self._catalogue.pointed_to([segment.seg for segment in ready])
        for segment in ready:
            if not _ready(segment) or self._doomed.pop(segment.seg, None) is None:
                continue
            if segment.seg in needed:
                self._kept(segment)
                continue
            await self._cache.discard(segment)
            self._catalogue.drop(segment)
            self._catalogue.when_committed(self.wake)
            self._gone(segment)

    @property
    def unfinished(self) -> bool:
        """Whether there are segments that the next `sweep` may doom or drop, once more is committed."""
        return bool(self._empty) or any(not segment.pins for segment in self._doomed.values())


class Asking:
    """Has farmers delete what is committed to be deleted, several at a time; who does not answer is asked
    again later, and holds up nobody else. Belongs to the loop's thread."""

    def __init__(self, catalogue: Catalogue, placement: Placement) -> None:
        self._catalogue = catalogue
        self._placement = placement
        self._wake = trio.Event()
        self._turn = trio.CapacityLimiter(FARMERS_AT_ONCE)
        self._asked: dict[int, trio.Event] = {}
        """Contracts whose farmers are being asked; set once that has ended."""
        self._more: set[int] = set()
        """Those of them for which there was more when they were looked at again."""
        self._retry: dict[int, tuple[float, float]] = {}
        """Per contract: when to try again, and the delay after that."""
        self.confirmed = 0
        """Shards whose deletion farmers confirmed since the start."""

    def wake(self) -> None:
        """Look again at what there is to ask for."""
        self._wake.set()

    def retry_now(self, contracts: Collection[int] | None = None) -> None:
        """The farmers of these contracts, or of any, may be back."""
        # Not of others: two that greet and then hang up would have each other asked again and again.
        back = self._retry.keys() if contracts is None else self._retry.keys() & set(contracts)
        self._retry |= dict.fromkeys(back, (0.0, FIRST_RETRY))
        self._wake.set()

    async def run(self) -> None:
        """Ask until cancelled. What is not confirmed by then is asked for again at the next start.

        Raises StoreError where it cannot be read whom to ask.
        """
        async with Together() as together:
            while True:
                self._wake = trio.Event()
                self._begin(together)
                with trio.move_on_at(self.next_look()):
                    await self._wake.wait()

    def next_look(self) -> float:
        """When somebody is asked again."""
        return min((at for one, (at, _) in self._retry.items() if one not in self._asked), default=math.inf)

    async def once(self) -> None:
        """Ask whoever is due now, and wait for all who are being asked. Raises StoreError."""
        under_way = list(self._asked.values())
        async with Together() as together:
            self._begin(together)
        for one in under_way:
            await one.wait()

    def _begin(self, together: Together) -> None:
        seen = set()
        for contract in self._catalogue.doomed_contracts():
            seen.add(contract)
            if contract in self._asked:
                self._more.add(contract)
            elif trio.current_time() >= self._retry.get(contract, (0.0, 0.0))[0]:
                self._asked[contract] = trio.Event()
                together.start(partial(self._ask, contract))
        # Of some nothing is to be deleted any more, as after fsck has withdrawn it.
        self._retry = {contract: when for contract, when in self._retry.items() if contract in seen}

    async def _ask(self, contract: int) -> None:
        _, delay = self._retry.get(contract, (0.0, FIRST_RETRY))
        try:
            async with self._turn:
                for shard_ids in self._catalogue.doomed.batches(contract, BATCH):
                    await self._placement.delete(contract, shard_ids)
                    self._catalogue.doomed.confirmed(shard_ids)
                    self.confirmed += len(shard_ids)
        except (StorjfsError, OSError) as error:
            _LOG.info("contract %d deletes later: %s", contract, error)
            self._retry[contract] = (trio.current_time() + delay, min(2 * delay, LAST_RETRY))
            self._wake.set()
        else:
            self._retry.pop(contract, None)
        finally:
            self._asked.pop(contract).set()
            if contract in self._more:
                self._more.discard(contract)
                self._wake.set()
