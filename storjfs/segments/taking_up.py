"""What the last run left is taken up: decision record 1 tells what a crash leaves where."""

from collections.abc import Callable, Sequence

from storjfs.segments.cache import Cache
from storjfs.segments.catalogue import Catalogue
from storjfs.segments.problems import Problems
from storjfs.segments.records import Segment
from storjfs.segments.values import ShardState, State
from storjfs.store import MetaStore


def take_up(
    store: MetaStore,
    catalogue: Catalogue,
    cache: Cache,
    problems: Problems,
    *,
    older: bool,
    closed: Callable[[Segment], None],
    emptied: Callable[[Segment], None],
) -> None:
    """Load the cache, close what was open, and settle the journal's files.

    `older`: meta.db is known to be an older copy. `closed` is told of the segments to be sent, `emptied` of
    those that need not be.
    """
    cache.load()
    for segment in list(catalogue.unsent.values()):
        found = cache.adopt_unsent(segment)
        for shard in list(catalogue.shards(segment)):
            if shard.state is ShardState.UPLOADING:
                # The file stays until the segment is stored. Where it is gone that may have happened, in a
                # newer meta.db than this one: these shards are then the only copy of its data.
                catalogue.remove_shard(segment, shard, leave=older or found is None)
        if segment.state is State.OPEN:
            catalogue.close(segment)
        if found is not None:
            if found < segment.size and segment.live > 0:
                problems.damaged(
                    segment, f"its file in {cache.journal_dir} ends at {found} instead of {segment.size}"
                )
            closed(segment)
        elif segment.live > 0:
            _lost_locally(catalogue, cache, problems, segment)
        else:
            emptied(segment)
    _settle_strays(store, catalogue, cache, problems, cache.strays())


def _settle_strays(
    store: MetaStore, catalogue: Catalogue, cache: Cache, problems: Problems, strays: Sequence[bytes]
) -> None:
    """Sort the journal's files that belong to no unsent segment.

    Where damaged metadata lack a segment, what belongs to nothing may be its only copy, and is left.
    """
    keep = bool(strays) and catalogue.misses_segments()
    if keep:
        problems.alarm(
            "lost",
            -1,
            "the metadata lack a segment that files lie in; unmount and run storjfs fsck --repair",
        )
    for segment_id in strays:
        row = store.read("SELECT state FROM segment WHERE segment_id = ?", (segment_id,))
        if row or not keep:
            cache.settle_stray(segment_id, stored=bool(row) and row[0][0] == State.STORED)


def _lost_locally(catalogue: Catalogue, cache: Cache, problems: Problems, segment: Segment) -> None:
    """An unsent segment without its file: what is not at farmers is gone. Said loudly, survived."""
    held = len(catalogue.held(segment))
    if segment.k == 0:
        catalogue.set_code(segment, 1, 1)
    rest = "the farmers still have it" if held >= segment.k else f"{segment.live} bytes of files are lost"
    problems.alarm(
        "lost",
        segment.seg,
        f"the unsent data of segment {segment.seg} is missing from {cache.journal_dir}: {rest}",
    )
    catalogue.stored(segment)
    catalogue.note_missing(segment)
