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
from collections.abc import Callable, Container

from storjfs.errors import StorjfsError
from storjfs.network.failures import PeerUnreachable, RequestTimeout
from storjfs.protocol.contracts import SERVES_SHARDS, Event, State
from storjfs.protocol.failures import ErrorCode, ProtocolViolation, RequestFailed
from storjfs.protocol.ids import NO_CONTRACT, NodeId, short
from storjfs.protocol.messages import (
    ContractAnswer,
    End,
    FundNotice,
    GetContract,
    ListContracts,
)
from storjfs.protocol.terms import Contract, check_successor
from storjfs.renter.book import OVER, ContractBook, Entry
from storjfs.renter.cashier import Cashier
from storjfs.renter.clock import EverMoreSeldom
from storjfs.renter.errors import DepositExhausted, OtherTerms, TermsRefused
from storjfs.renter.farmers import Farmers
from storjfs.renter.local_records import LocalRecords
from storjfs.renter.negotiation import NEVER_AGAIN, SOON, Negotiation
from storjfs.settlement import SettlementError

log = logging.getLogger(__name__)

COMPARE_EVERY = 3600.0
_OVER = frozenset({ErrorCode.UNKNOWN_CONTRACT, ErrorCode.CONTRACT_OVER, ErrorCode.LAPSED})


class Market:
    """One `attend` per farmer and round does whatever is next with that farmer."""

    def __init__(
        self,
        book: ContractBook,
        farmers: Farmers,
        cashier: Cashier,
        negotiation: Negotiation,
        records: LocalRecords,
        now: Callable[[], float],
        crash_point: Callable[[str], None] = lambda name: None,
    ) -> None:
        self._book = book
        self._farmers = farmers
        self._cashier = cashier
        self._negotiation = negotiation
        self._records = records
        self._now = now
        self._crash_point = crash_point
        self._compared: dict[int, float] = {}
        self._reclaims = EverMoreSeldom()
        self.taken_up: set[int] = set()
        """Contracts that were given up and run again: which of their shards are there has yet to be seen."""

    async def attend(self, farmer: NodeId) -> None:
        """Take the relation with `farmer` as far as it goes now; what fails is tried again later."""
        if self._negotiation.refused(farmer) and self._book.current(farmer) is None:
            return
        if farmer in self._book.leaving and self._book.current(farmer) is None:
            return
        try:
            entry = self._book.current(farmer) or await self._make(farmer)
            if entry is not None:
                await self._advance(entry)
                if not self._negotiation.refused(farmer):
                    self._negotiation.refusals.pop(farmer, None)
        except TermsRefused as error:
            log.warning("no agreement: %s", error)
            again = SOON if isinstance(error, OtherTerms) else NEVER_AGAIN
            self._negotiation.refuse(farmer, str(error), again)
        except (DepositExhausted, SettlementError) as error:
            log.warning("no money for farmer %s: %s", short(farmer), error)
            self._negotiation.refuse(farmer, str(error), 0)
        except (PeerUnreachable, RequestTimeout) as error:
            log.info("farmer %s: %s", short(farmer), error)
        except (StorjfsError, OSError) as error:
            log.warning("farmer %s: %s", short(farmer), error)
            self._negotiation.refuse(farmer, str(error), 60)

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
            proposal = await self._negotiation.first_proposal(farmer)
        contract = await self._negotiation.propose(farmer, proposal)
        if contract is None:
            return None
        entry = await self._enter(contract, State.SIGNED)
        await self._cashier.pay.keep_revision(entry.contract_id, 0, contract.to_bytes())
        await self._cashier.pay.drop_proposal(farmer)
        return entry

    async def _found_again(self, farmer: NodeId) -> Entry | None:
        """A living contract of which the farmer shows our own signature: an earlier life's, or one that we
        gave up when the farmer was away."""
        listed = await self._farmers.request(farmer, ListContracts(NO_CONTRACT))
        for contract_id in listed.contract_ids:
            known = self._book.by_id(contract_id)
            if known is not None and known.state is not State.BREACHED:
                continue
            answer = await self._farmers.request(farmer, GetContract(contract_id))
            terms = answer.contract.open()
            ours = terms.renter == self._farmers.identity(farmer).node_id and terms.farmer == farmer
            if ours and answer.state in SERVES_SHARDS and terms.end > self._now():
                log.info("contract %s with farmer %s is found again", short(contract_id), short(farmer))
                if known is not None:
                    await self._book.change(known, Event.TAKE_UP)
                    self.taken_up.add(known.number)
                    return known
                return await self._enter(answer.contract, State.FUNDED)
        return None

    async def _enter(self, contract: Contract, state: State) -> Entry:
        farmer = contract.terms().farmer
        entry = await self._book.add(contract, state, self._farmers.addresses(farmer))
        self._records.standing(entry.number).operator = self._negotiation.groups.get(farmer, "")
        return entry

    # --- keeping ---

    async def _advance(self, entry: Entry) -> None:
        """From whatever state, to active if it can be; then see to end, room and deposit."""
        await self._book.settle()
        await self._drop_answered(entry)
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
        if entry.state == State.ACTIVE:
            await self._cashier.keep_extended(entry)
            await self._cashier.keep_funded(entry)
            await self._consider_revision(entry)
        if entry.state in SERVES_SHARDS and self._now() > entry.terms.end + entry.terms.end_grace:
            await self._book.change(entry, Event.EXPIRE)

    async def _drop_answered(self, entry: Entry) -> None:
        """A proposal that the book has as a contract is not needed any more; a crash may have left it."""
        proposal = self._cashier.pay.proposals.get(entry.node_id)
        if proposal is None or proposal.open().revision > entry.terms.revision:
            return
        await self._cashier.pay.keep_revision(
            entry.contract_id, entry.terms.revision, entry.contract.to_bytes()
        )
        await self._cashier.pay.drop_proposal(entry.node_id)

    async def _activate(self, entry: Entry) -> None:
        lane = await self._cashier.find_lane(entry)
        notice = FundNotice(entry.contract_id, entry.terms.lane, lane.deposit)
        self._crash_point("funding: before notice")
        try:
            answer = await self._farmers.request(entry.node_id, notice)
        except RequestFailed as error:
            if error.code in _OVER:
                await self._book.change(entry, Event.BREACH)
                return
            raise
        if answer.state in SERVES_SHARDS:
            await self._cashier.thaw(entry, answer.voucher)
            await self._book.change(entry, Event.ACTIVATE)
            await self._take_newer(entry, answer)
            self._compared[entry.number] = self._now()

    async def _compare(self, entry: Entry) -> None:
        """Now and then: compare state, terms and vouchers, so that neither side is ahead unknowingly."""
        if self._now() < self._compared.get(entry.number, 0) + COMPARE_EVERY:
            return
        try:
            answer = await self._farmers.request(entry.node_id, GetContract(entry.contract_id))
        except RequestFailed as error:
            if error.code in _OVER:
                await self._book.change(entry, Event.BREACH)
            raise
        await self._take_newer(entry, answer)
        await self._cashier.thaw(entry, answer.voucher)
        if answer.state in OVER:
            log.warning("farmer %s says that contract %s is over", short(entry.node_id), answer.state)
            await self._book.change(entry, Event.BREACH)
        elif answer.state is State.ENDING:
            await self._book.change(entry, Event.GIVE_NOTICE)
        self._compared[entry.number] = self._now()

    async def _take_newer(self, entry: Entry, answer: ContractAnswer) -> None:
        """Take over a revision that both signed, but whose answer we never saw."""
        shown = answer.contract
        if shown.terms().revision > entry.terms.revision and shown.contract_id == entry.contract_id:
            shown.open()
            await self._agreed(entry, shown)

    async def _consider_revision(self, entry: Entry) -> None:
        """Propose a successor when the end is near, or the room."""
        if self._negotiation.near_end(entry):
            await self._book.change(entry, Event.START_RENEWAL)
            await self._revise(entry)
        elif self._negotiation.short_of_room(entry) and not self._negotiation.refused(entry.node_id):
            proposal = await self._negotiation.successor(entry)
            if proposal is not None:
                await self._book.change(entry, Event.START_RENEWAL)
                await self._revise(entry)

    async def _revise(self, entry: Entry) -> None:
        """Send the stored successor, or a new one. If that fails until the end is close, the shards move."""
        reason = "the farmer does not answer"
        left = entry.terms.end - self._now()
        last_chance = left < (entry.terms.end - entry.terms.start) / 6
        if self._negotiation.refused(entry.node_id) and not last_chance:
            return
        try:
            contract = await self._agree_on_successor(entry)
            if contract is not None:
                await self._agreed(entry, contract)
            if entry.state != State.RENEWING:
                return
        except TermsRefused as error:
            reason = str(error)
            again = SOON if isinstance(error, OtherTerms) else NEVER_AGAIN
            self._negotiation.refuse(entry.node_id, reason, min(again, left / 8))
        except (PeerUnreachable, RequestTimeout):
            if not last_chance:
                raise
        if last_chance:
            log.warning("contract %s is not renewed: %s", short(entry.contract_id), reason)
            await self._book.change(entry, Event.FAIL_RENEWAL)

    async def _agree_on_successor(self, entry: Entry) -> Contract | None:
        # The farmer may have signed one whose answer was lost and which lapsed for us since.
        self._compared.pop(entry.number, None)
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
            proposal = await self._negotiation.successor(entry)
            if proposal is None:
                return None
        return await self._negotiation.propose(entry.node_id, proposal)

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

    async def reclaim(self, busy: Container[NodeId | None] = ()) -> None:
        """Have the rest of the deposits of lanes returned that nothing needs any more; not of farmers that
        are `busy`, being attended to."""
        for entry in self._book.in_state(OVER):
            if entry.node_id in busy or not self._reclaims.due(entry.number, self._now()):
                continue
            lane = self._cashier.lane(entry)
            current = self._book.current(entry.node_id)
            try:
                if lane is not None and not current and lane.deposit > lane.signed:
                    # The farmer closes a lane that it needs no more; what was left over is back by then.
                    await self._cashier.look_again(entry)
                    if self._now() > lane.expiry and lane.deposit > lane.signed:
                        await self._cashier.take_back(entry)
            except SettlementError as error:
                log.info("deposit of farmer %s: %s", short(entry.node_id), error)
            if entry.state is State.BREACHED and (lane is None or self._now() > lane.expiry):
                await self._book.change(entry, Event.SETTLE)
