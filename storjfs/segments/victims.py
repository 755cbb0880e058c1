"""Which segments the compactor should rewrite; docs/explanation/garbage.md tells what that costs."""

from collections.abc import Iterable
from typing import Final

from storjfs.segments.catalogue import Catalogue
from storjfs.segments.records import Segment
from storjfs.segments.values import State

LIVE_ENOUGH: Final = 0.6
"""Share of live bytes below which a segment is rewritten. Farmers then hold at most 1 / LIVE_ENOUGH times
what is live, and for each byte of garbage at most LIVE_ENOUGH / (1 - LIVE_ENOUGH) bytes are moved."""
MOST_SMALL: Final = 64
"""Segments closed early that may exist before they are merged."""
LOOKED_AT: Final = 512
"""Segments that one call looks at beside those that lately lost live bytes."""


class Victims:
    """Finds wasteful segments in bounded steps: a walk through the table, and what changed of late."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._cursor = 0

    def some(self, limit: int) -> list[int]:
        """At most `limit` segments, the most wasteful first, then small ones if there are too many.

        What is not sent yet is rewritten like the rest, unless its shards are on their way: that costs less
        than to send its garbage. The smallest of the small ones go first, so that what was merged waits until
        others of its size have come together, and a byte is moved a few times at most on its way to a full
        segment.
        """
        catalogue = self._catalogue
        walked = catalogue.stored_after(self._cursor, LOOKED_AT)
        self._cursor = walked[-1].seg if len(walked) == LOOKED_AT else 0
        found = {segment.seg: segment for segment in [*catalogue.lately_changed(), *walked]}
        self._let_go_of_empty(found.values())
        settled = [one for one in found.values() if one.live > 0 and is_settled(one)]
        wasteful = sorted((one for one in settled if wasted(one)), key=lambda one: one.live / one.plain)
        victims = [one.seg for one in wasteful]
        if catalogue.tallies.small > MOST_SMALL:
            small = [one for one in settled if one.small and not wasted(one)]
            # One alone would be rewritten for nothing.
            if len(small) > 1:
                victims += [one.seg for one in sorted(small, key=lambda one: one.size)]
        return victims[:limit]

    def after(self, seg: int) -> tuple[list[int], int | None]:
        """A step of a walk through all segments, for whoever wants all garbage gone: the wasteful ones behind
        number `seg`, and the number to go on from, None at the end."""
        walked = self._catalogue.stored_after(seg, LOOKED_AT)
        self._let_go_of_empty(walked)
        wasteful = [one.seg for one in walked if one.live > 0 and is_settled(one) and wasted(one)]
        return wasteful, walked[-1].seg if len(walked) == LOOKED_AT else None

    def _let_go_of_empty(self, segments: Iterable[Segment]) -> None:
        """What a crash kept from being doomed in the group after the one that emptied it."""
        for one in segments:
            if one.live <= 0 and is_settled(one):
                self._catalogue.emptied(self._catalogue.get(one.seg))


def is_settled(segment: Segment) -> bool:
    """Whether nothing is being appended to the segment, or sent of it."""
    return segment.state is State.STORED or (segment.state is State.CLOSED and not segment.busy)


def wasted(segment: Segment) -> bool:
    """Whether too much of the segment is garbage."""
    return segment.live < LIVE_ENOUGH * segment.plain
