"""Renter and farmer over real connections: contracts, shards, audits and pay."""

import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import trio

from storjfs.coding.merkle import shard_root
from storjfs.farmer.disk import Disk
from storjfs.farmer.farmer import Farmer, FarmerRunning
from storjfs.farmer.settings import KEEP_FREE
from storjfs.protocol.contracts import State
from storjfs.protocol.failures import ErrorCode, RequestFailed
from storjfs.protocol.ids import ShardId
from storjfs.protocol.messages import End, ListShards
from storjfs.protocol.terms import CREDIT
from storjfs.settlement import LaneState, Ledger
from tests.farmer.renter import MIB, Renter, farming, renting, settings


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger(tmp_path / "ledger.db")
    yield ledger
    assert ledger.check() == []
    ledger.close_file()


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
async def farmer(tmp_path: Path, ledger: Ledger) -> AsyncIterator[Farmer]:
    async with farming(tmp_path) as farmer:
        yield farmer


@pytest.fixture
async def renter(farmer: Farmer, ledger: Ledger) -> AsyncIterator[Renter]:
    async with renting(ledger, farmer.node_id, farmer.listening[0]) as renter:
        yield renter


def refused(code: ErrorCode) -> Any:
    return pytest.raises(RequestFailed, check=lambda error: error.code == code)


# --- contracts ---


async def test_offer_is_signed_and_says_what_is_free(renter: Renter, farmer: Farmer) -> None:
    offer = await renter.ask_offer()
    assert offer.farmer == farmer.node_id
    assert offer.addresses == farmer.listening
    assert 0.98 * 64 * MIB < offer.capacity < 64 * MIB


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
    assert (await renter.ask_offer()).capacity == before
    renter.fund(CREDIT)
    await renter.notify()
    assert (await renter.ask_offer()).capacity == before - 16 * MIB


async def test_repeated_proposal_gets_the_same_contract(renter: Renter) -> None:
    terms = await renter.draft()
    first = await renter.propose(terms)
    second = await renter.propose(terms)
    assert first.contract == second.contract
    assert first.contract is not None


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


# --- shards ---


@pytest.mark.parametrize("size", [1, 4096, 4097, 65552, MIB, MIB + 1, 5 * MIB - 3])
async def test_what_was_put_comes_back(renter: Renter, size: int) -> None:
    await renter.agree()
    shard = await renter.put(size)
    assert await renter.get(shard) == shard.data
    middle = size // 2
    assert await renter.get(shard, middle, size - middle) == shard.data[middle:]
    answer = await renter.look()
    assert (answer.shards, answer.used) == (1, size)


async def test_same_shard_put_again_gets_the_same_receipt(renter: Renter) -> None:
    await renter.agree()
    first = await renter.put(2 * MIB + 5)
    again = await renter.put(first.data, first.shard_id)
    assert again.receipt == first.receipt
    assert (await renter.look()).used == len(first.data)
    with refused(ErrorCode.CONFLICT):
        await renter.put(b"x" * len(first.data), first.shard_id)
    with refused(ErrorCode.CONFLICT):
        await renter.put(b"short", first.shard_id)


async def test_range_behind_the_end_is_refused(renter: Renter) -> None:
    await renter.agree()
    shard = await renter.put(5000)
    with refused(ErrorCode.BAD_REQUEST):
        await renter.get(shard, 4096, 905)


async def test_what_is_held_is_listed_in_pages_to_its_renter_only(
    renter: Renter, farmer: Farmer, ledger: Ledger
) -> None:
    await renter.agree()
    shards = sorted([await renter.put(size) for size in (100, 4096, 70_000)], key=lambda one: one.shard_id)

    async def listed(start: bytes, limit: int = 2048) -> list[tuple[bytes, bytes, int]]:
        answer = await renter.peer.request(ListShards(renter.contract_id, ShardId(start), limit))
        return [(one.shard_id, one.root, one.length) for one in answer.shards]

    expected = [(one.shard_id, shard_root(one.data), len(one.data)) for one in shards]
    assert await listed(bytes(32)) == expected
    assert await listed(bytes(32), 2) == expected[:2]
    assert await listed(shards[1].shard_id, 1) == expected[1:2]
    await renter.delete(shards[0])
    assert await listed(bytes(32)) == expected[1:]
    async with renting(ledger, farmer.node_id, farmer.listening[0]) as stranger:
        with refused(ErrorCode.NOT_YOURS):
            await stranger.peer.request(ListShards(renter.contract_id, ShardId(bytes(32))))


async def test_deleted_shards_are_gone_and_deleting_is_idempotent(renter: Renter, farmer: Farmer) -> None:
    await renter.agree()
    kept, gone = await renter.put(), await renter.put()
    assert await renter.delete(gone) == 1
    assert await renter.delete(gone) == 0
    with refused(ErrorCode.UNKNOWN_SHARD):
        await renter.get(gone)
    assert await renter.get(kept) == kept.data
    assert not farmer.shelf.path(gone.shard_id).exists()
    assert (await renter.look()).shards == 1
    assert len(farmer.records.read("SELECT * FROM deletion")) == 1


# --- audits and pay ---


async def test_proof_passes_is_paid_and_claimed(renter: Renter, farmer: Farmer, ledger: Ledger) -> None:
    await renter.agree()
    for size in (MIB, 4096 * 3 + 1, 7):
        await renter.put(size)
    verdicts = await renter.audit()
    assert [verdict.passed for verdict in verdicts] == [True] * 3
    assert (await renter.look()).unpaid_audits == 1
    assert await renter.pay() == renter.voucher
    assert (await renter.look()).unpaid_audits == 0
    await farmer.payments.claim_all()
    assert ledger.balance(farmer.identity.signing.public) == renter.tally.amount > 0


async def test_two_unpaid_audits_end_the_service_until_they_are_paid(renter: Renter) -> None:
    await renter.agree()
    shard = await renter.put()
    for _ in range(2):
        await renter.audit()
    assert not (await renter.look()).serving
    for refused_now in (renter.put, lambda: renter.get(shard), renter.audit):
        with refused(ErrorCode.PAYMENT_REQUIRED):
            await refused_now()
    await renter.pay()
    assert (await renter.look()).serving
    assert await renter.get(shard) == shard.data
    assert (await renter.audit())[0].passed


async def test_voucher_that_comes_with_the_audit_pays_first(renter: Renter) -> None:
    await renter.agree()
    await renter.put()
    for _ in range(2):
        await renter.audit()
    challenge = renter.challenge()
    answer = await renter.ask(challenge, renter.sign())
    assert answer.voucher == renter.voucher
    assert renter.judge(challenge, answer)[0].passed


async def test_repeated_challenge_is_answered_but_billed_once(renter: Renter) -> None:
    await renter.agree()
    await renter.put()
    challenge = renter.challenge()
    first, second = await renter.ask(challenge), await renter.ask(challenge)
    assert first.reply == second.reply
    assert (await renter.look()).unpaid_audits == 1
    renter.epoch -= 1
    with refused(ErrorCode.CONFLICT):
        await renter.audit()


async def test_bit_flipped_on_the_disk_fails_its_audit_and_costs_nothing(
    renter: Renter, farmer: Farmer
) -> None:
    await renter.agree()
    bad, good = await renter.put(3 * 4096), await renter.put(4096)
    path = farmer.shelf.path(bad.shard_id)
    content = bytearray(path.read_bytes())
    content[5000] ^= 1
    path.write_bytes(content)
    assert [verdict.passed for verdict in await renter.audit(bad, good)] == [False, True]
    await renter.pay()
    assert (await renter.look()).unpaid_audits == 0


@pytest.mark.parametrize("cut", [0, 1, 100, 4096, 65536])
async def test_shortened_or_missing_file_is_noticed(renter: Renter, farmer: Farmer, cut: int) -> None:
    await renter.agree()
    shard = await renter.put(65536)
    path = farmer.shelf.path(shard.shard_id)
    if cut:
        path.write_bytes(path.read_bytes()[:-cut])
    else:
        path.unlink()
    with refused(ErrorCode.CORRUPT):
        await renter.get(shard, 0, 10)
    assert not (await renter.audit())[0].passed


async def test_shard_the_farmer_never_had_fails(renter: Renter) -> None:
    await renter.agree()
    shard = await renter.put()
    await renter.delete(shard)
    assert not (await renter.audit(shard))[0].passed
    assert (await renter.look()).unpaid_audits == 0


async def test_wrong_vouchers_change_nothing(renter: Renter) -> None:
    await renter.agree(deposit=1000)
    await renter.put()
    await renter.pay(500)
    forged = Renter(renter.ledger, renter.peer, renter.key, renter.key, renter.offer, renter.contract)
    with refused(ErrorCode.UNKNOWN_CONTRACT):
        await forged.pay(600)
    with refused(ErrorCode.NOT_FUNDED):
        await renter.pay(1001)
    assert (await renter.pay(400)) == (await renter.look()).voucher != renter.voucher
    renter.counter = 0
    with refused(ErrorCode.BAD_REQUEST):
        await renter.pay(700)


async def test_top_up_is_seen_when_a_voucher_needs_it(renter: Renter, ledger: Ledger) -> None:
    await renter.agree(deposit=1000)
    ledger.issue(renter.payer.public, 1000)
    ledger.top_up(renter.lane, 1000)
    assert await renter.pay(2000) == renter.voucher


async def test_egress_is_on_credit_up_to_64_mib(tmp_path: Path, ledger: Ledger) -> None:
    async with (
        farming(tmp_path, capacity=80 * MIB) as farmer,
        renting(ledger, farmer.node_id, farmer.listening[0]) as renter,
    ):
        await renter.agree()
        shard = await renter.put(8 * MIB)
        for _ in range(8):
            await renter.get(shard)
        with refused(ErrorCode.PAYMENT_REQUIRED):
            await renter.get(shard, 0, 1)
        renter.tally = renter.tally.with_egress(renter.terms, 64 * MIB)
        await renter.pay()
        await renter.get(shard)
        assert farmer.book.lanes[renter.lane].now.egress_owed == CREDIT * 8 // 1024


# --- time ---


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


async def test_signed_contract_that_is_never_funded_lapses(late: Any, ledger: Ledger) -> None:
    farmer = late.farmer
    async with renting(ledger, farmer.node_id, farmer.listening[0]) as renter:
        await renter.propose(await renter.draft())
        # The farmer's clock stands still from its start on, the renter's goes on until the draft.
        await late(60 + 3600 + 600)
        assert (await renter.look()).state is State.ENDED


# --- stops and starts ---


async def test_all_of_it_is_there_after_a_restart(tmp_path: Path, ledger: Ledger) -> None:
    seed = b"r" * 32
    async with (
        farming(tmp_path) as farmer,
        renting(ledger, farmer.node_id, farmer.listening[0], seed) as renter,
    ):
        await renter.agree()
        shard = await renter.put()
        await renter.audit()
        await renter.pay()
        await renter.audit()
        await renter.get(shard)
        before = await renter.look()
        owed = farmer.book.lanes[renter.lane].now
    # Stopping claimed what the voucher promised.
    assert ledger.balance(farmer.identity.signing.public) == before.voucher.peek(Any)[-1]  # type: ignore
    async with farming(tmp_path) as again, renting(ledger, again.node_id, again.listening[0], seed) as back:
        assert again.node_id == farmer.node_id
        back.contract, back.offer = renter.contract, renter.offer
        assert await back.look() == before
        assert again.book.lanes[renter.lane].now == owed
        assert await back.get(shard) == shard.data
        assert again.shelf.stored == farmer.shelf.stored


async def test_one_process_at_a_time_uses_a_farmers_folder(farmer: Farmer, tmp_path: Path) -> None:
    with pytest.raises(FarmerRunning):
        Farmer.open(farmer.folder, settings(tmp_path))


async def test_vouchers_are_exchanged_with_the_hello(renter: Renter, farmer: Farmer, ledger: Ledger) -> None:
    await renter.agree()
    await renter.put()
    await renter.audit()
    greetings: list[Any] = []
    renter.peer._vouchers = lambda: (renter.sign(),)
    renter.peer._greeted = greetings.append
    renter.peer.disconnect()
    assert (await renter.look()).unpaid_audits == 0
    assert greetings[0].vouchers == (renter.voucher,)


async def test_renters_keep_separate_accounts(renter: Renter, farmer: Farmer, ledger: Ledger) -> None:
    async with renting(ledger, farmer.node_id, farmer.listening[0]) as other:
        for one in (renter, other):
            await one.agree()
            await one.put()
        for _ in range(2):
            await other.audit()
        assert not (await other.look()).serving
        assert (await renter.look()).serving
