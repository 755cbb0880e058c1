"""Asks the router for a port: NAT-PMP first, which needs nothing but this file; else UPnP (extra `upnp`)."""

import logging
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import trio

from storjfs.farmer.reachability import MappingFacts
from storjfs.network.natpmp import RouterRefused, default_gateway, map_port, outside_address

log = logging.getLogger(__name__)

LEASE: Final = 3600
"""Seconds that the router is asked for; asked again after half of it, for it may have restarted."""
AGAIN: Final = 600.0
"""Seconds until a router that did not answer, or refused, is asked again."""
LAST_WORDS: Final = 3.0
"""Seconds that giving the port back may take."""
DISCOVER_MS: Final = 2000
NAME: Final = "storjfs"
OTHERS: Final = 8
"""Further ports that are tried where somebody else has the wanted one."""
_TAKEN: Final = ("ConflictInMappingEntry", "718")
_FOR_EVER: Final = ("OnlyPermanentLeasesSupported", "725")


class PortMapper:
    """One forwarded port. `changed()` is called when `facts` become others."""

    def __init__(self, changed: Callable[[], None] = lambda: None) -> None:
        self.facts = MappingFacts()
        self._changed = changed
        self._inside = 0
        self._upnp: Any = None
        # The library bears one call at a time, and one that was abandoned may still go on.
        self._thread = trio.CapacityLimiter(1)

    async def run(self, inside: int) -> None:
        """Have a port forwarded to TCP port `inside` of this machine until cancelled; then give it back."""
        self._inside = inside
        self._note(MappingFacts("asking"))
        try:
            while True:
                lease = await self._once()
                await trio.sleep(min(max(lease / 2, 1.0), LEASE / 2) if lease else AGAIN)
        finally:
            with trio.CancelScope(shield=True), trio.move_on_after(LAST_WORDS):
                await self._give_back()
            self._note(MappingFacts())

    def _note(self, facts: MappingFacts) -> None:
        if facts != self.facts:
            self.facts = facts
            self._changed()

    async def _once(self) -> int:
        """Ask in all ways; the seconds that it holds for, 0 where no port is forwarded."""
        problems: list[str] = []
        for way in (self._by_natpmp, self._by_upnp):
            try:
                found = await way()
            except RouterRefused as error:
                problems.append(str(error))
            except OSError as error:
                log.info("the router cannot be asked: %s", error)
            else:
                if found is not None:
                    facts, lease = found
                    self._note(facts)
                    return lease
        if problems:
            self._note(MappingFacts("refused", problem="; ".join(problems)))
        elif self.facts.state != "missing":
            self._note(MappingFacts("none"))
        return 0

    async def _by_natpmp(self) -> tuple[MappingFacts, int] | None:
        gateway = default_gateway()
        if not gateway:
            return None
        address = await outside_address(gateway)
        found = (
            await map_port(gateway, self._inside, self.facts.port or self._inside, LEASE) if address else None
        )
        if found is None:
            return None
        if not found[0]:
            raise RouterRefused("it names no port")
        return MappingFacts("mapped", "NAT-PMP", address or "", found[0]), found[1]

    async def _by_upnp(self) -> tuple[MappingFacts, int] | None:
        try:
            import miniupnpc
        except ImportError:
            self._note(MappingFacts("missing", problem="UPnP needs the extra: pip install storjfs[upnp]"))
            return None
        if self._upnp is None:
            self._upnp = miniupnpc.UPnP()
            self._upnp.discoverdelay = DISCOVER_MS
        ask = partial(_ask_upnp, self._upnp, self._inside, self.facts.port or self._inside)
        found = await trio.to_thread.run_sync(ask, abandon_on_cancel=True, limiter=self._thread)
        if found is None:
            return None
        address, port = found
        return MappingFacts("mapped", "UPnP", address, port), LEASE

    async def _give_back(self) -> None:
        if self.facts.state != "mapped":
            return
        try:
            if self.facts.how == "NAT-PMP":
                await map_port(default_gateway(), self._inside, 0, 0)
            else:
                await trio.to_thread.run_sync(
                    partial(self._upnp.deleteportmapping, self.facts.port, "TCP"),
                    abandon_on_cancel=True,
                    limiter=self._thread,
                )
        except Exception as error:  # the library raises Exception itself
            log.info("the router did not take its port back; it ends within the hour: %s", error)


def _ask_upnp(upnp: Any, inside: int, wanted: int) -> tuple[str, int] | None:
    """The router's address outside and the port; None without a router. Blocking. Raises RouterRefused."""
    try:
        upnp.discover()
        upnp.selectigd()
        address = str(upnp.externalipaddress())
    except Exception:  # the library raises Exception itself
        return None
    last = ""
    for port in (wanted, *(1024 + (wanted + 7919 * step) % 64000 for step in range(1, OTHERS))):
        for lease in (LEASE, 0):
            try:
                upnp.addportmapping(port, "TCP", upnp.lanaddr, inside, NAME, "", lease)
            except Exception as error:
                last = str(error)
                if any(word in last for word in _FOR_EVER):
                    continue
                if any(word in last for word in _TAKEN):
                    break
                raise RouterRefused(last) from error
            else:
                return address, port
    raise RouterRefused(last)
