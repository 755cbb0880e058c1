"""Making contracts, keeping them, ending them: from a farmer's offer to an active contract and its renewal.

Every step is durable before the next message goes out, and every message may be sent again, so a crash
between any two steps is answered by simply going on from the state in the book:

    nothing                      ask for the farmer's contracts (an earlier life's), else for its offer
    proposal stored              send it again as stored, until accept-by
    signed                       open the lane (the settlement knows an order it has seen)
    funded                       notice of the funding
    active                       watch the end, the room, the deposit
    renewing, proposal stored    send it again as stored, until accept-by
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from storjfs.errors import StorjfsError
from storjfs.network.failures import PeerUnreachable, RequestTimeout
from storjfs.protocol.contracts import SERVES_SHARDS, Event, State
from storjfs.protocol.failures import ErrorCode, ProtocolViolation, RequestFailed
from storjfs.protocol.ids import NO_CONTRACT, NodeId, lane_id, short
from storjfs.protocol.messages import (
    ContractAnswer,
    End,
    FundNotice,
    GetContract,
    GetOffer,
    ListContracts,
    Propose,
)
from storjfs.protocol.terms import Contract, Offer, Proposal, Terms, check_successor, open_offer
from storjfs.renter.book import ContractBook, Entry
from storjfs.renter.cashier import Cashier
from storjfs.renter.client import ShardClient
from storjfs.renter.errors import DepositExhausted, TermsRefused
from storjfs.renter.farmers import Farmers
from storjfs.renter.local_records import LocalRecords
from storjfs.renter.settings import RenterSettings
from storjfs.settlement import SettlementError

log = logging.getLogger(__name__)

ACCEPT_WITHIN = 3600
"""Seconds that a proposal waits for the farmer's signature before it lapses."""
FULL_SHARE = 0.8
"""A contract fuller than this grows by a revision."""
NEVER_AGAIN = 6 * 3600.0
"""Seconds before a farmer that refused is asked again."""
SMALLEST_CAPACITY = 64 << 20


@dataclass(slots=True)
class Refusal:
    """Why there is no contract with a farmer, and until when it is not asked again."""

    reason: str
    until: float


class Market:
    """One `attend` per farmer and round does whatever is next with that farmer. `refusals` are for status."""

    def __init__(
        self,
        book: ContractBook,
        farmers: Farmers,
        cashier: Cashier,
        client: ShardClient,
        records: LocalRecords,
        settings: RenterSettings,
        settlement_name: str,
        now: Callable[[], float],
        crash_point: Callable[[str], None] = lambda name: None,
    ) -> None:
        self._book = book
        self._farmers = farmers
        self._cashier = cashier
        self._client = client
        self._records = records
        self._settings = settings
        self._settlement_name = settlement_name
        self._now = now
        self._crash_point = crash_point
        self.refusals: dict[NodeId, Refusal] = {}
        self._compared: set[int] = set()
        self._groups: dict[NodeId, str] = {}

    async def attend(self, farmer: NodeId) -> None:
        """Take the relation with `farmer` as far as it goes now; what fails is tried again later."""
        if self._refused(farmer) and self._book.current(farmer) is None:
            return
        try:
            entry = self._book.current(farmer) or await self._make(farmer)
            if entry is not None:
                await self._advance(entry)
                if not self._refused(farmer):
                    self.refusals.pop(farmer, None)
        except TermsRefused as error:
            log.warning("no contract with farmer %s: %s", short(farmer), error)
            self.refusals[farmer] = Refusal(str(error), self._now() + NEVER_AGAIN)
        except (DepositExhausted, SettlementError) as error:
            log.warning("no money for farmer %s: %s", short(farmer), error)
            self.refusals[farmer] = Refusal(str(error), self._now())
        except (PeerUnreachable, RequestTimeout) as error:
            log.info("farmer %s: %s", short(farmer), error)
        except (RequestFailed, ProtocolViolation, StorjfsError) as error:
            log.warning("farmer %s: %s", short(farmer), error)
            self.refusals[farmer] = Refusal(str(error), self._now() + 60)

    # --- making ---

    async def _make(self, farmer: NodeId) -> Entry | None:
        """A contract that both have signed, found again or made. Raises TermsRefused."""
        proposal = self._cashier.pay.proposals.get(farmer)
        if proposal is not None and proposal.open().contract_id != NO_CONTRACT:
            # A revision of a contract that is over by now.
            await self._cashier.pay.drop_proposal(farmer)
            proposal = None
        if proposal is None:
            found = await self._found_again(farmer)
            if found is not None:
                return found
            offer = await self._offer(farmer)
            self._check_offer(farmer, offer)
            proposal = Proposal.make(self._farmers.identity(farmer).signing, self._terms_from(offer))
            self._crash_point("proposal: before storing")
            await self._cashier.pay.keep_proposal(farmer, proposal)
            self._crash_point("proposal: after storing")
        contract = await self._propose(farmer, proposal)
        if contract is None:
            return None
        entry = await self._enter(contract, State.SIGNED)
        await self._cashier.pay.keep_revision(entry.contract_id, 0, contract.to_bytes())
        await self._cashier.pay.drop_proposal(farmer)
        return entry

    async def _found_again(self, farmer: NodeId) -> Entry | None:
        """A living contract of which the farmer shows our own signature: an earlier life's."""
        listed = await self._farmers.request(farmer, ListContracts(NO_CONTRACT))
        for contract_id in listed.contract_ids:
            if self._book.by_id(contract_id) is not None:
                continue
            answer = await self._farmers.request(farmer, GetContract(contract_id))
            terms = answer.contract.open()
            ours = terms.renter == self._farmers.identity(farmer).node_id and terms.farmer == farmer
            if ours and answer.state in SERVES_SHARDS and terms.end > self._now():
                log.info("contract %s with farmer %s is found again", short(contract_id), short(farmer))
                return await self._enter(answer.contract, State.FUNDED)
        return None

    async def _enter(self, contract: Contract, state: State) -> Entry:
        farmer = contract.terms().farmer
        entry = await self._book.add(contract, state, self._farmers.addresses(farmer))
        self._records.standing(entry.number).operator = self._groups.get(farmer, "")
        return entry

    async def _offer(self, farmer: NodeId) -> Offer:
        offer = open_offer((await self._farmers.request(farmer, GetOffer())).offer)
        self._groups[farmer] = offer.group
        return offer

    def _check_offer(self, farmer: NodeId, offer: Offer) -> None:
        """Raise TermsRefused, saying why, for an offer that the settings do not allow."""
        settings = self._settings
        checks = (
            (offer.farmer == farmer, "its offer names another farmer"),
            (offer.settlement == self._settlement_name, f"it is paid through {offer.settlement}"),
            (offer.expires > self._now(), "its offer has expired"),
            (offer.price <= settings.price_max, "it is dearer than price_max in the settings"),
            (offer.egress_price <= settings.egress_price_max, "its egress is dearer than the settings allow"),
            (offer.capacity >= SMALLEST_CAPACITY, "it has no space left to sell"),
            (offer.period_min <= settings.audit_period, "it does not answer audits that often"),
        )
        for holds, reason in checks:
            if not holds:
                raise TermsRefused(f"farmer {short(farmer)}: {reason}")

    def _terms_from(self, offer: Offer) -> Terms:
        settings, now = self._settings, int(self._now())
        payer = self._cashier.pay.payer(offer.farmer).public
        period = min(settings.audit_period, offer.period_max)
        return Terms(
            farmer=offer.farmer,
            renter=self._farmers.identity(offer.farmer).node_id,
            payer=payer,
            payee=offer.payee,
            settlement=offer.settlement,
            lane=lane_id(offer.settlement, payer, offer.payee),
            capacity=min(settings.capacity, offer.capacity),
            price=offer.price,
            egress_price=offer.egress_price,
            start=now,
            end=now + max(offer.term_min, min(settings.term, offer.term_max)),
            audit_period=period,
            samples=settings.samples,
            answer_deadline=min(settings.deadline, 2 * period),
            payment_grace=min(settings.payment_grace, offer.grace_max),
            offline_grace=max(int(settings.offline_grace), 1),
            end_grace=settings.end_grace,
            accept_by=now + ACCEPT_WITHIN,
        )

    async def _propose(self, farmer: NodeId, proposal: Proposal) -> Contract | None:
        """Send stored bytes; the contract, or None where the farmer wants other terms or time ran out."""
        terms = proposal.open()
        if self._now() > terms.accept_by:
            await self._cashier.pay.drop_proposal(farmer)
            return None
        self._crash_point("proposal: before sending")
        try:
            answer = await self._farmers.request(farmer, Propose(proposal))
        except RequestFailed as error:
            if error.code in (ErrorCode.BUSY, ErrorCode.INTERNAL):
                raise
            await self._cashier.pay.drop_proposal(farmer)
            if error.code in (ErrorCode.LAPSED, ErrorCode.STALE):
                return None
            raise TermsRefused(str(error)) from error
        self._crash_point("proposal: after answer")
        contract = answer.contract
        if contract is None:
            # The next round starts from the newest offer, which is where counter-terms come from.
            await self._cashier.pay.drop_proposal(farmer)
            raise TermsRefused(f"farmer {short(farmer)} wants other terms: {answer.reason}")
        if contract.body != proposal.body or contract.renter_signature != proposal.renter_signature:
            raise ProtocolViolation("the farmer signed something else than was proposed")
        contract.open()
        return contract

    # --- keeping ---

    async def _advance(self, entry: Entry) -> None:
        """From whatever state, to active if it can be; then see to end, room and deposit."""
        await self._book.settle()
        if entry.state == State.SIGNED:
            await self._cashier.fund(entry)
            await self._book.change(entry, Event.FUND)
        if entry.state == State.FUNDED:
            await self._activate(entry)
        if entry.state == State.RENEWING:
            await self._revise(entry)
        if entry.state == State.ACTIVE:
            await self._cashier.find_lane(entry)
            await self._compare(entry)
            await self._cashier.keep_funded(entry)
            await self._consider_revision(entry)
        if entry.state in SERVES_SHARDS and self._now() > entry.terms.end + entry.terms.end_grace:
            await self._book.change(entry, Event.EXPIRE)

    async def _activate(self, entry: Entry) -> None:
        lane = await self._cashier.find_lane(entry)
        notice = FundNotice(entry.contract_id, entry.terms.lane, lane.deposit)
        self._crash_point("funding: before notice")
        try:
            answer = await self._farmers.request(entry.node_id, notice)
        except RequestFailed as error:
            over = (ErrorCode.UNKNOWN_CONTRACT, ErrorCode.CONTRACT_OVER, ErrorCode.LAPSED)
            if error.code in over:
                await self._book.change(entry, Event.BREACH)
                return
            raise
        if answer.state in SERVES_SHARDS:
            await self._cashier.thaw(entry, answer.voucher)
            await self._book.change(entry, Event.ACTIVATE)
            await self._take_newer(entry, answer)
            self._compared.add(entry.number)

    async def _compare(self, entry: Entry) -> None:
        """Once per process: compare terms and vouchers, so that neither side is ahead unknowingly."""
        if entry.number in self._compared:
            return
        answer = await self._farmers.request(entry.node_id, GetContract(entry.contract_id))
        await self._take_newer(entry, answer)
        await self._cashier.thaw(entry, answer.voucher)
        self._compared.add(entry.number)

    async def _take_newer(self, entry: Entry, answer: ContractAnswer) -> None:
        """Take over a revision that both signed, but whose answer we never saw."""
        shown = answer.contract
        if shown.terms().revision > entry.terms.revision and shown.contract_id == entry.contract_id:
            shown.open()
            await self._agreed(entry, shown)

    async def _consider_revision(self, entry: Entry) -> None:
        """Propose a successor when the end is near, or the room."""
        if self._near_end(entry):
            await self._book.change(entry, Event.START_RENEWAL)
            await self._revise(entry)
        elif self._short_of_room(entry) and not self._refused(entry.node_id):
            proposal = await self._successor(entry)
            if proposal is not None:
                await self._cashier.pay.keep_proposal(entry.node_id, proposal)
                await self._book.change(entry, Event.START_RENEWAL)
                await self._revise(entry)

    def _refused(self, farmer: NodeId) -> bool:
        refusal = self.refusals.get(farmer)
        return refusal is not None and self._now() < refusal.until

    def _near_end(self, entry: Entry) -> bool:
        terms = entry.terms
        return self._now() > terms.end - (terms.end - terms.start) / 3

    def _short_of_room(self, entry: Entry) -> bool:
        capacity = entry.terms.capacity
        candidate = self._client.candidate(entry)
        taken = candidate.used + candidate.waiting
        return taken > FULL_SHARE * capacity and capacity < self._settings.capacity_max

    async def _successor(self, entry: Entry) -> Proposal | None:
        """The next revision as we want it, None where the farmer has no more room to sell."""
        terms, settings, now = entry.terms, self._settings, int(self._now())
        offer = await self._offer(entry.node_id)
        self._check_renewal(entry, offer)
        near_end, capacity = self._near_end(entry), terms.capacity
        if self._short_of_room(entry):
            # The offer's capacity is what is still for sale beside what we have.
            capacity += min(terms.capacity, settings.capacity_max - terms.capacity, offer.capacity)
        if capacity == terms.capacity and not near_end:
            self.refusals[entry.node_id] = Refusal("it has no more space to sell", now + NEVER_AGAIN)
            return None
        term = max(offer.term_min, min(settings.term, offer.term_max))
        successor = msgspec.structs.replace(
            terms,
            contract_id=entry.contract_id,
            revision=terms.revision + 1,
            predecessor=entry.contract.digest,
            capacity=capacity,
            # Until the old end the old price was agreed; asking for less than the offer would be refused.
            price=offer.price if near_end else max(offer.price, terms.price),
            egress_price=offer.egress_price if near_end else max(offer.egress_price, terms.egress_price),
            start=now,
            end=now + term if near_end else max(terms.end, now + offer.term_min),
            accept_by=now + ACCEPT_WITHIN,
        )
        return Proposal.make(self._farmers.identity(entry.node_id).signing, successor)

    def _check_renewal(self, entry: Entry, offer: Offer) -> None:
        if offer.price > self._settings.price_max or offer.egress_price > self._settings.egress_price_max:
            raise TermsRefused(f"farmer {short(entry.node_id)} asks more than the settings allow")
        if offer.payee != entry.terms.payee or offer.settlement != entry.terms.settlement:
            raise TermsRefused(f"farmer {short(entry.node_id)} wants to be paid in another way")

    async def _revise(self, entry: Entry) -> None:
        """Send the stored successor, or a new one. If that fails until the end is close, the shards move."""
        reason = "the farmer does not answer"
        left = entry.terms.end - self._now()
        last_chance = left < (entry.terms.end - entry.terms.start) / 6
        if self._refused(entry.node_id) and not last_chance:
            return
        try:
            contract = await self._agree_on_successor(entry)
            if contract is not None:
                await self._agreed(entry, contract)
            if entry.state != State.RENEWING:
                return
        except TermsRefused as error:
            reason = str(error)
            self.refusals[entry.node_id] = Refusal(reason, self._now() + min(NEVER_AGAIN, left / 8))
        except (PeerUnreachable, RequestTimeout):
            if not last_chance:
                raise
        if last_chance:
            log.warning("contract %s is not renewed: %s", short(entry.contract_id), reason)
            await self._book.change(entry, Event.FAIL_RENEWAL)

    async def _agree_on_successor(self, entry: Entry) -> Contract | None:
        # The farmer may have signed one whose answer was lost and which lapsed for us since.
        self._compared.discard(entry.number)
        await self._compare(entry)
        if entry.state != State.RENEWING:
            return None
        proposal = self._cashier.pay.proposals.get(entry.node_id)
        if proposal is not None:
            try:
                check_successor(entry.contract, proposal.open())
            except ProtocolViolation:
                proposal = None
        if proposal is None:
            proposal = await self._successor(entry)
            if proposal is None:
                return None
            await self._cashier.pay.keep_proposal(entry.node_id, proposal)
        return await self._propose(entry.node_id, proposal)

    async def _agreed(self, entry: Entry, contract: Contract) -> None:
        """Both have signed the next revision."""
        terms = contract.terms()
        await self._cashier.pay.keep_revision(entry.contract_id, terms.revision, contract.to_bytes())
        if entry.state == State.ACTIVE:
            await self._book.change(entry, Event.START_RENEWAL)
        await self._book.change(entry, Event.RENEW, contract)
        await self._cashier.pay.drop_proposal(entry.node_id)
        await self._cashier.extend(entry)

    # --- ending ---

    async def leave(self, entry: Entry) -> None:
        """Give notice: no new shards; those there move away; once empty the contract ends."""
        await self._book.change(entry, Event.GIVE_NOTICE)
        await self._tell_end(entry, "the renter leaves")

    async def end_empty(self, entry: Entry) -> None:
        """The last shard has left an ending contract."""
        await self._book.change(entry, Event.EMPTY)
        await self._tell_end(entry, "empty")

    async def _tell_end(self, entry: Entry, reason: str) -> None:
        try:
            await self._farmers.request(entry.node_id, End(entry.contract_id, reason))
        except (StorjfsError, OSError) as error:
            log.info("farmer %s was not told of the end: %s", short(entry.node_id), error)

    async def reclaim(self) -> None:
        """Have the rest of the deposits of lanes returned that nothing needs any more."""
        for entry in self._book.in_state((State.ENDED, State.BREACHED)):
            lane = self._cashier.lane(entry)
            if lane is None or self._now() <= lane.expiry or lane.deposit <= lane.signed:
                continue
            if self._book.current(entry.node_id) is not None:
                continue
            try:
                await self._cashier.take_back(entry)
            except SettlementError as error:
                log.info("deposit of farmer %s: %s", short(entry.node_id), error)
