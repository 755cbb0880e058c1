"""From the offer to the end of a contract: what is sold, what is signed, and when it is over."""

import logging
from collections.abc import Callable
from typing import Final

import trio
from msgspec.structs import replace

from storjfs.farmer.book import Book, ContractEntry
from storjfs.farmer.keeping import Keeper
from storjfs.farmer.own import PER_CONTRACT
from storjfs.farmer.payments import Payments
from storjfs.farmer.settings import FarmerSettings
from storjfs.farmer.shelf import Shelf, reserve_for
from storjfs.farmer.shelves import Shelves
from storjfs.protocol.contracts import RESERVES_CAPACITY, SERVES_SHARDS, Event, State
from storjfs.protocol.failures import ErrorCode, ProtocolViolation, RequestFailed
from storjfs.protocol.ids import ContractId, NodeId, lane_id, short
from storjfs.protocol.messages import ContractAnswer, FundNotice, ProposeAnswer
from storjfs.protocol.signing import Signed, SigningKey
from storjfs.protocol.terms import (
    Address,
    Offer,
    Proposal,
    Terms,
    check_successor,
    objections,
    sign_offer,
)

log = logging.getLogger(__name__)

OFFER_HOLDS: Final = 86400
"""Seconds for which an offer is good."""
OFFER_MARGIN: Final = 16
"""One part in so many of the free disk is not offered, though it would be signed for."""
FUNDING_TIME: Final = 3600
"""Seconds after accept-by in which a signed contract must be funded."""
UNFUNDED_MOST: Final = 16
"""Signed contracts of one renter that wait for funding."""
UNFUNDED_IN_ALL: Final = 1024
"""The same of all renters, who cost nothing to be many: then the oldest gives way."""
ACCEPT_WITHIN: Final = 86400
"""Seconds that accept-by may lie ahead: until then an unfunded contract stays."""


class Contracting:
    """The contracts of a farmer; `addresses()` are those it can be reached at now."""

    def __init__(
        self,
        book: Book,
        payments: Payments,
        keeper: Keeper,
        shelves: Shelves,
        key: SigningKey,
        settings: FarmerSettings,
        settlement: str,
        addresses: Callable[[], tuple[Address, ...]],
    ) -> None:
        self._book = book
        self._payments = payments
        self._keeper = keeper
        self._shelves = shelves
        self._key = key
        self.settings = settings
        """What is sold from now on; may be replaced."""
        self._settlement = settlement
        self._addresses = addresses
        # Held from the look at what is free until it is reserved.
        self._reserving = trio.Lock()

    # --- what is sold ---

    def room(self, besides: ContractEntry | None = None, *, margin: int = 0) -> int:
        """Sealed bytes that can still be promised, were the reservation of `besides` given back.

        One part in `margin` of what the disk has free is left out of account.
        """
        if self._shelves.first.read_only or not self._shelves.can_grow:
            return 0

        def free(shelf: Shelf) -> int:
            found = shelf.free()
            return found - found // margin if margin else found

        reserved = self._book.reserved - (besides.reserved if besides is not None else 0)
        # The records grow until the contract is funded, and more until an offer becomes one.
        records = PER_CONTRACT * ((besides is None) + (2 if margin else 1))
        left = self._shelves.most(free, records) - reserved
        return max(left, 0) * 64 // 65

    def offer(self, besides: ContractEntry | None = None, *, margin: int = 0) -> Offer:
        """What this farmer sells now."""
        settings = self.settings
        return Offer(
            farmer=self._key.node_id,
            payee=self._key.public,
            capacity=self.room(besides, margin=margin),
            price=settings.price,
            egress_price=settings.egress_price,
            term_min=settings.term_min,
            term_max=settings.term_max,
            period_min=settings.period_min,
            period_max=settings.period_max,
            grace_max=settings.grace_max,
            settlement=self._settlement,
            addresses=self._addresses(),
            group=settings.group,
            expires=self._book.now + OFFER_HOLDS,
            region=settings.region,
        )

    def signed_offer(self) -> Signed:
        """The same with our signature, and with less space where the disk is what limits it: others write to
        it too until the proposal comes, which would be refused for a few bytes."""
        return sign_offer(self._key, self.offer(margin=OFFER_MARGIN))

    # --- signing ---

    async def propose(self, peer: NodeId, proposal: Proposal) -> ProposeAnswer:
        """Sign, or say what would be signed. A repeated proposal gets the same contract again."""
        if (answer := self._signed_before(peer, proposal)) is not None:
            return answer
        terms = proposal.open()
        if terms.renter != peer:
            raise RequestFailed(ErrorCode.NOT_YOURS)
        if terms.accept_by < self._book.now:
            raise RequestFailed(ErrorCode.LAPSED)
        if terms.lane != lane_id(self._settlement, terms.payer, self._key.public):
            raise RequestFailed(ErrorCode.REFUSED, "the terms name another lane, payee or settlement")
        async with self._reserving:
            # A renter that was cut off sends the same again while the first one is being signed.
            if (answer := self._signed_before(peer, proposal)) is not None:
                return answer
            if terms.revision == 0:
                return await self._sign_first(proposal, terms)
            return await self._sign_revision(peer, proposal, terms)

    def _signed_before(self, peer: NodeId, proposal: Proposal) -> ProposeAnswer | None:
        known = self._book.proposed_as(proposal)
        if known is None:
            return None
        if known.renter != peer:
            raise RequestFailed(ErrorCode.NOT_YOURS)
        return ProposeAnswer(known.signed)

    async def _sign_first(self, proposal: Proposal, terms: Terms) -> ProposeAnswer:
        offer = self.offer()
        if reasons := self._objections(offer, terms):
            return self._counter(offer, terms, reasons)
        unfunded = [entry for entry in self._book.contracts.values() if entry.state is State.SIGNED]
        if sum(entry.renter == terms.renter for entry in unfunded) >= UNFUNDED_MOST:
            raise RequestFailed(ErrorCode.BUSY, "fund the contracts you have first")
        contract = proposal.countersign(self._key)
        if self._book.has(contract.contract_id):
            raise RequestFailed(ErrorCode.STALE, "this contract was revised since, or is over")
        if any(
            entry.lane.lane_id == terms.lane and entry.renter != terms.renter
            for entry in self._book.contracts.values()
        ):
            # Who pays has not signed these terms.
            raise RequestFailed(ErrorCode.REFUSED, "another renter pays through this lane")
        if len(unfunded) >= UNFUNDED_IN_ALL:
            await self._drop(min(unfunded, key=lambda entry: entry.number), Event.LAPSE)
        await self._book.add(proposal, contract, terms)
        return ProposeAnswer(contract)

    async def _sign_revision(self, peer: NodeId, proposal: Proposal, terms: Terms) -> ProposeAnswer:
        entry = self._book.find(terms.contract_id, peer)
        async with entry.turn:
            if entry.state not in (State.ACTIVE, State.RENEWING):
                over = entry.state in (State.ENDING, State.ENDED, State.BREACHED)
                raise RequestFailed(ErrorCode.CONTRACT_OVER if over else ErrorCode.NOT_FUNDED)
            try:
                check_successor(entry.signed, terms)
            except ProtocolViolation as error:
                raise RequestFailed(ErrorCode.STALE, str(error)) from error
            offer = self.offer(entry)
            reasons = self._objections(offer, terms)
            if terms.capacity < entry.used + entry.arriving:
                raise RequestFailed(ErrorCode.REFUSED, "more than that is stored already")
            if reasons:
                return self._counter(offer, terms, reasons)
            contract = proposal.countersign(self._key)
            await self._book.revise(entry, proposal, contract, terms)
        return ProposeAnswer(contract)

    def _counter(self, offer: Offer, terms: Terms, reasons: list[str]) -> ProposeAnswer:
        """The nearest terms that we would sign; REFUSED where there are none."""
        term = max(offer.term_min, min(terms.end - terms.start, offer.term_max))
        nearest = replace(
            terms,
            price=max(terms.price, offer.price),
            egress_price=max(terms.egress_price, offer.egress_price),
            capacity=min(terms.capacity, offer.capacity),
            end=terms.start + term,
            audit_period=max(offer.period_min, min(terms.audit_period, offer.period_max)),
            payment_grace=min(terms.payment_grace, offer.grace_max),
            end_grace=min(terms.end_grace, offer.grace_max),
        )
        if nearest.capacity == 0 or self._objections(offer, nearest):
            raise RequestFailed(ErrorCode.REFUSED, "; ".join(reasons))
        return ProposeAnswer(counter=nearest, reason="; ".join(reasons)[:256])

    def _objections(self, offer: Offer, terms: Terms) -> list[str]:
        """Why we would not sign `terms`, in words; empty if we would."""
        reasons = objections(offer, terms, self._book.now)
        if terms.end_grace > offer.grace_max:
            reasons.append(f"the grace after the end is over {offer.grace_max} s")
        if terms.accept_by > self._book.now + ACCEPT_WITHIN:
            reasons.append(f"accept-by is more than {ACCEPT_WITHIN} s ahead")
        return reasons

    # --- funding ---

    async def fund(self, peer: NodeId, notice: FundNotice) -> ContractAnswer:
        """Look the lane up and reserve the capacity; for a contract that runs, see what was added."""
        entry = self._book.find(notice.contract_id, peer)
        if notice.lane != entry.lane.lane_id:
            raise RequestFailed(ErrorCode.NOT_FUNDED, "the contract names another lane")
        if entry.state in (State.ENDED, State.BREACHED):
            raise RequestFailed(ErrorCode.CONTRACT_OVER)
        await self._payments.check_funding(entry.lane, entry.terms)
        async with self._reserving, entry.turn:
            if entry.state is State.SIGNED:
                if reserve_for(entry.terms.capacity) > self._shelves.most() - self._book.reserved:
                    raise RequestFailed(ErrorCode.NO_SPACE, "the capacity was sold meanwhile")
                await self._book.move(entry, Event.FUND, Event.ACTIVATE)
            elif entry.state is State.FUNDED:
                await self._book.move(entry, Event.ACTIVATE)
        return self.answer(entry)

    # --- ending ---

    async def end(self, peer: NodeId, contract_id: ContractId) -> ContractAnswer:
        """The renter leaves."""
        entry = self._book.find(contract_id, peer)
        await self._drop(entry, Event.GIVE_NOTICE)
        async with entry.turn:
            if entry.state in (State.FUNDED, State.ACTIVE, State.RENEWING):
                await self._book.move(entry, Event.GIVE_NOTICE)
        await self._review(entry)
        return self.answer(entry)

    def answer(self, entry: ContractEntry) -> ContractAnswer:
        """The contract as we see it."""
        account = entry.lane.now
        return ContractAnswer(
            contract=entry.signed,
            state=entry.state,
            shards=entry.shards,
            used=entry.used,
            unpaid_audits=account.unpaid_audits,
            serving=account.serving and entry.state in SERVES_SHARDS,
            voucher=entry.lane.voucher,
        )

    async def review(self) -> None:
        """Do what time has made due: lapse, end, breach, remove shards, close lanes."""
        for entry in list(self._book.contracts.values()):
            try:
                await self._review(entry)
            except (RequestFailed, OSError) as error:
                log.warning("contract %s: %s", short(entry.contract_id), error)
        await self._payments.claim_all(only_expiring=True)
        await self._payments.close_unused()

    async def _drop(self, entry: ContractEntry, event: Event) -> None:
        """End a contract that nobody has funded, if it is one."""
        async with entry.turn:
            if entry.state is State.SIGNED:
                await self._book.drop(entry, event)

    async def _review(self, entry: ContractEntry) -> None:
        if entry.state is State.SIGNED and self._book.now > entry.terms.accept_by + FUNDING_TIME:
            log.info("contract %s: %s", short(entry.contract_id), Event.LAPSE)
            await self._drop(entry, Event.LAPSE)
            return
        async with entry.turn:
            for event in self._due(entry):
                log.info("contract %s: %s", short(entry.contract_id), event)
                await self._book.move(entry, event)
        if entry.state is State.BREACHED:
            await self._give_up(entry)
        if entry.state is State.ENDED:
            await self._keeper.wipe(entry)
            if not entry.shards and not entry.arriving:
                self._book.forget(entry)

    async def _give_up(self, entry: ContractEntry) -> None:
        """A breached contract: take what was promised, drop the bills, then it is over."""
        await self._payments.claim(entry.lane)
        async with entry.lane.turn:
            await self._book.update_lane(entry.lane, lambda account: account.without_contract(entry.number))
        async with entry.turn:
            if entry.state is State.BREACHED:
                await self._book.move(entry, Event.SETTLE)

    def _due(self, entry: ContractEntry) -> list[Event]:
        """The next thing that time does to a contract, if any."""
        now, terms, state = self._book.now, entry.terms, entry.state
        if state in RESERVES_CAPACITY or state is State.FUNDED:
            if entry.unpaid_since is not None and now >= entry.unpaid_since + terms.payment_grace:
                return [Event.BREACH]
            if now >= terms.end + terms.end_grace:
                return [Event.EXPIRE]
        if state in (State.ACTIVE, State.RENEWING, State.FUNDED) and now >= terms.end:
            return [Event.GIVE_NOTICE]
        if state is State.ENDING and not entry.shards and not entry.arriving:
            return [Event.EMPTY]
        return []
