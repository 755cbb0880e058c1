"""Somebody who is gone without a word, as by a cut line, is missed within seconds."""

import ctypes
import socket
import struct
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest
import trio

from storjfs.network import dialling
from storjfs.network.control import ControlConnection, ControlLimits
from storjfs.network.failures import PeerUnreachable
from storjfs.network.origin import below
from storjfs.network.relay import RELAY_LIMITS, Relay
from storjfs.network.splice import splice
from storjfs.protocol.ids import ContractId, NodeId, ShardId
from storjfs.protocol.messages import Hello, HelloAnswer, Ping
from tests.network.farm import Farmer, idle_connection, listening
from tests.network.relaying import (
    PATIENCE,
    SECOND,
    CountedLine,
    RelayService,
    behind,
    eventually,
    relaying,
    renting,
)

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


@pytest.fixture
def joined(monkeypatch: pytest.MonkeyPatch) -> list[trio.SocketStream]:
    """Both connections of each pair that a relay joins from now on."""
    found: list[trio.SocketStream] = []

    async def noted(one: trio.SocketStream, other: trio.SocketStream, **rest: Any) -> None:
        found.extend((one, other))
        await splice(one, other, **rest)

    monkeypatch.setattr("storjfs.network.relay.splice", noted)
    return found


@pytest.mark.usefixtures("_soon")
async def test_an_idle_connection_whose_other_end_is_gone_breaks() -> None:
    async with idle_connection() as (stream, served):
        cut(served)
        with trio.fail_after(PATIENCE), pytest.raises(trio.BrokenResourceError):
            await stream.receive_some(1)


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
    joined: list[trio.SocketStream],
) -> None:
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
    joined: list[trio.SocketStream],
) -> None:
    async def stuck() -> None:
        begun.set()
        await trio.sleep_forever()

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


class Passing(CountedLine):
    """A line that nothing passes any more while it is `held`."""

    def __init__(self) -> None:
        super().__init__()
        self.goes_on = trio.Event()
        self.goes_on.set()

    async def pass_on(self, farmer: NodeId, count: int, *, to_farmer: bool) -> None:
        await self.goes_on.wait()
        await super().pass_on(farmer, count, to_farmer=to_farmer)


class FallingSilent(RelayService):
    """A relay whose kernel takes connections and data, while it does nothing any more."""

    def __init__(self) -> None:
        super().__init__()
        self.line: Passing = Passing()
        self.relay = Relay(self.line, RELAY_LIMITS)

    async def hello(self, peer: NodeId, hello: Hello) -> HelloAnswer:
        await self.line.goes_on.wait()
        return await super().hello(peer, hello)

    def fall_silent(self) -> None:
        async def take(*_: object) -> None:
            await trio.sleep_forever()

        self.line.goes_on = trio.Event()
        for one in self.control:
            one._take = take  # type: ignore[method-assign, assignment]


async def test_a_relay_that_falls_silent_is_left_for_the_other_and_used_again_when_it_speaks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All connections stay up, and nothing passes: pings find out."""
    soon = ControlLimits(quiet=1.0)
    monkeypatch.setattr("storjfs.network.behind.WATCHFUL", soon)
    monkeypatch.setattr("storjfs.network.peer.ControlConnection", partial(ControlConnection, limits=soon))
    monkeypatch.setattr("storjfs.network.peer.DIAL_TIMEOUT", 2.0)
    first, second, farmer = FallingSilent(), RelayService(), Farmer()
    async with (
        relaying(first) as (where, _),
        relaying(second, SECOND) as (other, _),
        behind(farmer, where, other) as (one, two),
        renting(where.through(), other.through()) as peer,
    ):
        await answered(peer.request, Ping())
        await answered(peer.put_shard, CONTRACT, SHARD, b"some bytes")
        first.fall_silent()
        buffer = bytearray(10)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answered, peer.get_range, CONTRACT, SHARD, 0, buffer)
            await answered(peer.request, Ping())
        assert buffer == b"some bytes"
        assert second.line.joins
        await eventually(lambda: not one.attached)
        await eventually(lambda: two.attached)
        first.line.goes_on.set()
        await eventually(lambda: one.attached)


async def answered(ask: Callable[..., Awaitable[object]], *words: Any) -> None:
    """Ask until there is an answer: a busy machine may take a way for one that is gone."""
    with trio.fail_after(3 * PATIENCE):
        while True:
            try:
                await ask(*words)
                return
            except PeerUnreachable as error:
                await trio.sleep(error.retry_after or 0.01)
