"""The desk: what has gathered goes into one transaction, and nobody hears of it before it is durable."""

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import trio
import trio.testing

from storjfs.ledger.desk import Desk
from storjfs.protocol.failures import BadSignature, ErrorCode, ProtocolViolation, RequestFailed
from storjfs.protocol.ids import NodeId
from storjfs.protocol.ledger import LedgerOrder, Transfer, open_statement, sign_order
from storjfs.protocol.signing import Signed, SigningKey
from storjfs.settlement import SettlementError, SettlementFull
from storjfs.settlement.shared import Head, Outcome, SharedLedger

NODE, OWN, OTHER = (SigningKey(letter * 32) for letter in (b"n", b"a", b"o"))


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[SharedLedger]:
    ledger = SharedLedger(tmp_path / "ledger.db", NODE.node_id)
    ledger.issue(OWN.public, 100)
    yield ledger
    ledger.close_file()


def payment(number: int, ledger: NodeId = NODE.node_id) -> Signed:
    return sign_order(OWN, LedgerOrder(ledger, OWN.public, b"%d" % number, Transfer(OTHER.public, 1)))


def test_what_gathers_while_another_is_committed_is_one_transaction(
    ledger: SharedLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    carry_out, begun, go_on = ledger.answer, threading.Event(), threading.Event()
    sizes: list[int] = []

    def answer(orders: Sequence[tuple[LedgerOrder, Signed]]) -> tuple[list[Outcome], Head]:
        sizes.append(len(orders))
        begun.set()
        go_on.wait(60)
        return carry_out(orders)

    monkeypatch.setattr(ledger, "answer", answer)

    async def main() -> None:
        desk = Desk(ledger, NODE)
        answers: dict[int, Signed] = {}

        async def ask(number: int) -> None:
            answers[number] = await desk.ask(payment(number))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(desk.run)
            async with trio.open_nursery() as asking:
                asking.start_soon(ask, 0)
                await trio.to_thread.run_sync(begun.wait)
                for number in range(1, 20):
                    asking.start_soon(ask, number)
                await trio.testing.wait_all_tasks_blocked()
                assert not answers
                go_on.set()
            nursery.cancel_scope.cancel()
        for number, signed in answers.items():
            statement = open_statement(signed, NODE.node_id, payment(number))
            assert statement.refused is None
            assert statement.number == (2 if number == 0 else 21)

    trio.run(main)
    assert sizes == [1, 19]
    assert ledger.balance(OTHER.public) == 20


def test_orders_that_are_not_good_spoil_nobody_elses(ledger: SharedLedger) -> None:
    forged = Signed(payment(1).body, payment(2).signature)

    async def main() -> None:
        desk = Desk(ledger, NODE)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(desk.run)
            with pytest.raises(BadSignature):
                await desk.ask(forged)
            with pytest.raises(ProtocolViolation, match="another ledger"):
                await desk.ask(payment(3, OTHER.node_id))
            with pytest.raises(ProtocolViolation, match="allowed are"):
                await desk.ask(Signed(bytes(2049), payment(3).signature))
            with pytest.raises(ProtocolViolation):
                await desk.ask(Signed(b"nonsense", payment(3).signature))
            open_statement(await desk.ask(payment(4)), NODE.node_id, payment(4))
            nursery.cancel_scope.cancel()

    trio.run(main)
    assert ledger.balance(OTHER.public) == 1


@pytest.mark.parametrize(
    ("error", "code"),
    [(SettlementFull("full"), ErrorCode.NO_SPACE), (SettlementError("locked"), ErrorCode.BUSY)],
)
def test_a_disk_that_fails_ends_nothing(
    ledger: SharedLedger, monkeypatch: pytest.MonkeyPatch, error: SettlementError, code: ErrorCode
) -> None:
    carry_out = ledger.answer
    failing = True

    def answer(orders: Sequence[tuple[LedgerOrder, Signed]]) -> tuple[list[Outcome], Head]:
        if failing:
            raise error
        return carry_out(orders)

    monkeypatch.setattr(ledger, "answer", answer)

    async def main() -> None:
        nonlocal failing
        desk = Desk(ledger, NODE)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(desk.run)
            with pytest.raises(RequestFailed) as caught:
                await desk.ask(payment(1))
            assert caught.value.code is code
            failing = False
            await desk.ask(payment(1))
            nursery.cancel_scope.cancel()

    trio.run(main)
    assert ledger.balance(OTHER.public) == 1
