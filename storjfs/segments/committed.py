"""What meta.db says of segments, runs and shards as committed, whatever has changed since."""

from collections.abc import Iterator, Sequence

from storjfs.store import MetaStore


class CommittedRows:
    """Queries on the tables segment, run, shard and doomed, bounded unless they say otherwise. All belong to
    the loop's thread. They raise StoreError where the disk does not give the rows."""

    def __init__(self, store: MetaStore) -> None:
        self._store = store

    async def pointed_to(self, segs: Sequence[int]) -> set[int]:
        """Those of some segments that committed extents point to, as far as runs lead back to them.

        That there are any would be a mistake in their sums: asked before something goes for good.
        """
        if not segs:
            return set()
        marks = ", ".join("?" * len(segs))
        rows = await self._store.scan(
            "SELECT DISTINCT r.seg FROM run r CROSS JOIN extent e ON e.ino = r.ino AND e.off >= r.off "
            f"AND e.off < r.off + r.length WHERE r.seg IN ({marks}) AND e.seg = r.seg AND e.pos = r.pos",
            tuple(segs),
        )
        return {seg for (seg,) in rows}

    def misses_segments(self) -> bool:
        """Whether runs lead to segments without a row, as only in damaged metadata. Looks at each segment."""
        rows = self._store.read(
            "WITH RECURSIVE there(seg) AS (SELECT MIN(seg) FROM run UNION ALL "
            "SELECT (SELECT MIN(seg) FROM run WHERE seg > there.seg) FROM there WHERE seg IS NOT NULL) "
            "SELECT 1 FROM there WHERE seg > 0 AND seg NOT IN (SELECT seg FROM segment) LIMIT 1"
        )
        return bool(rows)

    def runs_of(self, seg: int, after: int, limit: int) -> list[tuple[int, int, int, int]]:
        """Committed runs of a segment behind position `after` (-1 for all) as (pos, length, ino, off)."""
        return self._store.read(
            "SELECT pos, length, ino, off FROM run WHERE seg = ? AND pos > ? ORDER BY pos LIMIT ?",
            (seg, after, limit),
        )

    def unwell(self, after: int, limit: int) -> list[int]:
        """Numbers of segments with uploading or lost shard rows behind `after`, in order, as committed."""
        rows = self._store.read(
            "SELECT DISTINCT seg FROM shard WHERE state IN (0, 3) AND seg > ? ORDER BY seg LIMIT ?",
            (after, limit),
        )
        return [seg for (seg,) in rows]

    def doomed_contracts(self, after: int = -1) -> Iterator[int]:
        """The contracts with shards to be deleted, one query each."""
        while True:
            rows = self._store.read(
                "SELECT contract FROM doomed WHERE contract > ? ORDER BY contract LIMIT 1", (after,)
            )
            if not rows:
                return
            after = rows[0][0]
            yield after
