"""The transport on the loopback, between two processes: `scripts/bench/run transport`.

Bare streams (raw TCP, trio.SSLStream, the MemoryBIO loop), shards up and down through the connections that a
renter and a farmer have, the latency of small requests, and what idle connections take. No disk, no hashing.
Quote the ratios to raw TCP: absolute figures are those of this machine at this moment.
"""

import argparse
import multiprocessing
import os
import resource
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from multiprocessing.connection import Connection
from typing import Any

import trio
from msgspec import Struct

from storjfs.network.control import ControlConnection
from storjfs.network.data import ShardSource
from storjfs.network.identity import Identity
from storjfs.network.peer import Peer
from storjfs.network.service import Service, serve_tls
from storjfs.network.streams import Limits
from storjfs.network.streams import serve as serve_streams
from storjfs.network.tls import TlsStream
from storjfs.protocol.ids import ContractId, NodeId, ShardId, Signature
from storjfs.protocol.messages import (
    Get,
    GetOffer,
    Hello,
    HelloAnswer,
    OfferAnswer,
    Put,
    PutAnswer,
    Request,
    Role,
)
from storjfs.protocol.signing import Signed
from storjfs.protocol.terms import Address

MESSAGE = 4 << 20
SOMETHING = Signed(bytes(150), Signature(bytes(64)))
CONTRACT, SHARD = ContractId(bytes(32)), ShardId(bytes(32))
Wrap = Callable[[trio.SocketStream, bool], Awaitable[trio.abc.Stream]]


def identity(server: bool) -> Identity:
    return Identity(sha256(b"server" if server else b"client").digest())


# --- bare streams ---


async def raw(transport: trio.SocketStream, server: bool) -> trio.abc.Stream:
    await trio.lowlevel.checkpoint()
    return transport


async def own(transport: trio.SocketStream, server: bool) -> TlsStream:
    here = identity(server)
    stream = TlsStream(transport, here.server if server else here.client, server_side=server)
    await stream.do_handshake()
    return stream


async def stock(transport: trio.SocketStream, server: bool) -> trio.abc.Stream:
    here = identity(server)
    stream = trio.SSLStream(transport, here.server if server else here.client, server_side=server)
    await stream.do_handshake()
    return stream


WAYS: dict[str, Wrap] = {"raw TCP": raw, "trio.SSLStream": stock, "MemoryBIO loop": own}


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def receive(pipe: Connection, wrap: Wrap, total: int) -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    pipe.send(listeners[0].socket.getsockname()[1])
    stream = await wrap(await listeners[0].accept(), True)
    buffer = memoryview(bytearray(MESSAGE))
    begun, done = cpu_seconds(), 0
    while done < total:
        place = buffer[done % MESSAGE :]
        if isinstance(stream, TlsStream):
            done += await stream.receive_into(place)
        elif isinstance(stream, trio.SocketStream):
            done += await stream.socket.recv_into(place)
        else:
            data = await stream.receive_some(len(place))
            place[: len(data)] = data
            done += len(data)
    await stream.send_all(b"x")
    pipe.send(cpu_seconds() - begun)


@dataclass(frozen=True, slots=True)
class Cost:
    """What a unit of some work took: seconds by the clock, and of the CPU at either end."""

    seconds: float
    here: float
    there: float


async def send(port: int, wrap: Wrap, total: int) -> tuple[float, float]:
    """Seconds by the clock, and of this process's CPU."""
    stream = await wrap(await trio.open_tcp_stream("127.0.0.1", port), False)
    data = memoryview(bytes(MESSAGE))
    cpu, begun = cpu_seconds(), time.perf_counter()
    step = 64 << 10 if isinstance(stream, trio.SSLStream) else MESSAGE
    for _ in range(total // MESSAGE):
        for start in range(0, MESSAGE, step):
            await stream.send_all(data[start : start + step])
    await stream.receive_some(1)
    return time.perf_counter() - begun, cpu_seconds() - cpu


def receive_in_child(pipe: Connection, way: str, total: int) -> None:
    trio.run(receive, pipe, WAYS[way], total)


def measure_stream(way: str, total: int) -> Cost:
    """The cost of a byte, one way."""
    here, there = multiprocessing.Pipe()
    child = multiprocessing.Process(target=receive_in_child, args=(there, way, total))
    child.start()
    seconds, cpu = trio.run(send, here.recv(), WAYS[way], total)
    cpu_there = here.recv()
    child.join()
    return Cost(seconds / total, cpu / total, cpu_there / total)


# --- what a renter and a farmer do ---


class MemoryFarmer(Service):
    """Takes shards and forgets them, gives zeros."""

    def __init__(self) -> None:
        self.zeros = bytes(MESSAGE)
        self.buffers: list[memoryview] = []

    async def hello(self, peer: NodeId, hello: Hello) -> HelloAnswer:
        return HelloAnswer(0, Role.FARMER)

    async def request(self, peer: NodeId, request: Request[Any]) -> Struct:
        return OfferAnswer(SOMETHING)

    async def put(self, peer: NodeId, header: Put, source: ShardSource) -> PutAnswer:
        buffer = self.buffers.pop() if self.buffers else memoryview(bytearray(1 << 20))
        left = source.length
        while left:
            part = buffer[: min(left, len(buffer))]
            await source.receive_exactly(part)
            left -= len(part)
        self.buffers.append(buffer)
        return PutAnswer(SOMETHING)

    async def get(self, peer: NodeId, header: Get) -> memoryview:
        return memoryview(self.zeros)[: header.length]

    def attached(self, peer: NodeId, connection: ControlConnection) -> None:
        pass

    def detached(self, peer: NodeId, connection: ControlConnection) -> None:
        pass


def memory() -> int:
    """Bytes of this process in memory."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def farm(pipe: Connection) -> None:
    """Serve, and tell the CPU time and the memory so far whenever something is sent, until that is False."""
    many = 10_000
    limits = Limits(many, many, many, many, many, handshake_rate=many, handshake_burst=many)
    handler = partial(serve_tls, service=MemoryFarmer())
    async with trio.open_nursery() as nursery:
        addresses = await nursery.start(
            partial(serve_streams, identity(True), "127.0.0.1", 0, handler, limits=limits)
        )
        pipe.send(addresses[0].port)
        while True:
            await trio.lowlevel.wait_readable(pipe.fileno())
            if not pipe.recv():
                break
            pipe.send((cpu_seconds(), memory()))
        nursery.cancel_scope.cancel()


def farm_in_child(pipe: Connection) -> None:
    trio.run(farm, pipe)


class FarmInChild:
    """The farm as the renter's process sees it."""

    def __enter__(self) -> "FarmInChild":
        self.pipe, there = multiprocessing.Pipe()
        self.child = multiprocessing.Process(target=farm_in_child, args=(there,))
        self.child.start()
        self.address = Address("127.0.0.1", self.pipe.recv())
        return self

    def __exit__(self, *_: object) -> None:
        self.pipe.send(False)
        self.child.join()

    def usage(self) -> tuple[float, int]:
        self.pipe.send(True)
        seconds, size = self.pipe.recv()
        return float(seconds), int(size)

    def peer(self, number: int = 0) -> Peer:
        seed = sha256(b"renter %d" % number).digest()
        return Peer(Identity(seed), identity(True).node_id, [self.address])


async def three_at_a_time(
    peer: Peer, up: bool, total: int, ready: Callable[[], None] = lambda: None
) -> float:
    """Seconds for so many bytes in shards of 4 MiB; `ready` is called when the connections are there."""
    content, places = bytes(MESSAGE), [memoryview(bytearray(MESSAGE)) for _ in range(3)]
    left = total // MESSAGE

    async def some(place: memoryview) -> None:
        nonlocal left
        while left > 0:
            left -= 1
            if up:
                await peer.put_shard(CONTRACT, SHARD, content)
            else:
                await peer.get_range(CONTRACT, SHARD, 0, place)

    async with trio.open_nursery() as warm:
        for place in places:
            warm.start_soon(peer.get_range, CONTRACT, SHARD, 0, place[:1])
    ready()
    begun = time.perf_counter()
    async with trio.open_nursery() as transfers:
        for place in places:
            transfers.start_soon(some, place)
    return time.perf_counter() - begun


async def shards(farm: FarmInChild, up: bool, total: int) -> Cost:
    """The cost of a byte in shards of 4 MiB, three at a time."""
    here = there = 0.0

    def ready() -> None:
        nonlocal here, there
        here, there = cpu_seconds(), farm.usage()[0]

    async with trio.open_nursery() as nursery:
        peer = farm.peer()
        await nursery.start(peer.run)
        seconds = await three_at_a_time(peer, up, total, ready)
        here, there = cpu_seconds() - here, farm.usage()[0] - there
        nursery.cancel_scope.cancel()
    return Cost(seconds / total, here / total, there / total)


async def latencies(farm: FarmInChild, count: int) -> dict[str, tuple[list[float], float]]:
    """Seconds of each small request, one after the other, and of the CPU at both ends for one of them."""
    found: dict[str, tuple[list[float], float]] = {}
    place = bytearray(4096)
    async with trio.open_nursery() as nursery:
        peer = farm.peer()
        await nursery.start(peer.run)
        ways: dict[str, Callable[[], Awaitable[object]]] = {
            "request": partial(peer.request, GetOffer()),
            "get of 4 KiB": partial(peer.get_range, CONTRACT, SHARD, 0, place),
        }
        for name, ask in ways.items():
            await ask()
            seconds, cpu = list[float](), cpu_seconds() + farm.usage()[0]
            for _ in range(count):
                begun = time.perf_counter()
                await ask()
                seconds.append(time.perf_counter() - begun)
            found[name] = seconds, (cpu_seconds() + farm.usage()[0] - cpu) / count
        nursery.cancel_scope.cancel()
    return found


async def idle(farm: FarmInChild, count: int) -> tuple[int, int, int]:
    """Bytes of the farm's process with one connection, and with `count` and then twice as many, all of which
    have answered something."""
    sizes = []
    async with trio.open_nursery() as nursery:
        peers = [farm.peer(number) for number in range(2 * count)]
        for number, peer in enumerate(peers):
            await nursery.start(peer.run)
            await peer.request(GetOffer())
            if number + 1 in (1, count, 2 * count):
                await trio.sleep(0.5)
                sizes.append(farm.usage()[1])
        nursery.cancel_scope.cancel()
    return sizes[0], sizes[1], sizes[2]


def show(runs: dict[str, list[Cost]]) -> None:
    """The best of the runs of each way; also what the busier end could do with a core to itself."""
    # Here, so that the processes that are measured do without it.
    from rich.console import Console
    from rich.table import Table

    table = Table("way", "MB/s", "of raw TCP", "MB/s, a core for each end", "CPU s/GiB, both ends")
    best = {
        way: Cost(*(min(one) for one in zip(*((c.seconds, c.here, c.there) for c in costs), strict=True)))
        for way, costs in runs.items()
    }
    for way, cost in best.items():
        table.add_row(
            way,
            f"{1e-6 / cost.seconds:,.0f}",
            f"{best['raw TCP'].seconds / cost.seconds:.2f}",
            f"{1e-6 / max(cost.here, cost.there):,.0f}",
            f"{(cost.here + cost.there) * 2**30:.1f}",
        )
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench/run transport", description=__doc__)
    parser.add_argument("--mebibytes", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3, help="the best of them is shown")
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--connections", type=int, default=200)
    given = parser.parse_args()
    total = given.mebibytes << 20
    with FarmInChild() as farm:
        one, some, more = (size / 1e6 for size in trio.run(idle, farm, given.connections))
    runs: dict[str, list[Cost]] = {}
    for _ in range(given.rounds):
        for way in WAYS:
            runs.setdefault(way, []).append(measure_stream(way, total))
        with FarmInChild() as farm:
            for name, up in (("shards up", True), ("shards down", False)):
                runs.setdefault(name, []).append(trio.run(shards, farm, up, total))
    with FarmInChild() as farm:
        found = trio.run(latencies, farm, given.requests)
    show(runs)
    for name, (seconds, cpu) in found.items():
        p50, p99 = statistics.median(seconds) * 1e3, statistics.quantiles(seconds, n=100)[98] * 1e3
        print(
            f"{name}: p50 {p50:.2f} ms, p99 {p99:.2f} ms of {len(seconds)};"
            f" {cpu * 1e3:.2f} ms of the CPU, both ends"
        )
    print(
        f"{given.connections} idle connections: {some:.1f} MB in memory, {some - one:.1f} of them for the"
        f" connections; {more - some:.1f} for as many again"
    )


if __name__ == "__main__":
    main()
