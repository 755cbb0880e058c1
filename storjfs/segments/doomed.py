"""Shards that farmers are to delete: the rows of `doomed`, and on top of them what is not committed yet."""

from collections.abc import Callable, Iterable, Iterator, Sequence

from storjfs.segments.holdings import Holdings
from storjfs.segments.records import Shard
from storjfs.segments.values import NOBODY
from storjfs.store import MetaStore, Statement


class Doomed:
    """Methods belong to the loop's thread. `when_committed(call)`: once the changes made until now are
    durable."""

    def __init__(
        self, store: MetaStore, holdings: Holdings, when_committed: Callable[[Callable[[], None]], None]
    ) -> None:
        self._store = store
        self._holdings = holdings
        self._when_committed = when_committed
        self._changes: dict[bytes, tuple[int, int] | None] = {}
        """Contract and length of the row; None where it goes."""
        self._confirmed: set[bytes] = set()
        """Deleted shards whose row is not gone yet."""

    def add(self, shard: Shard) -> None:
        """Nothing needs the shard any more: its farmer is asked to delete it once that is committed."""
        if shard.contract != NOBODY:
            self._changes[shard.shard_id] = shard.contract, self._holdings.doomed(shard)

    def batches(self, contract: int, limit: int) -> Iterator[list[bytes]]:
        """Shards of a contract whose deletion is committed and not confirmed, up to `limit` at a time; each
        query is made when its batch is asked for."""
        after = b""
        sql = "SELECT shard_id FROM doomed WHERE contract = ? AND shard_id > ? ORDER BY shard_id LIMIT ?"
        while rows := self._store.read(sql, (contract, after, limit)):
            after = rows[-1][0]
            if found := [shard_id for (shard_id,) in rows if shard_id not in self._confirmed]:
                yield found

    def confirmed(self, shard_ids: Iterable[bytes]) -> None:
        """Their farmers have deleted these, or need not: their rows go. Idempotent."""
        ids = [shard_id for shard_id in shard_ids if shard_id not in self._confirmed]
        for contract, length in self._rows_of(ids):
            self._holdings.deleted(contract, length)
        self._changes.update(dict.fromkeys(ids))
        self._confirmed.update(ids)
        self._when_committed(lambda: self._confirmed.difference_update(ids))

    def _rows_of(self, ids: Sequence[bytes]) -> list[tuple[int, int]]:
        """Contract and length of those of these that have a row, committed or not."""
        waiting = [row for one in ids if (row := self._changes.get(one)) is not None]
        asked = tuple(one for one in ids if one not in self._changes)
        places = ", ".join("?" * len(asked))
        sql = f"SELECT contract, CAST(length AS INTEGER) FROM doomed WHERE shard_id IN ({places})"
        return waiting + self._store.read(sql, asked)

    def frozen(self) -> tuple[list[Statement], bool]:
        """What is to be committed of the changes since the last call; whether more is to be deleted then."""
        changes, self._changes = self._changes, {}
        added = [(shard_id, *row) for shard_id, row in changes.items() if row is not None]
        gone = [(shard_id,) for shard_id, row in changes.items() if row is None]
        statements: list[Statement] = []
        if added:
            statements.append(("REPLACE INTO doomed VALUES (?, ?, ?)", added))
        if gone:
            statements.append(("DELETE FROM doomed WHERE (shard_id) IN (VALUES (?))", gone))
        return statements, bool(added)
