"""Putting rows right while the volume is in use: what a check of the committed state found, applied to now.

Sums are corrected by a difference, as in the filesystem's amending; what concerns a shard is decided anew on
what is in memory, and left where somebody is at work on the segment or its data would depend on it. Each
method is one step of the loop and returns whether it changed anything.
"""

from typing import Final

from storjfs.coding.geometry import sealed_length, shard_length
from storjfs.segments.catalogue import Catalogue
from storjfs.segments.holdings import LENGTH_IF_HELD
from storjfs.segments.records import Segment, Shard
from storjfs.segments.repair import Repair
from storjfs.segments.values import NOBODY, SegmentUnreadable, State
from storjfs.store import MetaStore

_HASH: Final = 32


class Amender:
    """Methods belong to the loop's thread."""

    def __init__(self, store: MetaStore, catalogue: Catalogue, repair: Repair) -> None:
        self._store = store
        self._catalogue = catalogue
        self._repair = repair

    def live(self, seg: int, delta: int) -> bool:
        """The sum of its live bytes was wrong by `delta`."""
        segment = self._get(seg)
        if segment is None or segment.live + delta < 0:
            return False
        self._catalogue.live(seg, delta)
        return True

    def plain(self, seg: int, delta: int) -> bool:
        """The sum of its plaintext bytes was wrong by `delta`."""
        segment = self._get(seg)
        if segment is None:
            return False
        segment.plain += delta
        if segment.state is State.STORED:
            self._catalogue.tallies.garbage += delta
        self._catalogue.changed(segment)
        return True

    def tally(self, key: str, delta: int) -> bool:
        """A count of segments, by its counter's name, was wrong by `delta`."""
        return self._catalogue.amend_counter(key, delta)

    def numbers(self, right: int) -> bool:
        """Segment numbers up to `right` - 1 are in use already."""
        return self._catalogue.skip_to(right)

    def way_back(self, seg: int, pos: int, length: int, ino: int, off: int) -> bool:
        """A run without its row gets one, unless its segment is gone by now."""
        sql = "INSERT OR IGNORE INTO run SELECT ?, ?, ?, ?, ? WHERE ? IN (SELECT seg FROM segment)"
        self._store.write(sql, [(seg, pos, length, ino, off, seg)])
        return True

    def run_of_nothing(self, seg: int) -> bool:
        """Runs of a segment that is gone go."""
        sql = "DELETE FROM run WHERE seg = ? AND seg NOT IN (SELECT seg FROM segment)"
        self._store.write(sql, [(seg,)])
        return True

    def shard_of_nothing(self, shard_id: bytes) -> bool:
        """A shard whose segment is gone is deleted at its farmer."""
        alone = "shard_id = ? AND seg NOT IN (SELECT seg FROM segment)"
        self._store.write(
            f"INSERT OR IGNORE INTO doomed SELECT shard_id, contract, {LENGTH_IF_HELD} FROM shard "
            f"WHERE {alone} AND contract <> {NOBODY}",
            [(shard_id,)],
        )
        self._store.write(f"DELETE FROM shard WHERE {alone}", [(shard_id,)])
        self._catalogue.when_committed(self._catalogue.condemned)
        return True

    def shard(self, seg: int, shard_id: bytes, *, senseless: bool) -> bool:
        """A shard's row makes no sense, or names no contract: it counts as lost, or goes if `senseless`."""
        segment = self._idle(seg)
        if segment is None:
            return False
        for shard in self._catalogue.shards(segment):
            if shard.shard_id == shard_id and self._spared(segment, shard):
                if senseless:
                    self._catalogue.remove_shard(segment, shard)
                    self._catalogue.note_missing(segment)
                else:
                    self._catalogue.shard_lost(segment, shard)
                return True
        return False

    def found(self, seg: int, shard_id: bytes) -> bool:
        """A shard that was noted as lost is at its farmer, and the segment lacks it."""
        segment = self._idle(seg)
        if segment is None:
            return False
        held = self._catalogue.held(segment)
        for shard in self._catalogue.shards(segment):
            if shard.shard_id == shard_id and not shard.held and shard.idx not in held and shard.root:
                self._catalogue.shard_held(segment, shard, shard.root, shard.checksum)
                return True
        return False

    def duplicate(self, seg: int, idx: int) -> bool:
        """Of several shards for one place one stays."""
        segment = self._idle(seg)
        if segment is None:
            return False
        several = [one for one in self._catalogue.shards(segment) if one.idx == idx and one.held]
        several.sort(key=lambda one: (one.state, one.shard_id))
        for shard in several[1:]:
            self._catalogue.remove_shard(segment, shard)
        return len(several) > 1

    def missing(self, seg: int) -> bool:
        """Indexes without a row get one, so that they are rebuilt."""
        segment = self._idle(seg)
        if segment is None or segment.state is not State.STORED:
            return False
        self._catalogue.note_missing(segment)
        return True

    def withdraw(self, shard_id: bytes) -> bool:
        """A shard is not to be deleted, as far as its farmer was not told yet."""
        self._catalogue.doomed.confirmed([shard_id])
        return True

    def _get(self, seg: int) -> Segment | None:
        try:
            segment = self._catalogue.get(seg)
        except SegmentUnreadable:
            return None
        return None if segment.state is State.DOOMED else segment

    def _idle(self, seg: int) -> Segment | None:
        segment = self._get(seg)
        return None if segment is None or segment.busy else segment

    def _spared(self, segment: Segment, shard: Shard) -> bool:
        """Whether k other shards are there whose rows are as they should be."""
        length = sealed_length(shard_length(segment.size, segment.k)) if segment.k else 0
        others = {
            one.idx
            for one in self._catalogue.shards(segment)
            if one is not shard
            and one.held
            and 0 <= one.idx < segment.n
            and len(one.root) == _HASH
            and one.length == length
        }
        return len(others) >= segment.k > 0
