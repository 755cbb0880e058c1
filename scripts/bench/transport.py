"""Shards over TLS on the loopback: the MemoryBIO loop beside trio.SSLStream, two processes, best of several.

`scripts/bench/run transport`. Quote the ratios: absolute figures are those of this machine at this moment.
"""

import argparse
import multiprocessing
import resource
import time
from collections.abc import Awaitable, Callable
from hashlib import sha256
from multiprocessing.connection import Connection

import trio
from rich.console import Console
from rich.table import Table

from storjfs.network.identity import Identity
from storjfs.network.tls import TlsStream

MESSAGE = 4 << 20
Wrap = Callable[[trio.SocketStream, bool], Awaitable[trio.abc.Stream]]


def identity(server: bool) -> Identity:
    return Identity(sha256(b"server" if server else b"client").digest())


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


WAYS: dict[str, Wrap] = {"trio.SSLStream": stock, "MemoryBIO loop": own}


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
        else:
            data = await stream.receive_some(len(place))
            place[: len(data)] = data
            done += len(data)
    await stream.send_all(b"x")
    pipe.send(cpu_seconds() - begun)


async def send(port: int, wrap: Wrap, total: int) -> tuple[float, float]:
    """Seconds by the clock, and of this process's CPU."""
    stream = await wrap(await trio.open_tcp_stream("127.0.0.1", port), False)
    data = memoryview(bytes(MESSAGE))
    cpu, begun = cpu_seconds(), time.perf_counter()
    step = MESSAGE if isinstance(stream, TlsStream) else 64 << 10
    for _ in range(total // MESSAGE):
        for start in range(0, MESSAGE, step):
            await stream.send_all(data[start : start + step])
    await stream.receive_some(1)
    return time.perf_counter() - begun, cpu_seconds() - cpu


def serve(pipe: Connection, way: str, total: int) -> None:
    trio.run(receive, pipe, WAYS[way], total)


def measure(way: str, total: int) -> tuple[float, float]:
    """Seconds by the clock, and of both processes' CPU, for `total` bytes one way."""
    here, there = multiprocessing.Pipe()
    child = multiprocessing.Process(target=serve, args=(there, way, total))
    child.start()
    seconds, cpu = trio.run(send, here.recv(), WAYS[way], total)
    cpu += here.recv()
    child.join()
    return seconds, cpu


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench/run transport", description=__doc__)
    parser.add_argument("--mebibytes", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    total = given.mebibytes << 20
    best = {way: [measure(way, total) for _ in range(given.rounds)] for way in WAYS}
    table = Table("way", "MB/s", "CPU s/GiB, both ends")
    for way, runs in best.items():
        rate = total / 1e6 / min(seconds for seconds, _ in runs)
        table.add_row(way, f"{rate:,.0f}", f"{min(cpu for _, cpu in runs) * 2**30 / total:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
