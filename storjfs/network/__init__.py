"""Connections between peers: TLS 1.3 on TCP with Ed25519 identities, multiplexed requests, shard transfers.

What is said over them is storjfs.protocol's; the transport is specified in docs/formats/protocol.md.
"""
