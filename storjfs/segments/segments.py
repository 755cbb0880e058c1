"""The room's face: one object per volume that takes runs, gives them back, and keeps its tasks running."""

from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import trio

from storjfs.coding.buffers import Buffer
from storjfs.errors import StorjfsError
from storjfs.keys import VolumeKeys
from storjfs.renter.repair_policy import Health
from storjfs.segments.amending import Amender
from storjfs.segments.cache import Cache
from storjfs.segments.catalogue import Catalogue
from storjfs.segments.deletion import Deleter
from storjfs.segments.fetch import OUTAGE, Fetcher
from storjfs.segments.flushing import Flushes
from storjfs.segments.journal import Journal
from storjfs.segments.pieces import Pieces
from storjfs.segments.problems import Problems
from storjfs.segments.reader import Reader
from storjfs.segments.rebuild import Rebuilder
from storjfs.segments.records import Segment, Shard
from storjfs.segments.repair import Repair
from storjfs.segments.sealer import Sealer
from storjfs.segments.space import DISK_RESERVE, DiskSpace
from storjfs.segments.strays import remove_strays
from storjfs.segments.taking_up import take_up
from storjfs.segments.uploader import Pace, Uploader
from storjfs.segments.values import Part, Placement, Run, SegmentsReport, State
from storjfs.segments.victims import Victims
from storjfs.store import MetaStore

IDLE: Final = 30.0
"""Seconds without an append after which the open segment is closed and sent."""
SWEEPS: Final = 5
"""Groups within which an empty segment is doomed, dropped and gone."""
SOME_GARBAGE: Final = 64 << 20
"""Bytes of garbage with farmers from which on its share counts."""
UPLOAD_THREADS: Final = 2
READ_THREADS: Final = 4


class Segments:
    """The segments of one volume. Methods belong to the loop's thread; `run` has to be running.

    Made before the filesystem, since `store` asks participants in the order in which they joined. Raises
    OSError where the folders cannot be used. `outage`: seconds without farmers after which a read of what is
    not here fails, and a write that finds no room; infinity: never. `older`: the store is known to be an
    older copy, so farmers are left what a newer one may need. `faulty(contract, shard_id, error)` is told of
    each shard that a farmer lost or changed. `crash_point(name)` is called where a crash must be survived;
    tests let it raise.
    """

    def __init__(
        self,
        store: MetaStore,
        keys: VolumeKeys,
        placement: Placement,
        *,
        journal_dir: Path,
        cache_dir: Path,
        limit: int,
        outage: float = OUTAGE,
        disk_reserve: int = DISK_RESERVE,
        older: bool = False,
        faulty: Callable[[int, bytes, StorjfsError], None] = lambda contract, shard_id, error: None,
        crash_point: Callable[[str], None] = lambda name: None,
    ) -> None:
        self._store = store
        self._placement = placement
        self._tell_faulty = faulty
        self._problems = Problems()
        self._nursery: trio.Nursery | None = None
        upload_threads = trio.CapacityLimiter(UPLOAD_THREADS)
        read_threads = trio.CapacityLimiter(READ_THREADS)

        self._catalogue = catalogue = Catalogue(store, keys)
        self._flushes = Flushes(store, catalogue)
        self._sealer = Sealer()
        self.space = DiskSpace(journal_dir, disk_reserve)
        self._cache = Cache(journal_dir, cache_dir, limit, self.space)
        self._fetcher = Fetcher(
            catalogue,
            placement,
            keys,
            read_threads,
            outage=outage,
            faulty=self._faulty,
            back=self.farmers_changed,
        )
        self._pieces = Pieces(catalogue, self._cache, self._fetcher, read_threads)
        self._reader = Reader(
            catalogue, self._sealer, self._cache, self._pieces, read_threads, damaged=self._problems.damaged
        )
        self._uploader = Uploader(
            store,
            catalogue,
            self._cache,
            placement,
            keys,
            upload_threads,
            Pace(lambda: self._sealer.appended, self._urgent),
            sent=self._sent,
            failed=self._upload_failed,
            damaged=self._problems.damaged,
            late=self._flushes.note_change,
            crash_point=crash_point,
        )
        self._journal = Journal(
            catalogue,
            self._sealer,
            self._cache,
            self.space,
            code=placement.code,
            closed=self._closed,
            stalled=self._uploader.stalled,
            got_through=lambda: self._uploader.progressed,
            patience=outage,
        )
        self._deleter = Deleter(catalogue, self._cache, placement, gone=self._gone, kept=self._kept)
        rebuilder = Rebuilder(
            store,
            catalogue,
            self._cache,
            placement,
            keys,
            self._fetcher,
            self._uploader.buffers,
            upload_threads,
            at_once=self._uploader.puts_of_a_repair,
            faulty=self._faulty,
            crash_point=crash_point,
        )
        self._repair = Repair(
            catalogue,
            self._cache,
            rebuilder,
            contained=placement.contained,
            problem=partial(self._problems.say, "repair"),
            older=older,
        )
        self.amend = Amender(store, catalogue, self._repair)
        """Puts right what a check of the committed state found."""
        self._victims = Victims(catalogue)

        catalogue.barrier = self._sealer.barrier
        catalogue.emptied = self._deleter.emptied
        catalogue.arrived = self._flushes.note_change
        catalogue.condemned = self._deleter.wake
        catalogue.hurt = self._repair.hurt
        self.append = self._journal.append
        self.room = self._journal.room
        self.read_now = self._reader.read_now
        self.read = self._reader.read
        self.prefetch = self._pieces.prefetch
        self.live = catalogue.live
        take_up(
            store,
            catalogue,
            self._cache,
            self._problems,
            older=older,
            closed=self._closed,
            emptied=self._deleter.emptied,
        )
        self._deleter.load()

    # Hot paths are bound above without a call between; these are their contracts.
    append: Callable[[int, int, Buffer], list[Run]]
    """append(ino, off, data): see Journal.append."""
    prefetch: Callable[[Sequence[Part]], None]
    """prefetch(parts): see Pieces.prefetch."""
    live: Callable[[int, int], None]
    """live(seg, delta): `delta` more or fewer plaintext bytes of the segment are pointed to by extents."""

    # --- life ---

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Seal, upload, read, delete and repair until cancelled; unsent data is then sent after the next
        start.

        Call `flush` or at least the store's `sync` before cancelling; and cancel this before the store.
        """
        try:
            async with trio.open_nursery() as self._nursery:
                await self._nursery.start(self._sealer.run)
                await self._nursery.start(self._pieces.run)
                await self._nursery.start(self._uploader.run)
                await self._nursery.start(self._deleter.run)
                await self._nursery.start(self._repair.run)
                self._nursery.start_soon(self._close_idle)
                await self._cache.settle()
                task_status.started()
        finally:
            self._nursery = None
            self._cache.close()

    async def _close_idle(self) -> None:
        try:
            while True:
                appended = self._sealer.appended
                await trio.sleep(IDLE)
                if self._sealer.appended == appended:
                    self._journal.close_open()
        finally:
            # Before the nursery closes: a commit that ends only then begins nothing in it any more.
            self._nursery = None

    # --- between the parts ---

    def _closed(self, segment: Segment) -> None:
        self._uploader.offer(segment)
        if segment.live <= 0:
            self._deleter.emptied(segment)

    def _sent(self, segment: Segment) -> None:
        self._problems.say("upload", segment.seg, "")
        self._catalogue.when_committed(lambda: self._let_go(segment))
        if self._urgent():
            self._store.request_commit()
        self._flushes.note_change()

    def _let_go(self, segment: Segment) -> None:
        if self._nursery is not None and segment.state is State.STORED:
            self._nursery.start_soon(self._release, segment)

    async def _release(self, segment: Segment) -> None:
        with self._catalogue.pinned(segment):
            await self._cache.release(segment)
            if len(self._catalogue.held(segment)) < segment.n:
                self._repair.hurt(segment)
        self._journal.drained()

    def _gone(self, segment: Segment) -> None:
        self._problems.gone(segment)
        self._reader.unreadable.pop(segment.seg, None)
        self._journal.drained()
        self._flushes.note_change()

    def _kept(self, segment: Segment) -> None:
        self._problems.alarm(
            "damaged",
            segment.seg,
            f"segment {segment.seg} seemed to be empty and is not deleted, since files need it; "
            "unmount and run storjfs fsck --repair",
        )

    def _urgent(self) -> bool:
        return self._flushes.under_way or self._journal.writers_wait or self._crowded

    def _upload_failed(self, segment: Segment, reason: str) -> None:
        self._problems.say("upload", segment.seg, f"segment {segment.seg} is not stored yet: {reason}")
        self._flushes.note_change()

    def _faulty(self, shard: Shard, error: StorjfsError) -> None:
        self._tell_faulty(shard.contract, shard.shard_id, error)

    # --- for the filesystem and the daemon ---

    async def flush(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Return when everything appended until now survives the loss of this machine, and that is committed.

        `progress(done, all)` in bytes, whenever something changed. Waits as long as farmers are missing;
        then the report tells why. The shards beyond what that takes get a few seconds more. Cancelled,
        it leaves the uploads going on. Raises StoreError.
        """
        await self._flushes.flush(self._journal, self._uploader, progress)

    def moved(self, sources: Collection[int], runs: Sequence[Run]) -> None:
        """Bytes of the segments `sources` were appended anew as `runs`.

        A flush that waits for the former waits for the latter as well: it has promised these bytes.
        """
        self._flushes.moved(sources, runs)

    def victims(self, limit: int = 16) -> list[int]:
        """Segments that the compactor should rewrite, the most wasteful first; bounded work per call.

        Their runs stand in the table `run`. Once the last extent has let go of one it is deleted by itself.
        """
        return self._victims.some(limit)

    @property
    def pressed(self) -> bool:
        """Whether garbage should go soon: unsent data takes more than half of the local space, or more than
        half of what farmers hold is garbage."""
        tallies = self._catalogue.tallies
        much = tallies.garbage > SOME_GARBAGE and 2 * tallies.garbage > tallies.stored_bytes
        return self._crowded or much

    @property
    def _crowded(self) -> bool:
        return 2 * self._cache.unsent > self._cache.limit

    def wasteful_after(self, seg: int) -> tuple[list[int], int | None]:
        """For a walk through all segments: those behind `seg` that `victims` would name, a bounded number
        looked at, and where to go on, None at the end. Dooms those that are empty."""
        return self._victims.after(seg)

    def newest(self) -> int:
        """The highest number of a segment."""
        ((found,),) = self._store.read("SELECT COALESCE(MAX(seg), 0) FROM segment")
        return int(found)

    @property
    def garbage(self) -> int:
        """Plaintext bytes of stored segments that nothing points to."""
        return self._catalogue.tallies.garbage

    async def delete_now(self) -> tuple[int, int]:
        """Delete what is empty and have farmers delete what is doomed, without waiting for retries.

        Returns how many shards farmers confirmed, and how many are left. Raises StoreError.
        """
        asking = self._deleter.asking
        before = asking.confirmed
        asking.retry_now()
        for _ in range(SWEEPS):
            await self._deleter.sweep()
            await self._store.sync()
            if not self._deleter.unfinished:
                break
        await self._store.sync()  # what the deleter's own task dropped meanwhile
        await asking.once()
        await self._store.sync()
        ((left,),) = self._store.read("SELECT COUNT(*) FROM doomed")
        return asking.confirmed - before, left

    async def relieve(self) -> bool:
        """A commit finds no space: give up some of what is cached on that disk; False where nothing is."""
        return await self._cache.evict(max(self.space.reserve // 4, 1)) > 0

    async def remove_strays(self) -> tuple[int, int]:
        """See strays.remove_strays."""
        return await remove_strays(self._store, self._catalogue, self._cache)

    def runs(self, seg: int, after: int = -1, limit: int = 256) -> list[tuple[int, int, int, int]]:
        """Committed runs of a segment behind position `after`, as (pos, length, ino, off)."""
        return self._catalogue.runs_of(seg, after, limit)

    def waiting_bytes(self) -> int:
        """Bytes in segments that are not with enough farmers yet."""
        return self._catalogue.waiting_bytes()

    def cached_bytes(self) -> int:
        """Bytes of the disk that copies of stored data take."""
        return self._cache.used

    def report(self) -> SegmentsReport:
        """For `status`. Costs a few bounded queries."""
        catalogue = self._catalogue
        tally = catalogue.tallies.by_health
        ((to_delete,),) = self._store.read("SELECT COUNT(*) FROM (SELECT 1 FROM doomed LIMIT 10000)")
        return SegmentsReport(
            stored_bytes=catalogue.tallies.stored_bytes,
            waiting_bytes=self.waiting_bytes(),
            cached_bytes=self._cache.used,
            room_bytes=self._journal.left,
            full=tally[Health.FULL],
            degraded=tally[Health.DEGRADED],
            at_risk=tally[Health.AT_RISK],
            lost=tally[Health.LOST],
            to_delete=to_delete,
            problems=self._problems.texts,
            unreadable=tuple(self._reader.unreadable),
            damaged=self._problems.damaged_segments,
        )

    # --- for the renter ---

    def mark_lost(self, seg: int, idx: int, shard_id: bytes) -> None:
        """An audit found the shard to be lost; rows that are not (or no longer) so are left alone."""
        try:
            segment = self._catalogue.get(seg)
        except StorjfsError:
            return
        for shard in self._catalogue.shards(segment):
            if shard.shard_id == shard_id and shard.idx == idx and shard.held:
                self._catalogue.shard_lost(segment, shard)

    def held(self, contract: int) -> tuple[int, int]:
        """Shards that a contract's farmer holds, and their sealed bytes; see Holdings."""
        return self._catalogue.holdings.under(contract)

    @property
    def waits_for_farmers(self) -> bool:
        """Whether there is data that could not be placed when it was tried last. Reads ask by themselves."""
        return self._uploader.waits_for_farmers

    def farmers_changed(self, contracts: Collection[int] | None = None) -> None:
        """Contracts or farmers came or came back (None: any): try again now what could not be done without
        them."""
        self._fetcher.farmers_changed()
        self._uploader.hurry()
        self._deleter.asking.retry_now(contracts)
        self._repair.again()

    async def rebuild(self, seg: int) -> int:
        """Bring one segment back to n shards now; returns how many were made. Raises RebuildFailed."""
        return await self._repair.one(self._catalogue.get(seg))

    async def repair_all(self) -> None:
        """Return when everything that wants repair, and can be repaired now, is repaired."""
        await self._repair.all()
