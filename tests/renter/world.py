"""A small world in one process: real farmers, a real ledger, memory streams, faults, and a clock at will."""

import contextlib
import os
import random
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio
import trio.testing

from storjfs.coding.merkle import shard_root
from storjfs.farmer.farmer import Farmer
from storjfs.farmer.settings import FarmerSettings
from storjfs.keys import VolumeKeys
from storjfs.network.failures import PeerUnreachable
from storjfs.network.identity import Identity
from storjfs.network.service import serve_peer
from storjfs.protocol.failures import ProtocolViolation
from storjfs.protocol.ids import NodeId
from storjfs.protocol.signing import SigningKey
from storjfs.protocol.terms import Address
from storjfs.renter import Renter, RenterSettings
from storjfs.settlement import UNITS_PER_CREDIT, Ledger
from storjfs.store import MetaStore

KEYS = VolumeKeys(bytes(range(32)))
EPOCH = 1_800_000_000.0
BALANCE = 1000 * UNITS_PER_CREDIT
WALLET = SigningKey(b"w" * 32)
PERIOD = 10
PRICE = 10**12
"""Dear enough that a proof of 64 KiB is worth many nanocredits."""


class Crash(BaseException):
    """As if the process had been killed here."""


@dataclass
class Site:
    """A farmer and the faults of its machine."""

    farmer: Farmer
    address: Address
    online: bool = True
    mute: bool = False
    """Takes connections and never answers."""
    connections: list[trio.CancelScope] = field(default_factory=list)

    @property
    def shelf(self) -> Path:
        return self.farmer.folder / "shelf"

    def files(self) -> list[Path]:
        """The files of its shards."""
        return [path for path in self.shelf.rglob("*") if path.is_file()]

    def lose_everything(self) -> None:
        """Its disk is emptied; its books remain."""
        for path in self.files():
            path.unlink()

    def rot(self) -> None:
        """A bit flips in every leaf of every shard."""
        for path in self.files():
            data = bytearray(path.read_bytes())
            for at in range(0, len(data), 4096):
                data[at] ^= 1
            path.write_bytes(data)


class Catalogue:
    """What the segments room would do: rows of segments and shards."""

    def __init__(self, store: MetaStore) -> None:
        self.store = store
        self.lost: list[tuple[int, int, bytes]] = []
        rows = store.read("SELECT coalesce(max(seg), 0) FROM segment")
        self.next = int(rows[0][0]) + 1
        sql = "SELECT shard_id, contract, length FROM shard WHERE state IN (1, 2)"
        self.there = {shard_id: (contract, length) for shard_id, contract, length in store.read(sql)}

    def mark_lost(self, seg: int, idx: int, shard_id: bytes) -> None:
        if (seg, idx, shard_id) not in self.lost:
            self.lost.append((seg, idx, shard_id))
        self.there.pop(shard_id, None)
        self.store.write("UPDATE shard SET state = 3 WHERE shard_id = ?", [(shard_id,)])

    async def store_segment(self, renter: Renter, size: int = 64 << 10) -> list[tuple[int, bytes]]:
        """Put a segment of random shards; (contract, shard id) of each."""
        k, n = renter.code()
        seg, self.next = self.next, self.next + 1
        placed = []
        for idx, contract in enumerate(renter.choose(n, size)):
            shard_id, sealed = os.urandom(32), os.urandom(size)
            receipt = await renter.put(contract, shard_id, sealed)
            self.there[shard_id] = contract, size
            assert receipt.root == shard_root(sealed)
            row = (shard_id, seg, idx, contract, bytes(receipt.root), bytes(32), size, 1)
            self.store.write("INSERT INTO shard VALUES (?,?,?,?,?,?,?,?)", [row])
            placed.append((contract, shard_id))
        row9 = (seg, os.urandom(16), 2, 1, k, n, size * k, size * k, 0)
        self.store.write("INSERT INTO segment VALUES (?,?,?,?,?,?,?,?,?,0)", [row9])
        await self.store.sync()
        return placed

    async def delete(self, renter: Renter, placed: Iterable[tuple[int, bytes]]) -> None:
        """Have shards deleted, and forget them."""
        for contract, shard_id in placed:
            await renter.delete(contract, [shard_id])
            self.there.pop(shard_id, None)
            self.store.write("DELETE FROM shard WHERE shard_id = ?", [(shard_id,)])

    def holds(self, contract: int) -> tuple[int, int]:
        """Shards under a contract at this moment, and their bytes."""
        lengths = [length for number, length in self.there.values() if number == contract]
        return len(lengths), sum(lengths)

    def held(self, contract: int) -> int:
        """Shards of a contract that count as there."""
        sql = "SELECT count(*) FROM shard WHERE contract = ? AND state IN (1, 2)"
        return int(self.store.read(sql, (contract,))[0][0])


class World:
    """Farmers that outlive the renter's lives."""

    def __init__(self, folder: Path, nursery: trio.Nursery, clock: trio.testing.MockClock) -> None:
        self.folder = folder
        self.nursery = nursery
        self.clock = clock
        self.sites: dict[NodeId, Site] = {}
        self.seed = 0
        ledger_path = folder / "ledger.db"
        self.ledger = Ledger(ledger_path, clock=lambda: int(self.now()))

    def now(self) -> float:
        """Seconds since 1970 in this world; callable from any thread."""
        return EPOCH + self.clock.current_time()

    async def add_farmer(self, **changes: object) -> Site:
        """One more farmer, at work."""
        number = len(self.sites) + 1
        values = {
            "capacity": 1 << 30,
            "ledger": self.folder / "ledger.db",
            "period_min": 1,
            "term_min": 1,
            "price": PRICE,
            "egress_price": 10**9,
        }
        settings = FarmerSettings(**(values | changes))  # type: ignore[arg-type]
        farmer = Farmer.open(
            self.folder / f"farmer-{number}", settings, settlement=self.ledger, clock=self.now
        )
        site = Site(farmer, Address("memory", number))
        self.sites[farmer.node_id] = site

        async def work(*, task_status: trio.TaskStatus[None]) -> None:
            async with farmer.running():
                task_status.started()
                await trio.sleep_forever()

        await self.nursery.start(work)
        return site

    async def connect(
        self, identity: Identity, node_id: NodeId | None, addresses: Sequence[Address], seconds: float
    ) -> trio.abc.Stream:
        """A connector over memory streams."""
        await trio.lowlevel.checkpoint()
        for site in self.sites.values():
            right = site.farmer.node_id == node_id or (node_id is None and site.address in addresses)
            if right and site.online:
                here, there = trio.testing.memory_stream_pair()
                here.peer = site.farmer.node_id  # type: ignore[attr-defined]
                self.nursery.start_soon(self._serve, site, there, identity.node_id)
                return here
        raise PeerUnreachable("nobody is there")

    async def _serve(self, site: Site, stream: trio.abc.Stream, peer: NodeId) -> None:
        with trio.CancelScope() as scope:
            site.connections.append(scope)
            if site.mute:
                await trio.sleep_forever()
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError, ProtocolViolation):
                await serve_peer(stream, peer, site.farmer.service)
        await trio.aclose_forcefully(stream)

    def cut(self, site: Site, *, mute: bool = False) -> None:
        """From now on nobody gets an answer from `site`: unreachable, or `mute`."""
        while site.connections:
            site.connections.pop().cancel()
        site.online, site.mute = mute, mute

    def heal(self, site: Site) -> None:
        """It answers again."""
        self.cut(site)
        site.online, site.mute = True, False

    @contextlib.asynccontextmanager
    async def life(
        self,
        settings: RenterSettings | None = None,
        crash_point: Callable[[str], None] = lambda name: None,
        *,
        named: bool = True,
        started: bool = True,
        marks: tuple[Collection[bytes], Collection[bytes]] = ((), ()),
        **more: Any,
    ) -> AsyncIterator[tuple[Renter, Catalogue]]:
        """One life of the renter's process, ended by cancellation at every place at once.

        `named`: it is told of all farmers; `started`: it has taken its first look at them; `marks`: blocked
        and preferred ones; `more` goes to Renter.
        """
        self.seed += 1
        async with trio.open_nursery() as below:
            store = MetaStore.open(self.folder / "meta.db", KEYS.metadata_key)
            await below.start(store.run)
            catalogue = Catalogue(store)
            renter = Renter(
                KEYS,
                store,
                self.folder / "pay.db",
                self.folder / "local.db",
                self.ledger,
                WALLET.public,
                settings or quick_settings(),
                now=self.now,
                rng=random.Random(self.seed),
                connector=self.connect,
                crash_point=crash_point,
                **more,
            )
            renter.mark_lost = catalogue.mark_lost
            renter.held = catalogue.holds
            renter.mark(*marks)
            if named:
                renter.update_addresses({node: (site.address,) for node, site in self.sites.items()})
            async with trio.open_nursery() as nursery:
                if started:
                    await nursery.start(renter.run)
                else:
                    nursery.start_soon(renter.run)
                yield renter, catalogue
                nursery.cancel_scope.cancel()
            below.cancel_scope.cancel()

    # --- both sides' books ---

    def paid_by(self, renter: Renter, site: Site) -> int:
        """What the renter has signed for a farmer."""
        lanes = renter.cashier.pay.lanes.values()
        return sum(lane.signed for lane in lanes if lane.node_id == site.farmer.node_id)

    def earned_by(self, site: Site) -> int:
        """What the farmer counts as earned by proofs and egress."""
        accounts = [lane.now for lane in site.farmer.book.lanes.values()]
        return sum(account.proofs.amount + account.egress.amount for account in accounts)

    def received_by(self, site: Site) -> int:
        """The amount of the best voucher it holds."""
        return sum(lane.account.paid for lane in site.farmer.book.lanes.values())


def quick_settings(**changes: object) -> RenterSettings:
    """Short periods, small contracts."""
    values = {
        "capacity": 64 << 20,
        "price_max": 2 * PRICE,
        "egress_price_max": 10**9,
        "audit_period": PERIOD,
        "term": 30 * 86400,
        "offline_grace": 40.0,
        "answer_deadline": 10,
        "read_back_share": 0.0,
    }
    return RenterSettings(**(values | changes))  # type: ignore[arg-type]


@contextlib.asynccontextmanager
async def a_world(
    folder: Path, clock: trio.testing.MockClock, farmers: int, *, balance: int = BALANCE
) -> AsyncIterator[World]:
    """A world with so many farmers, and money in the renter's wallet."""
    async with trio.open_nursery() as nursery:
        world = World(folder, nursery, clock)
        if balance:
            world.ledger.issue(WALLET.public, balance)
        for _ in range(farmers):
            await world.add_farmer()
        yield world
        nursery.cancel_scope.cancel()


SELDOM = quick_settings(audit_period=10_000)
"""So that only those audits happen that a test asks for."""


async def until(condition: Callable[[], bool], seconds: float = 300) -> None:
    """Wait for `condition`, at most so many seconds of the world's clock."""
    with trio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110 - on the world's clock, which runs fast
            await trio.sleep(1)


def site_of(world: World, renter: Renter, contract: int) -> Site:
    entry = renter.book.get(contract)
    assert entry is not None
    return world.sites[entry.node_id]


def agree(world: World, renter: Renter) -> bool:
    """Whether both sides of every lane have the same sums, up to a nanocredit of rounding."""
    return all(
        abs(world.paid_by(renter, site) - world.earned_by(site)) <= 1
        and world.received_by(site) == world.paid_by(renter, site)
        for site in world.sites.values()
    )
