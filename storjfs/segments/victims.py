"""Which segments the compactor should rewrite."""

from collections.abc import Callable
from typing import Final

from storjfs.segments.catalogue import Catalogue, Segment
from storjfs.segments.values import State

LIVE_ENOUGH: Final = 0.6
"""Share of live bytes below which a segment is rewritten: it bounds what farmers hold to 1 / LIVE_ENOUGH."""
MOST_SMALL: Final = 64
"""Segments closed early that may exist before they are merged."""
LOOKED_AT: Final = 512
"""Segments that one call looks at beside those that lately lost live bytes."""


class Victims:
    """Finds wasteful segments in bounded steps: a walk through the table, and what changed of late."""

    def __init__(self, catalogue: Catalogue, small: Callable[[Segment], bool]) -> None:
        self._catalogue = catalogue
        self._small = small
        self._cursor = 0

    def some(self, limit: int) -> list[int]:
        """At most `limit` segments, the most wasteful first, then small ones if there are too many."""
        catalogue = self._catalogue
        walked = catalogue.stored_after(self._cursor, LOOKED_AT)
        self._cursor = walked[-1].seg if len(walked) == LOOKED_AT else 0
        found = {segment.seg: segment for segment in [*catalogue.lately_changed(), *walked]}
        stored = [one for one in found.values() if one.state is State.STORED and one.live > 0]
        wasteful = sorted((one for one in stored if wasted(one)), key=lambda one: one.live / one.size)
        victims = [one.seg for one in wasteful]
        if catalogue.small > MOST_SMALL:
            small = [one.seg for one in stored if self._small(one) and not wasted(one)]
            # One alone would be rewritten for nothing.
            victims += small if len(small) > 1 else []
        return victims[:limit]


def wasted(segment: Segment) -> bool:
    """Whether too much of the segment is garbage."""
    return segment.live < LIVE_ENOUGH * segment.size
