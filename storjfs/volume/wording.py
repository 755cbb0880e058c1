"""Numbers as people read them: sizes, times, money, short ids."""

from collections.abc import Sequence

CREDIT = 10**9
MOST_NAMED = 6
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def size(count: int | float) -> str:
    """Bytes with three significant figures: 999 B, 1.50 MiB, 12.3 GiB."""
    value = float(count)
    for unit in _UNITS:
        if abs(value) < 1000 or unit == _UNITS[-1]:
            break
        value /= 1024
    if unit == "B":
        return f"{int(value)} B"
    return (
        f"{value:.2f} {unit}"
        if value < 10
        else f"{value:.1f} {unit}"
        if value < 100
        else f"{value:.0f} {unit}"
    )


def duration(seconds: float) -> str:
    """The two largest units of a length of time: 3 d 4 h, 12 min, 8 s."""
    left = int(max(seconds, 0))
    parts = []
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, left = divmod(left, length)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2]) or "0 s"


def briefly(seconds: float) -> str:
    """The largest unit of a length of time, rounded down."""
    words = duration(seconds).split()
    return f"{words[0]} {words[1]}"


def ago(moment: float | None, now: float) -> str:
    """How long a moment is past; a dash where there is none."""
    return "-" if moment is None else f"{duration(now - moment)} ago"


def money(nanocredits: int | None) -> str:
    """Money with enough digits that small sums are not shown as nothing."""
    if nanocredits is None:
        return "-"
    value = nanocredits / CREDIT
    if nanocredits and abs(nanocredits) < 1000:
        return f"{value:.9f}"
    if value and abs(value) < 0.001:
        return f"{value:.6f}"
    return f"{value:.3f}"


def count(number: int, of: str) -> str:
    """A number of things: 1 shard, 2 shards."""
    return f"{number} {of}" if number == 1 else f"{number} {of}s"


def farmers(away: Sequence[str]) -> str:
    """Who does not answer, by node id in hex; empty where nobody is away."""
    if not away:
        return ""
    names = ", ".join(map(short_id, away[:MOST_NAMED]))
    more = f" and {len(away) - MOST_NAMED} more" if len(away) > MOST_NAMED else ""
    does = "farmer does" if len(away) == 1 else "farmers do"
    return f"{len(away)} {does} not answer: {names}{more}"


def without_room(full: Sequence[str]) -> str:
    """Who has no room for more, by node id in hex; at least one."""
    names = ", ".join(map(short_id, full[:MOST_NAMED]))
    more = f" and {len(full) - MOST_NAMED} more" if len(full) > MOST_NAMED else ""
    have = "farmer has" if len(full) == 1 else "farmers have"
    return f"{len(full)} {have} no room for more: {names}{more}"


def short_id(identifier: str) -> str:
    """Enough of a hexadecimal id to tell a handful of them apart."""
    return identifier[:8]
