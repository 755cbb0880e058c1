"""Which farmers get the shards of a segment, and which erasure code the farmers at hand allow. Pure."""

import random
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

VETTED_AFTER = 20
"""Passed proofs after which a farmer is no longer new."""
TRUSTED_SCORE = 0.6
"""Below this score a farmer gets new shards only where nobody better is left."""
PREFERENCE = 4
"""How many times as often a preferred farmer is drawn, other things being equal."""

_CODES = ((52, 20, 50), (22, 8, 20), (17, 5, 15), (12, 3, 10), (5, 3, 5), (4, 2, 4), (3, 2, 3), (2, 1, 2))


def code_for(farmers: int) -> tuple[int, int]:
    """(k, n) for so many usable farmers.

    From 12 farmers on there are at least two more than n, so that a lost farmer's shards find another home.
    The small ones are what is left to do: 5 to 11 farmers 3/5, 4 farmers 2/4, 3 farmers 2/3, 2 farmers a
    mirror, and one farmer (or none yet) a single shard, which no repair can bring back.
    """
    for least, k, n in _CODES:
        if farmers >= least:
            return k, n
    return 1, 1


def stripes(free: Iterable[int], n: int) -> int:
    """How many bytes each of n shards may have in all, where farmers with `free` bytes take one of n each.

    The largest x for which the sum of min(free, x) is at least n x: what one farmer has beyond that is of no
    use while the others are full. With fewer than n farmers, as if the code had only so many shards.
    """
    rising = sorted(free)
    n = min(n, len(rising))
    if not n:
        return 0
    # Say that the largest n - c farmers have x or more and give x each: the others give all they have, which
    # must be c x at least. As the smallest sum counts, this holds for every c or for none.
    small = list(accumulate(rising))[len(rising) - n :]
    return min(given // count for count, given in enumerate(small, 1))


@dataclass(frozen=True, slots=True)
class Candidate:
    """A farmer under an active contract, as placement sees it. Sizes in bytes."""

    contract: int
    node_id: bytes
    operator: str
    """Farmers of one operator group fail together; empty: stands alone."""
    capacity: int
    used: int
    waiting: int
    """Bytes on their way to it now."""
    score: float
    """0 (always fails) to 1 (never did)."""
    passed: int
    """Proofs it has passed so far."""
    resting: bool = False
    """Failed proofs lately: no new shards for now."""
    online: bool = True
    preferred: bool = False
    """The user wants it to get more than others do."""

    @property
    def free(self) -> int:
        return self.capacity - self.used - self.waiting

    @property
    def vetted(self) -> bool:
        return self.passed >= VETTED_AFTER

    @property
    def group(self) -> str | bytes:
        return self.operator or self.node_id


def choose(
    candidates: Iterable[Candidate],
    count: int,
    size: int,
    exclude: Collection[int] = (),
    *,
    rng: random.Random,
    taken_groups: Collection[str | bytes] = (),
) -> list[int]:
    """At most `count` distinct contracts, best first, each with room for a shard of `size` bytes.

    Never one in `exclude`, never two of one farmer. Wishes, given up from last to first only where too few
    are left: online; a good score; no second shard of the segment in one operator group; at most a fifth of
    the shards (one at least) with farmers that are still new. Among equals the draw is weighted by free
    share and score, and against what is already on its way, so load spreads by itself.
    """
    drawn = _draw(candidates, size, exclude, rng)
    chosen: list[Candidate] = []
    groups = list(taken_groups)
    new_share = max(1, count // 5)
    # Each pass gives up one more wish: 0 none, 1 vetting, 2 groups, 3 score, 4 being online.
    for given_up in range(5):
        for candidate in drawn:
            if len(chosen) >= count:
                return [one.contract for one in chosen]
            if any(one.node_id == candidate.node_id for one in chosen):
                continue
            if given_up < 4 and not candidate.online:
                continue
            if given_up < 3 and candidate.score < TRUSTED_SCORE:
                continue
            if given_up < 2 and candidate.group in groups:
                continue
            new = sum(not one.vetted for one in chosen)
            if given_up < 1 and not candidate.vetted and new >= new_share:
                continue
            chosen.append(candidate)
            groups.append(candidate.group)
    return [one.contract for one in chosen]


def _draw(
    candidates: Iterable[Candidate], size: int, exclude: Collection[int], rng: random.Random
) -> Sequence[Candidate]:
    """All that fit, in a weighted random order (Efraimidis and Spirakis 2006: sort by u^(1/w))."""
    keyed: list[tuple[float, int, Candidate]] = []
    for one in candidates:
        if one.contract in exclude or one.free < size or one.resting:
            continue
        share = one.free / max(one.capacity, 1)
        weight = (
            (PREFERENCE if one.preferred else 1)
            * max(share, 0.001)
            * max(one.score, 0.01)
            / (1 + one.waiting / max(size, 1))
        )
        keyed.append((rng.random() ** (1 / weight), one.contract, one))
    keyed.sort(reverse=True, key=lambda entry: entry[:2])
    return [entry[2] for entry in keyed]
