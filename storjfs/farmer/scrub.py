"""The self-scrub: reads every shard on the shelf once per period, while nothing else is to be done.

It walks the index, never the folders, and keeps its place in farmer.db. What it finds damaged it notes
(`damage`). Decision: docs/decisions/0011-the-farmers-shelf.md.
"""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import apsw
import trio

from storjfs.farmer.damage import Damage
from storjfs.farmer.records import Records
from storjfs.farmer.shelf import BATCH, Held, NotAnswering, ShardDamaged, ShardUnreadable, Shelf
from storjfs.farmer.shelves import FIRST, Shelves, held_of
from storjfs.store import FULL

log = logging.getLogger(__name__)

ROWS: Final = 64
"""Shards of one step."""
KEEP_EVERY: Final = 60.0
"""Seconds after which the place is kept, within a step too."""
RATE: Final = 16 << 20
"""Bytes per second at most, where that is enough to be through in half a period."""
GIVE_WAY: Final = 10.0
"""Seconds that BATCH bytes wait at most for transfers to end."""
LOOK_EVERY: Final = 60.0
"""Seconds between two looks whether a pass is due; and before a failing disk is tried again."""


@dataclass(frozen=True, slots=True)
class Pass:
    """One time through the shelf. Times in seconds since 1970."""

    began: int
    ended: int | None = None
    """None: it is under way."""
    place: bytes = b""
    """The last shard id that was read."""
    shards: int = 0
    size: int = 0
    """Bytes of these."""
    damaged: int = 0
    """Of these, found to be."""


class Scrub:
    """`run` is its task. `period()` in seconds, 0 for off; `idle` returns when nothing else is under way."""

    def __init__(
        self,
        records: Records,
        shelves: Shelves,
        damage: Damage,
        clock: Callable[[], float],
        period: Callable[[], int],
        idle: Callable[[], Awaitable[None]],
    ) -> None:
        self._records = records
        self._shelves = shelves
        self._damage = damage
        self._clock = clock
        self._period = period
        self._idle = idle
        # One thread, and none of those that serve renters.
        self._thread = trio.CapacityLimiter(1)

    def last(self) -> Pass | None:
        """The pass under way, or the last one."""
        return last_pass(self._records)

    async def run(self) -> None:
        """Begin a pass whenever one is due, until cancelled: a new start goes on where this one stopped."""
        while True:
            pause = LOOK_EVERY
            try:
                one = self._due()
                while one is not None and one.ended is None and self._period():
                    one = await self._step(one)
                pause = self._wait()
            except (ShardUnreadable, OSError, apsw.Error) as error:
                # Nothing can be said of shards while the disk fails; heartbeat and status tell of it.
                self._shelves.failed(error)
                log.warning("the scrub waits, for the disk fails: %s", error)
            await trio.sleep(pause)

    def _wait(self) -> float:
        """Seconds until the next look: when a pass is due, but the period may be changed meanwhile."""
        last = self.last()
        if last is None or last.ended is None or not self._period():
            return LOOK_EVERY
        return min(max(last.began + self._period() - self._clock(), 0.1), LOOK_EVERY)

    def _due(self) -> Pass | None:
        period, now, last = self._period(), int(self._clock()), self.last()
        if not period:
            return None
        if last is None or (last.ended is not None and not last.began <= now < last.began + period):
            return Pass(now)
        return last

    async def _step(self, one: Pass) -> Pass:
        """The next shards; the pass as it was kept then."""
        rows = self._records.read(
            "SELECT shard_id, root, length, disk FROM shard WHERE shard_id > ? ORDER BY shard_id LIMIT ?",
            one.place,
            ROWS,
        )
        if not rows:
            one = Pass(one.began, int(self._clock()), one.place, one.shards, one.size, one.damaged)
            log.info("scrub: %d shards read, %d damaged", one.shards, one.damaged)
        place, shards, size, damaged = one.place, one.shards, one.size, one.damaged
        until = trio.current_time() + KEEP_EVERY
        for row in rows:
            held = held_of(row)
            if self._damage.reason(held.shard_id) is None:
                try:
                    reason = await self.judge(held)
                except ShardUnreadable:
                    if held.disk == FIRST:
                        raise
                    place = held.shard_id
                    continue  # of a disk that fails alone; the next pass reads it
                # One that was deleted since the rows were read is missing as it should be.
                if reason is not None and await self._damage.note(held.shard_id, reason):
                    damaged += 1
            place, shards, size = held.shard_id, shards + 1, size + held.length
            if trio.current_time() >= until:
                break
        one = Pass(one.began, one.ended, place, shards, size, damaged)
        await self._records.commit(
            [
                (
                    "INSERT OR REPLACE INTO scrub(number, began, ended, place, shards, size, damaged) "
                    "VALUES (1, ?, ?, ?, ?, ?, ?)",
                    (one.began, one.ended, one.place, one.shards, one.size, one.damaged),
                )
            ]
        )
        return one

    async def judge(self, held: Held, *, hurry: bool = False) -> str | None:
        """Read a shard whole: what is wrong with it, None if nothing is (or it has not arrived yet).

        `hurry`: neither give way nor keep to a rate. Raises ShardUnreadable where the disk fails as a whole,
        so that nobody knows.
        """
        looks = 0
        while True:
            # Its row may be committed before its file is in its place.
            if self._shelves.arrival(held.shard_id) is not None:
                return None
            try:
                await self._read(held, hurry=hurry)
                return None
            except NotAnswering:
                raise
            except (ShardDamaged, ShardUnreadable) as error:
                if (now := self._moved(held)) is not None:
                    held, looks = now, 0
                    continue
                looks += 1
                if looks < 2:
                    continue
                if isinstance(error, ShardUnreadable) and not await self._disk_works(held):
                    raise
                return str(error)

    def _moved(self, held: Held) -> Held | None:
        """The shard where it lies now, if that is another disk than it was."""
        rows = self._records.read(
            "SELECT shard_id, root, length, disk FROM shard WHERE shard_id = ? AND disk <> ?",
            held.shard_id,
            held.disk,
        )
        return held_of(rows[0]) if rows else None

    async def _disk_works(self, held: Held) -> bool:
        return await trio.to_thread.run_sync(disk_works, self._shelves.of(held), limiter=self._thread)

    async def _read(self, held: Held, *, hurry: bool) -> None:
        leaves = []
        for offset in range(0, held.length, BATCH):
            if not hurry:
                with trio.move_on_after(GIVE_WAY):
                    await self._idle()
            began = trio.current_time()
            leaves.append(
                await trio.to_thread.run_sync(self._shelves.hashes, held, offset, limiter=self._thread)
            )
            if not hurry:
                pause = min(BATCH, held.length - offset) / self._rate()
                await trio.sleep(max(pause - (trio.current_time() - began), 0.0))
        await trio.to_thread.run_sync(self._shelves.compare, held, b"".join(leaves), limiter=self._thread)

    def _rate(self) -> float:
        return float(max(RATE, 2 * self._shelves.stored / max(self._period(), 1)))


def last_pass(records: Records) -> Pass | None:
    """The pass under way, or the last one, as farmer.db has it."""
    rows = records.read("SELECT began, ended, place, shards, size, damaged FROM scrub")
    return Pass(*rows[0]) if rows else None


def disk_works(shelf: Shelf) -> bool:
    """Whether its disk takes and gives bytes elsewhere, so that a bad file says something. Blocking."""
    if not shelf.recovered or not shelf.present:
        return False
    try:
        return shelf.disk.probe(shelf.folder / "pulse")
    except OSError as error:
        return error.errno in FULL
