"""From the last live byte to the farmers' word that the shards are gone."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

import trio

from storjfs.errors import StorjfsError
from storjfs.segments.cache import Cache
from storjfs.segments.catalogue import Catalogue
from storjfs.segments.records import Segment
from storjfs.segments.values import Placement, State
from storjfs.store import outlasting

_LOG = logging.getLogger(__name__)

BATCH: Final = 256
AT_ONCE: Final = 32
"""Segments looked at without letting others run."""
FIRST_RETRY: Final = 5.0
LAST_RETRY: Final = 600.0


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
        self._placement = placement
        self._gone = gone
        self._kept = kept
        self._empty: dict[int, Segment] = {}
        self._doomed: dict[int, Segment] = {}
        self._wake = trio.Event()
        self._sweeping = trio.Lock()
        self._asking = trio.Lock()
        self.confirmed = 0
        """Shards whose deletion farmers confirmed since the start."""
        self._retry: dict[int, tuple[float, float]] = {}
        """Per contract: when to try again, and the delay after that."""

    def wake(self) -> None:
        """Look again at what there is to do."""
        self._wake.set()

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
        await outlasting(self._work)

    async def _work(self) -> None:
        while True:
            if self._wake.is_set():
                self._wake = trio.Event()
            await self.sweep()
            await self.ask_farmers()
            with trio.move_on_at(self._next_look()):
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

    def _next_look(self) -> float:
        times = [at for at, _ in self._retry.values()]
        if self._doomed:
            times.append(trio.current_time() + 1.0)  # a reader or an upload still has it
        return min(times, default=float("inf"))

    @property
    def unfinished(self) -> bool:
        """Whether there are segments that the next `sweep` may doom or drop, once more is committed."""
        return bool(self._empty) or any(not segment.pins for segment in self._doomed.values())

    async def ask_farmers(self) -> None:
        """Have farmers delete what is committed to be deleted; those that fail are asked again later."""
        async with self._asking:
            await self._ask_farmers()

    async def _ask_farmers(self) -> None:
        seen = set()
        for contract in self._catalogue.doomed_contracts():
            seen.add(contract)
            at, delay = self._retry.get(contract, (0.0, FIRST_RETRY))
            if trio.current_time() < at:
                continue
            try:
                while shard_ids := self._catalogue.doomed_under(contract, BATCH):
                    await self._placement.delete(contract, shard_ids)
                    self._catalogue.deletion_confirmed(shard_ids)
                    self.confirmed += len(shard_ids)
                    if len(shard_ids) < BATCH:
                        break
            except (StorjfsError, OSError) as error:
                _LOG.info("contract %d deletes later: %s", contract, error)
                self._retry[contract] = (trio.current_time() + delay, min(2 * delay, LAST_RETRY))
            else:
                self._retry.pop(contract, None)
        # Of some nothing is to be deleted any more, as after fsck has withdrawn it.
        self._retry = {contract: when for contract, when in self._retry.items() if contract in seen}

    def retry_now(self) -> None:
        """A farmer may be back."""
        self._retry = dict.fromkeys(self._retry, (0.0, FIRST_RETRY))
        self._wake.set()
