"""Shards to and from farmers: put, get, delete, each checked, counted and paid for."""

import itertools
import logging
import math
import random
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import TypeVar

import trio

from storjfs.coding.merkle import shard_root
from storjfs.network.failures import PeerUnreachable, RequestTimeout
from storjfs.network.peer import Peer
from storjfs.protocol.failures import BadSignature, ErrorCode, ProtocolViolation, RequestFailed
from storjfs.protocol.ids import Digest, ShardId, short
from storjfs.protocol.messages import MAX_LISTED, Delete, HeldShard, ListShards
from storjfs.protocol.priorities import Priority
from storjfs.protocol.receipts import MAX_DELETE, DeleteOrder, Receipt, open_receipt, sign_delete
from storjfs.renter.book import OVER, ContractBook, Entry
from storjfs.renter.cashier import Cashier
from storjfs.renter.errors import (
    AnswerSenseless,
    FarmerUnavailable,
    ReceiptInvalid,
    ServiceRefused,
    ShardCorrupt,
    ShardMissing,
)
from storjfs.renter.farmers import Farmers
from storjfs.renter.local_records import LocalRecords
from storjfs.renter.placement import Candidate, choose, code_for, spread
from storjfs.renter.settings import RenterSettings
from storjfs.renter.speed import Way

log = logging.getLogger(__name__)

T = TypeVar("T")
Buffer = bytes | bytearray | memoryview

PUT_TIMEOUT = 120.0
GET_TIMEOUT = 60.0
SLOWEST = 64 << 10
"""Bytes per second that a transfer of a large range may sink to before it is given up."""
REMEMBERED_DELETIONS = 4096
WARN_EVERY = 60.0
LOOKED_AT = 256
"""Farmers among which a choice is made at first, drawn anew each time."""

_COUNTED = frozenset({ErrorCode.CORRUPT, ErrorCode.INTERNAL})
"""Refusals that may come after the farmer has counted the range as sent."""
_HINTS = {
    ErrorCode.PAYMENT_REQUIRED: "See storjfs contracts: the lane's deposit may be used up, or the balance.",
    ErrorCode.NO_SPACE: "The contract grows by itself if your settings and the farmer allow it.",
    ErrorCode.CONTRACT_OVER: "A new contract is made by itself if your settings allow it.",
    ErrorCode.UNKNOWN_CONTRACT: "The farmer lost its books; what it held is rebuilt on others.",
}


class ShardClient:
    """What the segments room asks of the renter. All sizes in bytes of sealed shards.

    What a farmer holds is counted by that room, with its rows; here only what is on its way counts.

    Every call that goes out raises FarmerUnavailable (no answer), ShardMissing (the farmer says so itself),
    or ServiceRefused (it answers but will not), and may be cancelled at any time: of a put it is then unknown
    whether the farmer holds the shard, so delete it by its id.
    """

    def __init__(
        self,
        book: ContractBook,
        farmers: Farmers,
        cashier: Cashier,
        records: LocalRecords,
        settings: RenterSettings,
        held: Callable[[int], tuple[int, int]],
        now: Callable[[], float],
        rng: random.Random,
    ) -> None:
        self._book = book
        self._farmers = farmers
        self._cashier = cashier
        self._records = records
        self._settings = settings
        self.held = held
        """Shards that the farmer of a contract holds at this moment, and their sealed bytes."""
        self._now = now
        self._rng = rng
        self._waiting: dict[int, int] = {}
        self._deleted: dict[bytes, None] = {}
        self.full = trio.Event()
        """Set when a farmer says that a contract has no room left."""
        self.without_room: set[bytes] = set()
        """Node ids of farmers that said so, and have taken nothing since."""
        self.preferred: Collection[bytes] = ()
        """Node ids of farmers that the user wants to be used before others."""
        self.pay_soon: Callable[[Entry], None] = lambda entry: None
        """Has the farmer of a contract paid for what it sent, beside what is read: it gives credit."""
        self._warned = ""
        self._looked = -math.inf

    # --- placement ---

    def code(self) -> tuple[int, int]:
        """(k, n) for the next segment."""
        if self._settings.code is not None:
            return self._settings.code
        # While the first contracts are still being made, their number says nothing about the farmers to come.
        usable = len({entry.node_id for entry in self._book if self._book.takes(entry)})
        return code_for(max(usable, self._settings.farmers_planned))

    def choose(self, count: int, size: int, exclude: Collection[int] = ()) -> list[int]:
        """At most `count` contracts with room for a shard of `size` bytes, best first; see placement.choose.

        `exclude`: contracts that hold a shard of the segment already. Of their farmers none is chosen.
        """
        holders = [entry for number in exclude if (entry := self._book.get(number)) is not None]
        nodes = {entry.node_id for entry in holders}
        groups = {group for entry in holders for group in self.candidate(entry).groups}
        entries = [entry for entry in self._book if self._book.takes(entry) and entry.node_id not in nodes]
        self._warn()

        def of(some: Sequence[Entry]) -> list[Candidate]:
            candidates = [self.candidate(entry) for entry in some]
            chosen = choose(candidates, count, size, exclude, rng=self._rng, taken_groups=groups)
            by_number = {one.contract: one for one in candidates}
            return [by_number[number] for number in chosen]

        if len(entries) > LOOKED_AT:
            # So that a choice does not take longer the more farmers there are.
            some = {entry.number: entry for entry in self._rng.sample(entries, LOOKED_AT)}
            some |= {entry.number: entry for entry in entries if entry.node_id in self.preferred}
            found = of(list(some.values()))
            if len(found) == count and all(one.well for one in found):
                return [one.contract for one in found]
        return [one.contract for one in of(entries)]

    def crowding(self) -> str:
        """What to say of farmers that stand too close together; empty where that is not so, and of embedded
        ones, which do by design: status says so anyway."""
        if self._settings.farmers_planned:
            return ""
        candidates = [self.candidate(entry) for entry in self._book if self._book.takes(entry)]
        return spread(candidates, self.code()[1]).warning

    def _warn(self) -> None:
        """Say in the log, once, that the farmers stand too close together. Looks once a minute at most."""
        if not self._looked <= self._now() - WARN_EVERY:
            return
        self._looked = self._now()
        warning = self.crowding()
        if warning and warning != self._warned:
            log.warning("%s", warning)
        self._warned = warning

    def filled(self, entry: Entry) -> tuple[int, int, int]:
        """Bytes of the contract's capacity, of what is held under it, and of what is on its way."""
        return entry.terms.capacity, self.held(entry.number)[1], self._waiting.get(entry.number, 0)

    def candidate(self, entry: Entry) -> Candidate:
        """The contract as placement sees it."""
        standing = self._records.standing(entry.number)
        now = self._now()
        node_id, speeds = entry.node_id, self._farmers.speeds
        place = self._farmers.place(node_id)
        capacity, used, waiting = self.filled(entry)
        return Candidate(
            contract=entry.number,
            node_id=entry.node_id,
            operator=standing.operator,
            capacity=capacity,
            used=used,
            waiting=waiting,
            score=standing.score,
            passed=standing.passed,
            resting=standing.resting(now, self._settings.audit_period),
            online=not standing.silent_since and not self._farmers.failing(node_id),
            lagging=self._farmers.lagging(node_id, Way.PUT),
            rate=speeds.rate(node_id, Way.PUT),
            price=entry.terms.price,
            preferred=node_id in self.preferred,
            network=place.network,
            vicinity=place.vicinity,
        )

    def usual_latency(self, contract: int) -> float:
        """Seconds within which this farmer answers about nine in ten gets: wait so long before you hedge."""
        entry = self._book.get(contract)
        return self._farmers.usual_latency(entry.node_id) if entry else 0.0

    def lagging(self, contract: int, way: Way) -> bool:
        """Whether its farmer is to be worked around now; see Farmers.lagging."""
        entry = self._book.get(contract)
        return entry is not None and self._farmers.lagging(entry.node_id, way)

    def late(self, contract: int, way: Way, length: int, seconds: float) -> None:
        """A transfer was waited for so long, and others were faster; see Speeds."""
        entry = self._book.get(contract)
        if entry is not None:
            self._farmers.speeds.late(entry.node_id, way, length, seconds)

    # --- shards ---

    async def put(self, contract: int, shard_id: bytes, sealed: Buffer, root: bytes | None = None) -> Receipt:
        """Send a sealed shard; the farmer's receipt, which says exactly what was sent.

        Until it returns the shard counts as on its way; the caller notes in the same step that it is held.
        `root`: of its Merkle tree, if the caller has it; else it is computed beside the upload. `sealed` must
        not change meanwhile. Raises ReceiptInvalid where the receipt is for something else.
        """
        entry = self._entry(contract)
        if not entry.accepts:
            raise ServiceRefused("contract over", f"contract {short(entry.contract_id)} takes no new shards")
        size = len(sealed)
        self._waiting[contract] = self._waiting.get(contract, 0) + size
        before = trio.current_time()
        try:
            signed = await self._ask(
                entry,
                lambda peer: peer.put_shard(
                    entry.contract_id, ShardId(shard_id), sealed, PUT_TIMEOUT + size / SLOWEST
                ),
            )
            self.without_room.discard(entry.node_id)
            self._farmers.speeds.took(entry.node_id, Way.PUT, size, trio.current_time() - before)
            if root is None:
                root = await trio.to_thread.run_sync(shard_root, sealed)
            expected = Receipt(
                entry.contract_id, entry.terms.revision, ShardId(shard_id), Digest(bytes(root)), size
            )
            try:
                return open_receipt(signed, entry.node_id, expected)
            except ProtocolViolation as error:
                raise ReceiptInvalid(f"farmer {short(entry.node_id)}: {error}") from error
        finally:
            self._waiting[contract] -= size

    async def get(
        self,
        contract: int,
        shard_id: bytes,
        offset: int,
        length: int,
        priority: Priority = Priority.READ,
    ) -> bytearray:
        """`length` sealed bytes of the shard from `offset`, unchecked: the seal decides. Egress is paid."""
        entry = self._entry(contract)
        buffer = bytearray(length)
        whole = asked = False
        before = trio.current_time()

        def note_asked() -> None:
            nonlocal asked
            asked = True

        async def fetch(peer: Peer) -> None:
            nonlocal asked
            timeout = GET_TIMEOUT + length / SLOWEST
            try:
                await peer.get_range(
                    entry.contract_id, ShardId(shard_id), offset, buffer, timeout, priority, note_asked
                )
            except RequestFailed as error:
                asked = error.code in _COUNTED
                raise

        due = False
        try:
            await self._ask(entry, fetch)
            whole = True
        finally:
            # Who was not asked, or refused, has sent nothing: a farmer that is away must not earn by it.
            if asked:
                due = self._cashier.received(entry, length, whole=whole)
        seconds = trio.current_time() - before
        self._farmers.latency(entry.node_id).saw(seconds)
        self._farmers.speeds.took(entry.node_id, Way.GET, length, seconds)
        if due:
            self.pay_soon(entry)
        return buffer

    async def delete(self, contract: int, shard_ids: Sequence[bytes]) -> None:
        """Have the farmer delete these shards; when it returns they are gone and cost nothing any more.

        Idempotent; raises as the class says, then repeat it later. Of a contract that is over they are gone.
        """
        entry = self._entry(contract)
        for shard_id in shard_ids:
            self._deleted[bytes(shard_id)] = None
        while len(self._deleted) > max(REMEMBERED_DELETIONS, len(shard_ids)):
            del self._deleted[next(iter(self._deleted))]
        if entry.state in OVER:
            return
        key = self._farmers.identity(entry.node_id).signing
        for start in range(0, len(shard_ids), MAX_DELETE):
            batch = tuple(ShardId(bytes(one)) for one in shard_ids[start : start + MAX_DELETE])
            order = Delete(sign_delete(key, DeleteOrder(entry.contract_id, batch)))
            await self._ask(entry, lambda peer, order=order: peer.request(order))  # type: ignore[misc]

    async def list_shards(
        self, contract: int, start: bytes, limit: int = MAX_LISTED
    ) -> tuple[HeldShard, ...]:
        """The first `limit` shards from id `start` on that the farmer says it holds under the contract.

        Raises ServiceRefused with the reason "unsupported" where its version cannot say, AnswerSenseless
        where they are not in order, or others than were asked for.
        """
        entry = self._entry(contract)
        request = ListShards(entry.contract_id, ShardId(start), limit)
        answer = await self._ask(entry, lambda peer: peer.request(request))
        ids = [bytes(shard.shard_id) for shard in answer.shards]
        ordered = all(before < after for before, after in itertools.pairwise(ids))
        if len(ids) > limit or not ordered or (ids and ids[0] < start):
            raise AnswerSenseless("its list of shards is out of order")
        return answer.shards

    def capacity(self, contract: int) -> int:
        """Bytes that the farmer keeps under a contract at most."""
        return self._entry(contract).terms.capacity

    def was_deleted(self, shard_id: bytes) -> bool:
        """Whether we have lately told the farmer to delete it: then its absence proves nothing."""
        return shard_id in self._deleted

    def _entry(self, contract: int) -> Entry:
        entry = self._book.get(contract)
        if entry is None:
            raise ServiceRefused("unknown contract", f"there is no contract with the number {contract}")
        return entry

    async def _ask(self, entry: Entry, ask: Callable[[Peer], Awaitable[T]]) -> T:
        """What `ask` returns; a farmer that waits for a voucher gets it, and is asked once more."""
        try:
            peer = await self._farmers.peer(entry.node_id)
            try:
                return await ask(peer)
            except RequestFailed as error:
                if error.code != ErrorCode.PAYMENT_REQUIRED or not await self._cashier.satisfy(entry):
                    raise
            return await ask(peer)
        except (PeerUnreachable, RequestTimeout) as error:
            raise FarmerUnavailable(f"farmer {short(entry.node_id)}: {error}") from error
        except RequestFailed as error:
            raise self._refusal(entry, error) from error
        except BadSignature:
            raise
        except ProtocolViolation as error:
            raise FarmerUnavailable(
                f"farmer {short(entry.node_id)} does not keep the protocol: {error}"
            ) from error

    def _refusal(self, entry: Entry, error: RequestFailed) -> Exception:
        who = f"farmer {short(entry.node_id)}: {error}"
        if error.code == ErrorCode.UNKNOWN_SHARD:
            return ShardMissing(who)
        if error.code == ErrorCode.CORRUPT:
            return ShardCorrupt(who)
        if error.code == ErrorCode.BUSY:
            return FarmerUnavailable(who)
        if error.code == ErrorCode.NO_SPACE:
            self.full.set()
            self.without_room.add(entry.node_id)
        word = error.code.name.lower() if isinstance(error.code, ErrorCode) else str(error.code)
        hint = _HINTS.get(error.code, "") if isinstance(error.code, ErrorCode) else ""
        return ServiceRefused(word.replace("_", " "), who, hint=hint)
