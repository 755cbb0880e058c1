"""Connections between peers: TLS 1.3 on TCP with Ed25519 identities, multiplexed requests, shard transfers.

What is said over them is storjfs.protocol's; the transport is specified in docs/formats/protocol.md.
"""

from storjfs.network.control import ControlConnection, ControlLimits
from storjfs.network.data import DataPool, ShardSource
from storjfs.network.failures import PeerUnreachable, RequestTimeout, WrongPeer
from storjfs.network.frames import Buffer, FrameStream
from storjfs.network.identity import Identity
from storjfs.network.peer import Connector, Peer
from storjfs.network.service import Service, serve_peer, serve_tls
from storjfs.network.streams import Limits, open_stream, serve
from storjfs.network.tls import TlsStream

__all__ = [
    "Buffer",
    "Connector",
    "ControlConnection",
    "ControlLimits",
    "DataPool",
    "FrameStream",
    "Identity",
    "Limits",
    "Peer",
    "PeerUnreachable",
    "RequestTimeout",
    "Service",
    "ShardSource",
    "TlsStream",
    "WrongPeer",
    "open_stream",
    "serve",
    "serve_peer",
    "serve_tls",
]
