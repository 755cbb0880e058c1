"""Whatever a peer does in whatever state: it is cut off, others are served, nothing is left of it."""

import gc
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from msgspec import Struct

from storjfs.network.failures import PeerUnreachable
from storjfs.network.frames import Buffer
from storjfs.network.identity import Identity
from storjfs.network.peer import Peer
from storjfs.network.service import serve_peer
from storjfs.network.streams import Limits, serve
from storjfs.network.tls import TlsStream
from storjfs.protocol.failures import ErrorCode, RequestFailed
from storjfs.protocol.ids import NodeId, ShardId
from storjfs.protocol.messages import Get, GetOffer, OfferAnswer, Request
from storjfs.protocol.terms import Address
from tests.network.attackers import (
    ATTACKS,
    CONTRACT,
    CONTROL,
    LARGE,
    LARGE_LENGTH,
    LIMITS,
    SHORT,
    STATES,
    STUCK,
    Target,
    attack,
    served,
    wait_until_cut_off,
)
from tests.network.farm import FARMER, RENTER, SOMETHING, STRANGER, Farmer


class FarmerUnderAttack(Farmer):
    """Counts the connections and the lookups that are not over."""

    connections = 0
    looking = 0

    async def get(self, peer: NodeId, header: Get) -> Buffer:
        if header.shard_id == STUCK:
            self.looking += 1
            try:
                await trio.sleep(1)
            finally:
                self.looking -= 1
            raise RequestFailed(ErrorCode.UNKNOWN_SHARD)
        return await super().get(peer, header)

    async def serve(self, stream: TlsStream) -> None:
        self.connections += 1
        try:
            await serve_peer(stream, stream.peer, self, CONTROL, patience=SHORT, guest=stream.guest)
        finally:
            self.connections -= 1


async def slow_offer(request: Request[Any]) -> Struct:
    await trio.sleep(0.01)
    return OfferAnswer(SOMETHING)


@asynccontextmanager
async def under_attack(limits: Limits = LIMITS) -> AsyncIterator[tuple[FarmerUnderAttack, Address]]:
    farmer = FarmerUnderAttack({LARGE: bytes(LARGE_LENGTH)}, answering=slow_offer)
    async with trio.open_nursery() as nursery:
        addresses = await nursery.start(partial(serve, FARMER, "127.0.0.1", 0, farmer.serve, limits=limits))
        yield farmer, addresses[0]
        nursery.cancel_scope.cancel()


async def use(peer: Peer, number: int) -> None:
    """A request, a shard up and a range down, each tried again where the line was lost."""
    content = number.to_bytes(2, "big") * 5000
    shard_id, buffer = ShardId(number.to_bytes(32, "big")), bytearray(100)
    steps: list[Callable[[], Awaitable[object]]] = [
        partial(peer.request, GetOffer()),
        partial(peer.put_shard, CONTRACT, shard_id, content),
        partial(peer.get_range, CONTRACT, shard_id, 77, buffer),
    ]
    for step in steps:
        await served(step)
    assert buffer == content[77:177]


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


async def settle(what: Callable[[], bool]) -> None:
    """Wait for something that the kernel has a part in."""
    for _ in range(3000):
        if what():
            return
        await trio.sleep(0.01)
    raise AssertionError("something is left of the attackers")


@pytest.mark.parametrize("strike", ATTACKS, ids=lambda strike: strike.__name__)
async def test_in_every_state_the_attacker_is_cut_off_and_others_are_served(
    strike: Callable[[trio.abc.Stream], Awaitable[None]],
) -> None:
    async with under_attack() as (farmer, address), trio.open_nursery() as nursery:
        peer = Peer(RENTER, FARMER.node_id, [address])
        await nursery.start(peer.run)
        await use(peer, 0)
        files, tasks = open_files(), trio.lowlevel.current_statistics().tasks_living
        over = trio.Event()
        served = 0

        async def attack_everywhere() -> None:
            async with trio.open_nursery() as attacks:
                for reach in STATES:
                    attacks.start_soon(attack, reach, strike, Target(STRANGER, FARMER.node_id, address))
            over.set()

        nursery.start_soon(attack_everywhere)
        while not over.is_set():
            served += 1
            await use(peer, served)
        assert served
        # The honest peer's own connections may have gone meanwhile, or a few been made anew.
        await peer._data.aclose()
        peer.disconnect()
        await settle(lambda: farmer.connections == farmer.looking == 0)
        await settle(lambda: trio.lowlevel.current_statistics().tasks_living <= tasks)
        gc.collect()
        await settle(lambda: open_files() <= files)
        nursery.cancel_scope.cancel()


async def test_claims_of_large_frames_take_no_memory() -> None:
    """Claims of 4 GiB, and half a megabyte behind each."""
    async with under_attack(Limits(handshakes_per_address=64)) as (_, address):
        before = memory()
        async with trio.open_nursery() as nursery:
            for number in range(64):
                target = Target(Identity(number.to_bytes(32, "big")), FARMER.node_id, address)
                nursery.start_soon(claim, target)
        assert memory() - before < 64 << 20


async def claim(target: Target) -> None:
    with suppress(trio.BrokenResourceError, PeerUnreachable):
        async with await target.tls() as stream:
            await stream.send_all(b"\xff" * 4)
            await stream.send_all(bytes(512 << 10))
            await wait_until_cut_off(stream)


def memory() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
