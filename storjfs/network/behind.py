"""Being behind a relay: a farmer that nobody can dial stays connected to one, and comes when it calls.

It dials only the relay, and only if the key that it attached to answers there again.
"""

import logging
import random
from collections.abc import Awaitable, Callable
from typing import Any, Final

import trio
from msgspec import Struct

from storjfs.network.control import ControlConnection, ControlLimits
from storjfs.network.dialling import dial, expect_answers
from storjfs.network.failures import PeerUnreachable, RequestTimeout
from storjfs.network.frames import CONTROL_BUFFER, FrameStream
from storjfs.network.greeting import greet
from storjfs.network.identity import Identity
from storjfs.network.peer import Backoff
from storjfs.network.streams import DIAL_TIMEOUT
from storjfs.network.through import arrive
from storjfs.network.tls import TlsStream
from storjfs.protocol.failures import ErrorCode, ProtocolViolation, RequestFailed
from storjfs.protocol.greeting import HIGHEST, LOWEST
from storjfs.protocol.ids import NodeId, short
from storjfs.protocol.messages import (
    CANCEL_CAPABILITY,
    RELAY_CAPABILITY,
    Attach,
    Call,
    Done,
    Hello,
    Purpose,
    Request,
    Role,
)
from storjfs.protocol.terms import Address

log = logging.getLogger(__name__)

LONGEST: Final = 30.0
"""Seconds between two attempts to attach, at most."""
WATCHFUL: Final = ControlLimits(quiet=5.0)
"""A relay that is gone without a word is missed soon: nobody reaches the farmer meanwhile."""
COMING: Final = 8
"""Calls that are answered at a time."""

Admit = Callable[[trio.SocketStream, bytes], Awaitable[None]]
"""Serves one relayed connection, on which these bytes have come already, to its end: `streams.Gate.admit`."""


async def greeted(
    identity: Identity, node_id: NodeId | None, address: Address
) -> tuple[FrameStream, NodeId, tuple[str, ...]]:
    """A control connection of one farmer to another, after its hello: whose it is, what that is capable of.

    Raises PeerUnreachable, RequestFailed, ProtocolViolation.
    """
    stream: TlsStream | None = None
    try:
        with trio.move_on_after(DIAL_TIMEOUT):
            stream = await dial(identity, node_id, address)
    except (OSError, ValueError, trio.BrokenResourceError) as error:
        raise PeerUnreachable(f"{address}: {error}") from error
    if stream is None:
        raise PeerUnreachable(f"{address}: no answer")
    expect_answers(stream)
    frames = FrameStream(stream, CONTROL_BUFFER)
    try:
        hello = Hello(Purpose.CONTROL, Role.FARMER, LOWEST, HIGHEST, (CANCEL_CAPABILITY,))
        answer = await greet(frames, hello, DIAL_TIMEOUT)
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return frames, stream.peer, answer.capabilities


class Attachment:
    """The connection to one relay. `run` keeps it; `admit` serves who comes through it.

    `changed()` is called when it is attached and when it is no more.
    """

    def __init__(
        self,
        identity: Identity,
        relay: Address,
        node_id: NodeId | None,
        admit: Admit,
        changed: Callable[[], None] = lambda: None,
        source: random.Random | None = None,
    ) -> None:
        """`node_id`: the relay's, None to take whoever is there. `source`: the randomness of the backoff."""
        self.relay = relay
        self.attached = False
        self.problem = ""
        """Why it is not attached, as far as is known."""
        self.streams = 0
        """Connections that came through it and are there."""
        self._identity, self._expected, self._admit = identity, node_id, admit
        self._changed = changed
        self._backoff = Backoff(source or random.Random())
        self._nursery: trio.Nursery | None = None
        self._most = 0
        self._coming = 0

    async def run(self) -> None:
        """Attach, again after each loss, until cancelled; then all that came through it is closed."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                while True:
                    await self._once()
                    self._backoff.failed(trio.current_time(), LONGEST)
                    await trio.sleep_until(self._backoff.until)
            finally:
                self._nursery = None
                self._set(attached=False)

    async def _once(self) -> None:
        """From dialling to the loss of the connection. Sets `problem`."""
        try:
            frames, relay_id, capabilities = await greeted(self._identity, self._expected, self.relay)
        except (PeerUnreachable, RequestFailed, ProtocolViolation) as error:
            self.problem = str(error)
            return

        async def answer(request: Request[Any]) -> Struct:
            if not isinstance(request, Call):
                raise RequestFailed(ErrorCode.UNSUPPORTED, type(request).__name__)
            return await self._come(relay_id, request.token)

        connection = ControlConnection(frames, answer, WATCHFUL, cancels=CANCEL_CAPABILITY in capabilities)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._carry, connection)
            try:
                await self._attach(connection, relay_id, capabilities)
            except (PeerUnreachable, RequestTimeout, RequestFailed, ProtocolViolation) as error:
                self.problem = str(error)
                connection.close()
        self._set(attached=False)

    async def _carry(self, connection: ControlConnection) -> None:
        try:
            await connection.run()
        except ProtocolViolation as error:
            self.problem = f"the relay does not keep the protocol: {error}"
        else:
            if self.attached:
                self.problem = "the connection to the relay was lost"

    async def _attach(
        self, connection: ControlConnection, relay_id: NodeId, capabilities: tuple[str, ...]
    ) -> None:
        if RELAY_CAPABILITY not in capabilities:
            raise RequestFailed(ErrorCode.UNSUPPORTED, "this farmer relays nobody")
        answer = await connection.request(Attach())
        log.info("attached to the relay %s, which is %s", self.relay, short(relay_id))
        self._most = answer.streams
        self.problem = ""
        self._backoff.reset()
        self._set(attached=True)

    def _set(self, *, attached: bool) -> None:
        if self.attached != attached:
            self.attached = attached
            self._changed()

    async def _come(self, relay_id: NodeId, token: bytes) -> Done:
        """Dial the relay for a caller; it is served on its own."""
        nursery = self._nursery
        if nursery is None or self._coming >= COMING or self.streams + self._coming >= self._most:
            raise RequestFailed(ErrorCode.BUSY, "too many come through this relay")
        self._coming += 1
        try:
            transport, head = await arrive(self.relay, relay_id, token)
        except (PeerUnreachable, OSError, ValueError, trio.BrokenResourceError) as error:
            log.info("a call of the relay %s came to nothing: %s", self.relay, error)
            raise RequestFailed(ErrorCode.BUSY, "the relay could not be dialled") from error
        finally:
            self._coming -= 1
        self.streams += 1
        nursery.start_soon(self._serve, transport, head)
        return Done()

    async def _serve(self, transport: trio.SocketStream, head: bytes) -> None:
        try:
            await self._admit(transport, head)
        finally:
            self.streams -= 1
            await trio.aclose_forcefully(transport)
