"""Proofs: what an audit is answered, and what is said of damaged shards."""

import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import apsw
import trio

from storjfs.coding import merkle
from storjfs.farmer.book import Book, ContractEntry
from storjfs.farmer.damage import Damage
from storjfs.farmer.payments import EPOCHS_KEPT, Payments
from storjfs.farmer.scrub import Scrub
from storjfs.farmer.shelf import Held, ShardDamaged, ShardUnreadable
from storjfs.farmer.shelves import Shelves
from storjfs.farmer.workers import Workers
from storjfs.protocol import audits
from storjfs.protocol.contracts import ACCEPTS_SHARDS, SERVES_SHARDS, State
from storjfs.protocol.failures import ErrorCode, RequestFailed
from storjfs.protocol.ids import NodeId, ShardId
from storjfs.protocol.messages import MAX_DAMAGED, Audit, AuditAnswer
from storjfs.protocol.priorities import Priority
from storjfs.protocol.signing import Signed, SigningKey
from storjfs.protocol.terms import Terms

log = logging.getLogger(__name__)


class Prover:
    """Answers audits, also while the disk takes nothing: what it still gives is proved."""

    def __init__(
        self,
        book: Book,
        payments: Payments,
        shelves: Shelves,
        damage: Damage,
        scrub: Scrub,
        workers: Workers,
        key: SigningKey,
    ) -> None:
        self._book = book
        self._payments = payments
        self._shelves = shelves
        self._damage = damage
        self._scrub = scrub
        self._workers = workers
        self._key = key
        # By contract, behind which shard the next answer goes on telling of damaged ones.
        self._told: dict[int, ShardId] = {}

    async def audit(self, peer: NodeId, request: Audit) -> AuditAnswer:
        """Prove the shards of a batch. The bill is on the disk before the answer goes out.

        A repeated request is answered again and not billed again, also while the renter must pay first.
        """
        started = trio.current_time()
        signed = request.request
        peeked = signed.peek(audits.AuditRequest)
        entry = self._book.find(peeked.contract_id, peer)
        if request.voucher is not None:
            with self._unrecorded():
                await self._payments.accept(request.voucher, entry)
        terms = self._book.revision(entry, peeked.revision)
        batch = audits.open_request(signed, terms)
        digest = hashlib.sha256(signed.body).digest()
        async with entry.lane.auditing:
            repeated = self._answered_before(entry, batch.epoch, digest)
            check_service(entry, paid=not repeated)
            reply, proved, lost = await self._proved(entry, terms, batch)
            if not repeated:
                in_time = trio.current_time() - started <= terms.answer_deadline
                with self._unrecorded():
                    await self._payments.bill(
                        entry, terms, batch.epoch, proved, digest, in_time=in_time, lost=lost
                    )
        return AuditAnswer(reply, entry.lane.voucher, self._to_tell(entry, batch))

    @contextmanager
    def _unrecorded(self) -> Iterator[None]:
        """What cannot be recorded because the disk fails, or nothing has room, is done without.

        A proof that is not billed costs the farmer its pay, unless the renter pays all the same; one that is
        not given costs it the contract.
        """
        try:
            yield
        except (apsw.Error, OSError) as error:
            if not isinstance(error, apsw.FullError) and not self._shelves.failed(error):
                raise
            log.warning("an audit, or that a shard is damaged, is not recorded: %s", error)

    def _to_tell(self, entry: ContractEntry, batch: audits.AuditRequest) -> tuple[ShardId, ...]:
        """Damaged shards that were not asked for; what one answer has no room for is told by the next."""
        after = self._told.pop(entry.number, b"")
        found = self._damage.under(entry.number, after, MAX_DAMAGED)
        if after and not found:
            found = self._damage.under(entry.number, b"", MAX_DAMAGED)
        if len(found) == MAX_DAMAGED:
            self._told[entry.number] = found[-1]
        asked = {shard.shard_id for shard in batch.shards}
        return tuple(one for one in found if one not in asked)

    def _answered_before(self, entry: ContractEntry, epoch: int, digest: bytes) -> bool:
        rows = self._book.records.read(
            "SELECT digest FROM audit WHERE contract = ? AND epoch = ?", entry.number, epoch
        )
        if rows:
            if rows[0][0] != digest:
                raise RequestFailed(ErrorCode.CONFLICT, "another audit had this epoch")
            return True
        newest = self._book.records.read("SELECT max(epoch) FROM audit WHERE contract = ?", entry.number)
        if newest[0][0] is not None and epoch <= newest[0][0] - EPOCHS_KEPT:
            raise RequestFailed(ErrorCode.STALE, f"the newest audit had epoch {newest[0][0]}")
        return False

    def _known(self, entry: ContractEntry, batch: audits.AuditRequest) -> dict[ShardId, Held]:
        found = (held_under(self._book, entry, shard.shard_id) for shard in batch.shards)
        return {
            held.shard_id: held
            for held in found
            if held is not None and self._damage.reason(held.shard_id) is None
        }

    async def _proved(
        self, entry: ContractEntry, terms: Terms, batch: audits.AuditRequest
    ) -> tuple[Signed, int, int]:
        """As `_prove`; what is found damaged is noted first.

        Raises RequestFailed (BUSY) where the disk does not give a shard that may be whole: to say that it is
        lost would have the renter rebuild what comes back with the disk.
        """
        damaged: dict[ShardId, str] = {}
        doubtful: list[Held] = []

        async def attempt() -> tuple[Signed, int, int]:
            while True:
                damaged.clear()
                doubtful.clear()
                known = self._known(entry, batch)
                answer = await self._workers.run(
                    Priority.AUDIT, self._prove, entry, terms, batch, known, damaged, doubtful
                )
                wanting = {*damaged, *(held.shard_id for held in doubtful)}
                if not any(self._moved(entry, known[one]) for one in wanting):
                    return answer

        answer = await attempt()
        if doubtful:
            for held in doubtful:
                await self.judge(held)
            answer = await attempt()
            if doubtful:
                raise RequestFailed(ErrorCode.BUSY, "the disk does not give every shard")
        for shard_id, reason in damaged.items():
            await self.note(shard_id, reason)
        return answer

    def _moved(self, entry: ContractEntry, held: Held) -> bool:
        """Whether the shard lies on another disk by now."""
        now = held_under(self._book, entry, held.shard_id)
        return now is not None and now.disk != held.disk

    def _prove(
        self,
        entry: ContractEntry,
        terms: Terms,
        batch: audits.AuditRequest,
        known: dict[ShardId, Held],
        damaged: dict[ShardId, str],
        doubtful: list[Held],
    ) -> tuple[Signed, int, int]:
        """The signed reply, how many sealed bytes it proves, and how many shards are not here or damaged.

        `damaged` gets what was found so, and why; `doubtful` what the disk did not give. In a worker thread.
        """
        proofs, proved = [], 0
        for shard in batch.shards:
            leaves: tuple[audits.LeafProof, ...] = ()
            held = known.get(shard.shard_id)
            if held is not None and (held.root, held.length) == (shard.root, shard.length):
                indices = audits.sampled(terms, batch, shard, merkle.sample_indices)
                try:
                    leaves = tuple(audits.LeafProof(*pair) for pair in self._shelves.prove(held, indices))
                    proved += held.length
                except ShardDamaged as error:
                    damaged[held.shard_id] = str(error)  # no leaves: it is lost, and is not billed
                except ShardUnreadable:
                    doubtful.append(held)
            proofs.append(audits.ShardProof(shard.shard_id, leaves))
        reply = audits.AuditReply(entry.contract_id, batch.epoch, batch.nonce, tuple(proofs))
        lost = sum(not proof.leaves for proof in proofs)
        return audits.sign_reply(self._key, reply), proved, lost

    async def judge(self, held: Held) -> str | None:
        """Look at a shard that the disk did not give: why it is damaged, None if it is not after all.

        Raises RequestFailed (BUSY) where nobody knows, since the disk fails as a whole.
        """
        try:
            reason = await self._scrub.judge(held, hurry=True)
        except ShardUnreadable as error:
            raise RequestFailed(ErrorCode.BUSY, str(error)) from error
        if reason is not None:
            await self.note(held.shard_id, reason)
        return reason

    async def note(self, shard_id: ShardId, reason: str) -> None:
        """Keep that a shard is damaged, if the disk takes that; else it is found again."""
        with self._unrecorded():
            await self._damage.note(shard_id, reason)


def held_under(book: Book, entry: ContractEntry, shard_id: ShardId) -> Held | None:
    """The shard, None unless it is held under this contract."""
    rows = book.records.read(
        "SELECT root, length, disk FROM shard WHERE shard_id = ? AND contract = ?", shard_id, entry.number
    )
    return Held(shard_id, *rows[0]) if rows else None


def check_service(entry: ContractEntry, *, new: bool = False, paid: bool = True) -> None:
    """Raise RequestFailed unless this contract is served now; `new`: shards are taken in."""
    if entry.state in (State.OFFERED, State.PROPOSED, State.SIGNED, State.FUNDED):
        raise RequestFailed(ErrorCode.NOT_FUNDED)
    if entry.state not in (ACCEPTS_SHARDS if new else SERVES_SHARDS):
        raise RequestFailed(ErrorCode.CONTRACT_OVER)
    if paid and not entry.lane.account.serving:
        raise RequestFailed(ErrorCode.PAYMENT_REQUIRED, "two audits are not paid")
