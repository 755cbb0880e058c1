"""Shards under contract: taken in with a signed receipt, sent, and deleted by signed orders."""

from collections.abc import Iterable
from functools import partial
from typing import Final

import apsw
import trio

from storjfs.coding import merkle
from storjfs.farmer.account import egress_price
from storjfs.farmer.book import Book, ContractEntry
from storjfs.farmer.damage import Damage, gone
from storjfs.farmer.disk import aligned_buffer
from storjfs.farmer.proving import Prover, check_service, held_under
from storjfs.farmer.records import Statement
from storjfs.farmer.shelf import (
    BATCH,
    Arrival,
    Held,
    NoRoom,
    ShardDamaged,
    ShardUnreadable,
    Shelf,
    footprint,
)
from storjfs.farmer.shelves import Shelves, held_of
from storjfs.farmer.workers import Workers
from storjfs.network.data import ShardSource
from storjfs.protocol.contracts import SERVES_SHARDS
from storjfs.protocol.failures import ErrorCode, RequestFailed
from storjfs.protocol.ids import Digest, NodeId, ShardId
from storjfs.protocol.messages import (
    Delete,
    DeleteAnswer,
    Get,
    HeldShard,
    ListShards,
    Put,
    PutAnswer,
    ShardList,
)
from storjfs.protocol.priorities import Priority
from storjfs.protocol.receipts import DeleteOrder, Receipt, open_delete, sign_receipt
from storjfs.protocol.signing import SigningKey

REMOVE_AT_ONCE: Final = 200
SPARE_BUFFERS: Final = 8


class Keeper:
    """Everything a farmer does with shards but proving them."""

    def __init__(
        self, book: Book, prover: Prover, shelves: Shelves, damage: Damage, workers: Workers, key: SigningKey
    ) -> None:
        self._book = book
        self._prover = prover
        self._shelves = shelves
        self._damage = damage
        self._key = key
        self._workers = workers
        self._buffers: list[memoryview] = []
        self._committing: set[ShardId] = set()
        self._committed = trio.lowlevel.ParkingLot()
        # Doomed rows whose files are gone; their deletion rides on the next commit.
        self._cleared: list[Statement] = []

    # --- at start ---

    def recover(self, shelf: Shelf) -> list[ShardId]:
        """Finish or undo what a crash interrupted on a disk that is there; the ids that `forget` is for.

        Blocking; before anything is served from it. Raises OSError.
        """
        read = self._book.records.read
        here = "SELECT 1 FROM shard WHERE shard_id = ? AND disk = ?"
        shelf.recover(lambda shard_id: bool(read(here, shard_id, shelf.number)))
        doomed = self.doomed(shelf)
        shelf.remove(doomed)
        return doomed

    def doomed(self, shelf: Shelf, most: int = -1) -> list[ShardId]:
        """Shards whose files are to be removed from a disk, or were; not more than `most`."""
        rows = self._book.records.read(
            "SELECT shard_id FROM doomed WHERE disk = ? AND NOT EXISTS (SELECT 1 FROM shard "
            "WHERE shard.shard_id = doomed.shard_id AND shard.disk = doomed.disk) LIMIT ?",
            shelf.number,
            most,
        )
        return [ShardId(row[0]) for row in rows if row[0] not in shelf.arrivals]

    def forget(self, shard_ids: Iterable[ShardId], disk: int) -> None:
        """Files of doomed shards are gone: their rows go with the next commit."""
        self._cleared += [_undoom(one, disk) for one in shard_ids]

    def cleared(self) -> list[Statement]:
        """What forgets doomed shards whose files are gone, for a commit now."""
        cleared, self._cleared = self._cleared, []
        return cleared

    # --- put ---

    async def put(self, peer: NodeId, header: Put, source: ShardSource) -> PutAnswer:
        """Take a shard in and sign for it. When this returns it survives a crash and power loss."""
        entry = self._book.find(header.contract_id, peer)
        check_service(entry, new=True)
        held = self._held(header.shard_id)
        if held is not None:
            return await self._confirm(entry, held, source)
        if self._shelves.arrival(header.shard_id) is not None:
            raise RequestFailed(ErrorCode.BUSY, "this shard is arriving on another connection")
        if entry.used + entry.arriving + header.length > entry.terms.capacity:
            raise RequestFailed(ErrorCode.NO_SPACE, "the contract's capacity is used up")
        try:
            arrival = self._shelves.begin(header.shard_id, header.length)
        except NoRoom as error:
            raise RequestFailed(ErrorCode.NO_SPACE, str(error)) from error
        entry.arriving += header.length
        entry.arrivals.add(header.shard_id)
        try:
            root = await self._receive(arrival, source)
            return await self._commit(entry, arrival, root)
        finally:
            entry.arriving -= header.length
            entry.arrivals.discard(header.shard_id)
            arrival.shelf.abandon(arrival)

    async def _receive(self, arrival: Arrival, source: ShardSource) -> Digest:
        """The shard, batch by batch; its root once all of it is on the disk."""
        buffer = self._buffers.pop() if self._buffers else aligned_buffer(BATCH)
        left = arrival.length
        try:
            while True:
                batch = buffer[: min(left, BATCH)]
                await source.receive_exactly(batch)
                left -= len(batch)
                if not left:
                    return await self._workers.run(Priority.UPLOAD, arrival.finish, batch)
                await self._workers.run(Priority.UPLOAD, arrival.write, batch)
        except OSError as error:
            buffer = aligned_buffer(BATCH)  # a disk that does not answer may read the other at any time
            arrival.shelf.failed(error)
            await self.discard(arrival)
            raise RequestFailed(ErrorCode.NO_SPACE, "the farmer's disk does not take it") from error
        except BaseException:
            await self.discard(arrival)
            raise
        finally:
            if len(self._buffers) < SPARE_BUFFERS:
                self._buffers.append(buffer)

    async def discard(self, arrival: Arrival) -> None:
        """Remove the file of an arrival. Its room stays reserved."""
        with trio.CancelScope(shield=True):
            # First in the queue: what it frees is wanted by others.
            try:
                await self._workers.run(Priority.READ, arrival.discard)
            except OSError as error:
                shelf = arrival.shelf
                if not shelf.failed(error):
                    raise
                shelf.left_over(shelf.arriving_path(arrival.shard_id), arrival.length)

    async def _commit(self, entry: ContractEntry, arrival: Arrival, root: Digest) -> PutAnswer:
        shard_id, length = arrival.shard_id, arrival.length
        if arrival.cancelled or entry.state not in SERVES_SHARDS:
            await self.discard(arrival)
            raise RequestFailed(ErrorCode.CONTRACT_OVER, "it was deleted or the contract ended meanwhile")
        revision = entry.terms.revision
        shelf = arrival.shelf
        statements: list[Statement] = [
            _undoom(shard_id, shelf.number),  # a renter might use an id again
            (
                "INSERT INTO shard(shard_id, contract, revision, root, length, disk) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                (shard_id, entry.number, revision, root, length, shelf.number),
            ),
            (
                "UPDATE contract SET shards = shards + 1, used = used + ?, footprint = footprint + ? "
                "WHERE contract = ?",
                (length, footprint(length), entry.number),
            ),
            counted(shelf, 1, shelf.space_of(length)),
        ]
        self._committing.add(shard_id)
        try:
            await self._index(arrival, statements)
            entry.shards += 1
            entry.used += length
            entry.footprint += footprint(length)
            shelf.settled(arrival)
            self._book.history.note_received(entry.number, length)
        finally:
            self._committing.discard(shard_id)
            self._committed.unpark_all()
        return self._answer(entry, Held(shard_id, root, length, shelf.number), revision)

    async def _index(self, arrival: Arrival, statements: list[Statement]) -> None:
        """Commit its row and move it to its place; a shard whose row is not committed is removed."""
        shelf = arrival.shelf
        place = partial(shelf.place, arrival.shard_id)
        try:
            await self._book.records.commit(statements, before=shelf.sync_arriving, after=place)
        except Exception as error:
            if self._held(arrival.shard_id) is None:
                await self.discard(arrival)
            if isinstance(error, apsw.FullError):
                raise RequestFailed(ErrorCode.NO_SPACE, "the farmer's disk is full") from error
            if self._shelves.failed(error, shelf):
                raise RequestFailed(ErrorCode.NO_SPACE, "the farmer's disk does not take it") from error
            raise

    async def _confirm(self, entry: ContractEntry, held: Held, source: ShardSource) -> PutAnswer:
        """A shard that is here already came again: the same receipt for the same bytes, else CONFLICT."""
        (owner, revision) = self._book.records.read(
            "SELECT contract, revision FROM shard WHERE shard_id = ?", held.shard_id
        )[0]
        if owner != entry.number or held.length != source.length:
            raise RequestFailed(ErrorCode.CONFLICT)
        buffer = memoryview(bytearray(min(BATCH, held.length)))
        leaves = []
        left = held.length
        while left:
            batch = buffer[: min(left, BATCH)]
            await source.receive_exactly(batch)
            left -= len(batch)
            leaves.append(await self._workers.run(Priority.UPLOAD, merkle.leaf_hashes, batch))
        if merkle.tree_root(b"".join(leaves), held.length) != held.root:
            raise RequestFailed(ErrorCode.CONFLICT)
        if (reason := self._damage.reason(held.shard_id)) is not None:
            raise RequestFailed(ErrorCode.CORRUPT, f"{reason}: delete it and put it under another id")
        return self._answer(entry, held, revision)

    def _answer(self, entry: ContractEntry, held: Held, revision: int) -> PutAnswer:
        receipt = Receipt(entry.contract_id, revision, held.shard_id, held.root, held.length)
        return PutAnswer(sign_receipt(self._key, receipt))

    # --- get ---

    async def get(self, peer: NodeId, header: Get) -> bytes:
        """A range of a shard, on credit as far as that goes."""
        entry = self._book.find(header.contract_id, peer)
        check_service(entry)
        held = self._asked_for(entry, header)
        if not entry.lane.now.may_send(entry.terms, header.length):
            raise RequestFailed(ErrorCode.PAYMENT_REQUIRED, "too much was sent without a voucher")
        entry.lane.sent(entry.terms, header.length)
        earned = egress_price(entry.terms, header.length)
        self._book.history.note_sent(entry.number, header.length, earned)
        while True:
            try:
                return await self._workers.run(
                    Priority.READ, self._shelves.read, held, header.offset, header.length
                )
            except (ShardDamaged, ShardUnreadable) as error:
                before, held = held, self._asked_for(entry, header)
                if before.disk != held.disk:
                    continue  # it was moved meanwhile
                if isinstance(error, ShardDamaged):
                    await self._prover.note(held.shard_id, str(error))
                    raise RequestFailed(ErrorCode.CORRUPT, str(error)) from error
                if (reason := await self._prover.judge(held)) is not None:
                    raise RequestFailed(ErrorCode.CORRUPT, reason) from error
                raise RequestFailed(ErrorCode.BUSY, str(error)) from error

    def _asked_for(self, entry: ContractEntry, header: Get) -> Held:
        held = held_under(self._book, entry, header.shard_id)
        if held is None:
            raise RequestFailed(ErrorCode.UNKNOWN_SHARD)
        if header.offset + header.length > held.length:
            raise RequestFailed(ErrorCode.BAD_REQUEST, "the range ends behind the shard")
        if (reason := self._damage.reason(held.shard_id)) is not None:
            raise RequestFailed(ErrorCode.CORRUPT, reason)
        return held

    # --- list ---

    async def list_shards(self, peer: NodeId, request: ListShards) -> ShardList:
        """What the index holds under the contract, also while the renter must pay first or after its end."""
        entry = self._book.find(request.contract_id, peer)
        rows = self._book.records.read(
            "SELECT shard_id, root, length FROM shard WHERE contract = ? AND shard_id >= ? "
            "ORDER BY shard_id LIMIT ?",
            entry.number,
            request.start,
            request.limit,
        )
        return ShardList(tuple(HeldShard(*row) for row in rows))

    # --- delete ---

    async def delete(self, peer: NodeId, request: Delete) -> DeleteAnswer:
        """Forget the shards of a signed order, and keep the order."""
        peeked = request.order.peek(DeleteOrder)
        entry = self._book.find(peeked.contract_id, peer)
        order = open_delete(request.order, entry.renter)
        wanted = set(order.shard_ids)
        coming = wanted & entry.arrivals
        for shard_id in coming:
            if (arrival := self._shelves.arrival(shard_id)) is not None:
                arrival.cancelled = True
        while coming & self._committing:
            await self._committed.park()
        held = [found for one in wanted if (found := held_under(self._book, entry, one)) is not None]
        evidence: Statement = (
            "INSERT INTO deletion(contract, time, signed) VALUES (?, ?, ?)",
            (entry.number, self._book.now, request.order.to_bytes()),
        )
        # In several commits, so that none of them needs much room in the log; the order is there first.
        deleted = 0
        for at in range(0, len(held), REMOVE_AT_ONCE):
            also = [] if deleted else [evidence]
            deleted += await self._remove(entry, held[at : at + REMOVE_AT_ONCE], also=also)
        return DeleteAnswer(deleted)

    async def wipe(self, entry: ContractEntry) -> None:
        """Remove all shards of a contract that is over."""
        while entry.shards:
            rows = self._book.records.read(
                "SELECT shard_id, root, length, disk FROM shard WHERE contract = ? LIMIT ?",
                entry.number,
                REMOVE_AT_ONCE,
            )
            if not rows:
                break
            await self._remove(entry, [held_of(row) for row in rows])

    async def _remove(self, entry: ContractEntry, held: list[Held], *, also: Iterable[Statement] = ()) -> int:
        """Take shards off the index, then off the disk; how many there were."""
        async with entry.turn:
            # Two orders may name the same shard at the same time, and it may be moved to another disk.
            held = [now for one in held if (now := self._held(one.shard_id)) is not None]
            if not held:
                return 0
            used = sum(one.length for one in held)
            room = sum(footprint(one.length) for one in held)
            shelves = {shelf: [one for one in held if one.disk == shelf.number] for shelf in self._shelves}
            statements: list[Statement] = [*self.cleared(), *also]
            ids = [one.shard_id for one in held]
            statements += [("DELETE FROM shard WHERE shard_id IN (VALUES (?))", (one,)) for one in ids]
            statements += gone(ids)
            statements += [doom(one.shard_id, one.disk) for one in held]
            statements.append(
                (
                    "UPDATE contract SET shards = shards - ?, used = used - ?, footprint = footprint - ? "
                    "WHERE contract = ?",
                    (len(held), used, room, entry.number),
                )
            )
            for shelf, some in shelves.items():
                space = sum(shelf.space_of(one.length) for one in some)
                statements.append(counted(shelf, -len(some), -space))
            failed: dict[Shelf, OSError] = {}
            await self._book.records.commit(statements, after=lambda: _remove_files(shelves, failed))
            entry.shards -= len(held)
            entry.used -= used
            entry.footprint -= room
            for shelf, some in shelves.items():
                shelf.removed(one.length for one in some)
                if shelf not in failed:
                    self.forget((one.shard_id for one in some), shelf.number)
                    continue
                # The next start with this disk removes what is still there then.
                for one in some:
                    shelf.left_over(shelf.path(one.shard_id), one.length)
        for shelf, error in failed.items():
            if not shelf.failed(error):
                raise error
        return len(held)

    # --- looking up ---

    def _held(self, shard_id: ShardId) -> Held | None:
        rows = self._book.records.read("SELECT root, length, disk FROM shard WHERE shard_id = ?", shard_id)
        return Held(shard_id, *rows[0]) if rows else None


def _remove_files(shelves: dict[Shelf, list[Held]], failed: dict[Shelf, OSError]) -> None:
    """Remove the files on each disk; what one of them says goes to `failed`. Blocking."""
    for shelf, held in shelves.items():
        try:
            shelf.remove(one.shard_id for one in held)
        except OSError as error:
            failed[shelf] = error


def counted(shelf: Shelf, shards: int, space: int) -> Statement:
    """What is added to the disk's sums."""
    sql = "UPDATE disk SET shards = shards + ?, stored = stored + ? WHERE number = ?"
    return sql, (shards, space, shelf.number)


def doom(shard_id: ShardId, disk: int) -> Statement:
    """The index does not know this file any more."""
    return "INSERT OR IGNORE INTO doomed(shard_id, disk) VALUES (?, ?)", (shard_id, disk)


def _undoom(shard_id: ShardId, disk: int) -> Statement:
    return "DELETE FROM doomed WHERE (shard_id, disk) IN (VALUES (?, ?))", (shard_id, disk)
