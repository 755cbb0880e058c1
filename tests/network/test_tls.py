"""Streams: the trio contract, and who is at the other end."""

import _ssl
import ctypes
import datetime
import logging
import os
import ssl

import pytest
import trio
import trio.testing
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from storjfs.network.failures import PeerUnreachable, WrongPeer
from storjfs.network.identity import Identity, _open_ca, leaf_certificate, peer_of
from storjfs.network.streams import open_stream
from storjfs.network.tls import TlsStream
from storjfs.protocol.ids import NodeId
from storjfs.protocol.terms import Address
from tests.network.farm import FARMER, RENTER, STRANGER
from tests.network.lines import echoing


def contexts_of_another_kind() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Client and server contexts like an identity's, but with an ECDSA leaf under the open CA."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ecdsa")])
    ca = x509.load_der_x509_certificate(_open_ca()[1])
    leaf = (
        x509.CertificateBuilder()
        .issuer_name(ca.subject)
        .subject_name(name)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(datetime.datetime(2020, 1, 1))
        .not_valid_after(datetime.datetime(9999, 1, 1))
        .sign(_open_ca()[0], None)
    )
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + leaf.public_bytes(
        Encoding.PEM
    )
    made = []
    for protocol in (ssl.PROTOCOL_TLS_CLIENT, ssl.PROTOCOL_TLS_SERVER):
        context = ssl.SSLContext(protocol)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=_open_ca()[1])
        memory = os.memfd_create("leaf")
        os.write(memory, pem)
        context.load_cert_chain(f"/proc/self/fd/{memory}")
        os.close(memory)
        made.append(context)
    return made[0], made[1]


async def handshake_both(client: TlsStream, server: TlsStream) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.do_handshake)
        nursery.start_soon(server.do_handshake)


async def test_tls_keeps_the_contract_of_a_trio_stream() -> None:
    async def pair() -> tuple[TlsStream, TlsStream]:
        ours, theirs = trio.testing.memory_stream_pair()
        client = TlsStream(ours, RENTER.client, server_side=False)
        server = TlsStream(theirs, FARMER.server, server_side=True)
        await handshake_both(client, server)
        return client, server

    await trio.testing.check_two_way_stream(pair, None)


async def test_both_sides_learn_who_the_other_is() -> None:
    async with echoing() as address, await open_stream(RENTER, FARMER.node_id, [address]) as stream:
        assert stream.peer == FARMER.node_id
        assert await stream.receive_some(32) == RENTER.node_id


async def test_somebody_else_at_the_address_is_refused() -> None:
    async with echoing(identity=STRANGER) as address:
        with pytest.raises(WrongPeer):
            await open_stream(RENTER, FARMER.node_id, [address])


async def test_the_right_one_is_found_behind_a_wrong_and_a_dead_address() -> None:
    async with echoing(identity=STRANGER) as wrong, echoing() as right:
        dead = Address("127.0.0.1", 1)
        async with await open_stream(RENTER, FARMER.node_id, [wrong, dead, right]) as stream:
            assert stream.peer == FARMER.node_id


async def test_nobody_there_is_unreachable() -> None:
    with pytest.raises(PeerUnreachable, match=r"127\.0\.0\.1:1"):
        await open_stream(RENTER, FARMER.node_id, [Address("127.0.0.1", 1)])
    with pytest.raises(PeerUnreachable, match="no address"):
        await open_stream(RENTER, FARMER.node_id, [])


@pytest.mark.parametrize("host", ["a\0b", "\udc80", "x" * 300, "..", "no-such-host.invalid"])
async def test_hosts_that_are_none_are_unreachable(host: str) -> None:
    with pytest.raises(PeerUnreachable):
        await open_stream(RENTER, FARMER.node_id, [Address(host, 1)])


async def test_no_certificate_can_end_the_listener(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(tls: ssl.SSLObject) -> NodeId:
        raise ArithmeticError("a parser's bug")

    with caplog.at_level(logging.ERROR):
        async with echoing() as address:
            with monkeypatch.context() as patch:
                client = TlsStream(
                    await trio.open_tcp_stream(address.host, address.port), RENTER.client, server_side=False
                )
                patch.setattr("storjfs.network.streams.peer_of", fail)
                async with client:
                    await client.do_handshake()
                    with pytest.raises(trio.BrokenResourceError):
                        await client.receive_some(32)
            async with await open_stream(RENTER, FARMER.node_id, [address]) as other:
                assert await other.receive_some(32) == RENTER.node_id
    assert "a parser's bug" in caplog.text


async def test_a_listener_that_says_nothing_is_unreachable_in_time() -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listeners[0]:
        address = Address("127.0.0.1", listeners[0].socket.getsockname()[1])
        with pytest.raises(PeerUnreachable):
            await open_stream(RENTER, FARMER.node_id, [address], timeout=0.05)


async def test_a_farmer_with_another_kind_of_key_is_refused() -> None:
    _, server_context = contexts_of_another_kind()
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")

    async def serve_one() -> None:
        stream = TlsStream(await listeners[0].accept(), server_context, server_side=True)
        await stream.do_handshake()
        await stream.aclose()

    async with listeners[0], trio.open_nursery() as nursery:
        nursery.start_soon(serve_one)
        address = Address("127.0.0.1", listeners[0].socket.getsockname()[1])
        with pytest.raises(WrongPeer, match="Ed25519"):
            await open_stream(RENTER, None, [address])


async def test_a_renter_with_another_kind_of_key_is_refused() -> None:
    client_context, _ = contexts_of_another_kind()
    async with echoing() as address:
        stream = TlsStream(
            await trio.open_tcp_stream(address.host, address.port), client_context, server_side=False
        )
        async with stream:
            await stream.do_handshake()  # the client is through before the server has judged
            with pytest.raises(trio.BrokenResourceError):
                assert not await stream.receive_some(32)
                raise trio.BrokenResourceError
        async with await open_stream(RENTER, FARMER.node_id, [address]) as other:
            assert await other.receive_some(32) == RENTER.node_id


@pytest.mark.parametrize("weakness", ["no certificate", "TLS 1.2", "not TLS"])
async def test_weaker_clients_are_refused_and_others_still_served(weakness: str) -> None:
    async with echoing() as address:
        transport = await trio.open_tcp_stream(address.host, address.port)
        if weakness == "not TLS":
            async with transport:
                await transport.send_all(b"GET / HTTP/1.1\r\n\r\n" * 100)
                with trio.move_on_after(5), pytest.raises(trio.BrokenResourceError):
                    while await transport.receive_some():
                        pass
                    raise trio.BrokenResourceError
        else:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            if weakness == "TLS 1.2":
                context.maximum_version = ssl.TLSVersion.TLSv1_2
            async with TlsStream(transport, context, server_side=False) as stream:
                with pytest.raises(trio.BrokenResourceError):
                    await stream.do_handshake()
                    assert not await stream.receive_some(32)
                    raise trio.BrokenResourceError
        async with await open_stream(RENTER, FARMER.node_id, [address]) as other:
            assert await other.receive_some(32) == RENTER.node_id


async def test_a_cut_line_is_not_taken_for_an_end() -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    client = TlsStream(ours, RENTER.client, server_side=False)
    server = TlsStream(theirs, FARMER.server, server_side=True)
    await handshake_both(client, server)
    await client.send_all(b"half")
    await trio.aclose_forcefully(ours)
    assert await server.receive_some(100) == b"half"
    with pytest.raises(trio.BrokenResourceError):
        await server.receive_some(100)


async def test_a_cancelled_receive_loses_nothing_and_a_cancelled_send_breaks() -> None:
    ours, theirs = trio.testing.lockstep_stream_pair()
    client = TlsStream(ours, RENTER.client, server_side=False)
    server = TlsStream(theirs, FARMER.server, server_side=True)
    await handshake_both(client, server)
    with trio.move_on_after(0) as scope:
        await server.receive_some(1)
    assert scope.cancelled_caught
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.send_all, b"whole")
        assert await server.receive_some(100) == b"whole"
    with trio.move_on_after(0):
        await client.send_all(b"nobody reads this")
    with pytest.raises(trio.BrokenResourceError):
        await client.send_all(b"more")


async def test_a_peer_that_asks_for_new_keys_for_ever_is_cut_off() -> None:
    """Each such request makes TLS keep an answer, which goes out with the next bytes that are sent."""
    ours, theirs = trio.testing.memory_stream_pair()
    client = TlsStream(ours, RENTER.client, server_side=False)
    server = TlsStream(theirs, FARMER.server, server_side=True)
    await handshake_both(client, server)
    ask_for_new_keys(client)
    await client.send_all(b"once is allowed")
    assert await server.receive_some(100) == b"once is allowed"
    async with trio.open_nursery() as nursery:

        async def ask_for_ever() -> None:
            with pytest.raises(trio.ClosedResourceError):
                while True:
                    ask_for_new_keys(client)
                    await client._flush()
                    await trio.testing.wait_all_tasks_blocked()

        async def cancel_at_the_end() -> None:
            with pytest.raises(trio.BrokenResourceError, match="new keys"):
                await server.receive_some(100)
            nursery.cancel_scope.cancel()

        nursery.start_soon(ask_for_ever)
        nursery.start_soon(cancel_at_the_end)
        for _ in range(2000):
            await trio.testing.wait_all_tasks_blocked()
        assert server._outgoing.pending < 64 << 10, "it takes as much memory as the peer likes"


def ask_for_new_keys(stream: TlsStream) -> None:
    """Python has no call for it: SSL_key_update of the OpenSSL that it uses, on the SSL of this stream."""
    openssl = ctypes.CDLL(_ssl.__file__)
    ssl_of_object = ctypes.c_void_p.from_address(id(getattr(stream.tls, "_sslobj")) + SSL_OFFSET)  # noqa: B009
    assert openssl.SSL_key_update(ssl_of_object, 1) == 1
    openssl.SSL_do_handshake(ssl_of_object)


SSL_OFFSET = object.__basicsize__ + ctypes.sizeof(ctypes.c_void_p)
"""Of the SSL in CPython's `_ssl._SSLSocket`: behind the object's head and its reference to the socket."""


def test_the_certificate_follows_from_the_key_alone() -> None:
    one, other = Identity(bytes(32)), Identity(bytes(32))
    assert leaf_certificate(one._key.public_key()) == leaf_certificate(other._key.public_key())
    assert one.node_id == NodeId(one.signing.public)
    assert "storjfs" in x509.load_der_x509_certificate(_open_ca()[1]).subject.rfc4514_string()


def test_no_certificate_is_no_peer() -> None:
    tls = RENTER.client.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO())
    with pytest.raises((WrongPeer, ValueError)):
        peer_of(tls)
