"""A ledger in a process of its own, as a `Settlement`: killed, frozen, set back, somebody else's."""

import contextlib
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from storjfs.ledger import ServedLedger, client, line, open_settlement
from storjfs.ledger.serve import LedgerRunning, NoLedger, open_books, serving
from storjfs.network.streams import LIMITS
from storjfs.protocol.ids import ContractId, LaneId, NodeId, lane_id
from storjfs.protocol.signing import Signed, SigningKey
from storjfs.protocol.vouchers import Voucher, sign_voucher
from storjfs.settlement import (
    AmountError,
    ClaimRefused,
    InsufficientBalance,
    LaneClosed,
    LaneState,
    Ledger,
    NotAllowed,
    OrderConflict,
    ServedAt,
    Settlement,
    SettlementError,
    SettlementUnreachable,
    UnknownLane,
)

from .process import PATIENCE, Served

SOURCE, PAYER, FARMER, OTHER = (SigningKey(letter * 32) for letter in (b"s", b"p", b"f", b"o"))
FAR = 1 << 40


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where an answer comes, it comes; however busy the machine is."""
    monkeypatch.setattr(line, "DIAL_SECONDS", PATIENCE)
    monkeypatch.setattr(line, "ANSWER_SECONDS", PATIENCE)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    served = Served(tmp_path / "ledger")
    served.issue(SOURCE.public, 1000)
    yield served
    served.kill()


@pytest.fixture
def opened(served: Served) -> Iterator[list[ServedLedger]]:
    """For tests that need several; closed in the end."""
    made: list[ServedLedger] = []
    yield made
    for one in made:
        one.close_file()


def client_of(
    served: Served, key: SigningKey, opened: list[ServedLedger], at: ServedAt | None = None
) -> ServedLedger:
    made = ServedLedger(at or served.at, key)
    opened.append(made)
    return made


def voucher(lane: LaneId, amount: int, key: SigningKey = PAYER) -> Signed:
    return sign_voucher(key, Voucher(lane, ContractId(bytes(32)), 0, amount, amount))


def test_the_life_of_a_lane(served: Served, opened: list[ServedLedger]) -> None:
    renter, farmer = client_of(served, SOURCE, opened), client_of(served, FARMER, opened)
    name = renter.open_lane(PAYER.public, FARMER.public, 100, FAR, source=SOURCE.public, order=b"open")
    assert name == lane_id(renter.name, PAYER.public, FARMER.public)
    assert renter.name == farmer.name == f"ledger:{served.at.node_id.hex()}"
    assert renter.lane(name).source == SOURCE.public
    assert renter.top_up(name, 50, order=b"more").deposit == 150
    assert renter.top_up(name, 50, order=b"more").deposit == 150
    assert renter.extend(name, FAR + 1).expiry == FAR + 1
    assert farmer.lane(name).payer == PAYER.public
    assert farmer.claim(voucher(name, 60)).claimed == 60
    assert farmer.balance(FARMER.public) == 60
    assert farmer.close(name, FARMER.public, voucher(name, 70)).state is LaneState.CLOSED
    assert renter.balance(SOURCE.public) == 930
    assert [one.lane_id for one in farmer.lanes(FARMER.public)] == [name]
    assert [one.amount for one in renter.history(SOURCE.public)] == [80, -50, -100, 1000]
    assert [one.amount for one in renter.history(SOURCE.public, limit=2)] == [80, -50]
    renter.transfer(SOURCE.public, OTHER.public, 5, memo="thanks", order=b"gift")
    assert client_of(served, OTHER, opened).history(OTHER.public)[0].memo == "thanks"
    assert served.audited() == ""
    assert served.stop() == 0
    assert served.errors() == ""


def test_what_it_refuses(served: Served, opened: list[ServedLedger]) -> None:
    renter, farmer = client_of(served, SOURCE, opened), client_of(served, FARMER, opened)
    with pytest.raises(UnknownLane):
        farmer.lane(LaneId(bytes(32)))
    with pytest.raises(InsufficientBalance):
        farmer.transfer(FARMER.public, OTHER.public, 1)
    with pytest.raises(NotAllowed):
        farmer.balance(SOURCE.public)
    with pytest.raises(NotAllowed):
        farmer.transfer(SOURCE.public, FARMER.public, 1)
    with pytest.raises(AmountError):
        renter.transfer(SOURCE.public, OTHER.public, 0)
    name = renter.open_lane(PAYER.public, FARMER.public, 10, FAR, source=SOURCE.public, order=b"id")
    with pytest.raises(OrderConflict):
        renter.top_up(name, 10, order=b"id")
    with pytest.raises(ClaimRefused):
        farmer.claim(voucher(name, 11))
    with pytest.raises(ClaimRefused):
        farmer.claim(voucher(name, 5, FARMER))
    with pytest.raises(NotAllowed):
        renter.refund(name)
    with pytest.raises(NotAllowed):
        farmer.top_up(name, 1)
    farmer.close(name, FARMER.public)
    with pytest.raises(LaneClosed):
        farmer.claim(voucher(name, 5))
    assert served.audited() == ""


def test_both_kinds_are_settlements(served: Served, tmp_path: Path) -> None:
    kinds: list[Settlement] = [open_settlement(served.at, SOURCE), open_settlement(tmp_path / "own", SOURCE)]
    assert isinstance(kinds[0], ServedLedger)
    assert isinstance(kinds[1], Ledger)
    for one in kinds:
        one.close_file()


def until_done(ledger: ServedLedger, number: int) -> None:
    """One payment, asked for until it is known to have happened."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            ledger.transfer(SOURCE.public, OTHER.public, 1, order=b"payment %d" % number)
        except SettlementUnreachable:
            assert time.monotonic() < deadline
            time.sleep(0.01)  # the pause of the client is not over, or it is being started
        else:
            return


def test_killed_again_and_again_each_payment_is_made_once(
    served: Served, opened: list[ServedLedger], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "PAUSE", 0.0)
    clients = [client_of(served, SOURCE, opened) for _ in range(3)]
    made = [threading.Semaphore(0) for _ in clients]

    def pay(which: int) -> None:
        for number in range(40):
            # The first two pay the same: whose comes first makes the other a repetition.
            until_done(clients[which], number if which < 2 else 1000 + number)
            made[which].release()

    threads = [threading.Thread(target=pay, args=(which,)) for which in range(len(clients))]
    for one in threads:
        one.start()
    for _ in range(4):
        for _ in range(5):
            assert made[2].acquire(timeout=PATIENCE)
        served.kill()
        served.start()
    for one in threads:
        one.join(PATIENCE)
        assert not one.is_alive()
    assert client_of(served, OTHER, opened).balance(OTHER.public) == 80
    assert served.audited() == ""


_PAYER = """
import sys, time
from storjfs.ledger import ServedLedger, client, line
from storjfs.protocol.signing import SigningKey
from storjfs.settlement import parse_place
client.PAUSE, line.ANSWER_SECONDS = 0.0, 120.0
key, other = SigningKey(b"s" * 32), SigningKey(b"o" * 32).public
ledger = ServedLedger(parse_place(sys.argv[1]), key)
for number in range(60):
    ledger.transfer(key.public, other, 1, order=b"payment %d" % number)
    print(number, flush=True)
ledger.close_file()
"""


def test_a_client_that_is_killed_and_begins_anew_pays_nothing_twice(
    served: Served, opened: list[ServedLedger]
) -> None:
    for until in (3, 20, 41, None):
        with subprocess.Popen(
            [sys.executable, "-c", _PAYER, str(served.at)], stdout=subprocess.PIPE, text=True
        ) as payer:
            assert payer.stdout is not None
            for row in payer.stdout:
                if int(row) == until:
                    payer.kill()
                    break
            payer.stdout.read()
        assert payer.returncode == (0 if until is None else -signal.SIGKILL)
    assert client_of(served, OTHER, opened).balance(OTHER.public) == 60
    assert served.audited() == ""


def test_one_that_does_not_run_is_said_to_be_unreachable_and_then_at_once(
    served: Served, opened: list[ServedLedger]
) -> None:
    ledger = client_of(served, SOURCE, opened)
    served.stop()
    with pytest.raises(SettlementUnreachable, match="cannot be asked"):
        ledger.balance(SOURCE.public)
    ledger._pause_until = float("inf")
    served.start()
    with pytest.raises(SettlementUnreachable):
        ledger.balance(SOURCE.public)
    ledger._pause_until = 0.0
    assert ledger.balance(SOURCE.public) == 1000


def test_a_frozen_one_keeps_nobody_waiting_for_ever(
    served: Served, opened: list[ServedLedger], monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = client_of(served, SOURCE, opened)
    assert ledger.balance(SOURCE.public) == 1000
    monkeypatch.setattr(line, "ANSWER_SECONDS", 0.5)
    served.send(signal.SIGSTOP)
    with pytest.raises(SettlementUnreachable):
        ledger.balance(SOURCE.public)
    served.send(signal.SIGCONT)
    monkeypatch.setattr(line, "ANSWER_SECONDS", PATIENCE)
    ledger._pause_until = 0.0
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            assert ledger.balance(SOURCE.public) == 1000
            return
        except SettlementUnreachable:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_another_key_at_the_address_gets_nothing(served: Served, opened: list[ServedLedger]) -> None:
    wrong = ServedAt(NodeId(b"x" * 32), served.at.address)
    with pytest.raises(SettlementUnreachable, match="answers at"):
        client_of(served, SOURCE, opened, wrong).balance(SOURCE.public)


def test_one_that_was_set_back_is_noticed(served: Served, opened: list[ServedLedger]) -> None:
    ledger = client_of(served, SOURCE, opened)
    served.stop()
    shutil.copytree(served.folder, served.folder.with_name("copy"))
    served.start()
    until_done(ledger, 1)
    served.stop()
    shutil.rmtree(served.folder)
    served.folder.with_name("copy").rename(served.folder)
    served.start()
    ledger._pause_until = 0.0
    deadline = time.monotonic() + PATIENCE
    with pytest.raises(SettlementError, match="has been set back"):
        while time.monotonic() < deadline:
            try:
                ledger.balance(SOURCE.public)
            except SettlementUnreachable:
                time.sleep(0.05)


def test_a_folder_is_served_once_and_must_be_there(served: Served, tmp_path: Path) -> None:
    with pytest.raises(LedgerRunning), serving(served.folder):
        pass
    with pytest.raises(NoLedger):
        open_books(tmp_path / "nothing")


def test_the_operators_commands(served: Served) -> None:
    done = served.command("issue", FARMER.public.hex(), "2.5", "--memo", "welcome")
    assert done.returncode == 0, done.stderr
    assert "holds 2.5 credits" in done.stdout
    assert {"account": FARMER.public.hex(), "balance": 2_500_000_000} in served.shown()["accounts"]
    assert FARMER.public.hex() in served.command("show").stdout
    assert served.command("audit").stdout.startswith("All is right: 2 transfers")
    wrong = served.command("issue", "ff", "1")
    assert wrong.returncode == 2
    assert "is not an account" in wrong.stderr
    assert served.command("issue", FARMER.public.hex(), "-1").returncode != 0


def test_silent_connections_from_a_few_addresses_shut_nobody_out(
    served: Served, opened: list[ServedLedger]
) -> None:
    address = served.at.address
    with contextlib.ExitStack() as silent:
        for number in range(LIMITS.handshakes):
            here = (f"127.0.1.{number % 8 + 1}", 0)
            silent.enter_context(socket.create_connection((address.host, address.port), PATIENCE, here))
        assert client_of(served, SOURCE, opened).balance(SOURCE.public) == 1000
