"""Dialling a peer and listening for peers: authenticated streams out of TCP."""

import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn

import trio

from storjfs.errors import StorjfsError
from storjfs.network.dialling import dial, keep_alive
from storjfs.network.failures import PeerUnreachable, WrongPeer
from storjfs.network.guests import GUEST_LIMITS, SENDING_BYTES, Allowance, Budget, Guest, GuestLimits
from storjfs.network.identity import Identity, peer_of
from storjfs.network.origin import origin
from storjfs.network.through import dial_through
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
    per_address: int = 256
    """Connections from one address, whoever they are; of IPv6 the first 64 bits count as one."""
    handshakes: int = 128
    """Connections at a time of whom it is not known yet who they are: beyond that the address with most of
    them gives way to one with fewer ..."""
    handshakes_per_address: int = 16
    """... and from one address."""
    handshakes_per_relay: int = 48
    """... and through one relay: more than it lets one address have (`RelayLimits.streams_per_farmer`)."""
    handshake_rate: float = 100.0
    """Handshakes per second from one address in the long run: a renter drops a connection with each transfer
    that it cancels ..."""
    handshake_burst: float = 1000.0
    """... and after a pause at once."""
    handshake_timeout: float = 10.0
    guest: GuestLimits = GUEST_LIMITS
    """What each peer may take, all its connections together."""
    sending_bytes: int = SENDING_BYTES
    """Bytes of shards read and not yet sent, of all peers."""


LIMITS = Limits()
_VISITORS_KEPT = 1024
"""Addresses that are remembered though nobody is connected from there."""


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
                except (PeerUnreachable, OSError, ValueError, trio.BrokenResourceError) as error:
                    reasons.append(f"{address}: {error}")
            if attempt.cancelled_caught:
                reasons.append(f"{address}: no answer")
    if wrong is not None:
        try:
            raise wrong
        finally:
            del wrong  # which leads to whoever dials, with the shard at hand, and to itself
    raise PeerUnreachable("; ".join(reasons) or ("no answer in time" if addresses else "no address is known"))


async def _dial(identity: Identity, node_id: NodeId | None, address: Address) -> TlsStream:
    relay = address.relay
    if relay is None:
        stream = await dial(identity, node_id, address)
    elif node_id is None:
        raise PeerUnreachable("through a relay one reaches only a farmer whose identity is known")
    else:
        stream = await dial_through(identity, node_id, relay)
    stream.address, stream.through_relay = address, relay is not None
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
    await serve_through(Gate(identity, handler, limits), host, port, task_status=task_status)


async def serve_through(
    gate: "Gate",
    host: str | None,
    port: int,
    *,
    task_status: trio.TaskStatus[tuple[Address, ...]] = trio.TASK_STATUS_IGNORED,
) -> NoReturn:
    """`serve` with a gate through which others may let in connections too."""
    listeners = await trio.open_tcp_listeners(port, host=host)
    names = [listener.socket.getsockname() for listener in listeners]
    task_status.started(tuple(Address(name[0], name[1]) for name in names))
    await trio.serve_listeners(gate.admit, listeners)


class _Visitor:
    """An address: what comes from there."""

    __slots__ = ("allowance", "came", "connections", "handshakes")

    def __init__(self, limits: Limits) -> None:
        self.connections = self.handshakes = 0
        self.came = 0
        """Connections there have been."""
        self.allowance = Allowance(limits.handshake_rate, limits.handshake_burst)


class Gate:
    """Counts who is connected, and lets in what the limits allow, from a listener or through a relay."""

    def __init__(
        self, identity: Identity, handler: Callable[[TlsStream], Awaitable[None]], limits: Limits
    ) -> None:
        self.identity, self.handler, self.limits = identity, handler, limits
        self.total = 0
        self._handshakes: dict[trio.CancelScope, _Visitor] = {}
        """With those of whom it is not known yet who they are, and from where; the oldest first."""
        self.visitors: OrderedDict[str, _Visitor] = OrderedDict()
        self.guests: dict[NodeId, Guest] = {}
        self.sending = Budget(limits.sending_bytes)
        self.words = Allowance(1.0, 20.0)
        """Lines in the log about those who are refused."""

    def came(self, host: str) -> int:
        """How often somebody at the IP address `host` has dialled, as far as that is remembered."""
        visitor = self.visitors.get(origin(host))
        return visitor.came if visitor is not None else 0

    async def admit(self, transport: trio.SocketStream, head: bytes = b"", *, relayed: bool = False) -> None:
        """Serve one connection to its end. `head`: what came on it already; `relayed`: it comes from a relay,
        and who that relays counts for itself and not as the relay."""
        try:
            where = origin(transport.socket.getpeername()[0])
        except OSError:  # gone again
            return await trio.aclose_forcefully(transport)
        visitor = self._visitor(f"relay {where}" if relayed else where)
        visitor.came += 1
        if reason := self._objection(visitor, relayed=relayed):
            if self.words.try_spend():
                log.warning("%s: one more refused", reason)
            return await trio.aclose_forcefully(transport)
        self.total += 1
        visitor.connections += 1
        keep_alive(transport)
        stream = TlsStream(transport, self.identity.server, server_side=True, head=head)
        stream.through_relay = relayed
        try:
            if await self._authenticated(stream, visitor):
                await self._handle(stream)
        finally:
            self.total -= 1
            visitor.connections -= 1
            await trio.aclose_forcefully(stream)

    def _visitor(self, address: str) -> _Visitor:
        visitor = self.visitors.pop(address, None) or _Visitor(self.limits)
        self.visitors[address] = visitor
        if len(self.visitors) > _VISITORS_KEPT + self.total:
            oldest = next(known for known, one in self.visitors.items() if not one.connections)
            del self.visitors[oldest]
        return visitor

    def _objection(self, visitor: _Visitor, *, relayed: bool) -> str:
        """Why a connection from there is refused, empty where it is not."""
        limits = self.limits
        if self.total >= limits.connections:
            return "too many connections"
        if visitor.connections >= limits.per_address:
            return "too many connections from one address"
        most = limits.handshakes_per_relay if relayed else limits.handshakes_per_address
        if visitor.handshakes >= most or not visitor.allowance.try_spend():
            return "too many handshakes with one address"
        if len(self._handshakes) >= limits.handshakes and not self._make_way(visitor):
            return "too many connections of whom it is not known who they are"
        return ""

    def _make_way(self, visitor: _Visitor) -> bool:
        """End the oldest handshake of the address that has most, if one more leaves `visitor` with fewer."""
        most = max(self._handshakes.values(), key=lambda one: one.handshakes)
        if most.handshakes <= visitor.handshakes + 1:
            return False
        scope = next(scope for scope, one in self._handshakes.items() if one is most)
        self._ended(scope)
        scope.cancel()
        return True

    def _ended(self, scope: trio.CancelScope) -> None:
        visitor = self._handshakes.pop(scope, None)
        if visitor is not None:
            visitor.handshakes -= 1

    async def _authenticated(self, stream: TlsStream, visitor: _Visitor) -> bool:
        scope = trio.move_on_after(self.limits.handshake_timeout)
        self._handshakes[scope] = visitor
        visitor.handshakes += 1
        try:
            with scope:
                await stream.do_handshake()
                stream.peer = peer_of(stream.tls)
                return True
        except (trio.BrokenResourceError, trio.ClosedResourceError, WrongPeer) as error:
            log.info("connection refused: %s", error)
        except Exception:  # a stranger must not be able to end the listener
            log.exception("a handshake failed in an unknown way")
        finally:
            self._ended(scope)
        return False

    async def _handle(self, stream: TlsStream) -> None:
        peer = stream.peer
        guest = self.guests.get(peer) or Guest(self.limits.guest, self.sending)
        if guest.connections >= self.limits.per_peer:
            if self.words.try_spend():
                log.warning("peer %s has too many connections: one more refused", short(peer))
            return
        stream.guest = self.guests[peer] = guest
        guest.connections += 1
        try:
            await self.handler(stream)
            await stream.aclose()
        except (StorjfsError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            log.info("connection of peer %s ended: %s", short(peer), error)
        except Exception:
            log.exception("serving peer %s failed", short(peer))
        finally:
            guest.connections -= 1
            if not guest.connections:
                del self.guests[peer]
