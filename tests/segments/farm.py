"""Farmers in memory, with faults, in place of the renter."""

import hashlib
import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import trio

from storjfs.coding.buffers import Buffer
from storjfs.coding.merkle import shard_root
from storjfs.protocol.priorities import Priority
from storjfs.renter.errors import FarmerUnavailable, ServiceRefused, ShardMissing
from storjfs.renter.speed import Way


@dataclass(frozen=True, slots=True)
class Receipt:
    root: bytes


@dataclass(slots=True)
class Farmer:
    shards: dict[bytes, bytearray] = field(default_factory=dict)
    online: bool = True
    full: bool = False
    contained: bool = False
    get_delay: float = 0.0
    put_delay: float = 0.0
    usual: float = 0.01
    lagging: bool = False
    late: int = 0
    """How often it was told to be."""
    stuck: trio.Event | None = None
    """Gets wait for it."""
    stuck_puts: trio.Event | None = None
    stuck_deletes: trio.Event | None = None
    turn: trio.Lock | None = None
    """Gets wait for it, so one is served after the other."""
    gets: int = 0
    puts: int = 0
    asked: int = 0
    """Puts, whether they worked or not."""
    lose_receipt: bool = False
    greets: bool = False
    """When it is asked to delete, whether it then does or not."""
    deletes: int = 0
    """How often it was asked to."""


class Farm:
    """A Placement; contracts are numbered from 1 and each has one farmer."""

    def __init__(self, farmers: int = 6, k: int = 3, n: int = 5) -> None:
        self.farmers = {number: Farmer() for number in range(1, farmers + 1)}
        self.scheme = (k, n)
        self.random = random.Random(1)
        self.deleted: list[bytes] = []
        self.seen: dict[bytes, bytes] = {}
        self.priorities = set[Priority]()
        """Of gets."""
        self.greeted: Callable[[Collection[int]], None] = lambda contracts: None
        self.most_at_once = 0
        self.sent = 0
        """Bytes read from them."""
        self._at_once = 0

    def code(self) -> tuple[int, int]:
        return self.scheme

    def contained(self, contract: int) -> bool:
        return self.farmers[contract].contained

    def usual_latency(self, contract: int) -> float:
        return self.farmers[contract].usual

    def lagging(self, contract: int, way: Way) -> bool:
        return self.farmers[contract].lagging

    def late(self, contract: int, way: Way, length: int, seconds: float) -> None:
        """Whoever is late on a busy machine only does not lag for the rest of the test."""
        farmer = self.farmers[contract]
        farmer.late += 1
        stuck = farmer.stuck is not None or farmer.stuck_puts is not None
        farmer.lagging |= farmer.put_delay > 10 or stuck

    def choose(self, count: int, size: int, exclude: Collection[int] = ()) -> list[int]:
        free = [
            number
            for number, farmer in self.farmers.items()
            if number not in exclude and farmer.online and not farmer.full
        ]
        self.random.shuffle(free)
        free.sort(key=lambda number: self.farmers[number].lagging)
        return free[:count]

    async def put(self, contract: int, shard_id: bytes, sealed: Buffer, root: bytes | None = None) -> Receipt:
        farmer = self.farmers[contract]
        farmer.asked += 1
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            await trio.sleep(farmer.put_delay)
            if farmer.stuck_puts is not None:
                await farmer.stuck_puts.wait()
            if not farmer.online:
                raise FarmerUnavailable
            if farmer.full:
                raise ServiceRefused("no space")
            farmer.puts += 1
            # As at a real farmer, this does not happen on the renter's loop.
            shard, digest, made = await trio.to_thread.run_sync(_taken, sealed)
            # One shard id is one key with counter nonces: never two contents.
            assert self.seen.setdefault(shard_id, digest) == digest
            farmer.shards[shard_id] = shard
            if farmer.lose_receipt:
                raise FarmerUnavailable
            return Receipt(made)
        finally:
            self._at_once -= 1

    async def get(
        self,
        contract: int,
        shard_id: bytes,
        offset: int,
        length: int,
        priority: Priority = Priority.READ,
    ) -> bytearray:
        self.priorities.add(priority)
        farmer = self.farmers[contract]
        farmer.gets += 1
        if farmer.stuck is not None:
            await farmer.stuck.wait()
        async with farmer.turn or trio.Lock():
            await trio.sleep(farmer.get_delay)
        if not farmer.online:
            raise FarmerUnavailable
        if shard_id not in farmer.shards:
            raise ShardMissing
        self.sent += length
        return farmer.shards[shard_id][offset : offset + length]

    async def delete(self, contract: int, shard_ids: Sequence[bytes]) -> None:
        await trio.lowlevel.checkpoint()
        farmer = self.farmers[contract]
        farmer.deletes += 1
        if farmer.greets:
            self.greeted([contract])
        if farmer.stuck_deletes is not None:
            await farmer.stuck_deletes.wait()
        if not farmer.online:
            raise FarmerUnavailable
        for shard_id in shard_ids:
            farmer.shards.pop(shard_id, None)
            self.deleted.append(shard_id)

    def go(self, *, online: bool) -> None:
        """All farmers leave, or come back."""
        for farmer in self.farmers.values():
            farmer.online = online

    def shard_count(self) -> int:
        return sum(len(farmer.shards) for farmer in self.farmers.values())

    def gets(self) -> int:
        return sum(farmer.gets for farmer in self.farmers.values())

    def corrupt(self, contract: int, position: int = 100) -> None:
        """Flip a bit in every shard of a farmer."""
        for shard in self.farmers[contract].shards.values():
            shard[position % len(shard)] ^= 4


def _taken(sealed: Buffer) -> tuple[bytearray, bytes, bytes]:
    return bytearray(sealed), hashlib.sha256(sealed).digest(), shard_root(sealed)
