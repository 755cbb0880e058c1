"""The folder of a served ledger, and the process that serves it."""

import contextlib
import errno
import fcntl
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

import trio

from storjfs.errors import StorjfsError
from storjfs.ledger.desk import Desk
from storjfs.ledger.service import LedgerService
from storjfs.network.identity import Identity
from storjfs.network.service import serve_tls
from storjfs.network.streams import LIMITS, serve
from storjfs.protocol.terms import Address
from storjfs.settlement.shared import SharedLedger
from storjfs.volume.files import make_private
from storjfs.volume.identity import FILE, load_identity

BOOKS: Final = "ledger.db"
CONNECTIONS: Final = 4096


class LedgerRunning(StorjfsError):
    """Another process serves the ledger of this folder."""


class NoLedger(StorjfsError):
    """There is no ledger in this folder."""


def open_books(folder: Path) -> tuple[Identity, SharedLedger]:
    """The ledger in `folder`, which must be there; others may use it meanwhile. Raises NoLedger,
    IdentityUnusable, SettlementError."""
    if not (folder / FILE).is_file() or not (folder / BOOKS).is_file():
        raise NoLedger(
            f"there is no ledger in {folder}",
            hint="Name its folder: --at DIR. `storjfs ledger serve --at DIR` makes a new one.",
        )
    identity = load_identity(folder, whose="ledger")
    return identity, SharedLedger(folder / BOOKS, identity.node_id)


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[tuple[Identity, SharedLedger]]:
    """The ledger in `folder`, made if there is none, for the one process that serves it.

    Raises LedgerRunning, IdentityUnusable, SettlementError, OSError.
    """
    make_private(folder)
    lock = _lock(folder / "lock")
    try:
        identity = load_identity(folder, whose="ledger")
        ledger = SharedLedger(folder / BOOKS, identity.node_id)
        try:
            yield identity, ledger
        finally:
            ledger.close_file()
    finally:
        os.close(lock)


async def serve_ledger(
    identity: Identity,
    ledger: SharedLedger,
    host: str,
    port: int,
    ready: Callable[[tuple[Address, ...]], None],
) -> None:
    """Serve until SIGTERM or SIGINT; `ready` gets the addresses listened on. Raises OSError, in a group."""
    # As usual on Linux, :: is all addresses of both kinds.
    where = None if host == "::" else host
    desk = Desk(ledger, identity.signing)
    handler = partial(serve_tls, service=LedgerService(desk))
    limits = replace(LIMITS, connections=CONNECTIONS)
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(desk.run)
            ready(await nursery.start(partial(serve, identity, where, port, handler, limits=limits)))
            async for _ in signals:
                nursery.cancel_scope.cancel()
                break


def _lock(path: Path) -> int:
    file = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(file)
        if error.errno not in (errno.EWOULDBLOCK, errno.EINTR):
            raise
        raise LedgerRunning(
            f"the ledger in {path.parent} is being served already", hint="Stop it, or choose another folder."
        ) from error
    return file
