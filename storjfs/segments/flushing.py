"""Waiting until what was appended is with enough farmers."""

from collections.abc import Callable, Collection, Sequence
from typing import Final

import trio

from storjfs.segments.catalogue import Catalogue
from storjfs.segments.journal import Journal
from storjfs.segments.records import Segment
from storjfs.segments.uploader import Uploader
from storjfs.segments.values import Run, State
from storjfs.store import MetaStore

STRAGGLERS: Final = 3.0
"""Seconds for which a flush waits for more than it promises, but for nobody who lags: as a rule the drive is
whole after it."""


class Flushes:
    """Those under way. Methods belong to the loop's thread; `note_change` tells it that a segment was sent,
    or could not be, or is gone."""

    def __init__(self, store: MetaStore, catalogue: Catalogue) -> None:
        self._store = store
        self._catalogue = catalogue
        self._awaited: list[dict[int, Segment]] = []
        """For each the segments that it waits for."""
        self._changed = trio.Event()

    @property
    def under_way(self) -> bool:
        """Whether somebody waits."""
        return bool(self._awaited)

    def note_change(self) -> None:
        """Have all look again what they wait for."""
        self._changed.set()
        self._changed = trio.Event()

    def moved(self, sources: Collection[int], runs: Sequence[Run]) -> None:
        """See Segments.moved."""
        for waiting in self._awaited:
            if not waiting.keys().isdisjoint(sources):
                waiting.update((run.seg, self._catalogue.get(run.seg)) for run in runs)

    async def flush(
        self, journal: Journal, uploader: Uploader, progress: Callable[[int, int], None] | None
    ) -> None:
        """See Segments.flush."""
        journal.close_open()
        waiting = dict(self._catalogue.unsent)
        flushed: list[Segment] = []
        total = sum(segment.size for segment in waiting.values())
        self._awaited.append(waiting)
        try:
            uploader.hurry()
            await self._store.sync()
            while True:
                flushed += [waiting.pop(seg) for seg in waiting.keys() - self._catalogue.unsent.keys()]
                left = sum(segment.size for segment in waiting.values())
                total = max(total, left)
                if progress is not None:
                    progress(total - left, total)
                if not waiting:
                    break
                if all(segment.state is State.OPEN for segment in waiting.values()):
                    journal.close_open()  # `moved` put it there, and nothing more will come
                await self._changed.wait()
            with trio.move_on_after(STRAGGLERS):
                while any(uploader.worth_waiting(segment) for segment in flushed):
                    await self._changed.wait()
            await self._store.sync()
        finally:
            self._awaited = [one for one in self._awaited if one is not waiting]
