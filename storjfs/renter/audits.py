"""One audit batch of one contract: made, stored, sent, judged, paid, recorded.

What is on disk after a crash between any two steps, and what the next start does:

    1  challenge stored in local.db     sent again byte for byte
    2  sent, answered, judged           sent again; the farmer answers the same again
    3  voucher stored in pay.db         sent again; the nonce is settled, so it is not paid twice
    4  shards marked lost               marked again, which changes nothing
    5  challenge gone from local.db     over; the nonce is forgotten when the next batch is made
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

import trio

from storjfs.coding import merkle
from storjfs.network.failures import PeerUnreachable, RequestTimeout
from storjfs.protocol.audits import (
    AuditRequest,
    ShardChallenge,
    Verdict,
    judge,
    open_reply,
    open_request,
    sign_request,
)
from storjfs.protocol.failures import ErrorCode, ProtocolViolation, RequestFailed
from storjfs.protocol.ids import ContractId, Digest, ShardId, short
from storjfs.protocol.messages import Audit, AuditAnswer
from storjfs.protocol.signing import Signed
from storjfs.protocol.terms import Contract, Terms
from storjfs.renter.book import ContractBook, Entry
from storjfs.renter.cashier import Cashier
from storjfs.renter.client import ShardClient
from storjfs.renter.errors import LaneFrozen
from storjfs.renter.farmers import Farmers
from storjfs.renter.local_records import Challenge, LocalRecords, Outcome, Result
from storjfs.store import MetaStore

log = logging.getLogger(__name__)

MarkLost = Callable[[int, int, bytes], None]
"""`mark_lost(seg, idx, shard_id)`: the catalogue's; idempotent, takes note and does not wait."""
AT_ONCE: Final = 8
"""Shards of a batch, each somewhere else in the metadata, that are looked up without letting others run."""

_OVER = frozenset({ErrorCode.UNKNOWN_CONTRACT, ErrorCode.CONTRACT_OVER, ErrorCode.NOT_YOURS})
HELD_STATES = "(1, 2)"
"""Of the shard table: held, and held by a silent farmer."""
_ROOT_OF = f"SELECT root, length FROM shard WHERE shard_id = ? AND contract = ? AND state IN {HELD_STATES}"


class Answer(Enum):
    """What became of an attempt to have a batch answered."""

    ANSWERED = auto()
    SILENT = auto()
    UNPAID = auto()
    """It waits for money that we cannot pay now."""
    OVER = auto()
    """The farmer says that there is no such contract (any more)."""


@dataclass(slots=True)
class BatchResult:
    """Counts of shards; `lost` lists the failed ones."""

    answer: Answer
    passed: int = 0
    failed: int = 0
    detail: str = ""
    lost: list[bytes] = field(default_factory=list)


class Audits:
    """Makes and carries out batches; at most one is open per contract."""

    def __init__(
        self,
        book: ContractBook,
        farmers: Farmers,
        cashier: Cashier,
        client: ShardClient,
        records: LocalRecords,
        store: MetaStore,
        mark_lost: MarkLost,
        now: Callable[[], float],
        random_bytes: Callable[[int], bytes],
        crash_point: Callable[[str], None] = lambda name: None,
    ) -> None:
        self._book = book
        self._farmers = farmers
        self._cashier = cashier
        self._client = client
        self._records = records
        self._store = store
        self._mark_lost = mark_lost
        self._now = now
        self._random_bytes = random_bytes
        self._crash_point = crash_point
        self._unrecorded: dict[int, tuple[Challenge, list[Outcome], BatchResult]] = {}
        """By contract: what was judged, paid and counted, and local.db could not take."""
        # Proofs are checked beside the loop, one batch at a time.
        self._checking = trio.CapacityLimiter(1)

    async def begin(self, entry: Entry, shard_ids: Sequence[bytes]) -> Challenge | None:
        """Store a challenge for those of the shards that are still held under the contract."""
        shards = []
        for number, shard_id in enumerate(shard_ids, 1):
            if not number % AT_ONCE:
                await trio.lowlevel.checkpoint()
            for root, length in self._store.read(_ROOT_OF, (shard_id, entry.number)):
                if len(root) == 32 and not self._client.was_deleted(shard_id):
                    shards.append(ShardChallenge(ShardId(shard_id), Digest(root), length))
        if not shards:
            return None
        # An epoch is never used twice, even where local.db was lost: it starts from the clock, in
        # milliseconds, which no sequence of batches outruns.
        epoch = self._records.standing(entry.number).epoch + 1
        if epoch == 1:
            epoch = int(self._now() * 1000)
        nonce = self._random_bytes(32)
        request = AuditRequest(entry.contract_id, entry.terms.revision, epoch, nonce, tuple(shards))
        signed = sign_request(self._farmers.identity(entry.node_id).signing, request)
        challenge = Challenge(entry.number, nonce, signed, self._now())
        self._crash_point("audit: before storing")
        await self._records.begin(challenge, epoch)
        self._crash_point("audit: after storing")
        return challenge

    async def attempt(self, entry: Entry, challenge: Challenge) -> BatchResult:
        """Send a stored challenge, and if it is answered do all that follows from the answer.

        Raises StoreError where that cannot be kept; then call it again.
        """
        known = self._unrecorded.get(entry.number)
        if known is not None and known[0] is challenge:
            return await self._record(*known)
        try:
            answer = await self._send(entry, challenge.request)
            request = open_request(challenge.request, entry.terms)
            terms = self._terms_of(entry, request.revision)
            reply = open_reply(answer.reply, entry.node_id)
            async with self._checking:
                verdicts = await trio.to_thread.run_sync(
                    judge, terms, request, reply, merkle.sample_indices, merkle.verify
                )
        except (PeerUnreachable, RequestTimeout, ProtocolViolation) as error:
            return BatchResult(Answer.SILENT, detail=str(error))
        except RequestFailed as error:
            if error.code in _OVER:
                return BatchResult(Answer.OVER, detail=str(error))
            kind = Answer.UNPAID if error.code == ErrorCode.PAYMENT_REQUIRED else Answer.SILENT
            return BatchResult(kind, detail=str(error))
        self._crash_point("audit: judged")
        return await self._conclude(entry, challenge, request, terms, verdicts, answer.damaged)

    async def _send(self, entry: Entry, request: Signed) -> AuditAnswer:
        """The answer to exactly these bytes, in time. A farmer that wants a voucher first gets it, once."""
        lane = self._cashier.lane(entry)
        deadline = float(entry.terms.answer_deadline)

        def audit() -> Audit:
            return Audit(request, lane.voucher if lane is not None else None)

        self._crash_point("audit: before sending")
        try:
            answer = await self._farmers.request(entry.node_id, audit(), deadline)
        except RequestFailed as error:
            if error.code != ErrorCode.PAYMENT_REQUIRED or not await self._cashier.satisfy(entry):
                raise
            answer = await self._farmers.request(entry.node_id, audit(), deadline)
        self._crash_point("audit: after answer")
        return answer

    def _terms_of(self, entry: Entry, revision: int) -> Terms:
        """The revision that the challenge names: what it costs was agreed there."""
        if revision == entry.terms.revision:
            return entry.terms
        for stored in self._cashier.pay.revisions(ContractId(entry.contract_id)):
            terms = Contract.from_bytes(stored).terms()
            if terms.revision == revision:
                return terms
        return entry.terms

    async def _conclude(
        self,
        entry: Entry,
        challenge: Challenge,
        request: AuditRequest,
        terms: Terms,
        verdicts: Sequence[Verdict],
        damaged: Sequence[ShardId],
    ) -> BatchResult:
        """Pay what passed, mark what failed, forget the challenge; the top says what a crash leaves."""
        lengths = {shard.shard_id: shard.length for shard in request.shards}
        passed = [verdict for verdict in verdicts if verdict.passed]
        failed = await self._failed(entry, verdicts)
        try:
            await self._cashier.pay_batch(
                entry, terms, challenge.nonce, sum(lengths[one.shard_id] for one in passed)
            )
        except LaneFrozen as error:
            # Unpaid and unrecorded: the same bytes are answered again once the lane is known.
            return BatchResult(Answer.UNPAID, detail=str(error))
        self._crash_point("audit: paid")
        now = self._now()
        held, _ = self._client.held(entry.number)
        outcomes = []
        for number, (verdict, (seg, idx)) in enumerate(failed, 1):
            if not number % AT_ONCE:
                await trio.lowlevel.checkpoint()
            log.warning(
                "farmer %s failed an audit of shard %s: %s",
                short(entry.node_id), short(verdict.shard_id), verdict.reason,
            )  # fmt: skip
            self._mark_lost(seg, idx, verdict.shard_id)
            outcomes.append(Outcome(now, entry.number, verdict.shard_id, Result.FAILED, verdict.reason))
        # What was asked for is judged by its proof: only who tells before has told.
        told = await self._told(entry, [one for one in damaged if one not in lengths], now)
        if failed or told:
            await self._store.sync()
        self._crash_point("audit: marked")
        standing = self._records.standing(entry.number)
        counts = standing.told_of(len(told), held, now)
        outcomes += told
        standing.answered(len(passed), len(failed) + counts, now, entry.terms.audit_period)
        lost = [bytes(verdict.shard_id) for verdict, _ in failed]
        result = BatchResult(Answer.ANSWERED, len(passed), len(failed), lost=lost)
        return await self._record(challenge, outcomes, result)

    async def _record(
        self, challenge: Challenge, outcomes: list[Outcome], result: BatchResult
    ) -> BatchResult:
        """The last step. It alone is repeated where it fails: what is counted must not be counted again."""
        self._unrecorded[challenge.contract] = challenge, outcomes, result
        await self._records.finish(challenge, outcomes)
        del self._unrecorded[challenge.contract]
        self._crash_point("audit: recorded")
        await self._cashier.pay.forget_settled(challenge.nonce)
        return result

    async def _told(self, entry: Entry, damaged: Sequence[ShardId], now: float) -> list[Outcome]:
        """Mark the shards lost of which their farmer tells that they are damaged; those that were held."""
        told = []
        for number, shard_id in enumerate(damaged, 1):
            if not number % AT_ONCE:
                await trio.lowlevel.checkpoint()
            place = self._place(shard_id, entry.number)
            if place is not None:
                log.warning("farmer %s found shard %s damaged", short(entry.node_id), short(shard_id))
                self._mark_lost(*place, shard_id)
                told.append(Outcome(now, entry.number, shard_id, Result.TOLD, "the farmer found it damaged"))
        return told

    async def _failed(
        self, entry: Entry, verdicts: Sequence[Verdict]
    ) -> list[tuple[Verdict, tuple[int, int]]]:
        """Those that count, and where these shards belong."""
        failed = []
        for number, verdict in enumerate((one for one in verdicts if not one.passed), 1):
            if not number % AT_ONCE:
                await trio.lowlevel.checkpoint()
            if (place := self._place(verdict.shard_id, entry.number)) is not None:
                failed.append((verdict, place))
        return failed

    def _place(self, shard_id: bytes, contract: int) -> tuple[int, int] | None:
        """Where the shard belongs, None if we no longer want it: then its absence is no fault."""
        if self._client.was_deleted(shard_id):
            return None
        sql = f"SELECT seg, idx FROM shard WHERE shard_id = ? AND contract = ? AND state IN {HELD_STATES}"
        rows = self._store.read(sql, (shard_id, contract))
        return (rows[0][0], rows[0][1]) if rows else None

    async def silent(self, entry: Entry, detail: str, watched: float) -> None:
        """Record that a batch got no valid answer in time."""
        now = self._now()
        standing = self._records.standing(entry.number)
        first = not standing.silent_since
        standing.silent(now, watched)
        outcome = Outcome(now, entry.number, b"", Result.OFFLINE, detail[:256])
        # One line per silence, not one per attempt.
        await self._records.note([outcome] if first else [], entry.number)

    async def forget(self, challenge: Challenge) -> None:
        """The contract is over: nobody will answer this any more."""
        self._unrecorded.pop(challenge.contract, None)
        await self._records.finish(challenge, [])
        await self._cashier.pay.forget_settled(challenge.nonce)
