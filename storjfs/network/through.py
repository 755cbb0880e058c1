"""Ways through a relay: to a farmer behind it, and of that farmer to who has called.

Either way a relay is dialled under a key made for this one connection, so that it learns nobody's; TLS with
it ends with its answer, and what follows is TLS of the two ends.
"""

import os

import trio

from storjfs.network.dialling import authenticate, dial
from storjfs.network.failures import PeerUnreachable
from storjfs.network.frames import FrameStream
from storjfs.network.greeting import greet
from storjfs.network.identity import Identity
from storjfs.network.tls import TlsStream
from storjfs.protocol.failures import ProtocolViolation, RequestFailed
from storjfs.protocol.framing import MAX_HELLO, encode_request, open_answer
from storjfs.protocol.greeting import HIGHEST, LOWEST
from storjfs.protocol.ids import NodeId
from storjfs.protocol.messages import Arrive, Done, Hello, Purpose, Request, Role, Through
from storjfs.protocol.terms import Address

JOIN_TIMEOUT = 10.0
"""Seconds for each answer of a relay: the farmer has to dial it meanwhile."""
_BUFFER = 1 << 10


async def dial_through(identity: Identity, node_id: NodeId, relay: Address) -> TlsStream:
    """The farmer `node_id`, which is attached to the relay that listens there.

    Raises WrongPeer where somebody else answers behind the relay, PeerUnreachable where the relay cannot be
    dialled or does not lead to it, OSError, ValueError, trio.BrokenResourceError.
    """
    transport, head = await _join(relay, None, Role.RENTER, Through(node_id))
    if head:
        await trio.aclose_forcefully(transport)
        raise PeerUnreachable("the relay sends what nobody asked for")
    return await authenticate(transport, identity, node_id, f"the relay {relay}")


async def arrive(relay: Address, relay_id: NodeId, token: bytes) -> tuple[trio.SocketStream, bytes]:
    """A called farmer's half of a relayed connection: TCP, and what has come on it already.

    Raises as `dial_through`; WrongPeer where another one than the calling relay answers there.
    """
    return await _join(relay, relay_id, Role.FARMER, Arrive(token))


async def _join(
    relay: Address, relay_id: NodeId | None, role: Role, request: Request[Done]
) -> tuple[trio.SocketStream, bytes]:
    if relay.relay is not None:
        raise ValueError("a relay is not reached through a relay")
    stream = await dial(Identity(os.urandom(32)), relay_id, relay)
    # What the other end sends may be right behind the relay's answer, and is no TLS of the relay.
    frames = FrameStream(stream, _BUFFER, exact=True)
    try:
        hello = Hello(Purpose.RELAY, role, LOWEST, HIGHEST)
        await greet(frames, hello, JOIN_TIMEOUT, encode_request(1, request))
        with trio.move_on_after(JOIN_TIMEOUT):
            frame = await frames.receive_frame(MAX_HELLO)
            if frame is None or frame.id != 1:
                raise PeerUnreachable("the relay closed the connection")
            open_answer(frame, request)
            return frames.detach()
        raise PeerUnreachable("the relay does not answer")
    except (RequestFailed, ProtocolViolation) as error:
        await trio.aclose_forcefully(stream)
        raise PeerUnreachable(f"the relay {relay} does not lead there: {error}") from error
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
