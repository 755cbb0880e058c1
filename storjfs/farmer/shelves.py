"""The shelves of a farmer, one on each of its disks: a shard comes to the one with the most room.

What one disk does is no matter of the others: each has its limit, and fails for itself.
"""

from collections.abc import Callable, Iterable, Iterator

import apsw

from storjfs.farmer.shelf import Arrival, Held, NoRoom, ShardUnreadable, Shelf
from storjfs.protocol.ids import Digest, ShardId

FIRST = 1
"""The number of the disk that has the farmer's own folder."""


class Shelves:
    """`first` is that in the farmer's own folder; others come by `add`."""

    def __init__(self, first: Shelf) -> None:
        self.first = first
        self._all = {first.number: first}

    def __iter__(self) -> Iterator[Shelf]:
        return iter(list(self._all.values()))

    def __len__(self) -> int:
        return len(self._all)

    @property
    def others(self) -> list[Shelf]:
        return [shelf for shelf in self if shelf is not self.first]

    def add(self, shelf: Shelf) -> None:
        """It is used from now on."""
        self._all[shelf.number] = shelf

    def drop(self, shelf: Shelf) -> None:
        """It is empty, and not used any more."""
        del self._all[shelf.number]

    def get(self, number: int) -> Shelf | None:
        """The shelf on the disk of this number."""
        return self._all.get(number)

    def of(self, held: Held) -> Shelf:
        """Where the index said that the shard lies. Raises ShardUnreadable if that disk is gone since."""
        shelf = self._all.get(held.disk)
        if shelf is None:
            raise ShardUnreadable(f"disk {held.disk} is not used any more")
        return shelf

    # --- all together ---

    @property
    def stored(self) -> int:
        """Bytes of the files of all shards."""
        return sum(shelf.stored for shelf in self)

    @property
    def arriving(self) -> int:
        """How many shards are on their way in."""
        return sum(len(shelf.arrivals) for shelf in self)

    def arrival(self, shard_id: ShardId) -> Arrival | None:
        """The shard on its way in, to whatever disk."""
        found = (shelf.arrivals.get(shard_id) for shelf in self)
        return next((one for one in found if one is not None), None)

    @property
    def silent(self) -> tuple[int, ...]:
        """Numbers of the disks that do not answer."""
        return tuple(shelf.number for shelf in self if shelf.disk.given_up)

    @property
    def can_grow(self) -> bool:
        """Whether any disk takes shards now."""
        return any(not (shelf.read_only or shelf.leaving) for shelf in self)

    def most(self, free: Callable[[Shelf], int] | None = None, records: int = 0) -> int:
        """Bytes that shards may take in all, if `records` more bytes of the first disk are not for them.

        `free` says what the disk of a shelf still has; without it all that the limit allows is there. A disk
        that fails counts with what lies on it, for so does what is sold; one that is emptied does not: what
        lies there needs room elsewhere.
        """
        return sum(self._most_on(shelf, free, records * (shelf is self.first)) for shelf in self)

    @staticmethod
    def _most_on(shelf: Shelf, free: Callable[[Shelf], int] | None, records: int) -> int:
        if shelf.leaving:
            return 0
        if shelf.read_only:
            return shelf.stored
        limit = shelf.limit - shelf.beside - records
        return limit if free is None else min(limit, shelf.stored + max(free(shelf), 0))

    def failed(self, error: BaseException, shelf: Shelf | None = None) -> bool:
        """Whether it is the error of a failing disk: of that shelf, or of the first, where farmer.db lies."""
        if shelf is None or isinstance(error, apsw.Error):
            shelf = self.first
        return shelf.failed(error)

    # --- shards ---

    def begin(self, shard_id: ShardId, length: int, *, away_from: Shelf | None = None) -> Arrival:
        """Reserve room on the disk that has most. Raises NoRoom, with the reason of that one.

        `away_from`: the disk that a shard is moved from, which is never the first. The first is always among
        those that take shards, so there is one.
        """
        if self.arrival(shard_id) is not None:
            raise ValueError("this shard is arriving already")
        taking = [shelf for shelf in self if not shelf.leaving and shelf is not away_from]
        shelves = sorted(taking, key=lambda shelf: shelf.room, reverse=True) if len(taking) > 1 else taking
        reason: NoRoom | None = None
        for shelf in shelves:
            try:
                if shelf is not self.first:
                    self._check_records()
                return shelf.begin(shard_id, length)
            except NoRoom as error:
                reason = reason or error
            except OSError as error:
                shelf.failed(error)
                reason = reason or NoRoom(f"the farmer's disk takes nothing: {shelf.read_only or error}")
        assert reason is not None
        raise reason

    def _check_records(self) -> None:
        """What is recorded of a shard takes room on the first disk, wherever it lies. Raises NoRoom."""
        if self.first.read_only or self.first.full or self.first.room_for_records(self.arriving + 1) < 0:
            raise NoRoom("the farmer's first disk has no room for the record of the shard")

    def read(self, held: Held, offset: int, length: int) -> bytes:
        """As that of the shelf it lies on."""
        return self.of(held).read(held, offset, length)

    def prove(self, held: Held, indices: Iterable[int]) -> list[tuple[bytes, bytes]]:
        """As that of the shelf it lies on."""
        return self.of(held).prove(held, list(indices))

    def hashes(self, held: Held, offset: int) -> bytes:
        """As that of the shelf it lies on."""
        return self.of(held).hashes(held, offset)

    def compare(self, held: Held, leaves: bytes) -> None:
        """As that of the shelf it lies on."""
        self.of(held).compare(held, leaves)


def held_of(row: tuple[ShardId, Digest, int, int]) -> Held:
    """A row `shard_id, root, length, disk` of the index."""
    shard_id, root, length, disk = row
    return Held(ShardId(shard_id), root, length, disk)
