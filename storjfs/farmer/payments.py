"""What comes in: vouchers are checked and kept, lanes looked up, earnings claimed at the settlement."""

import logging
from typing import Final

import trio

from storjfs.farmer.account import LaneAccount
from storjfs.farmer.book import Book, ContractEntry, LaneEntry
from storjfs.farmer.history import ALL, Sums
from storjfs.farmer.records import Statement
from storjfs.protocol.failures import ErrorCode, ProtocolViolation, RequestFailed
from storjfs.protocol.ids import PublicKey, short
from storjfs.protocol.signing import Signed
from storjfs.protocol.terms import Terms
from storjfs.protocol.vouchers import Voucher, open_voucher
from storjfs.settlement import (
    Lane,
    LaneClosed,
    LaneState,
    Settlement,
    SettlementError,
    SettlementUnreachable,
    UnknownLane,
)

log = logging.getLogger(__name__)

CLAIM_BEFORE: Final = 3600
"""Seconds before a lane's expiry from which nothing is left unclaimed for long."""
EPOCHS_KEPT: Final = 1024
"""Answered audits of a contract that are remembered, so that a repeated one is not billed again."""
LEFT_ALONE: Final = 30
"""Seconds for which a settlement that did not answer is not asked for what can wait."""
EGRESS_FOLD: Final = 16 << 20
"""Bytes of egress that a crash may make us forget."""


class Payments:
    """The money side of a farmer whose account at `settlement` is `payee`."""

    def __init__(self, book: Book, settlement: Settlement, payee: PublicKey) -> None:
        self._book = book
        self._settlement = settlement
        self.payee = payee
        self.trouble = ""
        """What the settlement said when it last failed us; empty once it has worked again."""
        self.trouble_since = 0
        self._failures = 0
        self._left_alone_until = 0

    # --- vouchers ---

    async def accept(self, signed: Signed, payer_of: ContractEntry | None = None) -> LaneEntry:
        """Keep a voucher if it is the best one yet; the lane it is for.

        `payer_of`: the contract for whose lane it must be. A voucher that is not better changes nothing and
        is no error. Raises RequestFailed, BadSignature, ProtocolViolation.
        """
        lane = self._book.lane(signed.peek(Voucher).lane)
        if lane is None or (payer_of is not None and payer_of.lane is not lane):
            raise RequestFailed(ErrorCode.UNKNOWN_CONTRACT, "no contract is paid through this lane")
        if signed == lane.voucher:
            return lane
        voucher = open_voucher(signed, lane.payer, lane.lane_id)
        async with lane.turn:
            account = lane.account
            if (voucher.amount, voucher.counter) <= (account.paid, account.counter):
                return lane
            if voucher.amount < account.paid or voucher.counter <= account.counter:
                raise ProtocolViolation("the voucher contradicts one that came before")
            if voucher.amount > lane.deposit:
                await self._look_up(lane)
            if voucher.amount > lane.deposit:
                raise RequestFailed(ErrorCode.NOT_FUNDED, "the deposit does not cover the voucher")
            after = lane.now.with_voucher(voucher.amount, voucher.counter)
            promised = Sums(promised=voucher.amount - account.paid)
            named = self._book.contracts.get(voucher.contract_id)
            also = self._book.history.rows(named.number if named is not None else ALL, promised)
            await self._book.update_lane(
                lane,
                lambda account: account.with_voucher(voucher.amount, voucher.counter),
                also=[*also, *(self._served_again(lane) if after.serving else ())],
                voucher=signed,
            )
            if after.serving:
                for entry in self._contracts_of(lane):
                    entry.unpaid_since = None
        return lane

    async def bill(
        self,
        entry: ContractEntry,
        terms: Terms,
        epoch: int,
        proved: int,
        digest: bytes,
        *,
        in_time: bool,
        lost: int = 0,
    ) -> None:
        """An audit batch was answered that proves `proved` bytes; what came too late is not billed.

        `lost`: how many shards the answer says are not here.
        """
        lane = entry.lane
        async with lane.turn:
            billed = proved if in_time else 0
            after, price = lane.now.with_audit(terms, entry.number, epoch, billed)
            unpaid_since = entry.unpaid_since
            if unpaid_since is None and not after.serving:
                unpaid_since = self._book.now
            row: Statement = (
                "INSERT INTO audit(contract, epoch, digest, time, proved, price) VALUES (?, ?, ?, ?, ?, ?)",
                (entry.number, epoch, digest, self._book.now, proved, price),
            )
            prune: Statement = (
                "DELETE FROM audit WHERE contract = ? AND epoch <= ?",
                (entry.number, epoch - EPOCHS_KEPT),
            )
            mark: Statement = (
                "UPDATE contract SET unpaid_since = ? WHERE contract = ?",
                (unpaid_since, entry.number),
            )

            def change(account: LaneAccount) -> LaneAccount:
                return account.with_audit(terms, entry.number, epoch, billed)[0]

            sums = Sums(audits=1, late=int(not in_time), proved=proved, lost=lost, proofs=price)
            also = [row, prune, mark, *self._book.history.rows(entry.number, sums)]
            await self._book.update_lane(lane, change, also=also)
            entry.unpaid_since = unpaid_since

    async def fold(self, lane: LaneEntry) -> None:
        """Commit the egress that only memory knows."""
        async with lane.turn:
            if lane.pending_bytes:
                await self._book.update_lane(lane)

    def _served_again(self, lane: LaneEntry) -> list[Statement]:
        return [
            ("UPDATE contract SET unpaid_since = NULL WHERE contract = ?", (entry.number,))
            for entry in self._contracts_of(lane)
            if entry.unpaid_since is not None
        ]

    def _contracts_of(self, lane: LaneEntry) -> list[ContractEntry]:
        return [entry for entry in self._book.contracts.values() if entry.lane is lane]

    # --- lanes ---

    async def check_funding(self, lane: LaneEntry, terms: Terms) -> None:
        """Look the lane up. Raises RequestFailed (NOT_FUNDED) unless it can pay for a contract of `terms`."""
        async with lane.turn:
            await self._look_up(lane)
        if not lane.open:
            raise RequestFailed(ErrorCode.NOT_FUNDED, "the lane is not open")
        if lane.deposit <= lane.account.paid and terms.price:
            raise RequestFailed(ErrorCode.NOT_FUNDED, "nothing of the deposit is left")
        if lane.expiry < terms.end:
            raise RequestFailed(ErrorCode.NOT_FUNDED, "the lane expires before the contract")

    async def _look_up(self, lane: LaneEntry) -> None:
        """Take over what the settlement says. The caller holds `lane.turn`."""
        try:
            seen = await trio.to_thread.run_sync(self._settlement.lane, lane.lane_id)
        except UnknownLane:
            return
        except SettlementError as error:
            self._failed(error)
            raise RequestFailed(ErrorCode.BUSY, "the settlement cannot be reached") from error
        self.trouble = ""
        if (seen.payer, seen.payee) != (lane.payer, self.payee):
            raise RequestFailed(ErrorCode.NOT_FUNDED, "the lane is for others")
        await self._take_over(lane, seen)

    async def _take_over(self, lane: LaneEntry, seen: Lane) -> None:
        """Note what the settlement, which works, says of the lane. The caller holds `lane.turn`."""
        self.trouble = ""
        await self._book.update_lane(
            lane,
            also=self._claimed(lane, seen.claimed),
            deposit=int(seen.deposit),
            claimed=int(seen.claimed),
            expiry=seen.expiry,
            open=seen.state is LaneState.OPEN,
        )

    async def claim(self, lane: LaneEntry) -> None:
        """Claim what the best voucher promises beyond what was claimed before."""
        async with lane.turn:
            if lane.unclaimed <= 0 or lane.voucher is None:
                return
            try:
                seen = await trio.to_thread.run_sync(self._settlement.claim, lane.voucher)
            except LaneClosed:
                log.warning("lane %s was closed with %d unclaimed", short(lane.lane_id), lane.unclaimed)
                await self._book.update_lane(lane, open=False)
                return
            except SettlementError as error:
                log.warning("claiming on lane %s failed: %s", short(lane.lane_id), error)
                self._failed(error)
                return
            await self._take_over(lane, seen)

    def _failed(self, error: SettlementError) -> None:
        if not self.trouble:
            self.trouble_since = self._book.now
        self.trouble = str(error)
        self._failures += 1
        if isinstance(error, SettlementUnreachable):
            self._left_alone_until = self._book.now + LEFT_ALONE

    def _claimed(self, lane: LaneEntry, claimed: int) -> list[Statement]:
        """History of a claim: of the lane's only contract, else of all together."""
        if claimed == lane.claimed:
            return []
        entries = self._contracts_of(lane)
        number = entries[0].number if len(entries) == 1 else ALL
        return self._book.history.rows(number, Sums(claimed=claimed - lane.claimed))

    async def claim_all(self, *, only_expiring: bool = False) -> None:
        """Claim on all lanes, or on those that soon expire."""
        failures = self._failures
        for lane in list(self._book.lanes.values()):
            if not only_expiring or lane.expiry - self._book.now < CLAIM_BEFORE:
                await self.claim(lane)
                if self._book.now < self._left_alone_until and self._failures > failures:
                    return  # the others would wait in vain, each as long
        if self.trouble and self._failures == failures and not only_expiring:
            await self.try_settlement()

    async def try_settlement(self) -> None:
        """Where there is nothing to claim, ask for what tells whether the settlement works; see `trouble`."""
        try:
            await trio.to_thread.run_sync(self._settlement.balance, self.payee)
        except SettlementError as error:
            if not self.trouble:
                log.warning("the ledger cannot be used: %s", error)
            self._failed(error)
        else:
            self.trouble = ""

    async def close_unused(self) -> None:
        """Close the lanes that no contract uses any more: the payer gets the rest of the deposit back."""
        if self._book.now < self._left_alone_until:
            return
        for lane in list(self._book.lanes.values()):
            if not lane.open or self._book.in_use(lane):
                continue
            async with lane.turn:
                if self._book.in_use(lane):
                    continue
                try:
                    seen = await trio.to_thread.run_sync(
                        self._settlement.close, lane.lane_id, self.payee, lane.voucher
                    )
                except SettlementError as error:
                    log.warning("closing lane %s failed: %s", short(lane.lane_id), error)
                    self._failed(error)
                    if isinstance(error, SettlementUnreachable):
                        return
                    continue
                await self._take_over(lane, seen)

    async def fold_all(self, *, least: int = 1) -> None:
        """Commit the egress of all lanes that have at least so many bytes pending."""
        for lane in list(self._book.lanes.values()):
            if lane.pending_bytes >= least:
                await self.fold(lane)
