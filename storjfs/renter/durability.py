"""How probable the loss of data is, as far as a formula can say: docs/explanation/durability.md. Pure."""

from math import comb, expm1, log1p
from typing import Final

YEAR: Final = 365 * 86400.0
USUAL_LOSS: Final = 0.05
"""The share of farmers lost for good in a year that is reckoned with."""
USUAL_REPAIR: Final = 7 * 86400.0
"""Seconds until lost shards are found missing and rebuilt that are reckoned with."""


def lost_within(k: int, n: int, p: float) -> float:
    """The probability that more than n - k of n farmers are lost, each independently with probability `p`."""
    return sum(comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(n - k + 1, n + 1))


def lost_in_a_year(
    k: int, n: int, farmers: int = 0, *, loss: float = USUAL_LOSS, repair: float = USUAL_REPAIR
) -> float:
    """The probability that a year loses any segment of a volume on `farmers` farmers (0: n of them).

    Segments on the same n farmers share their fate, so a volume is as many segments as there are sets of n. 1
    where there is no redundancy and a farmer is lost for certain. Farmers that fail together are not in it.
    """
    if n <= k:
        return 1 - (1 - loss) ** max(farmers, n)
    p = -expm1(log1p(-loss) * repair / YEAR)
    q = min(lost_within(k, n, p) * comb(max(farmers, n), n), 1.0)
    return -expm1(log1p(-q) * YEAR / repair) if q < 1 else 1.0


def in_words(probability: float) -> str:
    """One significant figure, and none beyond what can be believed."""
    if probability <= 1e-6:
        return "less than 1 in 1,000,000"
    if probability >= 0.5:
        return "more likely than not"
    ratio = 1 / probability
    digits = len(str(int(ratio))) - 1
    return f"about 1 in {round(ratio, -digits):,.0f}"
