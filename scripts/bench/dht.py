"""What a part in the DHT costs: memory, times, and how long the loop is held, in networks of some sizes.

    python scripts/bench/dht.py [nodes ...]      default 10 30 100

The network is in a process of its own, each node at an address of its own on the loopback; the node that is
measured is in this one. Then the measured node is asked as fast as two processes manage, while it works on.
"""

import argparse
import gc
import multiprocessing
import os
import random
import resource
import socket
import statistics
import time
from collections.abc import Awaitable, Callable
from multiprocessing.connection import Connection

import trio
from rich.console import Console
from rich.table import Table

from storjfs.network.dht import Dht, DhtSettings, FarmerRecord, make_record
from storjfs.network.dht.krpc import question
from storjfs.protocol.signing import SigningKey
from storjfs.protocol.terms import Address

ROUNDS = 20
ASKED = 30_000
NET = "127.77"


def rss() -> int:
    """Bytes of memory of this process."""
    gc.collect()
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def host(number: int) -> str:
    return f"{NET}.{number // 250}.{number % 250 + 1}"


def network(nodes: int, pipe: Connection) -> None:
    """Be so many nodes until the pipe closes; tells their addresses and the memory of each."""

    async def run() -> None:
        before = rss()
        dhts: list[Dht] = []
        async with trio.open_nursery() as nursery:
            for number in range(nodes):
                known = random.sample(dhts, min(8, len(dhts)))
                first = tuple(Address(one.settings.listen[0].host, one.node.ports[0]) for one in known)
                dhts.append(Dht(DhtSettings((Address(host(number), 0),), first)))
                await nursery.start(dhts[-1].run)
                await dhts[-1].node.ready.wait()
            pipe.send(
                (
                    [(one.settings.listen[0].host, one.node.ports[0]) for one in dhts],
                    (rss() - before) / nodes,
                )
            )
            await trio.to_thread.run_sync(pipe.poll, None)
            nursery.cancel_scope.cancel()

    trio.run(run)


def flood(target: tuple[str, int], at: str) -> None:
    """Ask one node as fast as possible."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.bind((at, 0))
        for _ in range(ASKED):
            packet = question(os.urandom(4), os.urandom(20), b"get_peers", {b"info_hash": os.urandom(20)})
            asking.sendto(packet, target)


class Steps(trio.abc.Instrument):
    """The longest that one task held the loop, by the processor time of this thread."""

    def __init__(self) -> None:
        self.longest = 0.0
        self._began = time.thread_time()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._began = time.thread_time()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self.longest = max(self.longest, time.thread_time() - self._began)


async def median(work: Callable[[], Awaitable[object]]) -> float:
    """Milliseconds."""
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        await work()
        times.append(time.perf_counter() - began)
    return statistics.median(times) * 1000


async def measure(nodes: int) -> dict[str, str]:
    """All figures of a network of that size."""
    ours, theirs = multiprocessing.Pipe()
    swarm = multiprocessing.get_context("spawn").Process(target=network, args=(nodes, theirs))
    await trio.to_thread.run_sync(swarm.start)
    addresses, per_node = await trio.to_thread.run_sync(ours.recv)
    first = tuple(Address(*one) for one in random.sample(addresses, min(8, nodes)))
    figures = {"memory of a node, MiB (of many in one process)": f"{per_node / 2**20:.1f}"}
    steps = Steps()
    trio.lowlevel.add_instrument(steps)
    before = rss()
    await trio.lowlevel.checkpoint()
    steps.longest, began = 0.0, time.perf_counter()
    async with trio.open_nursery() as nursery:
        dht = Dht(DhtSettings((Address(host(nodes), 0),), first))
        await nursery.start(dht.run)
        await dht.node.ready.wait()
        figures["until it knows its neighbours, ms"] = f"{(time.perf_counter() - began) * 1000:.0f}"
        key = SigningKey(os.urandom(32))
        record = make_record(key, "bench", 1, FarmerRecord((Address("192.0.2.1", 7420),)))

        async def find() -> None:
            assert [one async for one in dht.find("bench")]

        figures["announce, ms"] = f"{await median(lambda: dht.announce('bench', 7420)):.1f}"
        figures["find, ms"] = f"{await median(find):.1f}"
        figures["put a record, ms"] = f"{await median(lambda: dht.put(record)):.1f}"
        figures["get it, ms"] = f"{await median(lambda: dht.record(key.node_id, 'bench')):.1f}"
        figures["longest step at work, ms of processor"] = f"{steps.longest * 1000:.1f}"
        figures["memory of the process more than before, MiB"] = f"{(rss() - before) / 2**20:.1f}"
        where = (host(nodes), dht.node.ports[0])
        asking = [
            multiprocessing.get_context("spawn").Process(target=flood, args=(where, host(nodes + 1 + number)))
            for number in range(2)
        ]
        for one in asking:
            await trio.to_thread.run_sync(one.start)
        steps.longest = 0.0
        while any(one.is_alive() for one in asking):
            await dht.state()
            await dht.get(key.public, b"")
        figures["longest step while flooded, ms of processor"] = f"{steps.longest * 1000:.1f}"
        figures["memory of the process then more than before, MiB"] = f"{(rss() - before) / 2**20:.1f}"
        began = time.perf_counter()
        nursery.cancel_scope.cancel()
    figures["until it has ended, ms"] = f"{(time.perf_counter() - began) * 1000:.1f}"
    trio.lowlevel.remove_instrument(steps)
    ours.send(None)
    await trio.to_thread.run_sync(swarm.join)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("nodes", nargs="*", type=int, default=[10, 30, 100])
    sizes = parser.parse_args().nodes
    columns = [trio.run(measure, size) for size in sizes]
    table = Table("", *(f"{size} nodes" for size in sizes))
    for name in columns[0]:
        table.add_row(name, *(column[name] for column in columns))
    Console().print(table)


if __name__ == "__main__":
    main()
