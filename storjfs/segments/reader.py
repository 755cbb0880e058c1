"""Reading runs: from memory, from the local file, or from farmers, in this order.

Whatever the source, a frame that does not prove itself is never handed on.
"""

import errno
import logging
import os
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

import trio

from storjfs.coding.buffers import Buffer
from storjfs.coding.frames import FrameCorrupt
from storjfs.coding.geometry import PIECE, frames_covering
from storjfs.segments.cache import Cache
from storjfs.segments.catalogue import Catalogue
from storjfs.segments.files import LARGEST_READ, open_frames, pieces_of, read_run
from storjfs.segments.pieces import Pieces
from storjfs.segments.records import Segment
from storjfs.segments.sealer import Sealer
from storjfs.segments.values import SegmentDamaged, SegmentUnreadable

_LOG = logging.getLogger(__name__)

MOST_NOTED: Final = 256

_NOWAIT: Final = getattr(os, "RWF_NOWAIT", 0)


class Reader:
    """Reads parts of runs. Methods belong to the loop's thread.

    `unreadable` has the segments that lately could not be read, with the reason. `damaged` is told of those
    that no farmer can help with.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        sealer: Sealer,
        cache: Cache,
        pieces: Pieces,
        threads: trio.CapacityLimiter,
        *,
        damaged: Callable[[Segment, str], None] = lambda segment, reason: None,
    ) -> None:
        self._damaged = damaged
        self._catalogue = catalogue
        self._pending = sealer.pending
        self._cache = cache
        self._pieces = pieces
        self._threads = threads
        self._buffer = bytearray(LARGEST_READ)
        self._flags = _NOWAIT
        self.unreadable: OrderedDict[int, str] = OrderedDict()

    # --- at once ---

    def read_now(self, seg: int, pos: int, run: int, skip: int, length: int) -> Buffer | None:
        """The bytes `[skip, skip + length)` of the run `(seg, pos, run)` if they are in memory (this
        program's or the kernel's); None where disk or network would have to be waited for. Raises
        SegmentUnreadable.
        """
        plain = self._pending.get((seg << 25) + pos)
        if plain is not None:
            if length == run:
                return plain
            return plain[skip : skip + length] if length <= PIECE else memoryview(plain)[skip : skip + length]
        segment = self._catalogue.get(seg)
        if pos > segment.size:
            raise SegmentUnreadable(seg, "the metadata point behind its end; storjfs fsck tells more")
        file = self._cache.find(segment)
        if file is None:
            return None
        frames = frames_covering(pos, run, skip, length)
        if not frames:
            return b""
        first, count = pieces_of(frames)
        if not file.has(first, count) or (file.fd < 0 and not self._cache.opened(file)):
            return None
        if count * PIECE > LARGEST_READ:
            return None
        try:
            found = read_run(file, segment.cipher, frames, self._buffer, self._flags)
            if found is not None:
                self._cache.referenced(file, first, count)
            return found
        except BlockingIOError:
            return None
        except FrameCorrupt:
            self._cache.spoiled(file, first, count)
            return None
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP and self._flags:
                self._flags = 0
            return None

    # --- whatever it takes ---

    async def read(self, seg: int, pos: int, run: int, skip: int, length: int) -> Buffer:
        """The same, waiting for disk and farmers. Raises SegmentUnreadable (EIO). May be cancelled."""
        found = self.read_now(seg, pos, run, skip, length)
        if found is not None:
            return found
        segment = self._catalogue.get(seg)
        frames = frames_covering(pos, run, skip, length)
        with self._catalogue.pinned(segment):
            try:
                plain = await self._read_local(segment, frames)
                if plain is None:
                    plain = await self._read_fetched(segment, frames)
            except SegmentUnreadable as error:
                self._note(segment, error.reason)
                if isinstance(error, SegmentDamaged):
                    self._damaged(segment, error.reason)
                raise
        self.unreadable.pop(seg, None)
        file = self._cache.find(segment)
        if file is not None:
            self._cache.referenced(file, *pieces_of(frames))
        return plain

    async def _read_local(self, segment: Segment, frames: list[tuple[int, int, int, int]]) -> Buffer | None:
        file = self._cache.find(segment)
        if file is None:
            return None
        first, count = pieces_of(frames)
        if not file.has(first, count) or not self._cache.opened(file):
            return None
        size = frames[-1][0] + PIECE - frames[0][0]
        file.users += 1
        try:
            return await trio.to_thread.run_sync(
                read_run, file, segment.cipher, frames, bytearray(size), 0, limiter=self._threads
            )
        except FrameCorrupt as error:
            _LOG.warning("local data of segment %d: %s", segment.seg, error)
            self._cache.spoiled(file, first, count)
            return None
        except OSError as error:
            _LOG.warning("local data of segment %d cannot be read: %s", segment.seg, error)
            return None
        finally:
            file.users -= 1

    async def _read_fetched(self, segment: Segment, frames: list[tuple[int, int, int, int]]) -> Buffer:
        first, count = pieces_of(frames)
        start = first * PIECE
        # The second time nothing local is left of these pieces, so all of it comes from farmers.
        for _ in range(2):
            sealed = await self._pieces.get(segment, first, count)
            try:
                return open_frames(segment.cipher, frames, sealed, start)
            except FrameCorrupt as error:
                _LOG.warning("segment %d: %s; trying another way to it", segment.seg, error)
            file = self._cache.find(segment)
            if file is not None:
                self._cache.spoiled(file, first, count)
        # The shards proved themselves, so this is no farmer's doing unless shard keys were lent. One more
        # way is left: the same pieces from the other shards.
        if not segment.unsent:
            sealed = await self._pieces.from_others(segment, first, count)
            try:
                return open_frames(segment.cipher, frames, sealed, start)
            except FrameCorrupt:
                pass
        raise SegmentDamaged(segment.seg, "its content does not prove itself")

    def _note(self, segment: Segment, reason: str) -> None:
        self.unreadable[segment.seg] = reason
        while len(self.unreadable) > MOST_NOTED:
            self.unreadable.popitem(last=False)
