"""Which shards the farmer knows to be damaged, in farmer.db: found by a scrub, a read or an audit."""

import logging
from collections.abc import Callable, Iterable

from storjfs.farmer.records import Records, Statement
from storjfs.protocol.ids import ShardId

log = logging.getLogger(__name__)


class Damage:
    """The table `damaged`. A row goes in the commit that takes its shard off the index."""

    def __init__(self, records: Records, clock: Callable[[], float]) -> None:
        self._records = records
        self._clock = clock
        self.lost: set[int] = set()
        """Numbers of disks that are lost: all that lies there counts as damaged, as long as they are."""

    def reason(self, shard_id: ShardId) -> str | None:
        """What is wrong with the shard, None if nothing is known to be."""
        rows = self._records.read("SELECT reason FROM damaged WHERE shard_id = ?", shard_id)
        if not rows and self.lost:
            found = self._records.read("SELECT disk FROM shard WHERE shard_id = ?", shard_id)
            return "the disk with the shard is lost" if found and found[0][0] in self.lost else None
        return str(rows[0][0]) if rows else None

    def under(self, contract: int, after: bytes, limit: int) -> list[ShardId]:
        """The first damaged shards of a contract (its number in farmer.db) behind the id `after`."""
        rows = self._records.read(
            "SELECT shard_id FROM damaged WHERE contract = ? AND shard_id > ? ORDER BY shard_id LIMIT ?",
            contract,
            after,
            limit,
        )
        found = {row[0] for row in rows}
        for disk in self.lost:
            rows = self._records.read(
                "SELECT shard_id FROM shard WHERE disk = ? AND disk <> 1 AND contract = ? AND shard_id > ? "
                "ORDER BY shard_id LIMIT ?",
                disk,
                contract,
                after,
                limit,
            )
            found.update(row[0] for row in rows)
        return [ShardId(one) for one in sorted(found)[:limit]]

    async def note(self, shard_id: ShardId, reason: str) -> bool:
        """Keep it, unless the shard was deleted meanwhile; whether it is kept. Idempotent, durable."""
        if self._records.read("SELECT 1 FROM damaged WHERE shard_id = ?", shard_id):
            return True
        if not self._records.read("SELECT 1 FROM shard WHERE shard_id = ?", shard_id):
            return False
        log.error("%s: its renter is told, and it earns nothing any more", reason)
        row: Statement = (
            "INSERT OR IGNORE INTO damaged(shard_id, contract, found, reason) "
            "SELECT shard_id, contract, ?, ? FROM shard WHERE shard_id = ?",
            (int(self._clock()), reason, shard_id),
        )
        await self._records.commit([row])
        return self.reason(shard_id) is not None


def count_damaged(records: Records) -> int:
    """How many shards on the index are known to be damaged."""
    ((count,),) = records.read("SELECT count(*) FROM damaged")
    ((lost,),) = records.read("SELECT coalesce(sum(shards), 0) FROM disk WHERE lost")
    return int(count + lost)


def gone(shard_ids: Iterable[ShardId]) -> list[Statement]:
    """What forgets shards that leave the index, for the same commit."""
    return [("DELETE FROM damaged WHERE shard_id IN (VALUES (?))", (one,)) for one in shard_ids]
