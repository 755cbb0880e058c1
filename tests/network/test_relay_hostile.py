"""Whatever is done to a relay, or through one: who does it is cut off, others are served, nothing is left."""

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

import pytest
import trio

from storjfs.network.behind import Attachment
from storjfs.network.frames import FrameStream
from storjfs.network.relay import RELAY_LIMITS
from storjfs.network.service import Service, serve_peer
from storjfs.network.streams import Gate, serve_through
from storjfs.network.tls import TlsStream
from storjfs.protocol.framing import encode_request
from storjfs.protocol.messages import Arrive, Attach, Ping, Purpose, Through
from storjfs.protocol.terms import Address
from tests.network.attackers import ATTACKS, CONTROL, HELLO, LIMITS, SHORT, Target, attack, served
from tests.network.farm import FARMER, STRANGER, Farmer
from tests.network.relaying import RELAY, RelayService, eventually, renting

RELAYING = replace(RELAY_LIMITS, answer=1.5, idle=1.5, linger=1.5)


async def serve(stream: TlsStream, service: Service) -> None:
    await serve_peer(stream, stream.peer, service, CONTROL, patience=SHORT, guest=stream.guest)


@asynccontextmanager
async def relay_and_farmer() -> AsyncIterator[tuple[RelayService, Gate, Gate, Address]]:
    """A relay, an honest farmer behind it, and the relay's address. None of them is patient."""
    service = RelayService(RELAYING)
    relay_gate = Gate(RELAY, partial(serve, service=service), LIMITS)
    farmer_gate = Gate(FARMER, partial(serve, service=Farmer()), LIMITS)
    attached = trio.Event()
    async with trio.open_nursery() as nursery:
        (address,) = await nursery.start(serve_through, relay_gate, "127.0.0.1", 0)
        admit = partial(farmer_gate.admit, relayed=True)
        nursery.start_soon(Attachment(FARMER, address, None, admit, attached.set).run)
        await attached.wait()
        yield service, relay_gate, farmer_gate, address
        nursery.cancel_scope.cancel()


# --- states ---


async def half_a_way(target: Target) -> trio.abc.Stream:
    return await target.greeted(Purpose.RELAY)


async def waiting_for_nobody(target: Target) -> trio.abc.Stream:
    """For a farmer that is attached and never comes: the attacker itself, under the same key."""
    target.kept.append(await attached_and_deaf(target))
    stream = await target.greeted(Purpose.RELAY)
    await stream.send_all(encode_request(1, Through(target.identity.node_id)))
    return stream


async def arriving_for_nobody(target: Target) -> trio.abc.Stream:
    stream = await target.tls()
    await stream.send_all(HELLO[Purpose.RELAY] + encode_request(1, Arrive(os.urandom(32))))
    return stream


async def attached_and_deaf(target: Target) -> trio.abc.Stream:
    """A farmer that asks for a place and answers no call."""
    stream = await target.greeted(Purpose.CONTROL)
    await stream.send_all(encode_request(0, Attach()))
    return stream


async def at_the_farmer(target: Target) -> trio.abc.Stream:
    """Through the relay, where the farmer's TLS should begin."""
    stream = await target.tls()
    frames = FrameStream(stream, exact=True)
    await stream.send_all(HELLO[Purpose.RELAY] + encode_request(1, Through(FARMER.node_id)))
    for _ in range(2):
        await frames.receive_frame()
    transport, _ = frames.detach()
    return transport


STATES: list[Callable[[Target], Awaitable[trio.abc.Stream]]] = [
    half_a_way,
    waiting_for_nobody,
    arriving_for_nobody,
    attached_and_deaf,
    at_the_farmer,
]


@pytest.mark.parametrize("strike", ATTACKS, ids=lambda strike: strike.__name__)
async def test_in_every_state_the_attacker_is_cut_off_and_others_are_relayed(
    strike: Callable[[trio.abc.Stream], Awaitable[None]],
) -> None:
    async with relay_and_farmer() as (service, relay_gate, farmer_gate, address):
        async with renting(address.through()) as peer:
            await served(partial(peer.request, Ping()))
            async with trio.open_nursery() as nursery:
                for reach in STATES:
                    nursery.start_soon(attack, reach, strike, Target(STRANGER, RELAY.node_id, address))
                for _ in range(5):
                    peer.disconnect()
                    await served(partial(peer.request, Ping()))
        await eventually(lambda: not service.relay.streams and not service.relay.waiting)
        await eventually(lambda: not farmer_gate.total and list(service.relay.attached) == [FARMER.node_id])
        await eventually(lambda: relay_gate.total == 1)


async def test_no_file_is_left_open() -> None:
    async with relay_and_farmer() as (service, relay_gate, _, address):
        async with renting(address.through()) as peer:
            await served(partial(peer.request, Ping()))
        await eventually(lambda: relay_gate.total == 1)
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(10):
            async with renting(address.through()) as peer:
                await served(partial(peer.request, Ping()))
            await attack(at_the_farmer, ATTACKS[0], Target(STRANGER, RELAY.node_id, address))
        await eventually(lambda: relay_gate.total == 1 and not service.relay.streams)
        await eventually(lambda: len(os.listdir("/proc/self/fd")) <= before)
