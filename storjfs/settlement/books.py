"""Double entry in one SQLite file: accounts, transfers, the file itself. What lanes are, `ledger` adds."""

import fcntl
import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw
from nacl.signing import SigningKey as _OperatorKey

from storjfs.protocol.ids import LaneId, PublicKey
from storjfs.settlement import schema
from storjfs.settlement.interface import (
    InsufficientBalance,
    Movement,
    NotAllowed,
    OrderConflict,
    SettlementError,
    SettlementFull,
)
from storjfs.settlement.money import CREDIT, AmountError, Currency, Units, checked_amount
from storjfs.store import FULL, DiskFull, StoreError, configure, connect, found_full
from storjfs.store.durable import write_atomically

PATIENCE = 30.0  # seconds for which other processes may have the file
_ISSUE_DOMAIN = b"storjfs/1 ledger issue\0"


def issue_message(ledger_id: bytes, target: PublicKey, amount: int, order: bytes | None) -> bytes:
    """What the operator signs when it issues credits."""
    return _ISSUE_DOMAIN + ledger_id + target + amount.to_bytes(8, "big") + (order or b"")


class Books:
    """Accounts and the transfers between them, in the file at `path`, which is made if missing."""

    currency: Currency = CREDIT
    _application_id = schema.APPLICATION_ID

    def __init__(self, path: Path, clock: Callable[[], int]) -> None:
        self.path = Path(path)
        self._clock = clock
        self._lock = threading.Lock()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._turn = _Turn(self.path.with_name(self.path.name + ".turn"))
        except OSError as error:
            if error.errno in FULL:
                raise _full(self.path, "opened") from error
            raise SettlementError(f"cannot open the ledger {self.path}: {error}") from error
        try:
            self._connection = self._connected()
        except BaseException:
            self._turn.close()
            raise
        try:
            with self._writing():
                self._ledger_id, self.operator = self._founded()
        except BaseException:
            self._close()
            raise

    def _connected(self) -> apsw.Connection:
        try:
            with self._turn.taken(fcntl.LOCK_EX):
                connection = connect(self.path)
                try:
                    configure(connection, None)
                except BaseException as error:
                    full = found_full(error, connection)
                    connection.close()
                    if full:
                        raise _full(self.path, "opened") from error
                    raise
        except DiskFull as error:
            raise _full(self.path, "opened") from error
        except (apsw.Error, StoreError) as error:
            raise SettlementError(f"cannot open the ledger {self.path}: {error}") from error
        return connection

    def close_file(self) -> None:
        """Close the database. The object cannot be used any further."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        try:
            with self._turn.taken(fcntl.LOCK_EX):
                self._connection.close()  # the last one to close copies the log
        except SettlementError:
            self._connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            self._connection.close()
        self._turn.close()

    @property
    def name(self) -> str:
        return f"ledger:{self._ledger_id.hex()}"

    # --- accounts ---

    def balance(self, account: PublicKey) -> Units:
        row = self._read("SELECT balance FROM account WHERE kind = 'person' AND key = ?", account)
        return Units(row[0][0] if row else 0)

    def history(self, account: PublicKey, *, limit: int = 100, before: int | None = None) -> list[Movement]:
        rows = self._read(
            "SELECT t.transfer, t.time, t.kind, e.amount, t.lane, t.memo FROM entry AS e JOIN transfer AS t "
            "USING (transfer) WHERE e.account = (SELECT account FROM account WHERE kind = 'person' AND "
            "key = ?) AND e.transfer < ? ORDER BY e.transfer DESC LIMIT ?",
            account,
            before if before is not None else (1 << 62),
            limit,
        )
        return [Movement(*row) for row in rows]

    def issue(self, target: PublicKey, amount: int, *, memo: str = "", order: bytes | None = None) -> None:
        """Bring `amount` units into being on the account `target`.

        Raises NotAllowed unless the operator's seed can be read here (`<ledger>.operator`).
        """
        positive(amount)
        operator = self._operator_key()
        with self._writing():
            if self._repeated(order, "issue", target, amount):
                return
            signed = issue_message(self._ledger_id, target, amount, order)
            source = self._account("issue", self.operator)
            self._book(
                "issue",
                {source: -amount, self._account("person", target): amount},
                order=order,
                what=("issue", target, amount),
                memo=memo,
                evidence=bytes(operator.sign(signed).signature),
            )

    def transfer(
        self, source: PublicKey, target: PublicKey, amount: int, *, memo: str = "", order: bytes | None = None
    ) -> None:
        positive(amount)
        if source == target:
            raise AmountError("an account cannot pay itself")
        what = ("transfer", source, target, amount)
        with self._writing():
            if self._repeated(order, *what):
                return
            entries = {self._account("person", source): -amount, self._account("person", target): amount}
            self._book("transfer", entries, order=order, what=what, memo=memo)

    # --- the books ---

    def check(self) -> list[str]:
        """What is wrong with the books, in words; empty if nothing is. Reads everything, in one snapshot."""
        with self._reading():
            self._run("BEGIN")
            try:
                return [text for text, query in schema.INVARIANTS if self._run(query)]
            finally:
                self._run("ROLLBACK")

    def _account(self, kind: str, key: bytes) -> int:
        if len(key) != 32:
            raise ValueError("an account's key has 32 bytes")
        rows = self._run("SELECT account FROM account WHERE kind = ? AND key = ?", kind, key)
        if not rows:
            rows = self._run(
                "INSERT INTO account(kind, key, balance) VALUES (?, ?, 0) RETURNING account", kind, key
            )
        return int(rows[0][0])

    def _book(
        self,
        kind: str,
        entries: dict[int, int],
        *,
        what: tuple[Any, ...],
        order: bytes | None = None,
        lane: LaneId | None = None,
        memo: str = "",
        evidence: bytes | None = None,
    ) -> None:
        """Write one transfer, whose entries (account -> amount) sum to zero. Raises InsufficientBalance."""
        assert sum(entries.values()) == 0
        rows = self._run(
            "INSERT INTO transfer(time, kind, order_id, digest, lane, memo, evidence) "
            "VALUES (?, ?, ?, ?, ?, ?, ?) RETURNING transfer",
            self._clock(),
            kind,
            order,
            _digest(what),
            lane,
            memo,
            evidence,
        )
        for account, amount in entries.items():
            self._run("INSERT INTO entry VALUES (?, ?, ?)", rows[0][0], account, amount)
            try:
                self._run("UPDATE account SET balance = balance + ? WHERE account = ?", amount, account)
            except apsw.ConstraintError:
                raise InsufficientBalance(
                    f"the account holds less than {self.currency.format(-amount)}",
                    hint="Pay credits in, or choose a smaller amount.",
                ) from None

    def _repeated(self, order: bytes | None, *what: Any) -> bool:
        """Whether this order was carried out before. Raises OrderConflict if it was another one."""
        if order is None:
            return False
        if not 1 <= len(order) <= 64:
            raise ValueError("an order id has 1 to 64 bytes")
        rows = self._run("SELECT digest FROM transfer WHERE order_id = ?", order)
        if rows and rows[0][0] != _digest(what):
            raise OrderConflict("this order id was used for something else")
        return bool(rows)

    # --- the file ---

    def _run(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        return self._connection.execute(sql, values).fetchall()

    def _read(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        with self._reading():
            return self._run(sql, *values)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        with self._lock, self._turn.taken(fcntl.LOCK_SH):
            yield

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """One transaction: all of it durable on leaving, or none of it if the block raises."""
        with self._lock, self._turn.taken(fcntl.LOCK_EX):
            try:
                self._run("BEGIN IMMEDIATE")
                try:
                    yield
                    self._run("COMMIT")
                except BaseException:
                    if self._connection.in_transaction:
                        self._run("ROLLBACK")
                    raise
            except (apsw.Error, StoreError) as error:
                if found_full(error, self._connection):
                    raise _full(self.path, "written") from error
                raise SettlementError(f"the ledger {self.path} cannot be written: {error}") from error

    def _founded(self) -> tuple[bytes, PublicKey]:
        """The ledger's id and operator; found it if nobody has. Within a transaction."""
        (version,) = self._run("PRAGMA user_version")[0]
        if version > schema.VERSION:
            raise SettlementError(f"the ledger {self.path} has format {version}, known is {schema.VERSION}")
        if version == 0:
            if self._run("SELECT 1 FROM sqlite_schema LIMIT 1"):
                raise SettlementError(f"{self.path} is not a ledger")
            seed = os.urandom(32)
            write_atomically(self._seed_path, seed)
            self._connection.execute(schema.TABLES).fetchall()
            operator = bytes(_OperatorKey(seed).verify_key)
            self._run("INSERT INTO ledger VALUES (1, ?, ?)", operator, os.urandom(16))
            self._run(f"PRAGMA application_id = {self._application_id}")
            self._run(f"PRAGMA user_version = {schema.VERSION}")
        if self._run("PRAGMA application_id")[0][0] != self._application_id:
            raise SettlementError(f"{self.path} is not a ledger")
        ledger_id, operator = self._run("SELECT ledger_id, operator FROM ledger")[0]
        return ledger_id, PublicKey(operator)

    @property
    def _seed_path(self) -> Path:
        return self.path.with_name(self.path.name + ".operator")

    def _operator_key(self) -> _OperatorKey:
        try:
            key = _OperatorKey(self._seed_path.read_bytes())
        except (OSError, ValueError) as error:
            raise NotAllowed(
                "only the ledger's operator can issue credits", hint=f"Its seed is kept in {self._seed_path}."
            ) from error
        if bytes(key.verify_key) != self.operator:
            raise NotAllowed(f"{self._seed_path} is not the seed of this ledger's operator")
        return key


class _Turn:
    """Whose turn it is with the file, among all processes: one writer, or any number of readers.

    SQLite would let readers go on beside a writer. But then the log is copied into the database in several
    passes, and where the last one's sync fails, pages of the others may be lost though no later pass copies
    them again. One process can refuse to go on after that (storjfs.store), several do not know of each other.
    With nobody else there each pass copies all of the log, whatever became of the one before.

    Readers that come and go would leave no moment without one, and a writer would wait for ever. So everybody
    goes through a door (a lock of its own), which a writer keeps closed while those who are inside come out.
    """

    def __init__(self, path: Path) -> None:
        flags = os.O_CREAT | os.O_RDWR | os.O_CLOEXEC
        self._file = os.open(path, flags, 0o600)
        try:
            self._door = os.open(path.with_name(path.name + ".door"), flags, 0o600)
        except BaseException:
            os.close(self._file)
            raise

    def close(self) -> None:
        os.close(self._file)
        os.close(self._door)

    @contextmanager
    def taken(self, how: int) -> Iterator[None]:
        """`how`: LOCK_SH or LOCK_EX, as of flock(2). Raises SettlementError where it does not come."""
        until = time.monotonic() + PATIENCE
        _lock(self._door, how, until)
        try:
            _lock(self._file, how, until)
        finally:
            fcntl.flock(self._door, fcntl.LOCK_UN)
        try:
            yield
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)


def _lock(file: int, how: int, until: float) -> None:
    while True:
        try:
            fcntl.flock(file, how | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > until:
                raise SettlementError(
                    "another process keeps the ledger to itself; nothing was changed",
                    hint="Is one of its processes stopped? It must go on, or be ended.",
                ) from None
            time.sleep(0.001)


def _full(path: Path, what: str) -> SettlementFull:
    return SettlementFull(
        f"the ledger {path} cannot be {what}: the disk is full",
        hint=f"Free 16 MiB on the disk that holds {path.parent}; nothing is lost.",
    )


def _digest(what: tuple[Any, ...]) -> bytes:
    return hashlib.sha256(repr(what).encode()).digest()


def positive(amount: int) -> None:
    """Raise AmountError unless `amount` can be moved."""
    if checked_amount(amount) == 0:
        raise AmountError("an amount of nothing cannot be moved")
