"""A farmer whose ledger cannot be asked: it serves within what it knows, is not owed more, and catches up."""

from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager

import pytest
import trio

from storjfs.farmer.farmer import Farmer
from storjfs.protocol.failures import ErrorCode
from storjfs.protocol.ids import PublicKey
from storjfs.protocol.terms import CREDIT
from storjfs.settlement import Ledger, SettlementUnreachable
from tests.farmer.renter import MIB, Renter, refused, renting


@contextmanager
def away(farmer: Farmer) -> Iterator[None]:
    """Nothing that the farmer asks of its settlement is answered."""

    def fail(*_: object) -> None:
        raise SettlementUnreachable("the ledger cannot be asked")

    with pytest.MonkeyPatch.context() as broken:
        for name in ("lane", "claim", "close", "balance"):
            broken.setattr(farmer.settlement, name, fail)
        yield


async def test_vouchers_within_the_deposit_are_taken_and_claimed_later(
    farmer: Farmer, renter: Renter, ledger: Ledger
) -> None:
    await renter.agree()
    shard = await renter.put()
    with away(farmer):
        for _ in range(5):
            await renter.audit()
            await renter.pay()
            await farmer.payments.claim_all()
        assert await renter.get(shard) == shard.data
        assert farmer.payments.trouble
    assert ledger.balance(PublicKey(farmer.node_id)) == 0
    await farmer.payments.claim_all()
    assert ledger.balance(PublicKey(farmer.node_id)) == renter.tally.amount
    assert not farmer.payments.trouble


async def test_a_voucher_beyond_the_deposit_waits_and_no_more_than_two_audits_are_owed(
    farmer: Farmer, renter: Renter, ledger: Ledger
) -> None:
    await renter.agree(deposit=CREDIT // 2)
    shard = await renter.put()
    with away(farmer):
        ledger.issue(renter.payer.public, 1000 * CREDIT)
        ledger.top_up(renter.lane, 1000 * CREDIT)
        for _ in range(2):
            await renter.audit()
            with refused(ErrorCode.BUSY):
                await renter.pay()
        with refused(ErrorCode.PAYMENT_REQUIRED):
            await renter.get(shard)
    await renter.pay()
    assert await renter.get(shard) == shard.data
    await farmer.payments.claim_all()
    assert ledger.balance(PublicKey(farmer.node_id)) == renter.tally.amount


async def test_of_many_lanes_one_finds_out_that_the_ledger_is_away(
    farmer: Farmer, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with AsyncExitStack() as stack:
        renters = []
        for _ in range(3):
            one = await stack.enter_async_context(renting(ledger, farmer.node_id, farmer.listening[0]))
            await one.agree(capacity=MIB)
            await one.put(65536)
            await one.audit()
            await one.pay()
            renters.append(one)
        asked = []

        def fail(*words: object) -> None:
            asked.append(words)
            raise SettlementUnreachable("the ledger cannot be asked")

        with monkeypatch.context() as broken:
            for name in ("claim", "close", "balance"):
                broken.setattr(farmer.settlement, name, fail)
            await farmer.payments.claim_all()
            await farmer.payments.close_unused()
        assert len(asked) == 1
        await farmer.payments.claim_all()
        assert ledger.balance(PublicKey(farmer.node_id)) == sum(one.tally.amount for one in renters)


async def test_what_failed_is_known_to_work_again_though_there_is_nothing_to_claim(
    farmer: Farmer, renter: Renter
) -> None:
    await renter.propose(await renter.draft())
    renter.fund(CREDIT)
    with away(farmer):
        with refused(ErrorCode.BUSY):
            await renter.notify()
        assert farmer.payments.trouble
        await farmer.payments.claim_all()
        assert farmer.payments.trouble
    await farmer.payments.claim_all()
    assert not farmer.payments.trouble
    await renter.notify()


async def test_one_that_cannot_be_asked_is_told_of_from_the_start(farmer: Farmer) -> None:
    tried, once = trio.Event(), farmer.payments.try_settlement

    async def try_it() -> None:
        await once()
        tried.set()

    with away(farmer), pytest.MonkeyPatch.context() as watched:
        watched.setattr(farmer.payments, "try_settlement", try_it)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(farmer.work)
            with trio.fail_after(60):
                await tried.wait()
            nursery.cancel_scope.cancel()
    assert farmer.payments.trouble
