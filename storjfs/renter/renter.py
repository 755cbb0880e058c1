"""The renter of one volume, put together from this room's parts."""

import logging
import random
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path

import trio

from storjfs.errors import StorjfsError
from storjfs.keys import VolumeKeys
from storjfs.network.peer import Connector
from storjfs.network.sources import Source
from storjfs.network.streams import open_stream
from storjfs.protocol.ids import NodeId, PublicKey, short
from storjfs.protocol.messages import HelloAnswer
from storjfs.protocol.priorities import Priority
from storjfs.protocol.receipts import Receipt
from storjfs.protocol.signing import Signed
from storjfs.protocol.terms import Address
from storjfs.renter.auditor import Auditor, AuditSummary
from storjfs.renter.audits import Audits, MarkLost
from storjfs.renter.book import OVER, ContractBook, Entry
from storjfs.renter.cashier import Cashier
from storjfs.renter.client import Buffer, ShardClient
from storjfs.renter.farmers import Farmers
from storjfs.renter.local_records import LocalRecords
from storjfs.renter.market import Market
from storjfs.renter.moving import Moving
from storjfs.renter.negotiation import Negotiation
from storjfs.renter.pay import PayBook
from storjfs.renter.read_back import ReadBack
from storjfs.renter.report import ContractReport, RenterReport, contract_report
from storjfs.renter.rounds import Rounds
from storjfs.renter.seeking import Seeking
from storjfs.renter.settings import KnownFarmer, RenterSettings
from storjfs.renter.space import space
from storjfs.renter.speed import Way
from storjfs.renter.taking_back import TakingBack
from storjfs.settlement import Settlement
from storjfs.store import MetaStore

log = logging.getLogger(__name__)

ROUND = 60.0
"""Seconds between two looks at every farmer's contract; sooner when something happens."""
GREET_EVERY = 4.0
GREET_PATIENCE = 5.0
"""Seconds between two looks for farmers that are away, at most, and of one look."""
ROUND_PATIENCE = 3.0
"""Seconds that a round waits for farmers that do not answer; they are seen to beside it."""
FIRST_ROUND = 15.0
"""Seconds that `run` waits for the first round before it reports to have started."""


def _named(farmer: NodeId, reason: str) -> str:
    name = f"farmer {short(farmer)}"
    return reason if reason.startswith(name) else f"{name}: {reason}"


def _ignore_loss(seg: int, idx: int, shard_id: bytes) -> None:
    """Until somebody sets `Renter.mark_lost`."""


class Renter:
    """Contracts, placement, audits and pay of one volume.

    `await nursery.start(renter.run)` returns once every known farmer was asked for a contract, or after
    FIRST_ROUND seconds. `mark_lost` and `held` must be set before, by whoever keeps the catalogue of shards.

    `farmers` are those named by a person; `sources` the ways in which others are looked for, with `ask_peers`
    also by asking those known. `source` is the account that deposits come from. `now` gives seconds since
    1970; `rng` serves choices, `random_bytes` nonces. `crash_point(name)` is called at each point where a
    crash must do no harm.
    """

    def __init__(
        self,
        keys: VolumeKeys,
        store: MetaStore,
        pay_path: Path,
        local_path: Path,
        settlement: Settlement,
        source: PublicKey,
        settings: RenterSettings,
        *,
        farmers: Sequence[KnownFarmer] = (),
        sources: Mapping[str, Source] | None = None,
        ask_peers: bool = False,
        now: Callable[[], float] = time.time,
        rng: random.Random | None = None,
        random_bytes: Callable[[int], bytes] | None = None,
        connector: Connector = open_stream,
        crash_point: Callable[[str], None] = lambda name: None,
    ) -> None:
        self.mark_lost: MarkLost = _ignore_loss
        self.found: Callable[[int, bytes], bool] = lambda seg, shard_id: False
        """Called with a shard that was lost and is there again; whether its segment takes it back."""
        self.held: Callable[[int], tuple[int, int]] = lambda contract: (0, 0)
        """Shards that the farmer of a contract holds, and their bytes; set by whoever keeps the catalogue."""
        self.came: Callable[[Collection[int]], None] = lambda contracts: None
        """Called when a farmer greets us, with the contracts with it: it is there (again)."""
        self.waits: Callable[[], bool] = lambda: False
        """Whether something waits for farmers that are away: then they are looked for every few seconds."""
        self._now = now
        self.settings = settings
        system = random.SystemRandom()
        self._rng = rng = rng or system
        self.book = ContractBook(store, crash_point)
        self._pay = PayBook(pay_path, keys.pay_key, keys.payment_identity, crash_point)
        self.records = LocalRecords(local_path, keys.local_key)
        self.farmers = Farmers(keys.renter_identity, self._vouchers_for, self._greeted, rng, connector)
        self.farmers.known = list(farmers)
        for entry in self.book:
            if entry.state not in OVER and entry.addresses:
                self.farmers.move({entry.node_id: entry.addresses})
        self.cashier = Cashier(
            self._pay, settlement, source, self.book, self.farmers, settings, now, crash_point
        )
        self.client = ShardClient(
            self.book, self.farmers, self.cashier, self.records, settings, self._held, now, rng
        )
        self.client.pay_soon = self._pay_soon
        self.negotiation = Negotiation(
            self.farmers, self._pay, self.client, settings, settlement.name, now, crash_point
        )
        self.market = Market(
            self.book, self.farmers, self.cashier, self.negotiation, self.records, now, crash_point
        )
        audits = Audits(
            self.book, self.farmers, self.cashier, self.client, self.records, store,
            self._lost, now, random_bytes or system.randbytes, crash_point,
        )  # fmt: skip
        self.auditor = Auditor(
            audits, self.book, self.records, store, settings, self._lost, now, self.farmers.connected
        )
        self.read_back = ReadBack(self.book, self.client, self.records, store, settings, self._lost, now)
        moving = Moving(
            self.book,
            self.market,
            store,
            self._lost,
            lambda size, holders: bool(self.client.choose(1, size, holders)),
        )
        self.seeking = Seeking(
            self.farmers,
            self.book,
            self.records,
            settings,
            settlement.name,
            now,
            rng,
            connector,
            self.look_around,
        )
        self.negotiation.saw = self.seeking.saw
        self._sources, self._ask_peers = sources or {}, ask_peers
        self._taken_off: frozenset[NodeId] = frozenset()
        self._look = trio.Event()
        taking_back = TakingBack(
            self.book,
            self.market,
            self.client,
            store,
            lambda seg, shard_id: self.found(seg, shard_id),
            self._came,
        )
        self.rounds = Rounds(
            self.book, self.farmers, self.seeking, self.market, moving, self.auditor, taking_back.step, now
        )
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep contracts, audit and pay, until cancelled. Closes pay.db and local.db at the end."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                await nursery.start(self.farmers.run)
                await self.seeking.load()
                nursery.start_soon(partial(self.seeking.run, self._sources, peers=self._ask_peers))
                await nursery.start(self.rounds.run)
                with trio.move_on_after(FIRST_ROUND):
                    await self.rounds.once()
                await nursery.start(self.auditor.run)
                nursery.start_soon(self._rounds)
                nursery.start_soon(self._watch_for_returns)
                nursery.start_soon(self.read_back.run)
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._nursery = None
            self.close()

    def close(self) -> None:
        """Close pay.db and local.db; for one that never ran."""
        self._pay.close()
        self.records.close()

    # --- what the segments room uses ---

    def code(self) -> tuple[int, int]:
        """(k, n) for the next segment."""
        return self.client.code()

    def choose(self, count: int, size: int, exclude: Collection[int] = ()) -> list[int]:
        """See ShardClient.choose."""
        chosen = self.client.choose(count, size, exclude)
        if len(chosen) < count:
            self.look_around()
        return chosen

    def space(self, rooms: Mapping[NodeId, int] | None = None) -> tuple[int, int]:
        """See space.space."""
        return space(self.book, self.client, rooms or {})

    def usual_latency(self, contract: int) -> float:
        """See ShardClient.usual_latency."""
        return self.client.usual_latency(contract)

    def lagging(self, contract: int, way: Way) -> bool:
        """See ShardClient.lagging."""
        return self.client.lagging(contract, way)

    def late(self, contract: int, way: Way, length: int, seconds: float) -> None:
        """See ShardClient.late."""
        self.client.late(contract, way, length, seconds)

    async def put(self, contract: int, shard_id: bytes, sealed: Buffer, root: bytes | None = None) -> Receipt:
        """See ShardClient.put."""
        return await self.client.put(contract, shard_id, sealed, root)

    async def get(
        self,
        contract: int,
        shard_id: bytes,
        offset: int,
        length: int,
        priority: Priority = Priority.READ,
    ) -> bytearray:
        """See ShardClient.get."""
        return await self.client.get(contract, shard_id, offset, length, priority)

    async def delete(self, contract: int, shard_ids: Sequence[bytes]) -> None:
        """See ShardClient.delete."""
        await self.client.delete(contract, shard_ids)

    # --- what the mount process uses ---

    def update_addresses(self, addresses: Mapping[bytes, Sequence[Address]]) -> None:
        """These farmers listen there now; those not seen before are asked for a contract."""
        known = {NodeId(node): tuple(where) for node, where in addresses.items()}
        self.rounds.removed -= set(known)
        self.farmers.named |= set(known)
        self.farmers.move(known)
        for farmer, where in known.items():
            self.book.moved(farmer, where)
        self.look_around()

    def leave(self, farmers: Collection[bytes]) -> None:
        """These farmers are no longer wanted: what they hold moves to others, then their contracts end."""
        self._taken_off = frozenset(NodeId(one) for one in farmers)
        self.book.leaving = self._taken_off | self.seeking.marks.blocked

    def mark(self, blocked: Collection[bytes], preferred: Collection[bytes]) -> None:
        """What the user says of farmers from now on: blocked ones are left as `leave` does, unless one is
        blocked no more before its contract was given notice; preferred ones get more than others."""
        marks = self.seeking.marks
        marks.blocked = frozenset(NodeId(one) for one in blocked)
        marks.preferred = frozenset(NodeId(one) for one in preferred)
        self.client.preferred = marks.preferred
        self.book.leaving = self._taken_off | marks.blocked
        self.look_around()

    def name(self, farmer: KnownFarmer) -> None:
        """A person names one more."""
        self.farmers.known.append(farmer)
        self.look_around()

    def do_without(self, farmers: Collection[bytes]) -> None:
        """These farmers are not in their place: what they hold counts as there, they get nothing new."""
        self.book.absent = frozenset(NodeId(one) for one in farmers)

    async def farmer_removed(self, node_id: bytes) -> None:
        """It is known to be gone for good: its shards are lost now, without waiting for `offline_grace`."""
        farmer = NodeId(node_id)
        self.rounds.removed.add(farmer)
        entry = self.book.current(farmer)
        if entry is not None:
            await self.auditor.gone(entry, "it was removed")

    async def audit_now(self) -> AuditSummary:
        """See Auditor.audit_now."""
        return await self.auditor.audit_now()

    def fault(self, contract: int, shard_id: bytes, detail: str, *, told: bool = False) -> None:
        """A read found the shard damaged or missing: the farmer's standing falls, and status shows it.

        `told`: the farmer said itself that it is damaged (`Standing.told_of`).
        """
        if self._nursery is not None:
            self._nursery.start_soon(self._note_fault, contract, shard_id, detail, told)

    async def _note_fault(self, contract: int, shard_id: bytes, detail: str, told: bool) -> None:
        period = self.settings.audit_period
        try:
            held = self.held(contract)[0] if told else None
            await self.records.fault(contract, shard_id, detail, self._now(), period, told_of=held)
        except StorjfsError as error:
            log.warning("a fault of contract %d is not recorded: %s", contract, error)

    def contained(self, contract: int) -> bool:
        """Whether the contract's farmer is silent at the moment."""
        return self.auditor.contained(contract)

    def look_around(self) -> None:
        """Look at every farmer's contract soon, not only at the next round."""
        self._look.set()

    def report(self, balance: int | None = None) -> RenterReport:
        """A row per contract, and what a person has to know."""
        refusals = self.negotiation.refusals.items()
        problems = [_named(farmer, one.reason) for farmer, one in refusals]
        # With a contract it is the farmer that is away or not, however long its address was not looked at.
        named = {address for entry in self.book if entry.serves for address in entry.addresses}
        strange = [one for one in self.farmers.known if named.isdisjoint(one.addresses)]
        problems += [f"nobody answers at {one.addresses[0]}" for one in strange]
        for entry in self.book:
            if entry.serves and entry.node_id in self.book.leaving:
                why = "blocked" if entry.node_id in self.seeking.marks.blocked else "taken off the settings"
                shards, _ = self.held(entry.number)
                problems.append(
                    f"farmer {short(entry.node_id)} was {why}: its {shards} shards move to "
                    "others as far as they have room, and it is used until then"
                )
        problems += self.seeking.problems()
        if self.cashier.problem:
            problems.append(self.cashier.problem)
        if self._pay.problem is not None:
            problems.append(f"payments wait: {self._pay.problem}")
        if self.records.problem is not None:
            problems.append(f"audits wait: {self.records.problem}")
        rows = [self._row(entry) for entry in self.book]
        rows.sort(key=lambda row: (row.state in OVER, row.contract))
        warning = self.client.crowding()
        return RenterReport(
            rows, problems, balance, self._pay.promised(), warnings=[warning] if warning else []
        )

    def _row(self, entry: Entry) -> ContractReport:
        standing = self.records.standing(entry.number)
        shards, used = self.held(entry.number)
        return contract_report(
            entry,
            standing,
            self.cashier.lane(entry),
            shards=shards,
            used=used,
            online=self.farmers.connected(entry.node_id),
            contained=self.auditor.contained(entry.number),
            unproven_since=self.auditor.unproven_since(entry.number) if entry.serves else None,
            full=entry.node_id in self.client.without_room,
            now=self._now(),
        )

    # --- inside ---

    def _lost(self, seg: int, idx: int, shard_id: bytes) -> None:
        self.mark_lost(seg, idx, shard_id)

    def _held(self, contract: int) -> tuple[int, int]:
        return self.held(contract)

    def _vouchers_for(self, farmer: NodeId) -> Sequence[Signed]:
        return self.cashier.vouchers_for(farmer)

    def _pay_soon(self, entry: Entry) -> None:
        if self._nursery is not None:
            self._nursery.start_soon(self.cashier.pay_egress, entry)

    def _came(self, farmer: NodeId) -> None:
        self.came([entry.number for entry in self.book.with_farmer(farmer)])

    def _greeted(self, farmer: NodeId, answer: HelloAnswer) -> None:
        self.auditor.heard_from(farmer)
        self._came(farmer)
        if answer.vouchers and self._nursery is not None:
            self._nursery.start_soon(self.cashier.learn, farmer, answer)

    async def _watch_for_returns(self) -> None:
        """While something waits for farmers, greet those that are away every few seconds: who answers is told
        of through `came`."""
        while True:
            # Not in step with other renters, which have lost the farmer at the same moment.
            await trio.sleep(self._rng.uniform(0.5, 1.0) * GREET_EVERY)
            if self.waits():
                serving = [entry.node_id for entry in self.book if entry.serves]
                away = [farmer for farmer in serving if not self.farmers.connected(farmer)]
                await self.farmers.silent(away, GREET_PATIENCE)

    async def _rounds(self) -> None:
        while True:
            with trio.move_on_after(min(ROUND, self.settings.audit_period)):
                await self._look.wait()
            self._look = trio.Event()
            await self.rounds.once(ROUND_PATIENCE)
            # Not more often, however much is asked for.
            await trio.sleep(1.0)
