"""A bounded cache whose hits cost one dict look-up."""

from typing import Any, Generic, Protocol, TypeVar


class Pinned(Protocol):
    pins: int
    """Above 0 while the item must stay, for instance because the database does not know it yet."""

    @property
    def weight(self) -> int: ...


T = TypeVar("T", bound=Pinned)


def leave(dropped: dict[Any, Any]) -> None:
    """Take two items out, if there are any: called for each new one, this empties a dict in time."""
    if dropped:
        dropped.popitem()
        if dropped:
            dropped.popitem()


class Generations(Generic[T]):
    """Dicts instead of a list of uses: what the young one has no room for ages, and is dropped a generation
    later unless it was used again or is pinned. Holds up to twice `limit` of weight, and what is pinned. No
    call does more than the weight it adds asks for: a generation leaves bit by bit, at twice the pace at
    which the young one grows. Keys are ints, weights at least 1."""

    __slots__ = ("_leaving", "_limit", "_rotate_at", "_weight", "old", "young")

    def __init__(self, limit: int) -> None:
        self.young: dict[int, T] = {}
        self.old: dict[int, T] = {}
        self._leaving: dict[int, T] = {}
        """Found as those in `old` are, until they have left."""
        self._limit = limit
        self._rotate_at = limit
        self._weight = 0

    def get(self, key: int) -> T | None:
        item = self.young.get(key)
        if item is None:
            item = self.old.pop(key, None) or self._leaving.pop(key, None)
            if item is not None:
                self.put(key, item)
        return item

    def peek(self, key: int) -> T | None:
        """As `get`, but not counted as a use."""
        return self.young.get(key) or self.old.get(key) or self._leaving.get(key)

    def put(self, key: int, item: T) -> None:
        self.young[key] = item
        self.grow(item.weight)

    def grow(self, weight: int) -> None:
        """Some item became heavier."""
        self._weight += weight
        if self._leaving:
            self._leave(2 * weight)
        elif self._weight >= self._rotate_at:
            self._leaving, self.old, self.young = self.old, self.young, {}
            self._weight = 0
            self._rotate_at = self._limit

    def drop(self, key: int) -> None:
        self.young.pop(key, None)
        self.old.pop(key, None)
        self._leaving.pop(key, None)

    def _leave(self, weight: int) -> None:
        leaving = self._leaving
        while weight > 0 and leaving:
            key, item = leaving.popitem()
            weight -= item.weight
            if item.pins:
                self.young[key] = item
                # With many pinned items rotating pays only after as many new ones.
                self._rotate_at += 1
