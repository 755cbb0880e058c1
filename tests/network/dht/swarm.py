"""A private DHT of real nodes, each at an address of its own on the loopback."""

import itertools
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from storjfs.network.dht import Dht, DhtSettings
from storjfs.network.dht.client import Client
from storjfs.network.dht.krpc import Endpoint
from storjfs.network.dht.node import DhtUnavailable
from storjfs.protocol.terms import Address

NODES = 12
PATIENCE = 60.0
FIRST_KNOWN = 8
"""Of the older nodes, how many a new one begins with."""

_networks = itertools.count(1)


class Swarm:
    """Nodes that know each other; each in a /24 of its own."""

    def __init__(self, nursery: trio.Nursery) -> None:
        # Another net for each swarm of this process, so that nobody answers who is left from one before.
        self._net = 16 + (next(_networks) * 7 + random.randrange(200)) % 200
        self._nursery = nursery
        self._numbers = itertools.count(1)
        self.dhts: list[Dht] = []

    def host(self) -> str:
        """An address that nobody has yet."""
        return f"127.{self._net}.{next(self._numbers)}.1"

    def settings(self, host: str | None = None, port: int = 0) -> DhtSettings:
        """Of a node that joins: at `host`, or at a new address."""
        known = random.sample(self.addresses, min(FIRST_KNOWN, len(self.dhts)))
        return DhtSettings(listen=(Address(host or self.host(), port),), bootstrap=tuple(known))

    async def join(self, settings: DhtSettings | None = None) -> Dht:
        """One more node, that has found its neighbours."""
        with trio.fail_after(PATIENCE):
            dht = await self._started(settings)
            await dht.node.ready.wait()
        self.dhts.append(dht)
        return dht

    async def _started(self, settings: DhtSettings | None) -> Dht:
        while True:
            dht = Dht(settings or self.settings())
            try:
                await self._nursery.start(dht.run)
                return dht
            except* DhtUnavailable:
                # A free port of TCP was chosen, and somebody else has that of UDP.
                if settings is not None:
                    raise

    @property
    def addresses(self) -> list[Address]:
        return [Address(dht.settings.listen[0].host, dht.node.ports[0]) for dht in self.dhts]

    @property
    def endpoints(self) -> list[Endpoint]:
        return [(address.host, address.port) for address in self.addresses]


@asynccontextmanager
async def swarm(nodes: int = NODES) -> AsyncIterator[Swarm]:
    """So many nodes, that end with the context."""
    async with trio.open_nursery() as nursery:
        one = Swarm(nursery)
        for _ in range(nodes):
            await one.join()
        yield one
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def asking(host: str) -> AsyncIterator[Client]:
    """Somebody who asks single questions from `host`."""
    client = Client([host], private=True)
    async with trio.open_nursery() as nursery:
        await nursery.start(client.run)
        yield client
        nursery.cancel_scope.cancel()
