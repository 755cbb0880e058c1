"""How far a ledger has said that it is: one that forgets what it signed is not believed any further.

The newest statement is kept in a file, as it was signed, so that it can be shown to others.
"""

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from storjfs.protocol.failures import ProtocolViolation
from storjfs.protocol.ids import NodeId
from storjfs.protocol.ledger import Statement
from storjfs.protocol.signing import Kind, Signed
from storjfs.settlement import SettlementError
from storjfs.store.durable import write_atomically

log = logging.getLogger(__name__)

FILE: Final = "ledger-statement"
KEEP_EVERY: Final = 60.0
"""Seconds between two writes of the file."""


class Contradiction(SettlementError):
    """The ledger has signed two statements that cannot both be true."""


class Memory:
    """What the ledger `node_id` has said, kept in `file` if there is one. For any thread."""

    def __init__(
        self, node_id: NodeId, file: Path | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._node_id = node_id
        self._file = file
        self._clock = clock
        self._turn = threading.Lock()
        self._newest: tuple[int, bytes] | None = None
        self._signed: Signed | None = None
        self._kept = float("-inf")
        self._changed = False
        if file is not None and file.exists():
            self._read(file)

    @property
    def newest(self) -> tuple[int, bytes] | None:
        """Number and head; to be asked before a question, for answers may overtake each other."""
        return self._newest

    def take(self, before: tuple[int, bytes] | None, statement: Statement, signed: Signed) -> None:
        """Take in a statement that was asked for when `before` was the newest. Raises Contradiction."""
        now = statement.number, bytes(statement.head)
        if before is not None and (now[0] < before[0] or (now[0] == before[0] and now[1] != before[1])):
            raise self._contradiction(before[0], now[0], signed)
        with self._turn:
            if self._newest is None or now[0] > self._newest[0]:
                self._newest, self._signed, self._changed = now, signed, True
                if self._clock() - self._kept >= KEEP_EVERY:
                    self._write()

    def keep(self) -> None:
        """Write what is newer than the file."""
        with self._turn:
            self._write()

    def _contradiction(self, before: int, now: int, signed: Signed) -> Contradiction:
        hint = "Ask its operator what happened."
        if self._file is not None:
            self.keep()
            other = self._file.with_name(f"{self._file.name}-other")
            _write(other, signed)
            hint += (
                f" It has signed both: {self._file} and {other}. Remove them to go on from the next start."
            )
        return Contradiction(
            f"the ledger has been set back: it was at transfer {before} before, now it is at {now}, or "
            "it tells another story",
            hint=hint,
        )

    def _write(self) -> None:
        if self._file is None or self._signed is None or not self._changed:
            return
        _write(self._file, self._signed)
        self._kept, self._changed = self._clock(), False

    def _read(self, file: Path) -> None:
        try:
            signed = Signed.from_bytes(file.read_bytes())
            statement = signed.open(self._node_id, Kind.LEDGER_STATEMENT, Statement)
        except (ProtocolViolation, OSError) as error:
            # Of another ledger, perhaps, which was used before.
            log.warning("%s is not a statement of the ledger: %s", file, error)
            return
        self._newest = statement.number, bytes(statement.head)


def _write(file: Path, signed: Signed) -> None:
    try:
        write_atomically(file, signed.to_bytes())
    except OSError as error:
        log.warning("what the ledger said cannot be kept: %s", error)
