"""The DHT as one way to find farmers."""

from collections.abc import AsyncIterator
from typing import Final

import trio

from storjfs.errors import StorjfsError
from storjfs.network.dht.client import LONGEST_SEARCH, Client
from storjfs.network.dht.dht import farmers_named
from storjfs.network.dht.krpc import Endpoint
from storjfs.network.dht.node import DhtSettings, resolve
from storjfs.network.sources import Found, Source
from storjfs.protocol.directory import WAITING
from storjfs.protocol.terms import Address

ANY_PORT: Final = (Address("0.0.0.0", 0), Address("::", 0))
"""From where one asks who is told nothing else."""


class NobodyNamed(StorjfsError):
    """A search ended, and no farmer was named."""


class DhtSource(Source):
    """Farmers of a network that announce themselves.

    It asks and answers nobody, and does without libtorrent: what strangers send is parsed here, where the
    keys of a volume are in memory, by nothing that a fault could make write to it.
    """

    again = 20 * 60.0  # as often as farmers announce themselves
    longest = LONGEST_SEARCH

    def __init__(self, settings: DhtSettings, network: str) -> None:
        """`settings.listen`: the hosts to ask from; their ports do not count."""
        self.private = settings.private
        self._settings, self._network = settings, network
        self._near: list[Endpoint] = []

    async def find(self) -> AsyncIterator[Found]:
        """As many as may wait for a visit, drawn anew each time. Raises NobodyNamed, OSError."""
        for address in await self._search():
            yield Found((address,))

    async def _search(self) -> list[Address]:
        settings = self._settings
        client = Client((one.host for one in settings.listen), private=self.private)
        named: list[Address] = []
        start = [*await resolve(settings.bootstrap), *self._near]
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(client.run)
                named, near = await farmers_named(
                    client, start, self._network, private=self.private, most=WAITING
                )
                self._near = near or self._near
                nursery.cancel_scope.cancel()
        except ExceptionGroup as group:
            raise _first(group) from group
        if not named:
            raise NobodyNamed(f"nobody in the DHT names a farmer of the network {self._network!r}")
        return named


def _first(error: Exception) -> Exception:
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error
