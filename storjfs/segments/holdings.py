"""What each farmer holds for us, in shards and bytes: kept with every change of a row."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from storjfs.segments.records import LARGEST_SHARD, Shard
from storjfs.segments.values import NOBODY
from storjfs.store import Statement

_SHARDS: Final = "held_shards_"
_BYTES: Final = "held_bytes_"

COUNT_HELD: Final = (
    "SELECT contract, COUNT(*), SUM(length) FROM ("
    f"SELECT contract, length FROM shard WHERE state IN (1, 2) AND length BETWEEN 1 AND {LARGEST_SHARD} "
    f"UNION ALL SELECT contract, length FROM doomed WHERE length BETWEEN 1 AND {LARGEST_SHARD}"
    f") WHERE contract <> {NOBODY} GROUP BY contract"
)
"""What the counters should say, by the rows of meta.db: reads all of them."""

LENGTH_IF_HELD: Final = (
    f"CASE WHEN state IN (1, 2) AND length BETWEEN 1 AND {LARGEST_SHARD} THEN length ELSE 0 END"
)
"""Of a row of shard: the length for its row in `doomed`, as `Holdings.doomed` gives it."""


class Holdings:
    """The one place that says what a farmer holds under a contract; `status`, placement and `df` go by it.

    At every moment a contract holds

    - the shards whose row is *held* or *suspect*: their farmer signed for them, and nothing speaks against;
    - those in `doomed` with a length: they were held when nothing needed them any more, and take room until
      their farmer has confirmed that they are deleted.

    Nothing else counts: neither an upload without a receipt, nor a shard that is lost, nor one that the
    metadata do not know; so what becomes of those changes no count. What is told here are changes of rows,
    each in the step of the loop that makes it, and the counters are committed in the transaction of these
    rows. So there is no moment, and no place for a crash, at which both differ, and nothing is ever counted
    anew.
    """

    def __init__(self, counters: Mapping[Any, Any]) -> None:
        """`counters`: the table of that name in meta.db; what in it makes no sense is left to fsck."""
        self._held: dict[int, tuple[int, int]] = {}
        self._changed: set[int] = set()
        for key, value in counters.items():
            if isinstance(key, str) and isinstance(value, int):
                self._add_to(key, value)
        self._changed.clear()

    def under(self, contract: int) -> tuple[int, int]:
        """Shards that a contract's farmer holds, and their sealed bytes."""
        shards, size = self._held.get(contract, (0, 0))
        return max(shards, 0), max(size, 0)  # below zero only while damaged metadata are being mended

    def note(self, shard: Shard) -> None:
        """The row of a shard is new, or its state has changed."""
        if shard.counted is not shard.counts:
            shard.counted = shard.counts
            sign = 1 if shard.counted else -1
            self._add(shard.contract, sign, sign * shard.length)

    def doomed(self, shard: Shard) -> int:
        """The row of a shard goes: the length for its row in `doomed`, which counts instead of it."""
        length = shard.length if shard.counted else 0
        shard.counted = False
        return length

    def deleted(self, contract: int, length: int) -> None:
        """A row goes from `doomed`, whose length this is."""
        if contract != NOBODY and 0 < length <= LARGEST_SHARD:
            self._add(contract, -1, -length)

    def amend(self, key: str, delta: int) -> bool:
        """A counter, by its name in the database, is wrong by `delta`; False where it is not one of these."""
        return self._add_to(key, delta)

    def frozen(self) -> Iterable[Statement]:
        """What is to be committed with the rows that were changed since the last call."""
        changed, self._changed = self._changed, set()
        rows = []
        for contract in changed:
            for key, value in zip((_SHARDS, _BYTES), self._held[contract], strict=True):
                rows.append((f"{key}{contract}", value))
        return [("REPLACE INTO counters VALUES (?, ?)", rows)] if rows else []

    def _add_to(self, key: str, value: int) -> bool:
        for prefix, counts in ((_SHARDS, True), (_BYTES, False)):
            number = key.removeprefix(prefix)
            if number != key and number.isdecimal():
                self._add(int(number), value if counts else 0, 0 if counts else value)
                return True
        return False

    def _add(self, contract: int, shards: int, size: int) -> None:
        before = self._held.get(contract, (0, 0))
        self._held[contract] = before[0] + shards, before[1] + size
        self._changed.add(contract)


def right_counters(rows: Iterable[tuple[int, int, int]], there: Iterable[Any]) -> dict[str, int]:
    """What the counters should say: those that are `there`, and those of what COUNT_HELD found."""
    right = {key: 0 for key in there if isinstance(key, str) and key.startswith((_SHARDS, _BYTES))}
    for contract, shards, size in rows:
        right |= {f"{_SHARDS}{contract}": shards, f"{_BYTES}{contract}": size}
    return right
