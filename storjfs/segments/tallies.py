"""Sums over all stored segments, kept with every change: how many of each health, how many bytes."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from storjfs.renter.repair_policy import Health
from storjfs.segments.records import Segment
from storjfs.store import Statement

_COUNTERS: Final = "REPLACE INTO counters VALUES (?, ?)"
_KEYS: Final = {
    Health.LOST: "segments_lost",
    Health.AT_RISK: "segments_at_risk",
    Health.DEGRADED: "segments_degraded",
    Health.FULL: "segments_full",
}
_STORED_BYTES: Final = "segments_stored_bytes"
_SMALL: Final = "segments_small"
_GARBAGE: Final = "segments_garbage"


class Tallies:
    """What is told here is committed in the transaction of the rows that it is about."""

    def __init__(self, counters: Mapping[Any, Any]) -> None:
        """`counters`: the table of that name in meta.db."""
        self.by_health = {kind: int(counters.get(key, 0)) for kind, key in _KEYS.items()}
        """How many stored segments there are of each health."""
        self.stored_bytes = int(counters.get(_STORED_BYTES, 0))
        self.small = int(counters.get(_SMALL, 0))
        """Stored segments that were closed early, under a quarter full."""
        self.garbage = self._garbage_saved = int(counters.get(_GARBAGE, 0))
        """Plaintext bytes of stored segments that nothing points to."""
        self._changed = False

    def count(self, segment: Segment, kind: Health, sign: int) -> None:
        """One more stored segment (1), or one less (-1)."""
        self.stored_bytes += sign * segment.size
        self.garbage += sign * (segment.plain - segment.live)
        self.small += sign * segment.small
        self.by_health[kind] += sign
        self._changed = True

    def moved(self, before: Health, after: Health) -> None:
        """The health of a stored segment was `before`."""
        if after is not before:
            self.by_health[before] -= 1
            self.by_health[after] += 1
            self._changed = True

    def amend(self, key: str, delta: int) -> bool:
        """A counter, by its name in the database, is wrong by `delta`; False where it is not one of these."""
        kinds = {name: kind for kind, name in _KEYS.items()}
        if key in kinds:
            self.by_health[kinds[key]] += delta
        elif key == _STORED_BYTES:
            self.stored_bytes += delta
        elif key == _SMALL:
            self.small += delta
        elif key == _GARBAGE:
            self.garbage += delta
        else:
            return False
        self._changed = True
        return True

    def frozen(self) -> Iterable[Statement]:
        """What is to be committed of the changes since the last call."""
        if self._changed:
            self._changed = False
            pairs = [(key, self.by_health[kind]) for kind, key in _KEYS.items()]
            pairs += [(_STORED_BYTES, self.stored_bytes), (_SMALL, self.small)]
            yield _COUNTERS, pairs
        if self.garbage != self._garbage_saved:
            self._garbage_saved = self.garbage
            yield _COUNTERS, [(_GARBAGE, self.garbage)]
