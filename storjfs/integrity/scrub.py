"""Reading shards back: all, or a share of them, each against its root, its checksum and its frames' proofs.

What is not what was stored is pinned to its farmer, as by the weekly read-back, and rebuilt at once. How far
a scrub has come stands in local.db, so one that was cut off goes on where it was.
"""

import hashlib
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import trio

from storjfs.coding.frames import Algorithm, FrameCipher, FrameCorrupt
from storjfs.coding.geometry import FRAME_OVERHEAD, run_end, run_frames, shard_length
from storjfs.coding.shards import ShardCipher, ShardCorrupt
from storjfs.errors import StorjfsError
from storjfs.keys import VolumeKeys
from storjfs.renter.local_records import LocalRecords
from storjfs.renter.read_back import ReadBack
from storjfs.renter.schedule import Due
from storjfs.segments import Segments
from storjfs.store import MetaStore

RECORD: Final = "scrub"
BATCH: Final = 16
AT_ONCE: Final = 4
MOST_NAMED: Final = 100

Tell = Callable[[Mapping[str, Any]], Awaitable[None]]


class ScrubState(msgspec.Struct, kw_only=True):
    """A scrub, under way or finished. `share`: of all shards, 0 to 1. `seg`, `idx`: the last one seen."""

    seed: bytes
    share: float
    started: float
    seg: int = -1
    idx: int = -1
    read: int = 0
    """Shards read back and found good."""
    bytes: int = 0
    """Of all that were read."""
    wrong: int = 0
    """Shards that were not what was stored; lost now."""
    rebuilt: int = 0
    """Segments brought back to all their shards."""
    unread: int = 0
    """Shards whose farmer did not answer."""
    damaged: list[int] = msgspec.field(default_factory=list)
    """Segments of which some frame does not prove itself though the shard is what was sent; bounded."""
    broken: list[int] = msgspec.field(default_factory=list)
    """Segments that could not be rebuilt; bounded."""
    finished: float = 0.0

    def report(self) -> dict[str, Any]:
        """For JSON; see docs/reference/scrub.md."""
        made = msgspec.to_builtins(self)
        del made["seed"], made["seg"], made["idx"]
        return made  # type: ignore[no-any-return]


@dataclass(slots=True)
class _Look:
    """One shard: what is known of it, and what a deeper look than its root found."""

    seg: int
    idx: int
    contract: int
    shard_id: bytes
    checksum: bytes
    length: int
    good: bool | None = None
    reason: str = ""
    frames: list[tuple[int, int]] = field(default_factory=list)
    start: int = 0
    cipher: FrameCipher | None = None


class Scrub:
    """Methods belong to the loop's thread; the renter has to be running."""

    def __init__(
        self,
        store: MetaStore,
        keys: VolumeKeys,
        segments: Segments,
        read_back: ReadBack,
        records: LocalRecords,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._keys = keys
        self._segments = segments
        self._read_back = read_back
        self._records = records
        self._clock = clock

    def unfinished(self) -> ScrubState | None:
        """The scrub that was cut off, if the last one was."""
        kept = self._records.kept(RECORD)
        if kept is None:
            return None
        state = msgspec.msgpack.decode(kept, type=ScrubState)
        return None if state.finished else state

    async def run(
        self, tell: Tell, *, share: float | None = None, rate: float = 0.0, restart: bool = False
    ) -> ScrubState:
        """Read `share` of all shards (all if None), at `rate` bytes per second at most (0: no bound).

        Goes on with a scrub that was cut off, unless `restart` or another share is asked for. Cancelled, or
        left by whoever watches (`tell` raises), it can be gone on with.
        """
        state = self.unfinished()
        if state is None or restart or share not in (None, state.share):
            state = ScrubState(
                seed=os.urandom(16), share=1.0 if share is None else share, started=self._clock()
            )
            await self._records.keep(RECORD, msgspec.msgpack.encode(state))
        await self._store.sync()
        ((total,),) = await self._store.scan("SELECT COUNT(*) FROM shard WHERE state IN (1, 2)")
        expected = max(round(total * state.share), state.read + state.wrong + state.unread)
        while batch := self._next(state):
            began, before = trio.current_time(), state.bytes
            await tell(
                {
                    "part": "shards",
                    "done": min(state.read + state.wrong + state.unread, expected),
                    "of": expected,
                    "wrong": state.wrong,
                }
            )
            await self._work_off(state, [one for one in batch if self.drawn(state, one.shard_id)])
            state.seg, state.idx = batch[-1].seg, batch[-1].idx
            await self._records.keep(RECORD, msgspec.msgpack.encode(state))
            if rate > 0:
                await trio.sleep_until(began + (state.bytes - before) / rate)
        state.finished = self._clock()
        await self._records.keep(RECORD, msgspec.msgpack.encode(state))
        await tell({"part": "shards", "done": expected, "of": expected, "wrong": state.wrong})
        return state

    def drawn(self, state: ScrubState, shard_id: bytes) -> bool:
        """Whether the shard is of the share; the same whenever it is asked."""
        digest = hashlib.blake2b(shard_id, key=state.seed, digest_size=4).digest()
        return int.from_bytes(digest, "big") < state.share * (1 << 32)

    def _next(self, state: ScrubState) -> list[_Look]:
        rows = self._store.read(
            "SELECT seg, idx, contract, shard_id, checksum, length FROM shard "
            "WHERE (seg, idx) > (?, ?) AND state IN (1, 2) ORDER BY seg, idx LIMIT ?",
            (state.seg, state.idx, BATCH),
        )
        return [_Look(*row) for row in rows]

    async def _work_off(self, state: ScrubState, looks: list[_Look]) -> None:
        turn = trio.CapacityLimiter(AT_ONCE)

        async def one(look: _Look) -> None:
            async with turn:
                self._prepare(look)
                due = Due(0.0, look.contract, look.seg, look.idx, look.shard_id)
                look.good = await self._read_back.check(due, lambda data: self._deeper(look, data))

        async with trio.open_nursery() as nursery:
            for look in looks:
                nursery.start_soon(one, look)
        hurt = []
        for look in looks:
            if look.good is None:
                state.unread += self._held(look)
                continue
            state.bytes += look.length
            state.read += look.good
            state.wrong += not look.good
            if not look.good:
                hurt.append(look.seg)
            elif look.reason and look.seg not in state.damaged and len(state.damaged) < MOST_NAMED:
                state.damaged.append(look.seg)
        for seg in dict.fromkeys(hurt):
            await self._rebuild(state, seg)

    def _held(self, look: _Look) -> bool:
        """Whether the shard should still be there; it may have been deleted meanwhile."""
        sql = "SELECT 1 FROM shard WHERE shard_id = ? AND state IN (1, 2)"
        return bool(self._store.read(sql, (look.shard_id,)))

    async def _rebuild(self, state: ScrubState, seg: int) -> None:
        try:
            await self._segments.rebuild(seg)
            state.rebuilt += 1
        except (StorjfsError, OSError):
            # Whatever the reason, the repair task goes on trying.
            if len(state.broken) < MOST_NAMED:
                state.broken.append(seg)

    # --- deeper than the root ---

    def _prepare(self, look: _Look) -> None:
        """Look up which frames lie in the shard, where it has any."""
        rows = self._store.read(
            "SELECT segment_id, algorithm, k, size FROM segment WHERE seg = ?", (look.seg,)
        )
        if not rows:
            return
        segment_id, algorithm, k, size = rows[0]
        if look.idx >= k:
            return
        length = shard_length(size, k)
        look.start = look.idx * length
        end = min(look.start + length, size)
        kind = Algorithm(algorithm)
        look.cipher = FrameCipher(self._keys.content_key(segment_id, algorithm), segment_id, kind)
        runs = self._store.read(
            "SELECT pos, length FROM run WHERE seg = ? AND pos < ? ORDER BY pos", (look.seg, end)
        )
        look.frames = [
            (at, size)
            for pos, length in runs
            if run_end(pos, length) > look.start
            for at, size in run_frames(pos, length)
            if look.start <= at < end
        ]

    def _deeper(self, look: _Look, data: bytearray) -> None:
        """In a worker thread: the seal, the hash before the seal, and each frame."""
        try:
            plain = ShardCipher(self._keys.shard_key(look.shard_id)).open_pieces(0, data)
            if hashlib.sha256(plain).digest() != look.checksum:
                look.reason = "not what was sealed"
                return
            for at, size in look.frames:
                assert look.cipher is not None
                start = at - look.start
                look.cipher.open(at, plain[start : start + size + FRAME_OVERHEAD])
        except (ShardCorrupt, FrameCorrupt) as error:
            look.reason = str(error)
