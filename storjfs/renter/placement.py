"""Which farmers get the shards of a segment, and which erasure code the farmers at hand allow. Pure."""

import random
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from statistics import median
from typing import Final

VETTED_AFTER = 20
"""Passed proofs after which a farmer is no longer new."""
TRUSTED_SCORE = 0.6
"""Below this score a farmer gets new shards only where nobody better is left."""
PREFERENCE: Final = 4.0
"""How much more often one is drawn that the user prefers."""
_MOST_LEANING: Final = 4.0
"""How much more, or less, often one is drawn for being fast or cheap: the others must not starve, for their
being slow or dear today is no reason to have all shards in few hands."""

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
    lagging: bool = False
    """Lately far slower than the others, or taking connections and not answering."""
    rate: float | None = None
    """Bytes per second at which it takes shards; None: nothing was sent yet."""
    price: int = 0
    """Per GiB and month."""
    preferred: bool = False
    """The user wants it to be used before others."""
    network: str = ""
    """Its public network (`places.Place`); empty: none is known."""
    vicinity: str = ""
    """Its local network, for the warning."""

    @property
    def free(self) -> int:
        return self.capacity - self.used - self.waiting

    @property
    def vetted(self) -> bool:
        return self.passed >= VETTED_AFTER

    @property
    def well(self) -> bool:
        """Whether nothing of its own speaks against it."""
        return self.online and self.score >= TRUSTED_SCORE and not self.lagging

    @property
    def groups(self) -> tuple[str | bytes, ...]:
        """What it may share with others so that both are lost together."""
        return tuple(filter(None, (self.operator or self.node_id, self.network)))


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
    are left: online; a good score; no second shard of the segment in one operator group or public network;
    not lagging; at most a fifth of the shards (one at least) with farmers that are still new. Among equals
    the draw is weighted by free share, score, speed, price and the user's preference, and against what is
    already on its way, so load spreads by itself.

    `taken_groups`: `Candidate.groups` of those that hold a shard of the segment already.
    """
    drawn = _draw(candidates, size, exclude, rng)
    chosen: dict[bytes, Candidate] = {}
    groups = set(taken_groups)
    new_share, new = max(1, count // 5), 0
    # Each pass gives up one more wish: 0 none, 1 vetting, 2 speed, 3 distance, 4 score, 5 being online.
    for given_up in range(6):
        for candidate in drawn:
            if len(chosen) >= count:
                break
            if (
                candidate.node_id in chosen
                or (given_up < 5 and not candidate.online)
                or (given_up < 4 and candidate.score < TRUSTED_SCORE)
                or (given_up < 3 and not groups.isdisjoint(candidate.groups))
                or (given_up < 2 and candidate.lagging)
                or (given_up < 1 and not candidate.vetted and new >= new_share)
            ):
                continue
            chosen[candidate.node_id] = candidate
            groups.update(candidate.groups)
            new += not candidate.vetted
    return [one.contract for one in chosen.values()]


def _draw(
    candidates: Iterable[Candidate], size: int, exclude: Collection[int], rng: random.Random
) -> Sequence[Candidate]:
    """All that fit, in a weighted random order (Efraimidis and Spirakis 2006: sort by u^(1/w))."""
    fitting = [
        one for one in candidates if one.contract not in exclude and one.free >= size and not one.resting
    ]
    rates = [one.rate for one in fitting if one.rate]
    usual = median(rates) if rates else 0.0
    price = median(one.price for one in fitting) if fitting else 0
    keyed: list[tuple[float, int, Candidate]] = []
    for one in fitting:
        share = one.free / max(one.capacity, 1)
        weight = max(share, 0.001) * max(one.score, 0.01) / (1 + one.waiting / max(size, 1))
        if one.rate is not None and usual:
            weight *= _leaning(one.rate / usual)
        if price:
            weight *= _leaning(price / max(one.price, 1))
        if one.preferred:
            weight *= PREFERENCE
        keyed.append((rng.random() ** (1 / weight), one.contract, one))
    keyed.sort(reverse=True, key=lambda entry: entry[:2])
    return [entry[2] for entry in keyed]


def _leaning(ratio: float) -> float:
    return min(max(ratio, 1 / _MOST_LEANING), _MOST_LEANING)


@dataclass(frozen=True, slots=True)
class Spread:
    """How far apart n shards of a segment can be put."""

    wanted: int
    apart: int
    """So many farmers are found of which no two share an operator group or public network."""
    places: int
    """The same where also those of one local network count as one."""

    @property
    def warning(self) -> str:
        """A sentence for a person, empty where there is nothing to say."""
        if self.apart < self.wanted:
            where = f"only {self.apart} operators or networks"
        elif self.places < self.wanted:
            where = "farmers on one machine or local network: only " + (
                f"{self.places} places" if self.places > 1 else "1 place"
            )
        else:
            return ""
        return (
            f"the {self.wanted} shards of a segment lie with {where}: what strikes one place may take "
            "several of them; farmers elsewhere would help"
        )


def spread(candidates: Iterable[Candidate], n: int) -> Spread:
    """How far apart these farmers stand."""
    all_of_them = list(candidates)
    wanted = min(n, len({one.node_id for one in all_of_them}))
    near = [(*one.groups, *filter(None, (one.vicinity,))) for one in all_of_them]
    return Spread(wanted, _apart([one.groups for one in all_of_them]), _apart(near))


def _apart(all_groups: Sequence[tuple[str | bytes, ...]]) -> int:
    """How many can be had without two in one group, those first that stand in nobody's way."""
    members: dict[str | bytes, int] = {}
    for groups in all_groups:
        for group in groups:
            members[group] = members.get(group, 0) + 1
    taken: set[str | bytes] = set()
    count = 0
    for groups in sorted(all_groups, key=lambda groups: sum(members[group] for group in groups)):
        if taken.isdisjoint(groups):
            taken.update(groups)
            count += 1
    return count
