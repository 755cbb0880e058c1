"""What the settings leave of redundancy, in words.

Too few farmers for a code, a code without spare shards, farmers taken off whose shards nobody else can take.
Pure.
"""

from storjfs.renter.audits import HELD_STATES

BARE = "SELECT COUNT(*) FROM segment INDEXED BY segment_bare WHERE state = 2 AND k = n AND n > 0"
"""Stored segments of which every shard is needed. Has an index of its own, which is empty as a rule."""

WAITING = "SELECT k, n FROM segment WHERE state = 1 ORDER BY n DESC LIMIT 1"
"""The code of the segment that needs the most farmers of those that wait for them; no row where none does."""


def widest_with(contracts: int) -> str:
    """A query with so many contracts as parameters: (k, n) of the segment with the most shards, of those that
    have some there."""
    marks = ", ".join("?" * contracts)
    return (
        "SELECT s.k, s.n FROM segment s WHERE s.state = 2 AND EXISTS (SELECT 1 FROM shard h "
        f"WHERE h.seg = s.seg AND h.state IN {HELD_STATES} AND h.contract IN ({marks})) "
        "ORDER BY s.n DESC LIMIT 1"
    )


def stored_with(k: int, n: int) -> int:
    """Farmers that must have taken a shard for a segment to survive the loss of this machine."""
    return k + -(-(n - k) // 2)


def of_code(code: tuple[int, int], farmers: int) -> str:
    """What new data lack with this code and so many farmers; empty where nothing."""
    k, n = code
    if 0 < n == k:
        return (
            "There is no redundancy: every shard of a segment is needed, so what one farmer loses is lost. "
            "Name more farmers in the settings; from two on one may fail, from five on any two."
        )
    least = stored_with(k, n)
    needs = f"A code of {k}/{n} needs {n} farmers, {least} at the least, and there are {farmers}"
    remedy = 'Name more farmers in the settings, or write code = "auto".'
    if farmers < least:
        return f"{needs}: what is written stays on this machine and is lost with it. {remedy}"
    if farmers < n:
        return f"{needs}: some spare shards of each segment are missing. {remedy}"
    return ""


def of_waiting(code: tuple[int, int], farmers: int) -> str:
    """About segments that were closed with this code and wait for more farmers than there are; else empty."""
    k, n = code
    least = stored_with(k, n)
    if farmers >= least:
        return ""
    return (
        f"Data that waits was prepared with the code {k}/{n}, which needs {least} farmers, and there are "
        f"{farmers}: it stays on this machine until more are named in the settings, or its files are written "
        "anew."
    )


def of_bare(count: int) -> str:
    """About so many stored segments without a spare shard; empty where there are none."""
    if not count:
        return ""
    return (
        f"Segments without redundancy, of which every shard is needed: {count}. They keep the code that they "
        "were stored with; files that are written anew get that of the farmers there are now."
    )


def of_leaving(leaving: int, code: tuple[int, int], farmers: int) -> str:
    """What becomes of so many farmers that were taken off the settings, and hold shards of segments with this
    code, while there are `farmers` others; empty where their shards can move to those."""
    k, n = code
    if farmers >= n:
        return ""
    who = "a farmer that was" if leaving == 1 else f"{leaving} farmers that were"
    return (
        f"Data cannot move away from {who} taken off the settings: segments of {k}/{n} need {n} farmers, and "
        f"there are {farmers} others. Nothing is lost while the old ones are there; name {n} or more."
    )
