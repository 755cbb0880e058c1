"""A look at every farmer, now and then: its contract, what it still holds, what moves away from it."""

import logging
import math
from collections.abc import Awaitable, Callable
from functools import partial

import trio

from storjfs.errors import StorjfsError
from storjfs.protocol.ids import NodeId
from storjfs.renter.auditor import Auditor
from storjfs.renter.book import OVER, ContractBook
from storjfs.renter.clock import EverMoreSeldom
from storjfs.renter.farmers import Farmers
from storjfs.renter.market import Market
from storjfs.renter.moving import Moving
from storjfs.renter.seeking import Seeking

log = logging.getLogger(__name__)

FARMERS_AT_ONCE = 16


class Rounds:
    """Each farmer is seen to in a task of its own, one at a time for each: one that does not answer holds up
    neither the others nor the next round. `run` owns the tasks.

    `take_back(farmer)` is called after the market has attended to a farmer.
    """

    def __init__(
        self,
        book: ContractBook,
        farmers: Farmers,
        seeking: Seeking,
        market: Market,
        moving: Moving,
        auditor: Auditor,
        take_back: Callable[[NodeId], Awaitable[None]],
        now: Callable[[], float],
    ) -> None:
        self._book, self._farmers, self._seeking = book, farmers, seeking
        self._market, self._moving, self._auditor = market, moving, auditor
        self._take_back = take_back
        self._now = now
        self.removed: set[NodeId] = set()
        """Farmers that are gone for good."""
        self._turn = trio.CapacityLimiter(FARMERS_AT_ONCE)
        self._under_way: dict[NodeId | None, trio.Event] = {}
        """Who is being seen to, None for the search at addresses; set once that has ended."""
        self._given_up = EverMoreSeldom()
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Own what rounds have begun, until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                task_status.started()
                await trio.sleep_forever()
            finally:
                self._nursery = None

    async def once(self, patience: float = math.inf) -> None:
        """Begin to see to each farmer that is not seen to yet, give them all `patience` seconds, and do what
        is left to do with those that are ready. Cancelled, it leaves what has begun going on."""
        self._seeking.choose()
        for farmer in self._farmers.all():
            self._see_to(farmer)
        self._begin(None, lambda: self._farmers.find_out(self._see_to))
        with trio.move_on_after(patience):
            while self._under_way:
                await next(iter(self._under_way.values())).wait()
        busy = self._under_way.keys()
        try:
            await self._moving.step(busy)
            await self._market.reclaim(busy)
            for entry in self._book.in_state(OVER):
                # Again: a put that was under way may have ended since.
                if entry.node_id not in busy and self._given_up.due(entry.number, self._now()):
                    await self._auditor.give_up_shards(entry)
        except StorjfsError as error:
            log.warning("contracts: %s", error)

    def _see_to(self, farmer: NodeId) -> None:
        if farmer not in self.removed and self._seeking.seeks(farmer):
            self._begin(farmer, partial(self._attend, farmer))

    async def _attend(self, farmer: NodeId) -> None:
        async with self._turn:
            await self._market.attend(farmer)
        await self._take_back(farmer)

    def _begin(self, what: NodeId | None, work: Callable[[], Awaitable[None]]) -> None:
        if what not in self._under_way and self._nursery is not None:
            self._under_way[what] = trio.Event()
            self._nursery.start_soon(self._carry_out, what, work)

    async def _carry_out(self, what: NodeId | None, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        finally:
            self._under_way.pop(what).set()
