"""Renter and farmer over real connections: shards, audits and pay."""

import os
from pathlib import Path
from typing import Any

import pytest
import trio

from storjfs.coding.merkle import shard_root
from storjfs.farmer.farmer import Farmer, FarmerRunning
from storjfs.protocol.failures import ErrorCode, RequestFailed
from storjfs.protocol.ids import ShardId
from storjfs.protocol.messages import Delete, DialBack, ListShards, Put
from storjfs.protocol.receipts import DeleteOrder, sign_delete
from storjfs.protocol.terms import CREDIT
from storjfs.settlement import Ledger
from tests.farmer.renter import MIB, Renter, farming, refused, renting, settings

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


class Arriving:
    """A shard that comes when it is told to; a ShardSource."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.begun, self.go_on = trio.Event(), trio.Event()

    async def receive_exactly(self, view: memoryview) -> None:
        self.begun.set()
        await self.go_on.wait()
        view[:] = bytes(len(view))


@pytest.mark.parametrize("by_itself", [True, False])
async def test_a_shard_on_its_way_in_is_given_up_by_an_order_of_its_own_renter_only(
    renter: Renter, farmer: Farmer, ledger: Ledger, by_itself: bool
) -> None:
    await renter.agree(capacity=MIB)
    shard_id, source = ShardId(os.urandom(32)), Arriving(5000)
    put = Put(renter.contract_id, shard_id, source.length)
    outcomes: list[str] = []

    async def arrive() -> None:
        try:
            await farmer.keeper.put(renter.key.node_id, put, source)  # type: ignore[arg-type]
            outcomes.append("stored")
        except RequestFailed as error:
            outcomes.append(ErrorCode(error.code).name)

    async with (
        renting(ledger, farmer.node_id, farmer.listening[0]) as other,
        trio.open_nursery() as nursery,
    ):
        await other.agree(capacity=MIB)
        nursery.start_soon(arrive)
        await source.begun.wait()
        who = renter if by_itself else other
        order = sign_delete(who.key, DeleteOrder(who.contract_id, (shard_id,)))
        assert (await who.peer.request(Delete(order))).deleted == 0
        source.go_on.set()
    assert outcomes == ["CONTRACT_OVER" if by_itself else "stored"]


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


async def test_nobody_learns_what_listens_on_the_farmers_own_machine(renter: Renter) -> None:
    """Whoever comes through a proxy there has its address."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        with refused(ErrorCode.BAD_REQUEST):
            await renter.peer.request(DialBack(listener.socket.getsockname()[1]))
        with pytest.raises(BlockingIOError):
            listener.socket._sock.accept()  # type: ignore[attr-defined]
