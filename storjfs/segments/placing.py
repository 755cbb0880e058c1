"""The shards of one segment on their way to farmers, and to others where those fail or lag.

A segment is stored with k + ceil((n - k) / 2) receipts. A put that then takes far longer than those of the
others is a straggler: it is given to another farmer where one is there, else given up, and the repair places
that shard in its own time. Nothing of that lowers what is placed in the end: n.
"""

import logging
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Final

import trio

from storjfs.errors import StorjfsError
from storjfs.renter.speed import Way
from storjfs.segments.catalogue import Catalogue
from storjfs.segments.encoder import Encoder, Sealed
from storjfs.segments.files import LocalFile
from storjfs.segments.records import Segment, Shard
from storjfs.segments.together import Together, all_of
from storjfs.segments.values import ShardState, State

if TYPE_CHECKING:
    from storjfs.segments.uploader import Uploader

_LOG = logging.getLogger(__name__)

LATE: Final = 3.0
"""Times what puts usually take from which on one is late: its farmer is worked around, and where the segment
cannot be stored without this shard, another one gets it."""
LATE_AT_LEAST: Final = 0.5
"""Seconds; what is sooner is no sign."""
STRAGGLES: Final = 4.0
STRAGGLES_AT_LEAST: Final = 3.0
"""The same for giving up a put that only makes the segment safer than it has to be."""
LOOK_EVERY: Final = 5.0
"""Seconds between two looks, at most: another farmer may be there by then."""


class _Put:
    """One put under way."""

    __slots__ = ("row", "scope", "since", "told")

    def __init__(self, row: Shard) -> None:
        self.row = row
        self.since = trio.current_time()
        self.scope = trio.CancelScope()
        self.told = False


class Attempt:
    """One attempt at `rows` of a segment, from its local file.

    `enough` is set once the segment is stored, if what is left may trail behind the next one.
    """

    def __init__(
        self, uploader: "Uploader", segment: Segment, file: LocalFile, rows: list[Shard], enough: trio.Event
    ) -> None:
        self._of = uploader
        self._segment = segment
        self._file = file
        self._rows = rows
        self._enough = enough
        self._refused: set[int] = set()
        self._encoder: Encoder | None = self._new_encoder()
        self._puts: dict[int, _Put] = {}
        self._turns: set[int] = set()
        """Indices of shards whose puts count against the uploader's limits."""
        self._took: list[float] = []
        self._changed = trio.Event()

    async def run(self, *, parity: bool) -> None:
        """Return when each shard is with a farmer or nobody takes it now. Raises what the local file does."""
        of = self._of
        self._file.users += 1
        try:
            # The ids, and that the segment is closed, have to be durable before a farmer gets to see any of
            # it.
            assert self._encoder is not None
            await all_of(of.store.sync, partial(self._encoder.load, parity=parity))
            of.crash_point("ids committed")
            async with Together() as watching:
                watching.start(self._watch)
                async with Together() as together:
                    for row in list(self._rows):
                        await of.turn(row.length)
                        self._turns.add(row.idx)
                        together.start(partial(self._place, row))
                watching.cancel()
        finally:
            self._file.users -= 1
            self._let_memory_go()

    @property
    def worth_waiting(self) -> bool:
        """Whether it will end soon: not while all that is left is on its way to farmers that lag."""
        lagging = self._of.placement.lagging
        left = [row.contract for row in self._rows if row.state is ShardState.UPLOADING]
        return not left or any(not lagging(contract, Way.PUT) for contract in left)

    def clean_up(self) -> None:
        """What has no receipt by now gets none: have it deleted."""
        for row in self._rows:
            if row.state is ShardState.UPLOADING and row in self._of.catalogue.shards(self._segment):
                self._of.catalogue.remove_shard(self._segment, row)

    def _new_encoder(self) -> Encoder:
        of, segment = self._of, self._segment
        return Encoder(self._file.fd, segment.size, segment.k, segment.n, of.buffers, of.threads)

    async def _sealed(self, row: Shard) -> Sealed:
        of, key = self._of, self._of.shard_key(row.shard_id)
        if self._encoder is not None:
            return await self._encoder.seal(row.idx, key)
        # Only stragglers were left, and one of them is replaced. When its farmer leaves, that may be so for
        # all the segments that trail, so each comes to memory once more in its turn.
        async with of.reloading:
            encoder = self._new_encoder()
            try:
                await encoder.load(parity=row.idx >= self._segment.k)
                return await encoder.seal(row.idx, key)
            finally:
                encoder.close()

    def _let_memory_go(self) -> None:
        if self._encoder is not None:
            self._encoder.close()
            self._encoder = None

    async def _place(self, row: Shard) -> None:
        """Put one index somewhere, however many farmers that takes; the turn is taken already."""
        of, segment = self._of, self._segment
        catalogue, size, idx = of.catalogue, row.length, row.idx
        try:
            while segment.state is not State.DOOMED:
                if await self._put(row):
                    return
                # Whether that farmer has it is unknown: this id is to be deleted; the next farmer gets
                # another.
                self._refused.add(row.contract)
                catalogue.remove_shard(segment, row)
                self._rows.remove(row)
                taken = holders(catalogue, segment) | self._refused
                found = of.placement.choose(1, size, taken)
                if not found or (segment.state is State.STORED and of.placement.lagging(found[0], Way.PUT)):
                    return
                row = catalogue.add_shard(segment, idx, found[0], size)
                self._rows.append(row)
                await of.store.sync()
        finally:
            self._give_turn_back(idx, size)

    def _give_turn_back(self, idx: int, size: int) -> None:
        if idx in self._turns:
            self._turns.discard(idx)
            self._of.returned(size)

    async def _put(self, row: Shard) -> bool:
        of, segment = self._of, self._segment
        sealed = await self._sealed(row)
        put = self._puts[row.idx] = _Put(row)
        if self._enough.is_set():
            self._sealed_while_trailing(row)
        self._note_change()
        receipt = None
        try:
            with put.scope:
                receipt = await of.placement.put(row.contract, row.shard_id, sealed.view, sealed.root)
        except (StorjfsError, OSError) as error:
            _LOG.warning("shard %d of segment %d, contract %d: %s", row.idx, segment.seg, row.contract, error)
            return False
        finally:
            del self._puts[row.idx]
            of.buffers.give_back(sealed.buffer)
        if receipt is None:
            return False
        if receipt.root != sealed.root:
            _LOG.warning("contract %d signed for another shard than was sent", row.contract)
            return False
        of.crash_point("shard put")
        of.catalogue.shard_held(segment, row, sealed.root, sealed.checksum)
        self._took.append(trio.current_time() - put.since)
        of.took(self._took[-1])
        of.sent_bytes += row.length
        of.got_through()
        if segment.state is State.CLOSED and len(of.catalogue.held(segment)) >= segment.needed:
            of.catalogue.stored(segment)
            self._trail()
        self._note_change()
        return True

    # --- stragglers ---

    def _trail(self) -> None:
        """The segment is stored: the next one need not wait for the rest of this one."""
        left = [row for row in self._rows if row.state is ShardState.UPLOADING]
        self._let_memory_go_unless_needed()
        if self._of.may_trail(self._segment, sum(row.length for row in left)):
            for row in left:
                if row.idx in self._puts:
                    self._give_turn_back(row.idx, row.length)
            self._enough.set()

    def _sealed_while_trailing(self, row: Shard) -> None:
        self._give_turn_back(row.idx, row.length)
        self._let_memory_go_unless_needed()

    def _let_memory_go_unless_needed(self) -> None:
        """Where all that is left is sealed already."""
        if all(row.idx in self._puts for row in self._rows if row.state is ShardState.UPLOADING):
            self._let_memory_go()

    def _note_change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def _usual(self) -> float | None:
        """Seconds that a put takes, as those of this segment and of the last ones did; None: not known."""
        usual = self._of.usual()
        stored = self._segment.state is State.STORED
        if self._took and (stored or 2 * len(self._took) >= self._segment.n):
            return max(median(self._took), usual or 0.0)
        return usual

    async def _watch(self) -> None:
        """Tell of puts that are late, and end those that straggle where that helps."""
        while True:
            usual, changed = self._usual(), self._changed
            next_look = trio.current_time() + LOOK_EVERY
            if usual is not None:
                late = max(LATE * usual, LATE_AT_LEAST)
                straggles = max(STRAGGLES * usual, STRAGGLES_AT_LEAST)
                for put in list(self._puts.values()):
                    stored = self._segment.state is State.STORED
                    due = put.since + (straggles if put.told and stored else late)
                    if trio.current_time() >= due:
                        self._is_late(put, straggles)
                        due = put.since + straggles
                    if due > trio.current_time():
                        next_look = min(next_look, due)
            with trio.move_on_at(next_look):
                await changed.wait()

    def _is_late(self, put: _Put, straggles: float) -> None:
        of, row = self._of, put.row
        seconds = trio.current_time() - put.since
        if not put.told:
            put.told = True
            of.placement.late(row.contract, Way.PUT, row.length, seconds)
            of.late()
        stored = self._segment.state is State.STORED
        if stored and seconds < straggles:
            return
        taken = holders(of.catalogue, self._segment) | self._refused
        others = of.placement.choose(1, row.length, taken)
        if stored or (others and not of.placement.lagging(others[0], Way.PUT)):
            _LOG.info(
                "shard %d of segment %d takes contract %d longer than %.1f s; %s",
                row.idx, self._segment.seg, row.contract, seconds,
                "another farmer gets it" if others else "it is placed later",
            )  # fmt: skip
            put.scope.cancel()


def holders(catalogue: Catalogue, segment: Segment) -> set[int]:
    """The contracts under which a shard of the segment lies or travels; lost ones are not counted."""
    return {shard.contract for shard in catalogue.shards(segment) if shard.state is not ShardState.LOST}
