"""Money in motion: lanes opened and topped up in the settlement, vouchers signed, stored and sent."""

import hashlib
import logging
from collections.abc import Callable

import trio

from storjfs.errors import StorjfsError
from storjfs.network.failures import PeerUnreachable, RequestTimeout
from storjfs.protocol.failures import ProtocolViolation, RequestFailed
from storjfs.protocol.ids import LaneId, NodeId, PublicKey, short
from storjfs.protocol.messages import HelloAnswer, Pay
from storjfs.protocol.signing import Signed
from storjfs.protocol.terms import GIB, MONTH, Terms
from storjfs.protocol.vouchers import PARTS, Voucher
from storjfs.renter.book import ContractBook, Entry
from storjfs.renter.errors import DepositExhausted
from storjfs.renter.farmers import Farmers
from storjfs.renter.pay import EGRESS_STEP, Lane, PayBook
from storjfs.renter.settings import RenterSettings
from storjfs.settlement import InsufficientBalance, Settlement, SettlementError, UnknownLane
from storjfs.settlement import Lane as SettledLane

log = logging.getLogger(__name__)

PAY_TIMEOUT = 15.0
EXPIRY_MARGIN = 30 * 86400
"""A lane outlives its contract by so long, for the farmer to claim."""


def deposit_step(terms: Terms) -> int:
    """One portion of deposit: a month (or the term, if shorter) of the whole capacity, and 16 GiB of egress.

    Large enough that topping up is rare, small beside what a whole term costs: it is what would be bound, not
    lost, if the farmer vanished.
    """
    keeping = terms.price * terms.capacity * min(terms.end - terms.start, MONTH)
    fetching = terms.egress_price * 16 * GIB * MONTH
    return max(-(-(keeping + fetching) // PARTS), 1)


def _expiry(terms: Terms) -> int:
    return terms.end + terms.end_grace + EXPIRY_MARGIN


class Cashier:
    """The only one who asks for signatures of the pay book, and the only user of the settlement.

    `source` is the account that deposits come from. Settlement calls run in worker threads.
    """

    def __init__(
        self,
        pay: PayBook,
        settlement: Settlement,
        source: PublicKey,
        book: ContractBook,
        farmers: Farmers,
        settings: RenterSettings,
        now: Callable[[], float],
        crash_point: Callable[[str], None] = lambda name: None,
    ) -> None:
        self.pay = pay
        self._settlement = settlement
        self._source = source
        self._book = book
        self._farmers = farmers
        self._settings = settings
        self._now = now
        self._crash_point = crash_point
        self._paying: set[LaneId] = set()
        self._topping_up = trio.Lock()
        self.problem = ""
        """What a person has to know about money, empty if nothing."""

    # --- lanes ---

    def lane(self, entry: Entry) -> Lane | None:
        """The lane of a contract, None before it is funded."""
        return self.pay.lanes.get(entry.terms.lane)

    async def fund(self, entry: Entry) -> Lane:
        """Open the contract's lane with its first deposit. Repeated after a crash it changes nothing more.

        Raises SettlementError, DepositExhausted.
        """
        terms = entry.terms
        if terms.settlement != self._settlement.name:
            raise SettlementError(
                f"the contract with farmer {short(entry.node_id)} settles in another ledger"
            )
        before = await self._look_up(terms.lane)
        lane = self.pay.lanes.get(terms.lane)
        used_before = lane is None and before is not None
        step = deposit_step(terms)
        self._check_budget(step)
        self._crash_point("lane: before opening")
        expiry = _expiry(terms)
        await self._deposit(
            lambda: self._settlement.open_lane(
                terms.payer, terms.payee, step, expiry, source=self._source, order=entry.contract_id
            ),
            "the volume's account holds too few credits for the first deposit",
        )
        self._crash_point("lane: after opening")
        return await self._refresh(entry, used_before=used_before)

    async def find_lane(self, entry: Entry) -> Lane:
        """The lane of a contract that was funded in an earlier life; frozen where this machine forgot it."""
        lane = self.lane(entry)
        if lane is None:
            if await self._look_up(entry.terms.lane) is None:
                return await self.fund(entry)
            lane = await self._refresh(entry, used_before=True)
        return lane

    async def _look_up(self, lane_id: LaneId) -> SettledLane | None:
        try:
            return await trio.to_thread.run_sync(self._settlement.lane, lane_id)
        except UnknownLane:
            return None

    async def _refresh(self, entry: Entry, *, used_before: bool = False) -> Lane:
        """Take the lane's deposit from the settlement, which alone knows it."""
        terms = entry.terms
        seen = await trio.to_thread.run_sync(self._settlement.lane, terms.lane)
        return await self.pay.know_lane(
            terms.lane, terms.farmer, seen.deposit, seen.expiry, used_before=used_before
        )

    async def look_again(self, entry: Entry) -> None:
        """Take over what the settlement says of the contract's lane now. Raises SettlementError."""
        await self._refresh(entry)

    async def extend(self, entry: Entry) -> None:
        """Let the lane live as long as the contract's newest terms need. Raises SettlementError."""
        await trio.to_thread.run_sync(self._settlement.extend, entry.terms.lane, _expiry(entry.terms))
        await self._refresh(entry)

    async def keep_extended(self, entry: Entry) -> None:
        """Make up for an extension that came to nothing: a crash before it, a settlement that was away."""
        lane = self.lane(entry)
        if lane is not None and lane.expiry < _expiry(entry.terms):
            await self.extend(entry)

    async def keep_funded(self, entry: Entry) -> None:
        """Top up before the deposit runs dry, within budget and balance. Raises DepositExhausted."""
        lane = self.lane(entry)
        step = deposit_step(entry.terms)
        if lane is None or lane.left > step // 2:
            return
        async with self._topping_up:
            # Another task, or a life of this process that crashed, may have done it.
            lane = await self._refresh(entry)
            if lane.left > step // 2:
                return
            # At least one portion beyond what is owed already.
            amount = max(step, lane.tally.amount + step - lane.deposit)
            self._check_budget(amount)
            # The deposit so far is part of the order's name, so repeating it cannot pay twice.
            order = hashlib.sha256(b"top up" + lane.lane_id + lane.deposit.to_bytes(8, "big")).digest()
            self._crash_point("top-up: before")
            await self._deposit(
                lambda: self._settlement.top_up(entry.terms.lane, amount, order=order),
                f"the balance is too low to pay farmer {short(entry.node_id)} further",
            )
            self._crash_point("top-up: after")
            await self._refresh(entry)

    async def _deposit(self, pay: Callable[[], object], without: str) -> None:
        """Raises DepositExhausted, with the problem `without` enough on the account."""
        try:
            await trio.to_thread.run_sync(pay)
        except InsufficientBalance as error:
            self.problem = without
            raise DepositExhausted(without) from error
        self.problem = ""

    def _check_budget(self, more: int) -> None:
        budget = self._settings.budget
        if budget is not None and self.pay.promised() + more > budget:
            self.problem = "the budget in the settings is used up"
            raise DepositExhausted(self.problem)

    async def take_back(self, entry: Entry) -> None:
        """After the lane's expiry: have the rest of the deposit returned. Raises SettlementError."""
        await trio.to_thread.run_sync(self._settlement.refund, entry.terms.lane)
        await self._refresh(entry)

    # --- vouchers ---

    def vouchers_for(self, farmer: NodeId) -> list[Signed]:
        """The newest voucher for a farmer, as each hello carries it."""
        lanes = [lane for lane in self.pay.lanes.values() if lane.node_id == farmer]
        return [lane.voucher for lane in lanes if lane.voucher is not None]

    async def learn(self, farmer: NodeId, answer: HelloAnswer) -> None:
        """Take in the farmer's best vouchers: they unfreeze a lane whose past this machine has forgotten."""
        for shown in answer.vouchers:
            try:
                lane = self.pay.lanes.get(shown.peek(Voucher).lane)
                if lane is not None and lane.node_id == farmer:
                    await self.pay.adopt(lane, shown)
            except StorjfsError as error:
                log.warning("farmer %s shows a voucher: %s", short(farmer), error)

    async def thaw(self, entry: Entry, shown: Signed | None) -> None:
        """The farmer has shown its best voucher (or that it has none): the lane may be used again.

        What it has claimed stands in the settlement, so an answer that hides vouchers gains it nothing.
        """
        lane = self.lane(entry)
        if lane is None:
            return
        if not lane.frozen and (shown is None or shown == lane.voucher):
            return
        seen = await self._look_up(entry.terms.lane)
        await self.pay.adopt(lane, shown, claimed=seen.claimed if seen is not None else 0)

    async def pay_batch(self, entry: Entry, terms: Terms, nonce: bytes, passed_bytes: int) -> bool:
        """Pay for a verified audit batch at the price of `terms`, the revision it was made under.

        On return the voucher is stored; True if the farmer has it too.

        Raises LaneFrozen. A deposit that does not reach leaves the rest owed.
        """
        lane = self.lane(entry)
        if lane is None or not passed_bytes:
            return False
        signed = await self.pay.settle(lane, terms, entry.contract_id, nonce, passed_bytes)
        if not await self._covered(entry, lane):
            log.warning("farmer %s has earned more than the deposit covers", short(entry.node_id))
        elif lane.signed < lane.tally.amount:
            signed = await self.pay.settle(lane, entry.terms, entry.contract_id, None, 0)
        return await self._send(entry, lane, signed)

    def received(self, entry: Entry, count: int, *, whole: bool) -> bool:
        """Count bytes fetched; True when it is time for `pay_egress`."""
        lane = self.lane(entry)
        if lane is None:
            return False
        if not whole:
            self.pay.doubted(lane, count)
            return False
        self.pay.received(lane, count)
        return lane.egress >= EGRESS_STEP and lane.lane_id not in self._paying

    async def pay_egress(self, entry: Entry) -> None:
        """A voucher for what was fetched. Errors are logged: the farmer's refusal will say it again."""
        lane = self.lane(entry)
        if lane is None or lane.lane_id in self._paying:
            return
        self._paying.add(lane.lane_id)
        try:
            await self._pay_owed(entry, lane)
        except (StorjfsError, OSError) as error:
            log.warning("cannot pay farmer %s: %s", short(entry.node_id), error)
        finally:
            self._paying.discard(lane.lane_id)

    async def satisfy(self, entry: Entry) -> bool:
        """The farmer waits for a voucher: pay all that is owed. False if nothing more can be done.

        Where all that we counted is paid already, transfers that broke are conceded.
        """
        lane = self.lane(entry)
        if lane is None:
            return False
        paid_up = not lane.egress and lane.signed >= lane.tally.amount
        if paid_up and lane.voucher is not None and lane.delivered < lane.counter:
            return await self._send(entry, lane, lane.voucher)
        if paid_up and not self.pay.concede(lane):
            return False
        try:
            return await self._pay_owed(entry, lane)
        except StorjfsError as error:
            log.warning("cannot pay farmer %s: %s", short(entry.node_id), error)
            return False

    async def _pay_owed(self, entry: Entry, lane: Lane) -> bool:
        signed = await self.pay.settle(lane, entry.terms, entry.contract_id, None, 0)
        if await self._covered(entry, lane) and lane.signed < lane.tally.amount:
            signed = await self.pay.settle(lane, entry.terms, entry.contract_id, None, 0)
        return await self._send(entry, lane, signed)

    async def _covered(self, entry: Entry, lane: Lane) -> bool:
        """Keep the deposit ahead of what is owed; whether it covers it."""
        try:
            await self.keep_funded(entry)
        except StorjfsError as error:
            log.warning("the lane of farmer %s: %s", short(entry.node_id), error)
        return lane.tally.amount <= lane.deposit

    async def _send(self, entry: Entry, lane: Lane, signed: Signed) -> bool:
        """Send a stored voucher. If it is lost, the next hello or audit carries the newest one anyway."""
        self._crash_point("voucher: before sending")
        try:
            answer = await self._farmers.request(entry.node_id, Pay(signed), PAY_TIMEOUT)
            await self.pay.adopt(lane, answer.voucher)
            lane.delivered = max(lane.delivered, signed.peek(Voucher).counter)
        except (PeerUnreachable, RequestTimeout, RequestFailed, ProtocolViolation) as error:
            log.info("voucher for farmer %s not delivered: %s", short(entry.node_id), error)
            return False
        self._crash_point("voucher: after sending")
        return True

    # --- for status ---

    async def balance(self) -> int:
        """What the source account holds besides the deposits. Raises StorjfsError."""
        try:
            return await trio.to_thread.run_sync(self._settlement.balance, self._source)
        except OSError as error:
            raise StorjfsError(f"the settlement cannot be asked: {error}") from error
