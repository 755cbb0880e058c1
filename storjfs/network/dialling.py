"""One connection to one address: TCP, TLS, and whose key answers."""

import socket
from contextlib import suppress

import trio

from storjfs.network.failures import WrongPeer
from storjfs.network.identity import Identity, peer_of
from storjfs.network.origin import below
from storjfs.network.tls import TlsStream
from storjfs.protocol.ids import NodeId, short
from storjfs.protocol.terms import Address

GONE = 20.0
"""Seconds for which the other machine may leave unsaid that it got what was sent: on control connections."""
KEEP_ALIVE = {socket.TCP_KEEPIDLE: 10, socket.TCP_KEEPINTVL: 5, socket.TCP_KEEPCNT: 3}
"""Seconds without a packet until the kernel asks for one, between questions, and how many go unanswered."""


async def dial(identity: Identity, node_id: NodeId | None, address: Address) -> TlsStream:
    """The peer `node_id` (None: whoever is there) at this address, which is no relay's.

    Raises WrongPeer, OSError, ValueError, trio.BrokenResourceError.
    """
    transport = await trio.open_tcp_stream(address.host, address.port)
    keep_alive(transport)
    return await authenticate(transport, identity, node_id, str(address))


async def authenticate(
    transport: trio.SocketStream, identity: Identity, node_id: NodeId | None, where: str
) -> TlsStream:
    """Speak TLS on a connection that was dialled. Raises as `dial`; then the connection is closed."""
    stream = TlsStream(transport, identity.client, server_side=False)
    try:
        await stream.do_handshake()
        stream.peer = peer_of(stream.tls)
        if node_id is not None and stream.peer != node_id:
            raise WrongPeer(f"{short(stream.peer)} answers at {where}, not {short(node_id)}")
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return stream


def keep_alive(transport: trio.SocketStream) -> None:
    """Have the kernel notice that the other machine or the line is gone, also where nothing is sent: a router
    forgets an idle connection, and a transfer on it would wait for its whole timeout.

    It is the other kernel that answers, so neither a busy program nor a slow relay counts as gone.
    """
    # A connection that is gone by now says so when it is used.
    with suppress(OSError):
        transport.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in KEEP_ALIVE.items():
            transport.setsockopt(socket.IPPROTO_TCP, option, value)


def expect_answers(stream: trio.abc.Stream) -> None:
    """The same where something was sent: there the kernel does not ask, and repeats it for 15 minutes.

    Only where the other side always reads, for one whose buffers are full counts as gone too.
    """
    transport = below(stream)
    if transport is not None:
        with suppress(OSError):
            transport.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(GONE * 1000))
