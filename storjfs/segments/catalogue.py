"""What is known of segments and shards: meta.db's rows, and on top of them the changes not yet committed.

A segment in memory is the truth about itself; one that is not in memory has no uncommitted change, so its
rows are. Memory holds what is unsent, changed or pinned, and a bounded number of others.
"""

import logging
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final

from storjfs.coding.frames import preferred_algorithm
from storjfs.coding.geometry import sealed_length, shard_length
from storjfs.keys import VolumeKeys
from storjfs.renter.repair_policy import Health, health
from storjfs.segments.committed import CommittedRows
from storjfs.segments.doomed import Doomed
from storjfs.segments.holdings import Holdings
from storjfs.segments.records import SEGMENT_COLUMNS, SHARD_COLUMNS, Segment, Shard, ShardRow, makes_sense
from storjfs.segments.tallies import Tallies
from storjfs.segments.values import NOBODY, SegmentUnreadable, ShardState, State
from storjfs.store import MetaStore, Statement, tell_committed

_LOG = logging.getLogger(__name__)

REMEMBERED: Final = 1024
"""Segments kept in memory besides those that have to be."""

RunRow = tuple[int, int, int, int, int]

_COUNTERS: Final = "REPLACE INTO counters VALUES (?, ?)"


class Catalogue(CommittedRows):
    """The tables segment, shard, run and doomed. All methods belong to the loop's thread and do not wait.

    A participant of the group commit: `MetaStore` calls freeze, before_commit and committed. `barrier`
    makes what the commit thread has to wait for; the other callables tell what happened.
    """

    def __init__(self, store: MetaStore, keys: VolumeKeys) -> None:
        super().__init__(store)
        self._content_key = keys.content_key
        self._loaded: OrderedDict[int, Segment] = OrderedDict()
        self.unsent: dict[int, Segment] = {}
        self.runs: list[RunRow] = []
        """Runs appended since the last freeze; the journal adds to it."""
        self._dirty: list[Segment] = []
        self._flying: list[Segment] = []
        self._shard_changes: dict[bytes, ShardRow | None] = {}
        self._dropped: list[int] = []
        self._gone: set[int] = set()
        self._lately: set[int] = set()
        self._when_frozen: list[Callable[[], None]] = []
        self._when_committed: list[tuple[int, Callable[[], None]]] = []
        self.barrier: Callable[[], Callable[[], None] | None] = lambda: None
        self.emptied: Callable[[Segment], None] = lambda segment: None
        """Called for a closed segment that has no live bytes."""
        self.arrived: Callable[[], None] = lambda: None
        """Called when a segment has enough receipts, though more of its shards may be on their way."""
        self.condemned: Callable[[], None] = lambda: None
        """Called when it is committed that more shards are to be deleted."""
        self.hurt: Callable[[Segment], None] = lambda segment: None
        """Called for a stored segment that lost a shard."""
        counters = dict(store.read("SELECT key, value FROM counters"))
        ((segment,), (run,)) = store.read("SELECT MAX(seg) FROM segment UNION ALL SELECT MAX(seg) FROM run")
        # A number given out twice would replace a segment by another: damage to the counter must not matter.
        self._next = max(int(counters.get("next_seg", 1)), (segment or 0) + 1, (run or 0) + 1)
        self._next_changed = False
        self.tallies = Tallies(counters)
        self.holdings = Holdings(counters)
        self.doomed = Doomed(store, self.holdings, self.when_committed)
        for row in store.read(f"SELECT {SEGMENT_COLUMNS} FROM segment WHERE state IN (0, 1)"):
            if not makes_sense(row):
                _LOG.error("segment %s is left alone, its metadata make no sense; run storjfs fsck", row[0])
                continue
            segment = self._remember(Segment(row, self._content_key))
            self.unsent[segment.seg] = segment
        store.join(self)

    # --- the group commit ---

    def freeze(self) -> Sequence[Statement]:
        statements: list[Statement] = []
        if self._dropped:
            gone = [(seg,) for seg in self._dropped]
            statements.append(("DELETE FROM run WHERE (seg) IN (VALUES (?))", gone))
            statements.append(("DELETE FROM segment WHERE (seg) IN (VALUES (?))", gone))
            self._dropped = []
        rows = []
        for segment in self._dirty:
            segment.dirty = False
            if segment.state in (State.CLOSED, State.STORED) and len(self._lately) < REMEMBERED:
                self._lately.add(segment.seg)
            if segment.seg not in self._gone:
                segment.flying = True
                self._flying.append(segment)
                rows.append(segment.row())
        self._dirty = []
        if rows:
            statements.append(("REPLACE INTO segment VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows))
        if self.runs:
            statements.append(("REPLACE INTO run VALUES (?, ?, ?, ?, ?)", self.runs))
            self.runs = []
        statements += self._frozen_shards()
        if self._next_changed:
            self._next_changed = False
            statements.append((_COUNTERS, [("next_seg", self._next)]))
        statements += self.tallies.frozen()
        group = self._store.group
        self._when_committed += [(group, call) for call in self._when_frozen]
        self._when_frozen = []
        return statements

    def _frozen_shards(self) -> Iterator[Statement]:
        changes, self._shard_changes = self._shard_changes, {}
        put = [row for row in changes.values() if row is not None]
        removed = [(shard_id,) for shard_id, row in changes.items() if row is None]
        if removed:
            yield "DELETE FROM shard WHERE (shard_id) IN (VALUES (?))", removed
        if put:
            yield "REPLACE INTO shard VALUES (?, ?, ?, ?, ?, ?, ?, ?)", put
        statements, more = self.doomed.frozen()
        if more:
            self._when_frozen.append(self.condemned)
        yield from statements
        yield from self.holdings.frozen()

    def before_commit(self) -> Callable[[], None] | None:
        return self.barrier()

    def committed(self, group: int) -> None:
        for segment in self._flying:
            segment.flying = False
        self._flying = []
        due = [call for number, call in self._when_committed if number <= group]
        self._when_committed = [entry for entry in self._when_committed if entry[0] > group]
        for call in due:
            tell_committed(call)
        self._forget_some()

    def when_committed(self, call: Callable[[], None]) -> None:
        """Call `call` on the loop once the changes made until now are durable."""
        self._when_frozen.append(call)
        self._store.changed()

    # --- segments ---

    def get(self, seg: int) -> Segment:
        """The segment with number `seg`. Raises SegmentUnreadable where there is none."""
        segment = self._loaded.get(seg)
        if segment is None:
            segment = self._load(seg)
        return segment

    def _load(self, seg: int) -> Segment:
        rows = self._store.read(f"SELECT {SEGMENT_COLUMNS} FROM segment WHERE seg = ?", (seg,))
        if not rows or seg in self._gone:
            raise SegmentUnreadable(seg, "the metadata does not know it")
        if not makes_sense(rows[0]):
            raise SegmentUnreadable(seg, "its metadata make no sense; storjfs fsck tells more")
        self._forget_some()
        return self._remember(Segment(rows[0], self._content_key))

    def _remember(self, segment: Segment) -> Segment:
        self._loaded[segment.seg] = segment
        return segment

    def _forget_some(self) -> None:
        """Drop old segments that their rows describe as well. Looks at a few only, so that it is cheap."""
        over = len(self._loaded) - REMEMBERED
        for _ in range(min(over, 64)):
            seg, segment = self._loaded.popitem(last=False)
            if (
                segment.dirty
                or segment.flying
                or segment.pins
                or segment.unsent
                or segment.state is State.DOOMED
                or segment.live <= 0  # the deleter has it at hand
            ):
                self._loaded[seg] = segment

    @contextmanager
    def pinned(self, segment: Segment) -> Iterator[None]:
        """Keep `segment` in memory and its data undeleted; needed by whoever waits with it at hand."""
        segment.pins += 1
        try:
            yield
        finally:
            segment.pins -= 1

    def create(self, now: int | None = None) -> Segment:
        """A new open segment. `now` in nanoseconds since 1970."""
        algorithm = int(preferred_algorithm())
        created = time.time_ns() if now is None else now
        row = (self._next, os.urandom(16), int(State.OPEN), algorithm, 0, 0, 0, 0, created, 0)
        segment = self._remember(Segment(row, self._content_key))
        self._next += 1
        self._next_changed = True
        self.unsent[segment.seg] = segment
        self.changed(segment)
        return segment

    def changed(self, segment: Segment) -> None:
        """Note that the row of `segment` has to be written again."""
        if not segment.dirty:
            segment.dirty = True
            self._dirty.append(segment)
            self._store.changed()

    def live(self, seg: int, delta: int) -> None:
        """`delta` more (or fewer) plaintext bytes of the segment are pointed to.

        Of a segment that is not known (the metadata are damaged) there is nothing to count: what pointed to
        it can be deleted like anything else.
        """
        segment = self._loaded.get(seg)
        if segment is None:
            try:
                segment = self._load(seg)
            except SegmentUnreadable as error:
                _LOG.warning("%s", error)
                return
        segment.live += delta
        if segment.state is State.STORED:
            self.tallies.garbage -= delta
        if not segment.dirty:
            self.changed(segment)
        if segment.live <= 0 and segment.state is not State.OPEN:
            self.emptied(segment)

    def close(self, segment: Segment) -> None:
        """open -> closed."""
        segment.state = State.CLOSED
        self.changed(segment)

    def set_code(self, segment: Segment, k: int, n: int) -> None:
        segment.k, segment.n = k, n
        self.changed(segment)

    def stored(self, segment: Segment) -> None:
        """closed -> stored; from here on the segment counts in the tallies."""
        segment.state = State.STORED
        self.unsent.pop(segment.seg, None)
        self.tallies.count(segment, self.health_of(segment), 1)
        self.changed(segment)
        self.arrived()

    def doom(self, segment: Segment) -> None:
        """stored or closed -> doomed: nothing points to it any more."""
        if segment.state is State.STORED:
            self.tallies.count(segment, self.health_of(segment), -1)
        self.unsent.pop(segment.seg, None)
        segment.state = State.DOOMED
        self.changed(segment)

    def drop(self, segment: Segment) -> None:
        """doomed -> gone: its shards are to be deleted at the farmers, its rows vanish."""
        for shard in list(self.shards(segment)):
            self.remove_shard(segment, shard)
        self._dropped.append(segment.seg)
        self._gone.add(segment.seg)
        self._loaded.pop(segment.seg, None)
        self.when_committed(lambda: self._gone.discard(segment.seg))

    def doomed_segments(self) -> list[Segment]:
        """Those found doomed in the database (at start-up)."""
        rows = self._store.read("SELECT seg FROM segment WHERE state = ? LIMIT 4096", (int(State.DOOMED),))
        found = []
        for (seg,) in rows:
            with suppress(SegmentUnreadable):
                found.append(self.get(seg))
        return found

    def stored_after(self, seg: int, limit: int) -> list[Segment]:
        """The next `limit` segments behind number `seg`, uncommitted ones left out: a step of a walk."""
        rows = self._store.read(
            f"SELECT {SEGMENT_COLUMNS} FROM segment WHERE seg > ? ORDER BY seg LIMIT ?", (seg, limit)
        )
        found = []
        for row in rows:
            known = self._loaded.get(row[0])
            if row[0] not in self._gone and (known is not None or makes_sense(row)):
                found.append(Segment(row, self._content_key) if known is None else known)
        return found

    def lately_changed(self) -> list[Segment]:
        """Closed and stored segments that changed since the last call, as far as still in memory."""
        lately, self._lately = self._lately, set()
        return [self._loaded[seg] for seg in lately if seg in self._loaded]

    # --- shards ---

    def shards(self, segment: Segment) -> list[Shard]:
        """All rows of a segment, those being uploaded and lost ones included. Not to be changed."""
        if segment.shards is None:
            rows = self._store.read(f"SELECT {SHARD_COLUMNS} FROM shard WHERE seg = ?", (segment.seg,))
            segment.shards = [Shard(row) for row in rows]
        return segment.shards

    def held(self, segment: Segment) -> dict[int, Shard]:
        """The shards not known to be lost, by index."""
        return {shard.idx: shard for shard in self.shards(segment) if shard.held}

    def health_of(self, segment: Segment) -> Health:
        return health(segment.k, segment.n, len(self.held(segment)))

    def add_shard(self, segment: Segment, idx: int, contract: int, length: int) -> Shard:
        """A row with a new id for an upload about to start."""
        shard = Shard(
            (os.urandom(32), segment.seg, idx, contract, b"", b"", length, int(ShardState.UPLOADING))
        )
        self.shards(segment).append(shard)
        self._changed_shard(segment, shard)
        return shard

    def shard_held(self, segment: Segment, shard: Shard, root: bytes, checksum: bytes) -> None:
        """The farmer signed for the shard. Rows of the same index that are lost give way to it."""
        before = self._health_if_stored(segment)
        shard.root, shard.checksum, shard.state = root, checksum, ShardState.HELD
        self._changed_shard(segment, shard)
        for other in [one for one in self.shards(segment) if one.idx == shard.idx and one is not shard]:
            if other.state is not ShardState.UPLOADING:
                self._take_out(segment, other)
        self._recount(segment, before)

    def shard_lost(self, segment: Segment, shard: Shard) -> None:
        """The farmer does not have the shard any more, or not as it should be. Idempotent."""
        if shard.state is ShardState.LOST:
            return
        before = self._health_if_stored(segment)
        shard.state = ShardState.LOST
        self._changed_shard(segment, shard)
        self._recount(segment, before)
        if segment.state is State.STORED:
            self.hurt(segment)

    def _never_placed(self, segment: Segment, idx: int, length: int) -> None:
        """No farmer could be found for `idx`: a lost row stands for it, so that repair finds it later."""
        shard = self.add_shard(segment, idx, NOBODY, length)
        shard.state = ShardState.LOST
        self._changed_shard(segment, shard)

    def note_missing(self, segment: Segment) -> None:
        """Have a row for each index, so that a segment that lacks shards is found again, however long the
        policy lets it wait: a cut-off upload leaves an index without one."""
        covered = {shard.idx for shard in self.shards(segment)}
        size = sealed_length(shard_length(segment.size, segment.k))
        for idx in range(segment.n):
            if idx not in covered:
                self._never_placed(segment, idx, size)

    def remove_shard(self, segment: Segment, shard: Shard, *, leave: bool = False) -> None:
        """Take a row out; its farmer is asked to delete the shard. `leave`: it is not, for newer metadata may
        need it."""
        before = self._health_if_stored(segment)
        self._take_out(segment, shard, leave=leave)
        self._recount(segment, before)

    def _take_out(self, segment: Segment, shard: Shard, *, leave: bool = False) -> None:
        self.shards(segment).remove(shard)
        self._shard_changes[shard.shard_id] = None
        if not leave:
            self.doomed.add(shard)
        self.changed(segment)

    def _changed_shard(self, segment: Segment, shard: Shard) -> None:
        self._shard_changes[shard.shard_id] = shard.row()
        self.holdings.note(shard)
        # The segment stays in memory, and with it its shards, until the change is committed.
        self.changed(segment)

    # --- sums ---

    def waiting_bytes(self) -> int:
        return sum(segment.size for segment in self.unsent.values())

    def amend_counter(self, key: str, delta: int) -> bool:
        """A counter, by its name in the database, is wrong by `delta`; False where it is not one of these."""
        if not self.tallies.amend(key, delta) and not self.holdings.amend(key, delta):
            return False
        self._store.changed()
        return True

    def skip_to(self, number: int) -> bool:
        """Give out no segment number below `number` any more."""
        self._next = max(self._next, number)
        self._next_changed = True
        self._store.changed()
        return True

    def _health_if_stored(self, segment: Segment) -> Health | None:
        return self.health_of(segment) if segment.state is State.STORED else None

    def _recount(self, segment: Segment, before: Health | None) -> None:
        if before is not None:
            self.tallies.moved(before, self.health_of(segment))
