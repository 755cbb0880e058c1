"""What a person should know of segments, until it is over."""

import logging
from collections import OrderedDict
from typing import Final

from storjfs.segments.records import Segment

_LOG = logging.getLogger(__name__)

MOST_PROBLEMS: Final = 50


class Problems:
    """One text for each kind and segment, and which segments are damaged; the newest MOST_PROBLEMS of both.

    Kinds: `upload` and `repair` are tried again, of `lost` and `damaged` segments data is gone.
    """

    def __init__(self) -> None:
        self._texts: OrderedDict[tuple[str, int], str] = OrderedDict()
        self._damaged: OrderedDict[int, None] = OrderedDict()

    def say(self, kind: str, seg: int, text: str) -> None:
        """An empty text says that it is over."""
        self._texts.pop((kind, seg), None)
        if text:
            self._texts[kind, seg] = text
        while len(self._texts) > MOST_PROBLEMS:
            self._texts.popitem(last=False)

    def alarm(self, kind: str, seg: int, text: str) -> None:
        """Say it in the log as well."""
        _LOG.error("%s", text)
        self.say(kind, seg, text)

    def damaged(self, segment: Segment, reason: str) -> None:
        """Data of the segment is lost, which no farmer can help with. In the log once."""
        if segment.seg not in self._damaged:
            self.alarm("damaged", segment.seg, f"data of segment {segment.seg} is lost: {reason}")
        self._damaged[segment.seg] = None
        while len(self._damaged) > MOST_PROBLEMS:
            self._damaged.popitem(last=False)

    def gone(self, segment: Segment) -> None:
        """The segment is, and with it all that was wrong with it."""
        for kind in ("upload", "repair", "lost", "damaged"):
            self.say(kind, segment.seg, "")
        self._damaged.pop(segment.seg, None)

    @property
    def texts(self) -> tuple[str, ...]:
        """The oldest first."""
        return tuple(self._texts.values())

    @property
    def damaged_segments(self) -> tuple[int, ...]:
        """Their numbers, the oldest finding first."""
        return tuple(self._damaged)
