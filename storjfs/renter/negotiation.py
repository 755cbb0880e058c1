"""Offers, proposals and counter-signatures: what is asked of a farmer, and what is agreed with it."""

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from storjfs.protocol.failures import ErrorCode, ProtocolViolation, RequestFailed, plain
from storjfs.protocol.ids import NodeId, lane_id, short
from storjfs.protocol.messages import GetOffer, Propose
from storjfs.protocol.signing import Signed
from storjfs.protocol.terms import Contract, Offer, Proposal, Terms, open_offer
from storjfs.renter.book import Entry
from storjfs.renter.client import ShardClient
from storjfs.renter.errors import OtherTerms, TermsRefused
from storjfs.renter.farmers import Farmers
from storjfs.renter.pay import PayBook
from storjfs.renter.settings import RenterSettings

ACCEPT_WITHIN = 3600
"""Seconds that a proposal waits for the farmer's signature before it lapses."""
FULL_SHARE = 0.8
"""A contract fuller than this grows by a revision."""
NEVER_AGAIN = 6 * 3600.0
"""Seconds before a farmer that refused is asked again."""
SOON = 60.0
"""The same for one that would sign something else."""
SMALLEST_CAPACITY = 64 << 20


@dataclass(slots=True)
class Refusal:
    """Why there is no contract with a farmer, and until when it is not asked again."""

    reason: str
    until: float


class Negotiation:
    """One exchange at a time with one farmer; what to do next is the market's to decide."""

    def __init__(
        self,
        farmers: Farmers,
        pay: PayBook,
        client: ShardClient,
        settings: RenterSettings,
        settlement_name: str,
        now: Callable[[], float],
        crash_point: Callable[[str], None] = lambda name: None,
    ) -> None:
        self._farmers = farmers
        self._pay = pay
        self._client = client
        self._settings = settings
        self._settlement_name = settlement_name
        self._now = now
        self._crash_point = crash_point
        self.refusals: dict[NodeId, Refusal] = {}
        self.groups: dict[NodeId, str] = {}
        """Operator groups, as the offers seen name them."""
        self.saw: Callable[[NodeId, Signed], None] = lambda farmer, signed: None
        """Called with each offer that a farmer gives of itself."""

    def refuse(self, farmer: NodeId, reason: str, seconds: float) -> None:
        """Note why nothing more comes of it for so many seconds."""
        self.refusals[farmer] = Refusal(reason, self._now() + seconds)

    def refused(self, farmer: NodeId) -> bool:
        """Whether it is too early to ask this farmer again."""
        refusal = self.refusals.get(farmer)
        return refusal is not None and self._now() < refusal.until

    # --- first contracts ---

    async def first_proposal(self, farmer: NodeId) -> Proposal:
        """Signed and stored terms from the farmer's newest offer. Raises TermsRefused."""
        offer = await self._offer(farmer)
        self._check_offer(farmer, offer)
        proposal = Proposal.make(self._farmers.identity(farmer).signing, self._terms_from(offer))
        self._crash_point("proposal: before storing")
        await self._pay.keep_proposal(farmer, proposal)
        self._crash_point("proposal: after storing")
        return proposal

    async def _offer(self, farmer: NodeId) -> Offer:
        signed = (await self._farmers.request(farmer, GetOffer())).offer
        offer = open_offer(signed)
        self.groups[farmer] = offer.group
        if offer.farmer == farmer:
            self.saw(farmer, signed)
        return offer

    def _check_offer(self, farmer: NodeId, offer: Offer) -> None:
        """Raise TermsRefused, saying why, for an offer that the settings do not allow."""
        settings = self._settings
        checks = (
            (offer.farmer == farmer, "its offer names another farmer"),
            (offer.settlement == self._settlement_name, "it settles in another ledger"),
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
        payer = self._pay.payer(offer.farmer).public
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

    # --- successors ---

    def near_end(self, entry: Entry) -> bool:
        """Whether it is time to renew: in the last third of the term."""
        terms = entry.terms
        return self._now() > terms.end - (terms.end - terms.start) / 3

    def short_of_room(self, entry: Entry) -> bool:
        """Whether the contract should grow."""
        capacity = entry.terms.capacity
        candidate = self._client.candidate(entry)
        taken = candidate.used + candidate.waiting
        return taken > FULL_SHARE * capacity and capacity < self._settings.capacity_max

    async def successor(self, entry: Entry) -> Proposal | None:
        """The next revision as we want it, signed and stored; None where the farmer has no more room, or
        nothing is to be changed any more.

        Raises TermsRefused.
        """
        terms, settings, now = entry.terms, self._settings, int(self._now())
        # Seen before the wait for the offer: a put that ends meanwhile, in vain, says nothing of the farmer.
        near_end, short, capacity = self.near_end(entry), self.short_of_room(entry), terms.capacity
        offer = await self._offer(entry.node_id)
        self._check_renewal(entry, offer)
        if short:
            # The offer's capacity is what is still for sale beside what we have.
            capacity += min(terms.capacity, settings.capacity_max - terms.capacity, offer.capacity)
        if capacity == terms.capacity and not near_end:
            if short:
                self.refuse(entry.node_id, "it has no more space to sell", NEVER_AGAIN)
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
        proposal = Proposal.make(self._farmers.identity(entry.node_id).signing, successor)
        await self._pay.keep_proposal(entry.node_id, proposal)
        return proposal

    def _check_renewal(self, entry: Entry, offer: Offer) -> None:
        if offer.price > self._settings.price_max or offer.egress_price > self._settings.egress_price_max:
            raise TermsRefused(f"farmer {short(entry.node_id)} asks more than the settings allow")
        if offer.payee != entry.terms.payee or offer.settlement != entry.terms.settlement:
            raise TermsRefused(f"farmer {short(entry.node_id)} wants to be paid in another way")

    # --- signing ---

    async def propose(self, farmer: NodeId, proposal: Proposal) -> Contract | None:
        """Send stored bytes; the contract, or None where the farmer wants other terms or time ran out."""
        terms = proposal.open()
        if self._now() > terms.accept_by:
            await self._pay.drop_proposal(farmer)
            return None
        self._crash_point("proposal: before sending")
        try:
            answer = await self._farmers.request(farmer, Propose(proposal))
        except RequestFailed as error:
            if error.code in (ErrorCode.BUSY, ErrorCode.INTERNAL):
                raise
            await self._pay.drop_proposal(farmer)
            if error.code in (ErrorCode.LAPSED, ErrorCode.STALE):
                return None
            raise TermsRefused(str(error)) from error
        self._crash_point("proposal: after answer")
        contract = answer.contract
        if contract is None:
            # The next round starts from the newest offer, which is where counter-terms come from.
            await self._pay.drop_proposal(farmer)
            raise OtherTerms(f"farmer {short(farmer)} wants other terms: {plain(answer.reason)}")
        if contract.body != proposal.body or contract.renter_signature != proposal.renter_signature:
            raise ProtocolViolation("the farmer signed something else than was proposed")
        contract.open()
        return contract
