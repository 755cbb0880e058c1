"""The DHT as one way to find farmers."""

from collections.abc import AsyncIterator
from typing import Final

import trio

from storjfs.errors import StorjfsError
from storjfs.network.dht.client import LONGEST_SEARCH
from storjfs.network.dht.dht import Dht
from storjfs.network.dht.node import DhtSettings
from storjfs.network.sources import Found, Source
from storjfs.protocol.directory import WAITING
from storjfs.protocol.terms import Address

ANY_PORT: Final = (Address("0.0.0.0", 0), Address("::", 0))
"""Where a node listens that is there for a search only."""


class NobodyNamed(StorjfsError):
    """A search ended, and no farmer was named."""


class DhtSource(Source):
    """Farmers of a network that announce themselves. A part in the DHT is taken for each search only."""

    again = 20 * 60.0  # as often as farmers announce themselves
    longest = LONGEST_SEARCH

    def __init__(self, settings: DhtSettings, network: str) -> None:
        self.private = settings.private
        self._settings, self._network = settings, network
        self._state = b""

    async def find(self) -> AsyncIterator[Found]:
        """As many as may wait for a visit, drawn anew each time.

        Raises DhtUnavailable, NobodyNamed, OSError.
        """
        for address in await self._search():
            yield Found((address,))

    async def _search(self) -> list[Address]:
        dht = Dht(self._settings, self._state)
        named: list[Address] = []
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(dht.run)
                named = [address async for address in dht.find(self._network, most=WAITING)]
                self._state = await dht.state() or self._state
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
