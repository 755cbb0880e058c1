"""Somebody who is gone without a word, as by a cut line, is missed within seconds."""

import ctypes
import socket
import struct
from functools import partial
from typing import Any

import pytest
import trio

from storjfs.network import dialling
from storjfs.network.control import ControlLimits
from storjfs.network.origin import below
from storjfs.network.splice import splice
from storjfs.network.streams import open_stream, serve
from storjfs.network.tls import TlsStream
from storjfs.protocol.ids import ContractId, ShardId
from storjfs.protocol.messages import Ping
from tests.network.farm import FARMER, RENTER, Farmer, listening
from tests.network.relaying import PATIENCE, RelayService, behind, eventually, relaying, renting

SO_ATTACH_FILTER = 26
CONTRACT = ContractId(bytes(32))
SHARD = ShardId(bytes(range(32)))


def cut(stream: trio.abc.Stream) -> None:
    """From now on no packet gets to this end of a connection: a socket filter (socket(7)) drops all."""
    transport = below(stream)
    assert transport is not None
    nothing = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))  # return 0 bytes
    program = struct.pack("HL", 1, ctypes.addressof(nothing))
    transport.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)


@pytest.fixture
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of the time that it takes: the kernel's, which does not depend on how busy the machine is."""
    monkeypatch.setattr(dialling, "GONE", dialling.GONE / 10)
    monkeypatch.setattr(dialling, "KEEP_ALIVE", dict.fromkeys(dialling.KEEP_ALIVE, 1))


@pytest.mark.usefixtures("_soon")
async def test_an_idle_connection_whose_other_end_is_gone_breaks() -> None:
    served: list[TlsStream] = []

    async def keep(stream: TlsStream) -> None:
        served.append(stream)
        await stream.send_all(b"x")
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        addresses = await nursery.start(partial(serve, FARMER, "127.0.0.1", 0, keep))
        async with await open_stream(RENTER, FARMER.node_id, addresses) as stream:
            assert await stream.receive_some(1) == b"x"
            cut(served[0])
            with trio.fail_after(PATIENCE), pytest.raises(trio.BrokenResourceError):
                await stream.receive_some(1)
        nursery.cancel_scope.cancel()


async def test_only_who_always_reads_is_gone_where_what_was_sent_waits() -> None:
    """A farmer that is held to a limit reads no shards for a while: its kernel takes none, and is there."""
    async with listening(Farmer()) as address, renting(address) as peer:
        await peer.request(Ping())
        await peer.put_shard(CONTRACT, SHARD, b"some bytes")
        assert peer._control is not None
        (data,) = peer._data._idle
        control = peer._control._frames
        times = [
            transport.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
            for transport in (below(control.stream), below(data.stream))
            if transport is not None
        ]
        assert times == [dialling.GONE * 1000, 0]


async def test_a_farmer_misses_a_relay_that_hangs_and_attaches_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its kernel still answers."""
    monkeypatch.setattr("storjfs.network.behind.WATCHFUL", ControlLimits(quiet=0.5))
    service = RelayService()
    async with relaying(service) as (where, _), behind(Farmer(), where) as (attachment,):

        async def take(*_: object) -> None:
            await trio.sleep_forever()

        service.control[0]._take = take  # type: ignore[method-assign, assignment]
        await eventually(lambda: not attachment.attached)
        await eventually(lambda: attachment.attached)


@pytest.mark.usefixtures("_soon")
async def test_a_renter_that_asks_through_a_relay_that_is_gone_gets_its_answer_on_another_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    joined: list[trio.SocketStream] = []

    async def noted(one: trio.SocketStream, other: trio.SocketStream, **rest: Any) -> None:
        joined.extend((one, other))
        await splice(one, other, **rest)

    monkeypatch.setattr("storjfs.network.relay.splice", noted)
    async with relaying(RelayService()) as (where, _), behind(Farmer(), where):
        async with renting(where.through()) as peer:
            await peer.request(Ping())
            for stream in joined:
                cut(stream)
            with trio.fail_after(PATIENCE):
                await peer.request(Ping())
            assert len(joined) == 4


@pytest.mark.usefixtures("_soon")
async def test_a_transfer_goes_on_elsewhere_once_requests_find_the_way_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    joined: list[trio.SocketStream] = []

    async def noted(one: trio.SocketStream, other: trio.SocketStream, **rest: Any) -> None:
        joined.extend((one, other))
        await splice(one, other, **rest)

    async def stuck() -> None:
        begun.set()
        await trio.sleep_forever()

    monkeypatch.setattr("storjfs.network.relay.splice", noted)
    farmer, begun = Farmer(), trio.Event()
    async with relaying(RelayService()) as (where, _), behind(farmer, where):
        async with renting(where.through()) as peer, trio.open_nursery() as nursery:
            await peer.request(Ping())
            await peer.put_shard(CONTRACT, SHARD, b"some bytes")
            farmer.serving_get = stuck
            buffer, got = bytearray(10), trio.Event()

            async def get() -> None:
                await peer.get_range(CONTRACT, SHARD, 0, buffer)
                got.set()

            nursery.start_soon(get)
            await begun.wait()
            farmer.serving_get = trio.lowlevel.checkpoint
            for stream in joined:
                cut(stream)
            with trio.fail_after(PATIENCE):
                await got.wait()
            assert buffer == b"some bytes"
            assert peer._data._open == 1
