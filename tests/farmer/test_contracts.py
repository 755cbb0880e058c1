"""What renter and farmer agree on over real connections, and how it ends."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import apsw
import pytest
import trio

from storjfs.farmer.book import Book
from storjfs.farmer.disk import Disk
from storjfs.farmer.farmer import Farmer
from storjfs.farmer.settings import KEEP_FREE
from storjfs.protocol.contracts import State
from storjfs.protocol.failures import ErrorCode, RequestFailed
from storjfs.protocol.messages import End
from storjfs.protocol.terms import CREDIT, Proposal
from storjfs.settlement import LaneState, Ledger
from tests.farmer.renter import MIB, Renter, farming, refused, renting


async def test_offer_is_signed_and_says_what_is_free(renter: Renter, farmer: Farmer) -> None:
    offer = await renter.ask_offer()
    assert offer.farmer == farmer.node_id
    assert offer.addresses == farmer.listening
    # What the farmer needs for itself is not sold.
    assert 0.9 * 64 * MIB < offer.capacity < 64 * MIB - farmer.own.now


async def test_what_is_offered_is_signed_for_though_the_disk_fills_meanwhile(
    tmp_path: Path, ledger: Ledger
) -> None:
    disk = Disk()
    free = KEEP_FREE + 32 * MIB
    disk.free = lambda path: free  # type: ignore[method-assign]
    async with (
        farming(tmp_path, disk=disk) as farmer,
        renting(ledger, farmer.node_id, farmer.listening[0]) as renter,
    ):
        terms = await renter.draft(capacity=(await renter.ask_offer()).capacity)
        assert terms.capacity > 28 * MIB
        free -= MIB
        assert (await renter.propose(terms)).contract is not None


async def test_contract_becomes_active_once_the_lane_is_funded(renter: Renter) -> None:
    answer = await renter.propose(await renter.draft())
    assert answer.contract is not None
    assert (await renter.look()).state is State.SIGNED
    with refused(ErrorCode.NOT_FUNDED):
        await renter.put(4096)
    with refused(ErrorCode.NOT_FUNDED):
        await renter.notify()
    renter.fund(10 * CREDIT)
    assert (await renter.notify()).state is State.ACTIVE


async def test_funding_reserves_capacity(renter: Renter) -> None:
    before = (await renter.ask_offer()).capacity
    await renter.propose(await renter.draft())
    signed = (await renter.ask_offer()).capacity
    assert before - MIB < signed <= before  # what is recorded of a contract takes room, too
    renter.fund(CREDIT)
    await renter.notify()
    assert signed - 17 * MIB < (await renter.ask_offer()).capacity <= signed - 16 * MIB


async def test_repeated_proposal_gets_the_same_contract(renter: Renter) -> None:
    terms = await renter.draft()
    first = await renter.propose(terms)
    second = await renter.propose(terms)
    assert first.contract == second.contract
    assert first.contract is not None


async def test_a_proposal_that_is_repeated_while_it_is_being_signed_gets_the_same_contract(
    renter: Renter, farmer: Farmer
) -> None:
    proposal = Proposal.make(renter.key, await renter.draft())
    answers = []

    async def propose() -> None:
        answers.append(await farmer.contracting.propose(renter.key.node_id, proposal))

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(propose)
    assert answers[0].contract is not None
    assert answers == answers[:1] * 3
    assert list(farmer.book.contracts) == [answers[0].contract.contract_id]


async def test_unacceptable_terms_are_countered_with_acceptable_ones(renter: Renter) -> None:
    answer = await renter.propose(await renter.draft(price=1, capacity=1 << 40, end_grace=1 << 25))
    assert answer.contract is None
    assert answer.counter is not None
    assert "price" in answer.reason
    assert (await renter.propose(answer.counter)).contract is not None


async def test_proposal_after_accept_by_has_lapsed(renter: Renter) -> None:
    with refused(ErrorCode.LAPSED):
        await renter.propose(await renter.draft(accept_by=1))


async def test_proposal_of_another_renter_is_not_ours(renter: Renter, farmer: Farmer, ledger: Ledger) -> None:
    await renter.agree()
    async with renting(ledger, farmer.node_id, farmer.listening[0]) as stranger:
        stranger.contract = renter.contract
        stranger.offer = renter.offer
        for ask in (stranger.look, stranger.put):
            with refused(ErrorCode.NOT_YOURS):
                await ask()
        stranger.key = renter.key
        with refused(ErrorCode.NOT_YOURS):
            await stranger.propose(await renter.draft())


async def test_lane_that_expires_early_is_not_accepted(renter: Renter) -> None:
    await renter.propose(await renter.draft())
    renter.fund(CREDIT, expiry=renter.terms.end - 1)
    with refused(ErrorCode.NOT_FUNDED):
        await renter.notify()


async def test_two_contracts_cannot_get_the_same_room(renter: Renter, farmer: Farmer, ledger: Ledger) -> None:
    async with renting(ledger, farmer.node_id, farmer.listening[0]) as other:
        for one in (renter, other):
            await one.propose(await one.draft(capacity=40 * MIB))
            one.fund(CREDIT)
        await renter.notify()
        with refused(ErrorCode.NO_SPACE):
            await other.notify()


async def test_revision_follows_its_predecessor(renter: Renter) -> None:
    await renter.agree()
    first, contract = renter.terms, renter.contract
    assert contract is not None
    successor: dict[str, Any] = {
        "contract_id": contract.contract_id,
        "revision": 1,
        "predecessor": contract.digest,
        "capacity": 32 * MIB,
    }
    answer = await renter.propose(await renter.draft(**successor))
    assert answer.contract is not None
    assert renter.contract_id == contract.contract_id
    seen = await renter.look()
    assert (seen.state, seen.contract) == (State.ACTIVE, answer.contract)
    with refused(ErrorCode.STALE):
        await renter.propose(await renter.draft(**{**successor, "capacity": first.capacity}))


async def test_capacity_of_the_contract_is_the_limit(renter: Renter) -> None:
    await renter.agree(capacity=2 * MIB)
    await renter.put(2 * MIB - 4096)
    with refused(ErrorCode.NO_SPACE):
        await renter.put(4097)
    await renter.put(4096)


async def test_shards_on_their_way_count_against_the_capacity(renter: Renter) -> None:
    await renter.agree(capacity=2 * MIB)
    done: list[str] = []

    async def put() -> None:
        try:
            await renter.put(MIB)
            done.append("stored")
        except RequestFailed as error:
            done.append(ErrorCode(error.code).name)

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(put)
    assert sorted(done) == ["NO_SPACE", "stored", "stored"]


async def test_after_notice_nothing_is_put_but_all_is_served(renter: Renter) -> None:
    await renter.agree()
    shard = await renter.put()
    answer = await renter.peer.request(End(renter.contract_id))
    assert answer.state is State.ENDING
    with refused(ErrorCode.CONTRACT_OVER):
        await renter.put()
    assert await renter.get(shard) == shard.data
    await renter.delete(shard)
    assert (await renter.peer.request(End(renter.contract_id))).state is State.ENDED


class Hands:
    """A clock that is turned by hand."""

    def __init__(self) -> None:
        self.time = time.time()

    def __call__(self) -> float:
        return self.time


@pytest.fixture
async def late(tmp_path: Path, ledger: Ledger) -> AsyncIterator[Callable[[float], Any]]:
    """`await late(seconds)`: so much time passes at the farmer, and it does what is due."""
    hands = Hands()
    async with farming(tmp_path, clock=hands) as farmer:

        async def pass_by(seconds: float) -> None:
            hands.time += seconds
            await farmer.contracting.review()

        pass_by.farmer = farmer  # type: ignore[attr-defined]
        yield pass_by


async def test_contract_ends_with_its_term_and_the_shards_go_after_the_grace(
    late: Any, ledger: Ledger
) -> None:
    farmer = late.farmer
    async with renting(ledger, farmer.node_id, farmer.listening[0]) as renter:
        await renter.agree()
        shard = await renter.put()
        await renter.audit()
        await renter.pay()
        await late(3601)
        assert (await renter.look()).state is State.ENDING
        assert await renter.get(shard) == shard.data
        await late(601)
        assert (await renter.look()).state is State.ENDED
        with refused(ErrorCode.CONTRACT_OVER):
            await renter.get(shard)
        assert not farmer.shelf.path(shard.shard_id).exists()
        assert farmer.shelf.stored == farmer.book.reserved == 0
        lane = ledger.lane(renter.lane)
        assert lane.state is LaneState.CLOSED
        assert ledger.balance(farmer.identity.signing.public) == renter.tally.amount
        assert ledger.balance(renter.payer.public) == 1000 * CREDIT - renter.tally.amount


async def test_data_outlives_missing_pay_for_the_grace_time_only(late: Any, ledger: Ledger) -> None:
    farmer = late.farmer
    async with renting(ledger, farmer.node_id, farmer.listening[0]) as renter:
        await renter.agree()
        shard = await renter.put()
        for _ in range(2):
            await renter.audit()
        await late(590)
        assert farmer.shelf.path(shard.shard_id).exists()
        await renter.pay()
        await late(590)
        assert await renter.get(shard) == shard.data
        for _ in range(2):
            await renter.audit()
        await late(601)
        assert (await renter.look()).state is State.ENDED
        assert not farmer.shelf.path(shard.shard_id).exists()
        assert ledger.lane(renter.lane).state is LaneState.CLOSED


# --- contracts that nobody funds ---


def kept(farmer: Farmer) -> list[int]:
    """Rows that contracts, whether over or not, have left in farmer.db."""
    tables = ("contract", "revision", "transition", "lane")
    return [farmer.records.read(f"SELECT count(*) FROM {table}")[0][0] for table in tables]


async def test_signed_contract_that_is_never_funded_lapses(late: Any, ledger: Ledger) -> None:
    farmer = late.farmer
    async with renting(ledger, farmer.node_id, farmer.listening[0]) as renter:
        await renter.propose(await renter.draft())
        assert kept(farmer) == [1, 1, 2, 1]
        # The farmer's clock stands still from its start on, the renter's goes on until the draft.
        await late(60 + 3600 + 600)
        with refused(ErrorCode.UNKNOWN_CONTRACT):
            await renter.look()
    assert kept(farmer) == [0, 0, 0, 0]
    assert not farmer.book.contracts
    assert not farmer.book.lanes


async def test_of_a_signed_contract_that_its_renter_leaves_nothing_is_kept(
    renter: Renter, farmer: Farmer
) -> None:
    """Else a stranger could fill the disk with them."""
    for _ in range(3):
        await renter.propose(await renter.draft())
        answer = await renter.peer.request(End(renter.contract_id))
        assert answer.state is State.ENDED
        assert kept(farmer) == [0, 0, 0, 0]
    await renter.agree()
    shard = await renter.put(1000)
    assert await renter.get(shard) == shard.data


async def test_a_lane_stays_that_another_contract_is_paid_through(renter: Renter, farmer: Farmer) -> None:
    await renter.agree(capacity=MIB)
    first = renter.contract
    await renter.propose(await renter.draft(capacity=2 * MIB))
    await renter.peer.request(End(renter.contract_id))
    assert [kept(farmer)[0], kept(farmer)[3]] == [1, 1]
    renter.contract = first
    assert (await renter.look()).state is State.ACTIVE
    await renter.put(1000)


async def test_strangers_have_the_farmer_keep_so_many_contracts(
    ledger: Ledger, farmer: Farmer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest gives way, but none that is paid for."""
    monkeypatch.setattr("storjfs.farmer.contracting.UNFUNDED_IN_ALL", 3)
    async with AsyncExitStack() as stack:
        first, *strangers = [
            await stack.enter_async_context(renting(ledger, farmer.node_id, farmer.listening[0]))
            for _ in range(6)
        ]
        await first.agree(capacity=MIB)
        for stranger in strangers:
            await stranger.propose(await stranger.draft(capacity=MIB))
        assert len(farmer.book.contracts) == kept(farmer)[0] == 4
        assert (await first.look()).state is State.ACTIVE
        assert (await strangers[-1].look()).state is State.SIGNED
        with refused(ErrorCode.UNKNOWN_CONTRACT):
            await strangers[0].look()
        assert Book(farmer.records, time.time).contracts.keys() == farmer.book.contracts.keys()


async def test_no_contract_waits_for_ever_to_be_funded(renter: Renter) -> None:
    with refused(ErrorCode.REFUSED):
        await renter.propose(await renter.draft(accept_by=1 << 40))


# --- proposals that come again, or meet a full disk ---


async def test_the_first_proposal_of_a_contract_that_was_revised_since_changes_nothing(
    renter: Renter, farmer: Farmer
) -> None:
    """It would else be signed anew, and the contract that runs be forgotten: its data kept for ever."""
    draft = await renter.draft()
    await renter.propose(draft)
    renter.fund(10 * CREDIT)
    await renter.notify()
    (entry,) = farmer.book.contracts.values()
    assert renter.contract is not None
    successor = {"contract_id": renter.contract_id, "revision": 1, "predecessor": renter.contract.digest}
    answer = await renter.propose(await renter.draft(**successor, capacity=8 * MIB))
    assert answer.contract is not None
    with refused(ErrorCode.STALE):
        await renter.propose(draft)
    assert list(farmer.book.contracts.values()) == [entry]
    assert entry.terms.revision == 1


async def test_a_proposal_that_met_a_full_disk_can_be_made_again(
    tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise apsw.FullError("database or disk is full")

    async with (
        farming(tmp_path) as farmer,
        renting(ledger, farmer.node_id, farmer.listening[0]) as renter,
    ):
        draft = await renter.draft()
        with monkeypatch.context() as broken:
            broken.setattr(farmer.records, "_write", full)
            with pytest.raises(RequestFailed):
                await renter.propose(draft)
        assert (await renter.propose(draft)).contract is not None
    async with farming(tmp_path) as again:
        assert [entry.state for entry in again.book.contracts.values()] == [State.SIGNED]


async def test_nobody_has_another_renter_pay(renter: Renter, farmer: Farmer, ledger: Ledger) -> None:
    """Who pays does not sign the terms; what a stranger stored would have the other's service end."""
    await renter.agree(capacity=MIB)
    async with renting(ledger, farmer.node_id, farmer.listening[0]) as stranger:
        stranger.payer = renter.payer
        with refused(ErrorCode.REFUSED):
            await stranger.propose(await stranger.draft(capacity=MIB))
    assert len(farmer.book.contracts) == 1
