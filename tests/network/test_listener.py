"""A listener: how many it lets in, from where, and that nobody ends it."""

import logging
import socket
from contextlib import AsyncExitStack, suppress

import pytest
import trio
import trio.testing

from storjfs.network.failures import PeerUnreachable
from storjfs.network.origin import origin
from storjfs.network.streams import LIMITS, Gate, Limits, open_stream, serve, serve_through
from storjfs.network.tls import TlsStream
from tests.network.farm import FARMER, RENTER, STRANGER, idle_connection
from tests.network.lines import echoing


async def test_who_does_not_finish_the_handshake_is_dropped() -> None:
    async with echoing(Limits(handshake_timeout=0.02)) as address:
        async with await trio.open_tcp_stream(address.host, address.port) as idle:
            assert await idle.receive_some() == b""


async def test_one_peer_gets_so_many_connections_and_another_still_one() -> None:
    async with echoing(Limits(per_peer=2)) as address:
        first = await open_stream(RENTER, FARMER.node_id, [address])
        second = await open_stream(RENTER, FARMER.node_id, [address])
        assert await first.receive_some(32) == await second.receive_some(32) == RENTER.node_id
        third = await open_stream(RENTER, FARMER.node_id, [address])
        with pytest.raises(trio.BrokenResourceError):
            assert not await third.receive_some(32)
            raise trio.BrokenResourceError
        async with await open_stream(STRANGER, FARMER.node_id, [address]) as other:
            assert await other.receive_some(32) == STRANGER.node_id
        for stream in (first, second, third):
            await stream.aclose()


async def test_one_address_gets_so_many_connections_whoever_it_says_it_is() -> None:
    async with echoing(Limits(per_address=2)) as address:
        first = await open_stream(RENTER, FARMER.node_id, [address])
        second = await open_stream(STRANGER, FARMER.node_id, [address])
        assert await first.receive_some(32) == RENTER.node_id
        assert await second.receive_some(32) == STRANGER.node_id
        with pytest.raises(PeerUnreachable):
            await open_stream(FARMER, FARMER.node_id, [address])
        elsewhere = await trio.open_tcp_stream(address.host, address.port, local_address="127.0.0.2")
        async with TlsStream(elsewhere, FARMER.client, server_side=False) as third:
            await third.do_handshake()
            assert await third.receive_some(32) == FARMER.node_id
        await first.aclose()
        await second.aclose()


async def test_it_is_remembered_who_came() -> None:
    async def echo(stream: TlsStream) -> None:
        await stream.send_all(stream.peer)

    gate = Gate(FARMER, echo, LIMITS)
    async with trio.open_nursery() as nursery:
        (address,) = await nursery.start(serve_through, gate, "127.0.0.1", 0)
        assert gate.came("127.0.0.1") == 0
        for number in range(1, 3):
            async with await open_stream(RENTER, FARMER.node_id, [address]) as stream:
                assert await stream.receive_some(32) == RENTER.node_id
            assert gate.came("127.0.0.1") == number
        assert gate.came("8.8.8.8") == 0
        nursery.cancel_scope.cancel()


async def test_unfinished_handshakes_of_one_address_leave_room_for_another() -> None:
    limits = Limits(handshakes=3, handshakes_per_address=2, handshake_timeout=3600)
    with trio.fail_after(120):
        async with echoing(limits) as address, AsyncExitStack() as idle:
            for _ in range(2):
                transport = await trio.open_tcp_stream(address.host, address.port)
                await idle.enter_async_context(transport)
                await transport.send_all(b"\x16\x03\x01")
            refused = await idle.enter_async_context(await trio.open_tcp_stream(address.host, address.port))
            with suppress(trio.BrokenResourceError):
                assert await refused.receive_some() == b""
            elsewhere = await trio.open_tcp_stream(address.host, address.port, local_address="127.0.0.2")
            async with TlsStream(elsewhere, RENTER.client, server_side=False) as other:
                await other.do_handshake()
                assert await other.receive_some(32) == RENTER.node_id


@pytest.mark.parametrize("said", [b"", b"\x16\x03\x01"])
async def test_where_many_say_too_little_the_address_with_most_gives_way(said: bytes) -> None:
    limits = Limits(handshakes=6, handshakes_per_address=3, handshake_timeout=3600)
    with trio.fail_after(120):
        async with echoing(limits) as address, AsyncExitStack() as idle:
            for host in ("127.0.0.1", "127.0.0.2"):
                for _ in range(3):
                    transport = await trio.open_tcp_stream(address.host, address.port, local_address=host)
                    await idle.enter_async_context(transport)
                    if said:
                        await transport.send_all(said)
            for _ in range(7):
                stream = await trio.open_tcp_stream(address.host, address.port, local_address="127.0.0.3")
                async with TlsStream(stream, RENTER.client, server_side=False) as one:
                    await one.do_handshake()
                    assert await one.receive_some(32) == RENTER.node_id


async def test_handshakes_of_one_address_have_a_rate() -> None:
    async with echoing(Limits(handshake_rate=1e-6, handshake_burst=2)) as address:
        for _ in range(2):
            async with await open_stream(RENTER, FARMER.node_id, [address]) as stream:
                assert await stream.receive_some(32) == RENTER.node_id
        with pytest.raises(PeerUnreachable):
            await open_stream(RENTER, FARMER.node_id, [address])
        elsewhere = await trio.open_tcp_stream(address.host, address.port, local_address="127.0.0.2")
        async with TlsStream(elsewhere, RENTER.client, server_side=False) as other:
            await other.do_handshake()
            assert await other.receive_some(32) == RENTER.node_id


async def test_the_kernel_notices_at_both_ends_that_the_other_is_gone() -> None:
    async with idle_connection() as ends:
        for one in ends:
            assert isinstance(one.transport, trio.SocketStream)
            assert one.transport.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            idle, pause, count = (
                one.transport.getsockopt(socket.IPPROTO_TCP, option)
                for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
            )
            assert isinstance(idle, int)
            assert isinstance(pause, int)
            assert isinstance(count, int)
            assert idle + pause * count <= 25


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::2", True),
    ],
)
def test_what_counts_as_one_address(one: str, other: str, same: bool) -> None:
    assert (origin(one) == origin(other)) is same


async def test_addresses_are_forgotten() -> None:
    gate = Gate(FARMER, trio.sleep, LIMITS)  # type: ignore[arg-type]
    for number in range(5000):
        gate._visitor(f"visitor {number}")
    assert len(gate.visitors) <= 1025
    assert "visitor 4999" in gate.visitors


async def test_too_many_connections_are_closed_at_once() -> None:
    async with echoing(Limits(connections=1)) as address:
        async with await open_stream(RENTER, FARMER.node_id, [address]) as only:
            assert await only.receive_some(32) == RENTER.node_id
            with pytest.raises(PeerUnreachable):
                await open_stream(STRANGER, FARMER.node_id, [address])


async def test_a_failing_handler_is_logged_and_the_listener_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    async def fail(stream: TlsStream) -> None:
        await stream.send_all(b"x")
        raise LookupError("a bug")

    async with trio.open_nursery() as nursery:
        addresses = await nursery.start(lambda task_status: serve(
            FARMER, "127.0.0.1", 0, fail, task_status=task_status
        ))  # fmt: skip
        with caplog.at_level(logging.ERROR):
            for _ in range(2):
                async with await open_stream(RENTER, FARMER.node_id, [addresses[0]]) as stream:
                    assert await stream.receive_some(1) == b"x"
                    with pytest.raises(trio.BrokenResourceError):
                        await stream.receive_some(1)
        nursery.cancel_scope.cancel()
    assert "a bug" in caplog.text
