"""Dialling a peer and listening for peers: authenticated streams out of TCP."""

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn

import trio

from storjfs.errors import StorjfsError
from storjfs.network.failures import PeerUnreachable, WrongPeer
from storjfs.network.identity import Identity, peer_of
from storjfs.network.tls import TlsStream
from storjfs.protocol.ids import NodeId, short
from storjfs.protocol.terms import Address

log = logging.getLogger(__name__)

DIAL_TIMEOUT = 10.0


@dataclass(frozen=True, slots=True)
class Limits:
    """What a listener bears; whoever comes beyond is closed at once."""

    connections: int = 512
    per_peer: int = 16
    handshakes: int = 64
    """Connections at a time of whom it is not known yet who they are."""
    handshake_timeout: float = 10.0


LIMITS = Limits()


async def open_stream(
    identity: Identity,
    node_id: NodeId | None,
    addresses: Sequence[Address],
    timeout: float = DIAL_TIMEOUT,  # noqa: ASYNC109 - it is divided among the addresses
) -> TlsStream:
    """A stream to the peer `node_id` (None: whoever is there), at the first of `addresses` that works.

    Raises WrongPeer where only others answer, PeerUnreachable where nobody does within `timeout` seconds.
    """
    reasons: list[str] = []
    wrong: WrongPeer | None = None
    with trio.move_on_after(timeout):
        for address in addresses:
            with trio.move_on_after(max(timeout / len(addresses), 1.0)) as attempt:
                try:
                    return await _dial(identity, node_id, address)
                except WrongPeer as error:
                    wrong = error
                    reasons.append(f"{address}: {error}")
                except (OSError, ValueError, trio.BrokenResourceError) as error:
                    reasons.append(f"{address}: {error}")
            if attempt.cancelled_caught:
                reasons.append(f"{address}: no answer")
    if wrong is not None:
        raise wrong
    raise PeerUnreachable("; ".join(reasons) or ("no answer in time" if addresses else "no address is known"))


async def _dial(identity: Identity, node_id: NodeId | None, address: Address) -> TlsStream:
    transport = await trio.open_tcp_stream(address.host, address.port)
    stream = TlsStream(transport, identity.client, server_side=False)
    try:
        await stream.do_handshake()
        stream.peer = peer_of(stream.tls)
        if node_id is not None and stream.peer != node_id:
            raise WrongPeer(f"{short(stream.peer)} answers at {address}, not {short(node_id)}")
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return stream


async def serve(
    identity: Identity,
    host: str | None,
    port: int,
    handler: Callable[[TlsStream], Awaitable[None]],
    *,
    limits: Limits = LIMITS,
    task_status: trio.TaskStatus[tuple[Address, ...]] = trio.TASK_STATUS_IGNORED,
) -> NoReturn:
    """Run `handler(stream)` in a task of its own for each peer that connects; `stream.peer` is who it is.

    The stream is closed when the handler ends; what it raises is logged and goes no further. `port` 0 takes a
    free one; `started` gets the addresses listened on. Cancelling closes all connections.
    """
    listeners = await trio.open_tcp_listeners(port, host=host)
    names = [listener.socket.getsockname() for listener in listeners]
    task_status.started(tuple(Address(name[0], name[1]) for name in names))
    gate = _Gate(identity, handler, limits)
    await trio.serve_listeners(gate.admit, listeners)


class _Gate:
    """Counts who is connected and lets in what the limits allow."""

    def __init__(
        self, identity: Identity, handler: Callable[[TlsStream], Awaitable[None]], limits: Limits
    ) -> None:
        self.identity, self.handler, self.limits = identity, handler, limits
        self.total = self.handshakes = 0
        self.per_peer: Counter[NodeId] = Counter()

    async def admit(self, transport: trio.SocketStream) -> None:
        if self.total >= self.limits.connections or self.handshakes >= self.limits.handshakes:
            log.warning("too many connections: one more refused")
            return await trio.aclose_forcefully(transport)
        self.total += 1
        stream = TlsStream(transport, self.identity.server, server_side=True)
        try:
            if await self._authenticated(stream):
                await self._handle(stream)
        finally:
            self.total -= 1
            await trio.aclose_forcefully(stream)

    async def _authenticated(self, stream: TlsStream) -> bool:
        self.handshakes += 1
        try:
            with trio.move_on_after(self.limits.handshake_timeout):
                await stream.do_handshake()
                stream.peer = peer_of(stream.tls)
                return True
        except (trio.BrokenResourceError, trio.ClosedResourceError, WrongPeer) as error:
            log.info("connection refused: %s", error)
        except Exception:  # a stranger must not be able to end the listener
            log.exception("a handshake failed in an unknown way")
        finally:
            self.handshakes -= 1
        return False

    async def _handle(self, stream: TlsStream) -> None:
        peer = stream.peer
        if self.per_peer[peer] >= self.limits.per_peer:
            log.warning("peer %s has too many connections: one more refused", short(peer))
            return
        self.per_peer[peer] += 1
        try:
            await self.handler(stream)
            await stream.aclose()
        except (StorjfsError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            log.info("connection of peer %s ended: %s", short(peer), error)
        except Exception:
            log.exception("serving peer %s failed", short(peer))
        finally:
            self.per_peer[peer] -= 1
            if not self.per_peer[peer]:
                del self.per_peer[peer]
