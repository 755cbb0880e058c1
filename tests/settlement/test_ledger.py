"""The ledger: what each call does, what it refuses, and that its books always balance."""

import fcntl
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import pytest

from storjfs.protocol.ids import ContractId, LaneId, PublicKey, lane_id
from storjfs.protocol.signing import Signed, SigningKey
from storjfs.protocol.vouchers import Voucher, sign_voucher
from storjfs.settlement import (
    AmountError,
    ClaimRefused,
    InsufficientBalance,
    Lane,
    LaneClosed,
    LaneState,
    Ledger,
    NotAllowed,
    OrderConflict,
    Settlement,
    SettlementError,
    UnknownLane,
    books,
)

NOW = 1_000_000
PAYER = SigningKey(b"p" * 32)
FARMER = SigningKey(b"f" * 32)
OTHER = SigningKey(b"o" * 32)


class Clock:
    def __init__(self) -> None:
        self.time = NOW

    def __call__(self) -> int:
        return self.time


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ledger(tmp_path: Path, clock: Clock) -> Iterator[Ledger]:
    ledger = Ledger(tmp_path / "ledger.db", clock=clock)
    ledger.issue(PAYER.public, 1000)
    yield ledger
    assert ledger.check() == []
    ledger.close_file()


@pytest.fixture
def lane(ledger: Ledger) -> LaneId:
    return ledger.open_lane(PAYER.public, FARMER.public, 600, NOW + 100)


def voucher(lane: LaneId, amount: int, key: SigningKey = PAYER) -> Signed:
    return sign_voucher(key, Voucher(lane, ContractId(bytes(32)), 0, 1, amount))


def test_it_is_a_settlement(ledger: Ledger) -> None:
    settlement: Settlement = ledger
    assert settlement.currency.format(1_500_000_000) == "1.5 credits"


def test_money_moves_and_none_is_lost(ledger: Ledger) -> None:
    ledger.transfer(PAYER.public, OTHER.public, 300, memo="for the disk")
    assert (ledger.balance(PAYER.public), ledger.balance(OTHER.public)) == (700, 300)
    (movement,) = ledger.history(OTHER.public)
    assert (movement.amount, movement.kind, movement.memo) == (300, "transfer", "for the disk")


def test_unknown_account_holds_nothing(ledger: Ledger) -> None:
    assert ledger.balance(OTHER.public) == 0
    assert ledger.history(OTHER.public) == []


def test_more_than_there_is_cannot_be_moved(ledger: Ledger) -> None:
    with pytest.raises(InsufficientBalance):
        ledger.transfer(PAYER.public, OTHER.public, 1001)
    with pytest.raises(InsufficientBalance):
        ledger.open_lane(PAYER.public, FARMER.public, 1001, NOW + 1)
    assert ledger.balance(PAYER.public) == 1000
    assert ledger.lanes(PAYER.public) == []


@pytest.mark.parametrize("amount", [0, -1, 1 << 63])
def test_amounts_are_positive_and_bounded(ledger: Ledger, amount: int) -> None:
    with pytest.raises(AmountError):
        ledger.transfer(PAYER.public, OTHER.public, amount)


def test_history_pages_backwards(ledger: Ledger) -> None:
    for _ in range(5):
        ledger.transfer(PAYER.public, OTHER.public, 1)
    first = ledger.history(PAYER.public, limit=4)
    rest = ledger.history(PAYER.public, limit=4, before=first[-1].transfer)
    assert [movement.amount for movement in first + rest] == [-1] * 5 + [1000]


def test_only_the_operator_issues(ledger: Ledger) -> None:
    seed = ledger.path.with_name("ledger.db.operator")
    assert seed.stat().st_mode & 0o777 == 0o600
    seed.write_bytes(os.urandom(32))
    with pytest.raises(NotAllowed):
        ledger.issue(OTHER.public, 1)
    seed.unlink()
    with pytest.raises(NotAllowed):
        ledger.issue(OTHER.public, 1)


def test_orders_happen_once(ledger: Ledger) -> None:
    lanes = []
    for _ in range(2):
        ledger.issue(OTHER.public, 5, order=b"a")
        ledger.transfer(PAYER.public, OTHER.public, 7, order=b"b")
        lanes.append(ledger.open_lane(PAYER.public, FARMER.public, 100, NOW + 10, order=b"c"))
        ledger.top_up(lanes[0], 50, order=b"d")
    assert ledger.balance(OTHER.public) == 12
    assert lanes[0] == lanes[1]
    assert ledger.lane(lanes[0]).deposit == 150
    with pytest.raises(OrderConflict):
        ledger.transfer(PAYER.public, OTHER.public, 8, order=b"b")


def test_lane_reserves_its_deposit(ledger: Ledger, lane: LaneId) -> None:
    assert lane == lane_id(ledger.name, PAYER.public, FARMER.public)
    assert ledger.balance(PAYER.public) == 400
    seen = ledger.lane(lane)
    assert (seen.deposit, seen.claimed, seen.unclaimed, seen.state) == (600, 0, 600, LaneState.OPEN)
    assert ledger.lanes(FARMER.public) == ledger.lanes(PAYER.public) == [seen]


def test_lane_is_funded_from_another_account_and_returns_there(ledger: Ledger) -> None:
    key = SigningKey(b"k" * 32)
    lane = ledger.open_lane(key.public, FARMER.public, 10, NOW + 1, source=PAYER.public)
    ledger.close(lane, FARMER.public, voucher(lane, 3, key))
    assert (ledger.balance(PAYER.public), ledger.balance(key.public)) == (997, 0)


def test_claims_are_cumulative(ledger: Ledger, lane: LaneId) -> None:
    ledger.claim(voucher(lane, 100))
    ledger.claim(voucher(lane, 250))
    assert ledger.claim(voucher(lane, 250)).claimed == 250
    assert ledger.balance(FARMER.public) == 250
    with pytest.raises(ClaimRefused):
        ledger.claim(voucher(lane, 249))
    with pytest.raises(ClaimRefused):
        ledger.claim(voucher(lane, 601))
    with pytest.raises(ClaimRefused):
        ledger.claim(voucher(lane, 300, OTHER))
    with pytest.raises(UnknownLane):
        ledger.claim(voucher(LaneId(bytes(32)), 1))
    assert ledger.balance(FARMER.public) == 250


def test_top_up_and_extension(ledger: Ledger, lane: LaneId) -> None:
    assert ledger.top_up(lane, 300).deposit == 900
    ledger.claim(voucher(lane, 800))
    assert ledger.extend(lane, NOW + 500).expiry == NOW + 500
    assert ledger.extend(lane, NOW + 1).expiry == NOW + 500
    with pytest.raises(InsufficientBalance):
        ledger.top_up(lane, 101)


def test_opening_an_open_lane_adds_to_it(ledger: Ledger, lane: LaneId) -> None:
    assert ledger.open_lane(PAYER.public, FARMER.public, 100, NOW + 50) == lane
    seen = ledger.lane(lane)
    assert (seen.deposit, seen.expiry) == (700, NOW + 100)
    with pytest.raises(SettlementError):
        ledger.open_lane(PAYER.public, FARMER.public, 1, NOW, source=OTHER.public)


def test_payee_closes_and_the_rest_returns(ledger: Ledger, lane: LaneId) -> None:
    with pytest.raises(NotAllowed):
        ledger.close(lane, PAYER.public)
    closed = ledger.close(lane, FARMER.public, voucher(lane, 200))
    assert (closed.state, closed.claimed, closed.deposit) == (LaneState.CLOSED, 200, 200)
    assert (ledger.balance(PAYER.public), ledger.balance(FARMER.public)) == (800, 200)
    assert ledger.close(lane, FARMER.public) == closed
    refused: list[Callable[[], Lane]] = [
        lambda: ledger.claim(voucher(lane, 300)),
        lambda: ledger.top_up(lane, 1),
        lambda: ledger.extend(lane, NOW + 1000),
    ]
    for order in refused:
        with pytest.raises(LaneClosed):
            order()


def test_close_with_a_voucher_of_another_lane_changes_nothing(ledger: Ledger, lane: LaneId) -> None:
    other = ledger.open_lane(PAYER.public, OTHER.public, 100, NOW + 1)
    with pytest.raises(ClaimRefused):
        ledger.close(lane, FARMER.public, voucher(other, 50))
    assert ledger.lane(other).claimed == 0
    assert ledger.lane(lane).state is LaneState.OPEN


def test_refund_only_after_the_expiry(ledger: Ledger, lane: LaneId, clock: Clock) -> None:
    ledger.claim(voucher(lane, 100))
    clock.time = NOW + 100
    with pytest.raises(NotAllowed):
        ledger.refund(lane)
    clock.time += 1
    refunded = ledger.refund(lane)
    assert refunded.state is LaneState.REFUNDED
    assert ledger.balance(PAYER.public) == 900
    assert ledger.refund(lane) == refunded


def test_totals_go_on_where_a_lane_opens_again(ledger: Ledger, lane: LaneId) -> None:
    ledger.close(lane, FARMER.public, voucher(lane, 200))
    assert ledger.open_lane(PAYER.public, FARMER.public, 50, NOW + 7) == lane
    seen = ledger.lane(lane)
    assert (seen.deposit, seen.claimed, seen.expiry, seen.state) == (250, 200, NOW + 7, LaneState.OPEN)
    with pytest.raises(ClaimRefused):
        ledger.claim(voucher(lane, 150))
    assert ledger.claim(voucher(lane, 250)).unclaimed == 0


def test_everything_is_there_when_opened_again(ledger: Ledger, lane: LaneId) -> None:
    ledger.claim(voucher(lane, 10))
    again = Ledger(ledger.path)
    assert (again.name, again.operator) == (ledger.name, ledger.operator)
    assert again.lane(lane) == ledger.lane(lane)
    again.close_file()


def test_another_database_is_not_taken_for_a_ledger(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    other = apsw.Connection(str(path))
    other.execute("CREATE TABLE t(x)").fetchall()
    other.close()
    with pytest.raises(SettlementError):
        Ledger(path)
    path.write_bytes(b"not a database at all" * 1000)
    with pytest.raises(SettlementError):
        Ledger(path)


def test_ledger_of_a_newer_format_is_refused(ledger: Ledger) -> None:
    other = apsw.Connection(str(ledger.path))
    other.execute("PRAGMA user_version = 99").fetchall()
    with pytest.raises(SettlementError, match="format 99"):
        Ledger(ledger.path)
    other.execute("PRAGMA user_version = 1").fetchall()
    other.close()


def test_check_finds_books_that_do_not_balance(ledger: Ledger, lane: LaneId) -> None:
    other = apsw.Connection(str(ledger.path))
    other.execute("UPDATE account SET balance = balance + 1 WHERE kind = 'person'").fetchall()
    assert any("balance" in text for text in ledger.check())
    other.execute("UPDATE account SET balance = balance - 1 WHERE kind = 'person'").fetchall()
    other.close()


def test_threads_share_one_object(ledger: Ledger, lane: LaneId) -> None:
    def top_up() -> None:
        for _ in range(10):
            ledger.top_up(lane, 1)

    threads = [threading.Thread(target=top_up) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ledger.lane(lane).deposit == 640


_PROCESS = """
import sys
from pathlib import Path
from storjfs.protocol.ids import PublicKey
from storjfs.settlement import Ledger

ledger = Ledger(Path(sys.argv[1]))
me = PublicKey(bytes.fromhex(sys.argv[2]))
print("ready", flush=True)
sys.stdin.readline()
for number in range(20):
    ledger.issue(me, 10)
    ledger.transfer(me, PublicKey(b"t" * 32), 1)
"""


def test_several_processes_make_and_use_one_ledger(tmp_path: Path) -> None:
    path = tmp_path / "new" / "ledger.db"
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", _PROCESS, str(path), bytes([number] * 32).hex()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(1, 4)
    ]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdin is not None
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        worker.communicate("go\n", timeout=60)
        assert worker.returncode == 0
    ledger = Ledger(path)
    assert ledger.check() == []
    assert ledger.balance(PublicKey(b"t" * 32)) == 60
    assert [ledger.balance(PublicKey(bytes([n] * 32))) for n in range(1, 4)] == [180] * 3
    ledger.close_file()


def test_nobody_writes_while_another_reads(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the log would be copied in several passes, which a failed sync of the last does not forgive."""
    monkeypatch.setattr("storjfs.settlement.books.PATIENCE", 0.0)
    other = Ledger(tmp_path / "ledger.db")
    with other._reading():
        assert ledger.balance(PAYER.public) == 1000
        with pytest.raises(SettlementError, match="nothing was changed"):
            ledger.transfer(PAYER.public, FARMER.public, 1)
    with other._writing(), pytest.raises(SettlementError, match="to itself"):
        ledger.balance(PAYER.public)
    ledger.transfer(PAYER.public, FARMER.public, 1)
    other.close_file()


def test_opening_it_again_leaves_the_locks_of_those_who_use_it(ledger: Ledger, tmp_path: Path) -> None:
    """Another process that closes the file could think itself the last one, and remove the log."""
    path = tmp_path / "ledger.db"
    again = Ledger(path)
    shared = "510, 0x40000002"  # the bytes that SQLite locks while a file is in use
    code = f"import fcntl; fcntl.lockf(open({str(path)!r}, 'r+b'), fcntl.LOCK_EX | fcntl.LOCK_NB, {shared})"
    tried = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "BlockingIOError" in tried.stderr
    again.close_file()


def test_readers_that_come_after_a_writer_let_it_in_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else readers that come and go could keep it waiting for ever."""
    turns = [books._Turn(tmp_path / "turn") for _ in range(3)]
    first, writer, second = turns
    wrote = threading.Event()

    def write() -> None:
        with writer.taken(fcntl.LOCK_EX):
            wrote.set()

    thread = threading.Thread(target=write)
    with first.taken(fcntl.LOCK_SH):
        thread.start()
        while _can_be_locked(tmp_path / "turn.door"):
            time.sleep(0.001)
        with monkeypatch.context() as impatient:
            impatient.setattr(books, "PATIENCE", 0.05)
            with pytest.raises(SettlementError, match="nothing was changed"), second.taken(fcntl.LOCK_SH):
                pass
        assert not wrote.is_set()
    thread.join()
    assert wrote.is_set()
    with second.taken(fcntl.LOCK_SH), first.taken(fcntl.LOCK_SH):
        pass
    for turn in turns:
        turn.close()


def _can_be_locked(path: Path) -> bool:
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
