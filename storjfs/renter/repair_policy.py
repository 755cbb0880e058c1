"""When a segment is rebuilt, and which one first. Pure; the doing is the segments room's."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum


class Health(IntEnum):
    """How many losses a segment still bears."""

    LOST = 0
    """Fewer than k shards are left."""
    AT_RISK = 1
    """No spare shard is left, or just one where there once were more than two."""
    DEGRADED = 2
    FULL = 3


class Urgency(IntEnum):
    NONE = 0
    ROUTINE = 1
    """A third of the spare shards is gone."""
    AT_ONCE = 2
    """One more loss would be fatal or next to fatal."""
    TOO_LATE = 3
    """Fewer than k shards are left; contained farmers may still come back."""


@dataclass(frozen=True, slots=True)
class SegmentHealth:
    """`healthy` counts the shards not known to be lost, those of silent (contained) farmers included."""

    seg: int
    k: int
    n: int
    healthy: int
    contained: int = 0


def health(k: int, n: int, healthy: int) -> Health:
    if healthy < k:
        return Health.LOST
    if healthy >= n:
        return Health.FULL
    if healthy == k or (healthy == k + 1 and n - k > 2):
        return Health.AT_RISK
    return Health.DEGRADED


def urgency(k: int, n: int, healthy: int) -> Urgency:
    """Whether to rebuild. Silence alone costs no data movement: contained shards count as healthy."""
    lost = n - healthy
    if lost <= 0:
        return Urgency.NONE
    if healthy < k:
        return Urgency.TOO_LATE
    if healthy <= k + 1:
        return Urgency.AT_ONCE
    if 3 * lost >= n - k:
        return Urgency.ROUTINE
    return Urgency.NONE


def danger(segment: SegmentHealth) -> tuple[int, int, int, int]:
    """Sorts the segment nearest to its death first: fewest spares, then fewest spares that answer."""
    spare = segment.healthy - segment.k
    return spare, spare - segment.contained, segment.k - segment.n, segment.seg


def repair_order(segments: Iterable[SegmentHealth]) -> list[SegmentHealth]:
    """Those to be rebuilt, most endangered first. What cannot be rebuilt is left out."""
    wanted = (Urgency.ROUTINE, Urgency.AT_ONCE)
    return sorted((one for one in segments if urgency(one.k, one.n, one.healthy) in wanted), key=danger)
