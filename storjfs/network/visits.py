"""One visit of a farmer: dial, learn who it is, fetch its offer, and ask it for others."""

import contextlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import trio

from storjfs.errors import StorjfsError
from storjfs.network.failures import PeerUnreachable, RequestTimeout, WrongPeer
from storjfs.network.identity import Identity
from storjfs.network.peer import Connector, Peer
from storjfs.protocol.failures import ProtocolViolation, RequestFailed
from storjfs.protocol.hosts import is_here, is_private
from storjfs.protocol.ids import NodeId
from storjfs.protocol.messages import FarmerList, GetFarmers, GetOffer, Role
from storjfs.protocol.signing import Signed
from storjfs.protocol.terms import Address, open_offer

VISIT_TIMEOUT: Final = 15.0
"""Seconds for a whole visit."""
DIAL: Final = 6.0
"""Seconds for one address."""
PLACES: Final = 4
"""Addresses dialled of those that a name has: its owner may say that it has hundreds."""


@dataclass(frozen=True, slots=True)
class Visited:
    """What a visit brought: who is at `address` (by TLS), its offer (by its signature), and what it says."""

    node_id: NodeId
    address: Address
    offer: Signed
    latency: float
    """Seconds in which it answered a small request."""
    others: tuple[Signed, ...]


async def visit(
    identity: Identity,
    node_id: NodeId | None,
    addresses: Sequence[Address],
    connector: Connector,
    *,
    ask: bool,
    own: Signed | None = None,
    role: Role = Role.RENTER,
    public: bool = False,
    here: bool = True,
) -> Visited:
    """Visit the farmer `node_id` (None: whoever is there) at the first address that works.

    `ask`: also for others, and say of ourselves by `own`. `public`: dial nothing in a private network, also
    where a name leads there. `here`: else nothing on this machine, or that holds for one link only. Raises
    PeerUnreachable, RequestTimeout, RequestFailed, ProtocolViolation.
    """
    reason: StorjfsError = PeerUnreachable("no address that may be dialled is known")
    with trio.move_on_after(VISIT_TIMEOUT):
        for address in addresses:
            try:
                places = (address,) if here and not public else await _allowed(address, public=public)
                stream = await connector(identity, node_id, places, DIAL)
            except PeerUnreachable as error:
                reason = error
                continue
            return await _talk(identity, stream, address, ask=ask, own=own, role=role)
        try:
            raise reason
        finally:
            del reason  # which leads here, and would stay until garbage is looked for
    raise RequestTimeout(f"{addresses[0]} did not answer within {VISIT_TIMEOUT:g} s")


async def _allowed(address: Address, *, public: bool) -> tuple[Address, ...]:
    """Where the address leads, or its relay does, outside of private networks or at least of this machine.

    Raises PeerUnreachable where nowhere.
    """
    if address.relay is not None:
        return tuple(one.through() for one in await _allowed(address.relay, public=public))
    try:
        found = await trio.socket.getaddrinfo(address.host, address.port, type=trio.socket.SOCK_STREAM)
    except (OSError, ValueError) as error:  # ValueError: nobody can have a name like this
        raise PeerUnreachable(f"{address}: {error}") from error
    hosts = dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found)
    refused = is_private if public else is_here
    places = tuple(Address(host, address.port) for host in hosts if not refused(host))[:PLACES]
    if not places:
        where = "into a private network" if public else "to this machine"
        raise PeerUnreachable(f"{address} leads {where}")
    return places


async def _talk(
    identity: Identity,
    stream: trio.abc.Stream,
    address: Address,
    *,
    ask: bool,
    own: Signed | None,
    role: Role,
) -> Visited:
    who = NodeId(getattr(stream, "peer", b""))
    streams = [stream]

    async def once(*_: object) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        if not streams:
            raise PeerUnreachable("the connection broke")
        return streams.pop()

    peer = Peer(identity, who, (address,), connector=once, role=role, source=random.Random(0))
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(peer.run)
            visited = await _questions(peer, who, address, ask=ask, own=own)
            nursery.cancel_scope.cancel()
        return visited
    except BaseExceptionGroup as group:
        raise _plain(group) from None
    finally:
        with contextlib.suppress(IndexError):
            await trio.aclose_forcefully(streams.pop())


async def _questions(peer: Peer, who: NodeId, address: Address, *, ask: bool, own: Signed | None) -> Visited:
    before = trio.current_time()
    signed = (await peer.request(GetOffer(), DIAL)).offer
    first = trio.current_time() - before
    if open_offer(signed).farmer != who:
        raise WrongPeer("it shows another farmer's offer")
    others = FarmerList()
    before = trio.current_time()
    if ask:
        # One of an older version does not know the question.
        with contextlib.suppress(RequestFailed):
            others = await peer.request(GetFarmers(own=own), DIAL)
    latency = trio.current_time() - before if ask else first
    return Visited(who, address, signed, latency, others.offers)


def _plain(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


VISIT_ERRORS: Final = (PeerUnreachable, RequestTimeout, RequestFailed, ProtocolViolation, OSError)
"""What a visit ends with where it is in vain."""
