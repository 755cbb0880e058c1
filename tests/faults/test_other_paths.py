"""Power cuts on the write paths outside a mounted volume: its files, pay.db, a farmer with its ledger."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import trio

from storjfs.farmer.farmer import Farmer
from storjfs.farmer.shelf import Held
from storjfs.protocol.contracts import State as Life
from storjfs.protocol.ids import Digest, ShardId
from storjfs.protocol.signing import Signed, SigningKey
from storjfs.protocol.vouchers import Tally, Voucher, open_voucher
from storjfs.renter.pay import PayBook
from storjfs.settlement import Ledger
from storjfs.volume import create_volume, read_settings, unlock_volume
from tests.farmer.renter import settings
from tests.faults.cuts import cuts, volume_of
from tests.faults.other_paths import (
    BATCHES,
    ENTROPY,
    KEY,
    PRICES,
    SETTINGS,
    SHARD,
    TERMS,
    WORDS,
    paths_of,
    settings_with,
    source,
)
from tests.faults.recording import Entry, Kind, read_record, recorded
from tests.renter.values import FARMER, KEYS, contract

Check = Callable[[Path, list[Entry]], None]
"""Given what a cut left below a folder, and the marks until then."""


def check_all(name: str, quick: Path, check: Check) -> int:
    """Check every cut; how many there were."""
    root, record = quick / "recorded", quick / "record"
    (root / "volume").mkdir(parents=True)
    command = [sys.executable, "-m", "tests.faults.other_paths", name, str(root / "volume"), str(record)]
    subprocess.run(command, env=recorded(root, record), check=True)
    entries = [Entry(Kind.MKDIR, path="/volume"), Entry(Kind.SYNC_FOLDER), *read_record(record)]
    count = 0
    for cut in cuts(entries):
        marks = [entry for entry in entries[: cut.step + 1] if entry.kind is Kind.MARK]
        try:
            check(volume_of(cut, quick / "cut"), marks)
        except BaseException as error:
            error.add_note(
                f"step {cut.step}, {cut.arrival} arrived, after {[mark.path[:30] for mark in marks]}"
            )
            raise
        count += 1
    return count


def newest(marks: list[Entry], name: str) -> int:
    """The number in the last mark of this name, 0 without one."""
    found = [entry.path.removeprefix(name) for entry in marks if entry.path.startswith(name)]
    return int(found[-1]) if found else 0


def test_the_files_of_a_volume_are_the_old_or_the_new_ones(quick: Path) -> None:
    def check(folder: Path, marks: list[Entry]) -> None:
        paths = paths_of(folder)
        if not paths.exists:
            assert "made" not in [entry.path for entry in marks]
            create_volume(paths, ENTROPY, SETTINGS, None)
        known = [SETTINGS, *map(settings_with, PRICES)]
        assert (
            read_settings(paths) in known[newest(marks, "settings ") : newest(marks, "begun settings ") + 1]
        )
        accepted = WORDS[newest(marks, "passphrase ") : newest(marks, "begun passphrase ") + 1]
        assert any(opens(folder, words) for words in accepted)
        left = [path for path in paths.data_dir.iterdir() if path.name.startswith(".key")]
        assert len(left) <= 1

    assert check_all("files", quick, check) > 20


def opens(folder: Path, words: str | None) -> bool:
    try:
        unlock_volume(paths_of(folder), source(words))
    except Exception:
        return False
    return True


def test_no_voucher_that_was_sent_is_forgotten_or_undercut(quick: Path) -> None:
    payer = SigningKey(KEYS.payment_identity(FARMER.node_id)).public

    def check(folder: Path, marks: list[Entry]) -> None:
        sent = [Signed.from_bytes(entry.data) for entry in marks if entry.path.startswith("sent ")]
        with closing(PayBook(folder / "pay.db", KEY, KEYS.payment_identity)) as book:
            trio.run(go_on, book, sent)

    async def go_on(book: PayBook, sent: list[Signed]) -> None:
        lane = book.lanes.get(TERMS.lane)
        if lane is None:
            assert not sent
            lane = await book.know_lane(TERMS.lane, FARMER.node_id, 10**9, TERMS.end, used_before=False)
        highest = max((open_voucher(one, payer, TERMS.lane).counter for one in sent), default=0)
        assert lane.counter in (highest, highest + 1)
        # Every batch once more, those added up before the cut included: each counts once.
        for number in range(highest + 1, BATCHES + 1):
            nonce = number.to_bytes(32, "big")
            voucher = await book.settle(lane, TERMS, contract().contract_id, nonce, SHARD)
            assert voucher not in sent
        assert lane.voucher is not None
        newest = lane.voucher.peek(Voucher)
        assert (newest.amount, newest.counter) == (amount_of_all(), BATCHES)

    assert check_all("pay", quick, check) > 20


def amount_of_all() -> int:
    """What all batches together cost."""
    tally = Tally()
    for _ in range(BATCHES):
        tally = tally.with_proofs(TERMS, SHARD)
    return tally.amount


def test_a_farmer_holds_every_shard_that_it_signed_for_and_no_other(quick: Path) -> None:
    def check(folder: Path, marks: list[Entry]) -> None:
        kept = {entry.path[5:]: entry.data for entry in marks if entry.path.startswith("kept ")}
        dropping = {entry.path[9:] for entry in marks if entry.path.startswith("dropping ")}
        ledger = Ledger(folder / "ledger.db")
        with closing(Farmer.open(folder / "farmer", settings(folder), settlement=ledger)) as farmer:
            rows = {held.shard_id.hex(): held for held in indexed(farmer)}
            for shard_id, data in kept.items():
                if shard_id not in dropping:
                    assert farmer.shelf.read(rows[shard_id], 0, len(data)) == data
            for held in rows.values():
                assert farmer.shelf.prove(held, [0])
            assert set(files_on(farmer.shelf.folder)) == set(rows), "files and index differ"
            check_contract(farmer, marks)
        assert ledger.check() == []
        ledger.close_file()

    assert check_all("farmer", quick, check) > 20


def check_contract(farmer: Farmer, marks: list[Entry]) -> None:
    states = [Life(row[0]) for row in farmer.records.read("SELECT state FROM contract")]
    if any(entry.path == "agreed" for entry in marks):
        assert states == [Life.ACTIVE]
        paid = newest(marks, "paid ")
        (row,) = farmer.records.read("SELECT voucher FROM lane")
        assert not paid or Signed.from_bytes(row[0]).peek(Voucher).amount >= paid


def indexed(farmer: Farmer) -> list[Held]:
    rows = farmer.records.read("SELECT shard_id, root, length FROM shard")
    return [Held(ShardId(shard_id), Digest(root), length) for shard_id, root, length in rows]


def files_on(shelf: Path) -> Iterator[str]:
    for path in shelf.rglob("*"):
        if path.is_file():
            yield path.name
