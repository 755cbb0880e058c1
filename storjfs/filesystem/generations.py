"""A bounded cache whose hits cost one dict look-up."""

from typing import Generic, Protocol, TypeVar


class Pinned(Protocol):
    pins: int
    """Above 0 while the item must stay, for instance because the database does not know it yet."""

    @property
    def weight(self) -> int: ...


T = TypeVar("T", bound=Pinned)


class Generations(Generic[T]):
    """Two dicts instead of a list of uses: what the young one has no room for ages, and is dropped a
    generation later unless it was used again or is pinned. Holds up to twice `limit` of weight, and what is
    pinned. Keys are ints."""

    __slots__ = ("_limit", "_rotate_at", "_weight", "old", "young")

    def __init__(self, limit: int) -> None:
        self.young: dict[int, T] = {}
        self.old: dict[int, T] = {}
        self._limit = limit
        self._rotate_at = limit
        self._weight = 0

    def get(self, key: int) -> T | None:
        item = self.young.get(key)
        if item is None and (item := self.old.pop(key, None)) is not None:
            self.put(key, item)
        return item

    def peek(self, key: int) -> T | None:
        """As `get`, but not counted as a use."""
        return self.young.get(key) or self.old.get(key)

    def put(self, key: int, item: T) -> None:
        self.young[key] = item
        self.grow(item.weight)

    def grow(self, weight: int) -> None:
        """Some item became heavier."""
        self._weight += weight
        if self._weight >= self._rotate_at:
            self._rotate()

    def drop(self, key: int) -> None:
        self.young.pop(key, None)
        self.old.pop(key, None)

    def _rotate(self) -> None:
        kept = {key: item for key, item in self.old.items() if item.pins}
        self.old, self.young = self.young, kept
        self._weight = 0
        # With many pinned items rotating pays only after as many new ones.
        self._rotate_at = self._limit + len(kept)
