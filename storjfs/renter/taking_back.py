"""Farmers that had been given up and are back: what they still hold counts as there again."""

import logging
from collections.abc import Callable

from storjfs.errors import StorjfsError
from storjfs.protocol.ids import NodeId, short
from storjfs.protocol.messages import MAX_LISTED
from storjfs.renter.audits import HELD_STATES
from storjfs.renter.book import ContractBook
from storjfs.renter.client import ShardClient
from storjfs.renter.market import Market
from storjfs.store import MetaStore

log = logging.getLogger(__name__)

_LOST = (
    f"SELECT seg, root, length FROM shard WHERE shard_id = ? AND contract = ? AND state NOT IN {HELD_STATES}"
)


class TakingBack:
    """`found(seg, shard_id)`: a lost shard is there again; whether its segment takes it back. `came(farmer)`
    is called when all that a farmer holds was looked through."""

    def __init__(
        self,
        book: ContractBook,
        market: Market,
        client: ShardClient,
        store: MetaStore,
        found: Callable[[int, bytes], bool],
        came: Callable[[NodeId], None],
    ) -> None:
        self._book, self._market, self._client, self._store = book, market, client, store
        self._found, self._came = found, came

    async def step(self, farmer: NodeId) -> None:
        """Ask a farmer whose contract was taken up again what it holds; audits will tell what that is worth.

        What fails is asked again the next time.
        """
        entry = self._book.current(farmer)
        if entry is None or entry.number not in self._market.taken_up or not entry.serves:
            return
        start, last, count = bytes(32), b"\xff" * 32, 0
        try:
            while start <= last:
                page = await self._client.list_shards(entry.number, start)
                for one in page:
                    for seg, root, length in self._store.read(_LOST, (one.shard_id, entry.number)):
                        if (one.root, one.length) == (root, length):
                            count += self._found(seg, bytes(one.shard_id))
                if len(page) < MAX_LISTED or bytes(page[-1].shard_id) == last:
                    break
                start = (int.from_bytes(page[-1].shard_id, "big") + 1).to_bytes(32, "big")
            await self._store.sync()
        except (StorjfsError, OSError) as error:
            log.info("what farmer %s still holds is asked again later: %s", short(farmer), error)
            return
        self._market.taken_up.discard(entry.number)
        log.info("farmer %s is back with %d shards", short(farmer), count)
        self._came(farmer)
