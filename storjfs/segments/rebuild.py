"""Rebuilding lost shards: read k others by ranges, decode, check, seal under a new id, put on another farmer.

Memory is one range of k shards and `MOST_MADE` bytes of shards being made, and one shard more; a segment that
lost more than that is rebuilt in several goes, each of which reads k shards. The new row replaces the lost
one in one group, after its receipt; a crash before leaves the lost row and an id to be deleted.
"""

import hashlib
import logging
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import trio

from storjfs.coding.buffers import Buffer
from storjfs.coding.erasure import erasure_code
from storjfs.coding.geometry import PIECE, SEALED_PIECE, sealed_length, shard_length
from storjfs.errors import StorjfsError
from storjfs.keys import VolumeKeys
from storjfs.protocol.priorities import Priority
from storjfs.renter.speed import Way
from storjfs.segments.cache import Cache
from storjfs.segments.catalogue import Catalogue
from storjfs.segments.encoder import Buffers, Encoder, Sealed, seal_shard
from storjfs.segments.fetch import Fetcher
from storjfs.segments.placing import holders
from storjfs.segments.records import Segment, Shard
from storjfs.segments.together import Together, all_of
from storjfs.segments.values import NOBODY, Placement, ShardState, State
from storjfs.store import MetaStore

_LOG = logging.getLogger(__name__)

RANGE: Final = 16
"""Pieces of each source shard in memory at once."""
SOURCE_PATIENCE: Final = 5.0
"""Seconds after which a range comes from another source, where there is one."""
PUT_PATIENCE: Final = 20.0
"""Seconds for a put that others wait for, times the puts that share the line with it; after that its farmer
lags."""
MOST_MADE: Final = 24 << 20
"""Bytes of rebuilt shards in memory at once; one shard may always be."""


class RebuildFailed(StorjfsError):
    """A segment could not be repaired now; the repair task tries again later."""

    def __init__(self, seg: int, reason: str) -> None:
        super().__init__(
            f"segment {seg} is not repaired: {reason}",
            hint="It is tried again by itself; storjfs status shows which farmers are missing.",
        )
        self.seg = seg


class OnlySlow(RebuildFailed):
    """Nobody but farmers that lag could take a shard."""


class Rebuilder:
    """Brings segments back to n shards. Methods belong to the loop's thread.

    `at_once()` tells how many puts of a segment may be under way now; one always may.
    """

    def __init__(
        self,
        store: MetaStore,
        catalogue: Catalogue,
        cache: Cache,
        placement: Placement,
        keys: VolumeKeys,
        fetcher: Fetcher,
        buffers: Buffers,
        threads: trio.CapacityLimiter,
        *,
        at_once: Callable[[], int] = lambda: 1,
        faulty: Callable[[Shard, StorjfsError], None] = lambda shard, error: None,
        crash_point: Callable[[str], None] = lambda name: None,
    ) -> None:
        self._store = store
        self._catalogue = catalogue
        self._cache = cache
        self._placement = placement
        self._shard_key = keys.shard_key
        self._fetcher = fetcher
        self.buffers = buffers
        self._threads = threads
        self._at_once = at_once
        self._faulty = faulty
        self._crash_point = crash_point

    async def rebuild(self, segment: Segment, *, patient: bool = True) -> int:
        """Make the shards that are lost; returns how many were put and committed.

        Unless `patient`, only farmers that do not lag get any. Raises OnlySlow where there are none of these,
        RebuildFailed where nothing at all could be done. Cancelled, it leaves what it has put.
        """
        catalogue = self._catalogue
        with self.buffers.at_work(), catalogue.pinned(segment):
            held = catalogue.held(segment)
            lost = [idx for idx in range(segment.n) if idx not in held]
            if not lost or segment.busy or segment.state is not State.STORED:
                await trio.lowlevel.checkpoint()
                return 0
            rows = self._new_rows(segment, lost, patient)
            if not rows:
                raise RebuildFailed(segment.seg, "no farmer is left that could take a shard")
            segment.busy = True
            try:
                await self._store.sync()
                put = await self._in_goes(segment, rows, patient)
            finally:
                segment.busy = False
                for row in rows:
                    if row.state is ShardState.UPLOADING and row in catalogue.shards(segment):
                        catalogue.remove_shard(segment, row)
            await self._store.sync()
            if not put:
                raise RebuildFailed(segment.seg, "no farmer took the shard")
            return put

    async def _in_goes(self, segment: Segment, rows: Sequence[Shard], patient: bool) -> int:
        """Make and put the shards of `rows`, as many at a time as memory is for; returns how many were put.

        What fails after the first go is left to the next attempt.
        """
        put, many = 0, max(1, MOST_MADE // rows[0].length)
        for first in range(0, len(rows), many):
            batch = rows[first : first + many]
            try:
                made = await self._make(segment, batch)
            except RebuildFailed as error:
                if not put:
                    raise
                _LOG.info("%d of %d shards were rebuilt; %s", put, len(rows), error)
                break
            self._crash_point("rebuild ids committed")
            batch = [row for row in batch if row.idx in made]
            put += await self._put_all(segment, batch, made, patient)
        return put

    def _new_rows(self, segment: Segment, lost: Sequence[int], patient: bool) -> list[Shard]:
        catalogue = self._catalogue
        size = sealed_length(shard_length(segment.size, segment.k))
        taken = holders(catalogue, segment)
        failed = {shard.contract for shard in catalogue.shards(segment)} - {NOBODY}
        # Rather not with those that lost it; but they are better than nobody.
        found = self._placement.choose(len(lost), size, taken | failed)
        if len(found) < len(lost):
            found += self._placement.choose(len(lost) - len(found), size, taken | set(found))
        if not patient:
            swift = [contract for contract in found if not self._placement.lagging(contract, Way.PUT)]
            if found and not swift:
                raise OnlySlow(segment.seg, "only farmers that lag are left")
            found = swift
        return [
            catalogue.add_shard(segment, idx, contract, size)
            for idx, contract in zip(lost, found, strict=False)
        ]

    # --- making the shards ---

    async def _make(self, segment: Segment, rows: Sequence[Shard]) -> dict[int, Sealed]:
        """Shards sealed under the ids of `rows`, from the local file if it is whole, else from k others.

        With fewer than k others: those that the local file still has as they were.
        """
        file = self._cache.complete(segment)
        if file is not None:
            encoder = Encoder(file.fd, segment.size, segment.k, segment.n, self.buffers, self._threads)
            file.users += 1
            try:
                await encoder.load(parity=True)
                made = {row.idx: await encoder.seal(row.idx, self._shard_key(row.shard_id)) for row in rows}
                wrong = await self._wrong(segment, encoder, made)
            except (OSError, EOFError) as error:
                _LOG.info("segment %d is rebuilt from farmers: %s", segment.seg, error)
            else:
                if not wrong:
                    return made
                self._give_back({idx: made.pop(idx) for idx in wrong})
                if len(self._catalogue.held(segment)) >= segment.k:
                    self._give_back(made)
                    self._cache.spoiled(file, 0, -(-segment.size // PIECE))
                elif made:
                    return made
            finally:
                file.users -= 1
                encoder.close()
        return await self._decode(segment, rows)

    async def _wrong(self, segment: Segment, encoder: Encoder, made: dict[int, Sealed]) -> set[int]:
        """Which of these are not (or perhaps not) what was stored: the cached copy is advice, the recorded
        hashes decide. For a shard that was never sent there is none; it is right if all others are."""
        recorded = self._checksums(segment)
        found = {idx: one.checksum for idx, one in made.items()}
        unknown = found.keys() - recorded.keys()
        if unknown:
            found |= await encoder.checksums(recorded.keys() - found.keys())
        wrong = {idx for idx, checksum in recorded.items() if found.get(idx, checksum) != checksum}
        return (wrong | unknown if wrong else wrong) & made.keys()

    def _as_recorded(self, segment: Segment, made: dict[int, Sealed]) -> bool:
        recorded = self._checksums(segment)
        return all(recorded.get(idx, one.checksum) == one.checksum for idx, one in made.items())

    def _checksums(self, segment: Segment) -> dict[int, bytes]:
        """Hashes of the unsealed shards as far as some row, even a lost one, has them."""
        return {shard.idx: shard.checksum for shard in self._catalogue.shards(segment) if shard.checksum}

    def _give_back(self, made: dict[int, Sealed]) -> None:
        for one in made.values():
            self.buffers.give_back(one.buffer)

    async def _decode(self, segment: Segment, rows: Sequence[Shard]) -> dict[int, Sealed]:
        """From k shards of farmers. What turns out bad is noted as lost and replaced by another source."""
        length = shard_length(segment.size, segment.k)
        while True:
            sources = self._sources(segment)
            if len(sources) < segment.k:
                raise RebuildFailed(segment.seg, f"fewer than {segment.k} shards are left")
            # Large enough for a sealed shard: once one is sealed, its buffer takes the seal of the next.
            plain = {row.idx: await self.buffers.take(sealed_length(length)) for row in rows}
            try:
                wrong = await self._decode_into(segment, sources, plain, length)
                if wrong:
                    for shard in wrong:
                        self._catalogue.shard_lost(segment, shard)
                        self._faulty(shard, RebuildFailed(segment.seg, "a shard is not what was stored"))
                    continue
                made = {}
                for row in rows:
                    made[row.idx] = await self._seal(row, memoryview(plain[row.idx])[:length])
                    self.buffers.give_back(plain.pop(row.idx))
            finally:
                for buffer in plain.values():
                    self.buffers.give_back(buffer)
            if not self._as_recorded(segment, made):
                self._give_back(made)
                raise RebuildFailed(segment.seg, "what was decoded is not what was stored")
            return made

    def _sources(self, segment: Segment) -> list[Shard]:
        placement = self._placement
        return sorted(
            self._catalogue.held(segment).values(),
            key=lambda one: (
                placement.contained(one.contract),
                placement.lagging(one.contract, Way.GET),
                placement.usual_latency(one.contract),
            ),
        )

    async def _decode_into(
        self, segment: Segment, sources: list[Shard], plain: dict[int, bytearray], length: int
    ) -> list[Shard]:
        """Fill `plain` range by range; returns sources that are not what was recorded (then start again)."""
        using, spare = sources[: segment.k], sources[segment.k :]
        hashes = {shard.shard_id: hashlib.sha256() for shard in using}
        code = erasure_code(segment.k, segment.n)
        for first in range(0, length // PIECE, RANGE):
            count = min(RANGE, length // PIECE - first)
            blocks = await self._range(segment, using, spare, first, count)

            def decode(blocks: dict[int, Buffer] = blocks, first: int = first) -> None:
                made = code.reconstruct(blocks, list(plain))
                for idx, block in made.items():
                    plain[idx][first * PIECE : first * PIECE + len(block)] = block
                for shard in using:
                    if shard.shard_id in hashes and shard.idx in blocks:
                        hashes[shard.shard_id].update(blocks[shard.idx])

            await trio.to_thread.run_sync(decode, limiter=self._threads)
        # A source that replaced another half-way was not hashed from its start; its seal has to do.
        return [
            shard
            for shard in using
            if shard.shard_id in hashes and hashes[shard.shard_id].digest() != shard.checksum
        ]

    async def _range(
        self, segment: Segment, using: list[Shard], spare: list[Shard], first: int, count: int
    ) -> dict[int, Buffer]:
        """One range of k shards. `using` changes where a source fails and a spare takes its place."""
        blocks: dict[int, Buffer] = {}

        async def one(at: int) -> None:
            while True:
                shard = using[at]
                try:
                    with trio.move_on_after(SOURCE_PATIENCE if spare else math.inf):
                        # Programs that read go first.
                        blocks[shard.idx] = await self._fetcher.shard(
                            segment, shard, first, count, Priority.AUDIT
                        )
                        return
                    self._placement.late(shard.contract, Way.GET, count * SEALED_PIECE, SOURCE_PATIENCE)
                    if spare:
                        using[at] = spare.pop(0)
                except (StorjfsError, OSError) as error:
                    if not spare:
                        raise RebuildFailed(segment.seg, f"too few shards can be had: {error}") from error
                    using[at] = spare.pop(0)

        await all_of(*(partial(one, at) for at in range(len(using))))
        return blocks

    async def _seal(self, row: Shard, plain: memoryview) -> Sealed:
        out = await self.buffers.take(len(plain) // PIECE * SEALED_PIECE)
        key = self._shard_key(row.shard_id)
        return await trio.to_thread.run_sync(seal_shard, plain, key, out, limiter=self._threads)

    # --- putting them ---

    async def _put_all(
        self, segment: Segment, rows: Sequence[Shard], made: dict[int, Sealed], patient: bool
    ) -> int:
        """Put these, several at once; returns how many farmers signed. `made` is empty then."""
        put = 0
        scopes: set[trio.CancelScope] = set()
        landed = trio.Event()

        async def one(row: Shard, scope: trio.CancelScope) -> None:
            nonlocal put, landed
            put += await self._put(segment, row, made.pop(row.idx), scope)
            scopes.discard(scope)
            for other in scopes:
                other.deadline = min(other.deadline, _deadline(len(scopes), patient))
            landed.set()
            landed = trio.Event()

        async with Together() as together:
            for row in rows:
                while len(scopes) >= max(1, self._at_once()):
                    await landed.wait()
                scope = trio.CancelScope()
                scopes.add(scope)
                scope.deadline = _deadline(len(scopes), patient)
                together.start(partial(one, row, scope))
        return put

    async def _put(self, segment: Segment, row: Shard, sealed: Sealed, scope: trio.CancelScope) -> int:
        """1 if a farmer signed for the shard before the end of `scope`, else 0."""
        began = trio.current_time()
        receipt = None
        try:
            if segment.state is not State.STORED:
                return 0
            with scope:
                receipt = await self._placement.put(row.contract, row.shard_id, sealed.view, sealed.root)
        except (StorjfsError, OSError) as error:
            _LOG.warning("repair of segment %d, contract %d: %s", segment.seg, row.contract, error)
            return 0
        finally:
            self.buffers.give_back(sealed.buffer)
        if receipt is None:
            self._placement.late(row.contract, Way.PUT, row.length, trio.current_time() - began)
            return 0
        if receipt.root != sealed.root:
            return 0
        self._crash_point("rebuilt shard put")
        self._catalogue.shard_held(segment, row, sealed.root, sealed.checksum)
        return 1


def _deadline(puts: int, patient: bool) -> float:
    return math.inf if patient else trio.current_time() + PUT_PATIENCE * puts
