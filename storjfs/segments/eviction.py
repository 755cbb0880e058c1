"""Eviction: cached pieces are given up in the order's turn, until enough of the disk is free."""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import trio

from storjfs.coding.geometry import PIECE
from storjfs.segments.cached import CachedFiles
from storjfs.segments.files import LocalFile, byte_ranges, free_blocks
from storjfs.segments.order import MOST_COUNTED

_LOG = logging.getLogger(__name__)

AT_LEAST: Final = 1 << 20
"""Bytes given up at once, so that a full cache does not evict for each piece."""
LOOKED_AT: Final = 512
"""Cached files considered between two turns of the loop."""
_ROUNDS: Final = MOST_COUNTED + 2
"""After so many rounds with nothing to give up there is nothing: each file is in use."""
_IN_USE: Final = 8
"""Files in use in a row after which the other queue is looked at."""


class Eviction:
    """Methods belong to the loop's thread; one eviction runs at a time.

    `leaving` counts bytes given up that are perhaps not yet off the disk.
    """

    def __init__(self, cached: CachedFiles, opened: Callable[[LocalFile], bool]) -> None:
        self._cached = cached
        self._opened = opened
        self._turn = trio.Lock()
        self._busy: set[bytes] = set()
        self.leaving = 0

    def works_on(self, segment_id: bytes) -> bool:
        """Whether the file of this segment is just being made smaller or removed."""
        return segment_id in self._busy

    async def give_up(self, wanted: Callable[[], int]) -> int:
        """Give up cached pieces until `wanted()` bytes, asked in each step, is no more than 0, or nothing is
        left that could be; returns the bytes given up, which are off the disk then.

        Cancelled, it ends the step under way.
        """
        freed = fruitless = 0
        async with self._turn:
            while (size := wanted()) > 0 and fruitless <= _ROUNDS * len(self._cached):
                step = await self._step(max(size, AT_LEAST))
                freed += step
                fruitless = 0 if step else fruitless + LOOKED_AT
        return freed

    async def _step(self, size: int) -> int:
        freed, in_use = 0, 0
        actions, touched = list[Callable[[], None]](), list[LocalFile]()
        order = self._cached.order
        for _ in range(LOOKED_AT):
            visit = order.visit(other=in_use >= _IN_USE) if freed < size else None
            if visit is None:
                break
            file = self._cached.get(visit.entry.segment_id)
            assert file is not None
            if file.users:
                in_use += 1
                order.skip(visit.entry)
                continue
            in_use = 0
            present, read = file.present or 0, visit.entry.read
            if visit.keep:
                chosen = present & ~read if read else 0
                visit.entry.read = 0
            else:
                chosen = least_wanted(present, read, -(-(size - freed) // PIECE))
            if not visit.keep and (chosen == present or not self._opened(file)):
                freed += visit.entry.size
                self._cached.forget(file, remembered=True)
                actions.append(partial(file.path.unlink, missing_ok=True))
            elif chosen and self._opened(file):
                freed += self._cached.let_go(file, chosen)
                file.users += 1
                touched.append(file)
                actions.append(partial(free_blocks, file, byte_ranges(chosen)))
            self._busy.add(visit.entry.segment_id)
        await self._act(actions, freed, touched)
        return freed

    async def _act(self, actions: Sequence[Callable[[], None]], freed: int, touched: list[LocalFile]) -> None:
        if not actions:
            self._busy.clear()
            await trio.lowlevel.checkpoint()
            return
        self.leaving += freed
        try:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(_do_all, actions)
        finally:
            self._busy.clear()
            self.leaving -= freed
            for file in touched:
                file.users -= 1
        await trio.lowlevel.checkpoint_if_cancelled()


def least_wanted(present: int, read: int, count: int) -> int:
    """`count` of the pieces `present` (all, if there are fewer), as a mask of the same form.

    Those that were `read` first: whoever goes through the segment wants the others next.
    """
    if present.bit_count() <= count:
        return present
    chosen = 0
    for source in (present & read, present & ~read):
        while source and count > 0:
            lowest = source & -source
            chosen |= lowest
            source ^= lowest
            count -= 1
    return chosen


def _do_all(actions: Sequence[Callable[[], None]]) -> None:
    for action in actions:
        try:
            action()
        except OSError as error:
            _LOG.warning("a cached file could not be given up: %s", error)


__all__ = ["Eviction", "least_wanted"]
