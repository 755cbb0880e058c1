"""Emptying contracts that are ending, or whose farmers are to leave.

Their shards move to other farmers before the farmer deletes them.
"""

import logging
from collections.abc import Callable, Container, Sequence

import trio

from storjfs.protocol.contracts import State
from storjfs.protocol.ids import NodeId
from storjfs.renter.audits import HELD_STATES, MarkLost
from storjfs.renter.book import ContractBook, Entry
from storjfs.renter.market import Market
from storjfs.store import MetaStore

log = logging.getLogger(__name__)

AT_ONCE = 32
"""Shards on their way elsewhere at a time, per contract."""


class Moving:
    """`step` is called now and then; it asks for a few shards to be rebuilt elsewhere.

    A shard is given up only where its segment is complete otherwise and a farmer is there that can take it
    (`place(size, contracts of the segment)`), so that at no time a segment lacks more than the one shard that
    moves; the repair rebuilds that one on another farmer.
    """

    def __init__(
        self,
        book: ContractBook,
        market: Market,
        store: MetaStore,
        mark_lost: MarkLost,
        place: Callable[[int, Sequence[int]], bool],
    ) -> None:
        self._place = place
        self._book = book
        self._market = market
        self._store = store
        self._mark_lost = mark_lost
        self._after: dict[int, bytes] = {}

    async def step(self, busy: Container[NodeId | None] = ()) -> None:
        """Go on with every ending contract, and with those of farmers that leave; not with farmers that are
        `busy`: something else is just being done with their contracts."""
        for entry in self._book:
            if entry.node_id in busy:
                continue
            if entry.state is not State.ENDING and not (
                entry.accepts and entry.node_id in self._book.leaving
            ):
                continue
            if await self._is_empty(entry):
                if entry.state is not State.ENDING:
                    await self._market.leave(entry)
                await self._market.end_empty(entry)
            elif await self._give_up_some(entry):
                await self._store.sync()

    async def _is_empty(self, entry: Entry) -> bool:
        # What is not rebuilt elsewhere yet, or not deleted by the farmer yet, counts: once the contract is
        # over nobody would tell the farmer any more, which would keep it.
        left = await self._store.scan(
            "SELECT 1 FROM shard WHERE contract = ?1 "
            "UNION ALL SELECT 1 FROM doomed WHERE contract = ?1 LIMIT 1",
            (entry.number,),
        )
        return not left

    async def _give_up_some(self, entry: Entry) -> int:
        after = self._after.get(entry.number, b"")
        sql = (
            f"SELECT seg, idx, shard_id, length FROM shard WHERE contract = ? AND shard_id > ? "
            f"AND state IN {HELD_STATES} ORDER BY shard_id LIMIT {AT_ONCE}"
        )
        rows = self._store.read(sql, (entry.number, after))
        # At the end of the list begin again: what had to wait for a repair may move by now.
        self._after[entry.number] = rows[-1][2] if rows else b""
        moved = 0
        for seg, idx, shard_id, length in rows:
            # To look for a place goes through all farmers.
            await trio.lowlevel.checkpoint()
            if self._complete(seg) and self._place(length, self._holders(seg)):
                self._mark_lost(seg, idx, shard_id)
                moved += 1
        return moved

    def _holders(self, seg: int) -> list[int]:
        rows = self._store.read(
            f"SELECT DISTINCT contract FROM shard WHERE seg = ? AND state IN {HELD_STATES}", (seg,)
        )
        return [contract for (contract,) in rows]

    def _complete(self, seg: int) -> bool:
        rows = self._store.read(
            f"SELECT segment.n, (SELECT count(DISTINCT idx) FROM shard WHERE shard.seg = segment.seg "
            f"AND shard.state IN {HELD_STATES}) FROM segment WHERE seg = ? AND state = 2",
            (seg,),
        )
        return bool(rows) and rows[0][1] >= rows[0][0]
