"""Moves shards off disks that leave, one at a time, each whole on one disk or the other at every moment.

A copy arrives on the other disk as a put does: its content and its name are on that disk before one commit
has the index say that the shard lies there, and dooms the old file. So a crash leaves a file that no row
knows (removed at start), or a doomed one (likewise), never a shard less. Each copy is compared with the root
first.
"""

import logging
import math
from collections.abc import Awaitable, Callable
from typing import Final

import apsw
import trio

from storjfs.errors import StorjfsError
from storjfs.farmer.book import Book, ContractEntry
from storjfs.farmer.damage import Damage
from storjfs.farmer.keeping import Keeper, counted, doom
from storjfs.farmer.scrub import disk_works
from storjfs.farmer.shelf import (
    BATCH,
    Arrival,
    Held,
    NotAnswering,
    ShardDamaged,
    ShardUnreadable,
    Shelf,
)
from storjfs.farmer.shelves import Shelves
from storjfs.protocol.ids import ShardId

log = logging.getLogger(__name__)

ROWS: Final = 64
GIVE_WAY: Final = 1.0
"""Seconds that BATCH bytes wait at most for transfers to end."""
LOOK_EVERY: Final = 5.0
"""Seconds until shards for which nowhere was room, or that could not be read, are tried again."""


class Mover:
    """`run` is its task; `idle` returns when nothing else is under way."""

    def __init__(
        self,
        book: Book,
        shelves: Shelves,
        keeper: Keeper,
        damage: Damage,
        idle: Callable[[], Awaitable[None]],
    ) -> None:
        self._book = book
        self._shelves = shelves
        self._keeper = keeper
        self._damage = damage
        self._idle = idle
        self._thread = trio.CapacityLimiter(1)
        self._turn = trio.Lock()
        self._changed = trio.Event()

    async def run(self) -> None:
        """Move what is to be moved, until cancelled."""
        while True:
            for shelf in self._shelves.others:
                if shelf.leaving:
                    try:
                        await self.empty(shelf)
                    except (StorjfsError, OSError, apsw.Error) as error:
                        log.warning("not moved yet from %s: %s", shelf.folder, error)
            with trio.move_on_after(LOOK_EVERY if self._shelves.others else math.inf):
                await self._changed.wait()
            self._changed = trio.Event()

    def again(self) -> None:
        """The disks are others than they were."""
        self._changed.set()

    async def empty(self, shelf: Shelf) -> None:
        """Move all shards off `shelf` but those known to be damaged, as long as it is leaving.

        Raises NoRoom, ShardUnreadable, OSError, apsw.Error: nothing is lost, and it may be called again.
        """
        async with self._turn:
            await self._empty(shelf)

    async def _empty(self, shelf: Shelf) -> None:
        place = (0, b"")
        while shelf.leaving and shelf.recovered and not shelf.read_only:
            rows = self._book.records.read(
                "SELECT contract, shard_id, root, length FROM shard WHERE disk = ? AND disk <> 1 "
                "AND (contract, shard_id) > (?, ?) ORDER BY contract, shard_id LIMIT ?",
                shelf.number,
                *place,
                ROWS,
            )
            if not rows:
                return
            for contract, shard_id, root, length in rows:
                place = (contract, shard_id)
                held = Held(ShardId(shard_id), root, length, shelf.number)
                if self._damage.reason(shard_id) is not None:
                    continue
                try:
                    await self._move(contract, held)
                except (ShardDamaged, ShardUnreadable) as error:
                    if isinstance(error, NotAnswering):
                        raise
                    if isinstance(error, ShardUnreadable) and not await self._works(shelf):
                        raise
                    if self._now(held) == held:
                        await self._damage.note(held.shard_id, str(error))

    async def _works(self, shelf: Shelf) -> bool:
        return await trio.to_thread.run_sync(disk_works, shelf, limiter=self._thread)

    async def _move(self, contract: int, held: Held) -> None:
        entry = next((one for one in self._book.contracts.values() if one.number == contract), None)
        shelf = self._shelves.of(held)
        # It may have been named again meanwhile, and takes shards: a move to where it lies would remove it.
        if entry is None or self._now(held) != held or not shelf.leaving:
            return
        if self._shelves.arrival(held.shard_id) is not None:
            return  # its row is committed and its file not in its place yet
        arrival = self._shelves.begin(held.shard_id, held.length, away_from=shelf)
        try:
            await self._copy(held, arrival)
            async with entry.turn:
                await self._commit(entry, held, arrival)
        except BaseException:
            if self._now(held) == held:
                await self._keeper.discard(arrival)
            raise
        finally:
            arrival.shelf.abandon(arrival)

    async def _copy(self, held: Held, arrival: Arrival) -> None:
        """Have a whole copy on the other disk. Raises ShardDamaged, and it is noted, for one that is not."""
        root = b""
        for offset in range(0, held.length, BATCH):
            with trio.move_on_after(GIVE_WAY):
                await self._idle()
            length = min(BATCH, held.length - offset)
            last = offset + length == held.length
            root = await trio.to_thread.run_sync(
                self._copy_some, held, arrival, offset, length, last, limiter=self._thread
            )
        if root != held.root:
            raise ShardDamaged(f"shard {held.shard_id.hex()} is not what it was")

    def _copy_some(self, held: Held, arrival: Arrival, offset: int, length: int, last: bool) -> bytes:
        data = memoryview(self._shelves.read(held, offset, length))
        try:
            if last:
                return arrival.finish(data)
            arrival.write(data)
        except OSError as error:
            arrival.shelf.failed(error)
            raise
        return b""

    async def _commit(self, entry: ContractEntry, held: Held, arrival: Arrival) -> None:
        """The index says where it lies now. The caller holds the turn of the contract."""
        if self._now(held) != held:
            await self._keeper.discard(arrival)  # deleted meanwhile
            return
        old, new = self._shelves.of(held), arrival.shelf
        failed: list[OSError] = []

        def after() -> None:
            new.place(held.shard_id)
            try:
                old.remove([held.shard_id])
            except OSError as error:
                failed.append(error)

        await self._book.records.commit(
            [
                *self._keeper.cleared(),
                ("DELETE FROM doomed WHERE shard_id = ? AND disk = ?", (held.shard_id, new.number)),
                ("UPDATE shard SET disk = ? WHERE shard_id = ?", (new.number, held.shard_id)),
                doom(held.shard_id, old.number),
                counted(old, -1, -old.space_of(held.length)),
                counted(new, 1, new.space_of(held.length)),
            ],
            before=new.sync_arriving,
            after=after,
        )
        new.settled(arrival)
        old.removed([held.length])
        if not failed:
            self._keeper.forget([held.shard_id], old.number)
            return
        old.left_over(old.path(held.shard_id), held.length)
        if not old.failed(failed[0]):
            raise failed[0]

    def _now(self, held: Held) -> Held | None:
        rows = self._book.records.read(
            "SELECT root, length, disk FROM shard WHERE shard_id = ?", held.shard_id
        )
        return Held(held.shard_id, *rows[0]) if rows else None
