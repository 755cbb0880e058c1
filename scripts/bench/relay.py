"""Shards through a relay, beside the same without: `scripts/bench/run relay`.

Three processes on the loopback: a renter, a farmer that also listens, and the relay. Both ways alternate in
each round. Quote the ratios: here all three share the cores, where in the world each has its own.
"""

import argparse
import multiprocessing
import statistics
import time
from functools import partial
from hashlib import sha256
from multiprocessing.connection import Connection

import trio
from rich.console import Console
from rich.table import Table
from transport import MemoryFarmer, cpu_seconds, three_at_a_time

from storjfs.network.behind import Attachment
from storjfs.network.control import ControlConnection
from storjfs.network.frames import FrameStream
from storjfs.network.identity import Identity
from storjfs.network.peer import Peer
from storjfs.network.relay import Relay
from storjfs.network.service import Service, serve_tls
from storjfs.network.splice import PIPE
from storjfs.network.streams import Gate, Limits, open_stream, serve_through
from storjfs.protocol.ids import NodeId
from storjfs.protocol.messages import (
    RELAY_CAPABILITY,
    Arrive,
    Attach,
    AttachAnswer,
    DialBack,
    DialBackAnswer,
    Hello,
    HelloAnswer,
    Role,
    Through,
)
from storjfs.protocol.terms import Address

MANY = 10_000
LIMITS = Limits(MANY, MANY, MANY, MANY, MANY, handshake_rate=MANY, handshake_burst=MANY)
RELAY, FARMER, RENTER = (Identity(sha256(name).digest()) for name in (b"relay", b"farmer", b"renter"))


class FreeLine:
    """Counts nothing and holds nothing up."""

    step = PIPE

    async def pass_on(self, farmer: NodeId, count: int, *, to_farmer: bool) -> None:
        return

    def joined(self, farmer: NodeId) -> None:
        return


class RelayService(MemoryFarmer):
    """A relay."""

    def __init__(self) -> None:
        super().__init__()
        self.relay = Relay(FreeLine())

    async def hello(self, peer: NodeId, hello: Hello) -> HelloAnswer:
        return HelloAnswer(0, Role.FARMER, (RELAY_CAPABILITY,))

    async def reach(
        self, peer: NodeId, request: Attach | DialBack, connection: ControlConnection
    ) -> AttachAnswer | DialBackAnswer:
        return self.relay.attach(peer, connection)

    async def join(self, frames: FrameStream, number: int, request: Through | Arrive) -> None:
        await self.relay.join(frames, number, request)


async def serve(pipe: Connection, identity: Identity, service: Service, relay: Address | None) -> None:
    """Be the relay, or the farmer, which says where it listens once it is attached too."""
    gate = Gate(identity, partial(serve_tls, service=service), LIMITS)
    attached = trio.Event()
    async with trio.open_nursery() as nursery:
        (address,) = await nursery.start(serve_through, gate, "127.0.0.1", 0)
        if relay is not None:
            attachment = Attachment(identity, relay, None, gate.admit, attached.set)
            nursery.start_soon(attachment.run)
            await attached.wait()
        pipe.send(address.port)
        while True:
            await trio.lowlevel.wait_readable(pipe.fileno())
            if not pipe.recv():
                break
            pipe.send(cpu_seconds())
        nursery.cancel_scope.cancel()


def be_relay(pipe: Connection) -> None:
    trio.run(serve, pipe, RELAY, RelayService(), None)


def be_farmer(pipe: Connection, relay: int) -> None:
    trio.run(serve, pipe, FARMER, MemoryFarmer(), Address("127.0.0.1", relay))


async def dialling(address: Address, count: int) -> list[float]:
    """Seconds of each connection, from nothing to an authenticated farmer."""
    found = []
    for _ in range(count):
        begun = time.perf_counter()
        stream = await open_stream(RENTER, FARMER.node_id, [address])
        found.append(time.perf_counter() - begun)
        await trio.aclose_forcefully(stream)
    return found


async def measure(
    relay: int, farmer: int, usage: Connection, rounds: int, total: int, dials: int
) -> dict[str, dict[str, list[float]]]:
    """Per way and measure, one figure a round."""
    direct = Address("127.0.0.1", farmer)
    ways = {"direct": direct, "relayed": Address("127.0.0.1", relay).through()}
    found: dict[str, dict[str, list[float]]] = {way: {} for way in ways}
    for _ in range(rounds):
        for way, address in ways.items():
            figures = found[way]
            async with trio.open_nursery() as nursery:
                peer = Peer(RENTER, FARMER.node_id, [address])
                await nursery.start(peer.run)
                usage.send(True)
                before = usage.recv()
                for name, up in (("shards up, MB/s", True), ("shards down, MB/s", False)):
                    figures.setdefault(name, []).append(total / await three_at_a_time(peer, up, total) / 1e6)
                usage.send(True)
                cpu = (usage.recv() - before) / (2 * total) * 2**30
                figures.setdefault("CPU of the relay, s/GiB", []).append(cpu)
                nursery.cancel_scope.cancel()
            figures.setdefault("to dial, ms", []).append(
                statistics.median(await dialling(address, dials)) * 1e3
            )
    return found


def show(found: dict[str, dict[str, list[float]]]) -> None:
    """Medians of the rounds, and their ratio."""
    table = Table("medians", *found, "relayed / direct")
    for name in found["direct"]:
        direct, relayed = (statistics.median(found[way][name]) for way in found)
        ratio = f"{relayed / direct:.2f}" if direct > 0.05 else "-"
        table.add_row(name, f"{direct:,.2f}", f"{relayed:,.2f}", ratio)
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench/run relay", description=__doc__)
    parser.add_argument("--mebibytes", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dials", type=int, default=50)
    given = parser.parse_args()
    children, pipes = [], []

    def start(target: object, *more: int) -> int:
        here, there = multiprocessing.Pipe()
        child = multiprocessing.Process(target=target, args=(there, *more))  # type: ignore[arg-type]
        child.start()
        children.append(child)
        pipes.append(here)
        return int(here.recv())

    try:
        relay = start(be_relay)
        farmer = start(be_farmer, relay)
        total = given.mebibytes << 20
        show(trio.run(measure, relay, farmer, pipes[0], given.rounds, total, given.dials))
    finally:
        for pipe in pipes:
            pipe.send(False)
        for child in children:
            child.join()


if __name__ == "__main__":
    main()
