"""What a farmer passes on for others that cannot be dialled: held to a limit, shared fairly, counted.

The counts are what others could be charged by; nobody is, yet. They lie in farmer.db, per day and farmer.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import trio

from storjfs.farmer.line import Direction
from storjfs.farmer.records import Records
from storjfs.farmer.schedule import Limit
from storjfs.farmer.traffic import CHUNK, Traffic
from storjfs.network.splice import PIPE
from storjfs.protocol.ids import NodeId

DAY: Final = 86400
DAYS_KEPT: Final = 400
FARMERS_A_DAY: Final = 1024
"""Farmers that are counted apart on one day; what comes beyond is counted as OTHERS."""
OTHERS: Final = NodeId(bytes(32))

_ADD: Final = (
    "INSERT INTO relayed(day, farmer, to_farmer, from_farmer, streams) VALUES (?, ?, ?, ?, ?) "
    "ON CONFLICT DO UPDATE SET to_farmer = to_farmer + excluded.to_farmer, "
    "from_farmer = from_farmer + excluded.from_farmer, streams = streams + excluded.streams"
)


@dataclass(slots=True)
class Passed:
    """Of one farmer: bytes in each direction, and relayed connections."""

    to_farmer: int = 0
    from_farmer: int = 0
    streams: int = 0


class RelayedLine:
    """The `network.relay.Line` of a farmer. `run` keeps its limit."""

    def __init__(self, traffic: Traffic, records: Records, clock: Callable[[], float]) -> None:
        self.to_farmers = Direction()
        self.from_farmers = Direction()
        self._traffic = traffic
        self._records = records
        self._clock = clock
        self._pending: dict[tuple[int, NodeId], Passed] = {}

    @property
    def step(self) -> int:
        """Small steps where a limit holds."""
        directions = (self.to_farmers, self.from_farmers, self._traffic.sent, self._traffic.received)
        return PIPE if all(one.rate is None for one in directions) else CHUNK

    def limit(self, limit: Limit | None) -> None:
        """Of all that is relayed, `sent` towards farmers and `received` from them."""
        self.to_farmers.limit(limit.sent if limit is not None else None)
        self.from_farmers.limit(limit.received if limit is not None else None)

    async def run(self) -> None:
        """Let through what the limit allows, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.to_farmers.run)
            nursery.start_soon(self.from_farmers.run)

    def joined(self, farmer: NodeId) -> None:
        """One more connection."""
        self._passed(farmer).streams += 1

    async def pass_on(self, farmer: NodeId, count: int, *, to_farmer: bool) -> None:
        """Count bytes, and hold them up as the limits want it: a relayed farmer counts as one renter does."""
        passed, now = self._passed(farmer), trio.current_time()
        if to_farmer:
            passed.to_farmer += count
        else:
            passed.from_farmer += count
        own = self.to_farmers if to_farmer else self.from_farmers
        for direction in (own, self._traffic.received, self._traffic.sent):
            direction.meter.add(count, now)
            await direction.let_through(farmer, count)

    async def fold(self) -> None:
        """Commit what memory knows; a crash before it forgets that."""
        if not self._pending:
            return
        pending, self._pending = self._pending, {}
        today = int(self._clock()) // DAY
        try:
            known = {day: self._known(day) for day in {day for day, _ in pending}}
            rows = []
            for (day, farmer), one in pending.items():
                counted_as = farmer
                if farmer not in known[day] and len(known[day]) >= FARMERS_A_DAY:
                    counted_as = OTHERS
                known[day].add(counted_as)
                rows.append((_ADD, (day, counted_as, one.to_farmer, one.from_farmer, one.streams)))
            forget = ("DELETE FROM relayed WHERE day < ?", (today - DAYS_KEPT,))
            await self._records.commit([*rows, forget])
        except BaseException:
            for (day, farmer), one in pending.items():
                again = self._pending.setdefault((day, farmer), Passed())
                again.to_farmer += one.to_farmer
                again.from_farmer += one.from_farmer
                again.streams += one.streams
            raise

    def recent(self) -> dict[NodeId, Passed]:
        """What was passed on for each farmer since yesterday (UTC), as committed, the most first."""
        rows = self._records.read(
            "SELECT farmer, sum(to_farmer), sum(from_farmer), sum(streams) FROM relayed WHERE day >= ? "
            "GROUP BY farmer ORDER BY sum(to_farmer) + sum(from_farmer) DESC",
            int(self._clock()) // DAY - 1,
        )
        return {NodeId(row[0]): Passed(*row[1:]) for row in rows}

    def _passed(self, farmer: NodeId) -> Passed:
        today = int(self._clock()) // DAY
        key = today, farmer
        if key not in self._pending and len(self._pending) >= FARMERS_A_DAY:
            key = today, OTHERS
        return self._pending.setdefault(key, Passed())

    def _known(self, day: int) -> set[bytes]:
        rows = self._records.read("SELECT farmer FROM relayed WHERE day = ?", day)
        return {row[0] for row in rows}
