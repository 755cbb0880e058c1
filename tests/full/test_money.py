"""pay.db, local.db and the ledger on a full disk: refused whole, and on when there is room again."""

from collections.abc import Callable

import pytest

from storjfs.protocol.ids import PublicKey
from storjfs.protocol.signing import SigningKey
from storjfs.renter.local_records import LocalRecords
from storjfs.renter.pay import Lane, PayBook
from storjfs.settlement import Ledger, SettlementError, SettlementFull
from storjfs.store import DiskFull
from tests.full.disk import SmallDisk
from tests.renter.values import FARMER, KEYS, contract, terms

TERMS = terms()
SHARD = 4 << 20


async def lane_of(book: PayBook) -> Lane:
    return await book.know_lane(TERMS.lane, FARMER.node_id, 10**12, TERMS.end, used_before=False)


async def test_no_voucher_is_signed_that_is_not_on_the_disk(disk: SmallDisk) -> None:
    path = disk.at / "pay.db"
    book = PayBook(path, None, KEYS.payment_identity)
    lane = await lane_of(book)
    disk.hog.fill()
    before = lane.voucher, lane.tally, lane.counter
    with pytest.raises(DiskFull) as caught:
        for given in range(3000):
            before = lane.voucher, lane.tally, lane.counter
            await book.settle(lane, TERMS, contract().contract_id, given.to_bytes(32, "big"), SHARD)
    assert (lane.voucher, lane.tally, lane.counter) == before
    assert "Free space" in caught.value.hint
    assert book.problem is caught.value
    disk.hog.remove()
    await book.settle(lane, TERMS, contract().contract_id, given.to_bytes(32, "big"), SHARD)
    assert book.problem is None
    newest, owed = lane.voucher, lane.tally
    book.close()
    again = PayBook(path, None, KEYS.payment_identity)
    assert again.lanes[TERMS.lane].voucher == newest
    assert again.lanes[TERMS.lane].tally == owed == _owed(given + 1)
    again.close()


def _owed(batches: int) -> object:
    tally = Lane(TERMS.lane, FARMER.node_id, 0, 0).tally
    for _ in range(batches):
        tally = tally.with_proofs(TERMS, SHARD)
    return tally


async def test_what_is_remembered_of_farmers_waits(disk: SmallDisk) -> None:
    records = LocalRecords(disk.at / "local.db", None)
    disk.hog.fill()
    first = await records.secret()
    with pytest.raises(DiskFull):
        for number in range(5000):
            await records.keep(f"{number}", bytes(3000))
    disk.hog.remove()
    assert await records.secret() == first
    await records.keep("more", b"yes")
    records.close()
    again = LocalRecords(disk.at / "local.db", None)
    assert again.kept("more") == b"yes"
    assert await again.secret() == first
    again.close()


def test_the_ledger_moves_all_of_an_amount_or_nothing(disk: SmallDisk) -> None:
    one, other = (PublicKey(SigningKey(seed * 32).public) for seed in (b"1", b"2"))
    ledger = Ledger(disk.at / "ledger.db")
    ledger.issue(one, 10**6)
    disk.hog.fill()
    moved = _transfers(lambda: ledger.transfer(one, other, 1))
    assert (ledger.balance(one), ledger.balance(other)) == (10**6 - moved, moved)
    assert ledger.check() == []
    disk.hog.remove()
    ledger.transfer(one, other, 1)
    assert ledger.check() == []
    ledger.close_file()
    again = Ledger(disk.at / "ledger.db")
    assert again.balance(other) == moved + 1
    again.close_file()


def _transfers(move: Callable[[], None]) -> int:
    """How many were made until one was refused."""
    for number in range(100_000):
        try:
            move()
        except SettlementError:
            return number
    raise AssertionError("the disk never became full")


def test_a_ledger_that_cannot_be_opened_says_why(disk: SmallDisk) -> None:
    Ledger(disk.at / "ledger.db").close_file()
    disk.hog.fill()
    with pytest.raises(SettlementFull, match="the disk is full"):
        Ledger(disk.at / "ledger.db")
    disk.hog.remove()
    Ledger(disk.at / "ledger.db").close_file()
