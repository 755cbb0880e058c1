"""The connection to a served ledger, for threads: it has a loop in a thread of its own.

Settlements are asked in worker threads, of one loop, of another, or of none; so the connection belongs to no
one's nursery.
"""

import os
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Final

import trio

from storjfs.network.failures import PeerUnreachable, RequestTimeout
from storjfs.network.identity import Identity
from storjfs.network.peer import Peer
from storjfs.network.streams import open_stream
from storjfs.network.tls import TlsStream
from storjfs.protocol.failures import ErrorCode, RequestFailed
from storjfs.protocol.ids import NodeId
from storjfs.protocol.messages import LEDGER_CAPABILITY, HelloAnswer, Settle, SettleAnswer
from storjfs.protocol.terms import Address
from storjfs.settlement.place import ServedAt

DIAL_SECONDS: Final = 5.0
ANSWER_SECONDS: Final = 10.0
"""For a question, dialling included."""


class Line:
    """The line to one ledger, dialled under a key made for this object: who asks stands in the order."""

    def __init__(self, at: ServedAt) -> None:
        self._at = at
        self._starting = threading.Lock()
        self._ready = threading.Event()
        self._thread: threading.Thread | None = None
        self._closed = False

    def ask(self, request: Settle) -> SettleAnswer:
        """Send a request and return its answer; blocks for ANSWER_SECONDS at most.

        Raises as `Peer.request`.
        """
        future: Future[SettleAnswer] = Future()
        with self._starting:
            if self._closed:
                raise PeerUnreachable("the line to the ledger is closed")
            if self._thread is None:
                self._thread = threading.Thread(
                    target=trio.run, args=(self._main,), name="storjfs-ledger", daemon=True
                )
                self._thread.start()
            self._ready.wait()
            self._token.run_sync_soon(self._nursery.start_soon, self._exchange, request, future)
        return future.result()

    def close(self) -> None:
        """Hang up; questions under way fail. Idempotent."""
        with self._starting:
            self._closed = True
            thread, self._thread = self._thread, None
            if thread is not None:
                self._token.run_sync_soon(self._nursery.cancel_scope.cancel)
        if thread is not None:
            thread.join()

    async def _main(self) -> None:
        self._peer = Peer(
            Identity(os.urandom(32)),
            self._at.node_id,
            (self._at.address,),
            connector=_dial,
            greeted=_require_ledger,
        )
        self._token = trio.lowlevel.current_trio_token()
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            await nursery.start(self._peer.run)
            self._ready.set()

    async def _exchange(self, request: Settle, future: "Future[SettleAnswer]") -> None:
        try:
            with trio.move_on_after(ANSWER_SECONDS):
                future.set_result(await self._peer.request(request, ANSWER_SECONDS))
                return
            self._peer.disconnect()
            future.set_exception(RequestTimeout(f"no answer within {ANSWER_SECONDS:g} s"))
        except Exception as error:
            if isinstance(error, RequestTimeout):
                self._peer.disconnect()
            future.set_exception(error)
        finally:
            if not future.done():
                future.set_exception(PeerUnreachable("the line to the ledger was closed"))


async def _dial(
    identity: Identity,
    node_id: NodeId | None,
    addresses: Sequence[Address],
    timeout: float,  # noqa: ASYNC109 - as connectors are
) -> TlsStream:
    return await open_stream(identity, node_id, addresses, min(timeout, DIAL_SECONDS))


def _require_ledger(answer: HelloAnswer) -> None:
    if LEDGER_CAPABILITY not in answer.capabilities:
        raise RequestFailed(ErrorCode.UNSUPPORTED, "no ledger answers there")
