"""Orders gather while others are being committed: one transaction and one fsync for all that have."""

import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Final, NoReturn

import trio

from storjfs.errors import StorjfsError
from storjfs.protocol.failures import ErrorCode, ProtocolViolation, RequestFailed
from storjfs.protocol.ledger import LedgerOrder, Statement, open_order, order_digest, sign_statement
from storjfs.protocol.signing import Signed, SigningKey
from storjfs.settlement import SettlementError, SettlementFull
from storjfs.settlement.shared import SharedLedger

log = logging.getLogger(__name__)

MOST: Final = 512
"""Orders in one transaction."""


class _Waiting:
    __slots__ = ("answer", "done", "signed")

    def __init__(self, signed: Signed) -> None:
        self.signed = signed
        self.done = trio.Event()
        self.answer: Signed | StorjfsError = RequestFailed(ErrorCode.INTERNAL)


class Desk:
    """Where orders are handed in. `key` is that of the ledger's node. Works while `run` does."""

    def __init__(self, ledger: SharedLedger, key: SigningKey, clock: Callable[[], float] = time.time) -> None:
        self._ledger, self._key, self._clock = ledger, key, clock
        self._queue: deque[_Waiting] = deque()
        self._work = trio.Event()

    async def ask(self, signed: Signed) -> Signed:
        """The signed statement in answer to an order; what it says is durable.

        Raises RequestFailed and ProtocolViolation: then nothing happened. When cancelled, it may happen.
        """
        waiting = _Waiting(signed)
        self._queue.append(waiting)
        self._work.set()
        await waiting.done.wait()
        if isinstance(waiting.answer, StorjfsError):
            raise waiting.answer
        return waiting.answer

    async def run(self) -> NoReturn:
        """Work until cancelled; what was begun is finished then."""
        while True:
            await self._work.wait()
            self._work = trio.Event()
            while self._queue:
                batch = [self._queue.popleft() for _ in range(min(MOST, len(self._queue)))]
                try:
                    await trio.to_thread.run_sync(self._carry_out, batch)
                except Exception:  # a defect must not end the ledger
                    log.exception("carrying out %d orders failed", len(batch))
                finally:
                    for one in batch:
                        one.done.set()

    def _carry_out(self, batch: list[_Waiting]) -> None:
        """Put an answer into each of the batch."""
        good: list[tuple[_Waiting, LedgerOrder]] = []
        for one in batch:
            try:
                good.append((one, open_order(one.signed, self._ledger.node_id)))
            except ProtocolViolation as error:
                one.answer = error
        if not good:
            return
        try:
            outcomes, head = self._ledger.answer([(order, one.signed) for one, order in good])
        except SettlementError as error:
            full = isinstance(error, SettlementFull)
            for one, _ in good:
                one.answer = RequestFailed(ErrorCode.NO_SPACE if full else ErrorCode.BUSY, str(error))
            return
        now = int(self._clock())
        for (one, _), outcome in zip(good, outcomes, strict=True):
            statement = Statement(
                self._ledger.node_id,
                order_digest(one.signed),
                now,
                head.number,
                head.link,
                outcome.balance,
                outcome.refused,
                outcome.lanes,
                outcome.movements,
            )
            one.answer = sign_statement(self._key, statement)
