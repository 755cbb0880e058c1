"""Finds out whether renters can dial this farmer, and keeps it reachable where they cannot.

Decision: docs/decisions/0013-reachability.md.
"""

import logging
import math
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Final

import trio

from storjfs.farmer.portmap import PortMapper
from storjfs.farmer.reachability import (
    Known,
    ReachFacts,
    RelayFacts,
    State,
    Trial,
    explain,
    found_addresses,
    is_at_home,
    judge,
    renewed,
    wants_relay,
)
from storjfs.farmer.settings import FarmerSettings
from storjfs.network.behind import Admit, Attachment
from storjfs.network.dial_back import Asked, ask
from storjfs.network.identity import Identity
from storjfs.network.lan import EVERYWHERE, own_addresses
from storjfs.protocol.ids import NodeId
from storjfs.protocol.terms import MAX_ADDRESSES, Address
from storjfs.volume import StaticFarmer

log = logging.getLogger(__name__)

RELAYS: Final = 2
"""Relays used at a time: when one is lost, renters have the other's address already."""
ASKED: Final = 8
"""Farmers asked in one round."""
AGAIN: Final = {State.OPEN: 1800.0, State.CLOSED: 300.0, State.UNKNOWN: 60.0}
"""Seconds until they are asked again."""
SHORT_OF_RELAYS: Final = 30.0
"""The same where fewer relays lead to it than could."""
FIRST_CHECKED: Final = 1024
"""Ports below are dialled back by nobody."""
FAMILIES: Final = {socket.AF_INET: "IPv4", socket.AF_INET6: "IPv6"}


class Reach:
    """How one farmer is reached. `run` keeps it; `addresses` are what its offers name.

    `settings()` and `listening()` are those of now.
    """

    def __init__(
        self,
        identity: Identity,
        settings: Callable[[], FarmerSettings],
        listening: Callable[[], Sequence[Address]],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._identity, self._settings, self._listening = identity, settings, listening
        self._clock = clock
        self._trials: tuple[Trial, ...] = ()
        self._relays: dict[Address, tuple[Attachment, trio.CancelScope]] = {}
        self._offering: list[tuple[Address, NodeId]] = []
        self._wake = trio.Event()
        self._look = False
        self.mapper = PortMapper(self.look_again)
        self.changed = trio.Event()
        """Replaced by a new one after each change."""

    # --- what is known ---

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Where renters reach it, the best first."""
        settings = self._settings()
        direct = settings.announce or self._direct()
        relayed = tuple(relay.through() for relay, (one, _) in self._relays.items() if one.attached)
        known = self._known()
        if relayed and known.local_only and not settings.announce:
            direct = ()  # who dials this from elsewhere reaches a stranger
        closed = judge(known) is State.CLOSED
        return tuple(dict.fromkeys(relayed + direct if closed else direct + relayed))[:MAX_ADDRESSES]

    def _direct(self) -> tuple[Address, ...]:
        """Those that nobody named: where others reached it, and what a renter in this network would dial."""
        mapped = self.mapper.facts
        at_home = [Address(host, one.port) for one in self._listening() for host in _at_home(one.host)]
        forwarded = [Address(mapped.address, mapped.port)] if mapped.leads_outside else []
        return tuple(dict.fromkeys([*found_addresses(self._trials), *forwarded, *at_home]))

    @property
    def _port(self) -> int:
        return next((one.port for one in self._listening()), 0)

    @property
    def state(self) -> State:
        return judge(self._known())

    def _known(self) -> Known:
        listening = self._listening()
        return Known(
            port=self._port,
            local_only=bool(listening) and all(_is_local(one.host) for one in listening),
            own=_own_address(),
            trials=self._trials,
            mapping=self.mapper.facts,
            peers=len(self._settings().peers),
        )

    def facts(self) -> ReachFacts:
        """All of it, for `farm status`."""
        known = self._known()
        relays = tuple(
            RelayFacts(str(relay), one.attached, one.problem, one.streams)
            for relay, (one, _) in self._relays.items()
        )
        return ReachFacts(
            state=judge(known).value,
            words=explain(known, relays),
            port=known.port,
            own=known.own,
            trials=known.trials,
            mapping=known.mapping,
            relays=relays,
        )

    # --- the task ---

    def look_again(self) -> None:
        """Ask now."""
        self._look = True
        self._wake.set()

    async def run(self, admit: Admit) -> None:
        """Ask, map and attach, until cancelled; a port that the router was asked for is given back."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_mapped)
            while True:
                self._look = False
                if self._settings().peers:
                    await self._ask_all()
                self._use_relays(nursery, admit)
                await self._rest(trio.current_time())

    async def _rest(self, asked: float) -> None:
        """Wait for the next round after one that ended at `asked`: the loss of a relay brings it forward."""
        while not self._look and (due := asked + self._pause) > trio.current_time():
            self._wake = trio.Event()
            with trio.move_on_at(due):
                await self._wake.wait()

    @property
    def _pause(self) -> float:
        """Seconds until the next round."""
        if not self._settings().peers:
            return math.inf
        attached = sum(one.attached for one, _ in self._relays.values())
        short = wants_relay(self._known()) and attached < min(RELAYS, len(self._settings().peers))
        return SHORT_OF_RELAYS if short else AGAIN[self.state]

    async def _keep_mapped(self) -> None:
        """The port of a farmer that listens to others, and whose owner has not said where it is reached."""
        if not self._settings().map_port:
            return
        # The network may come up after the farmer, and nobody tells.
        while not self._behind_a_router():  # noqa: ASYNC110
            await trio.sleep(AGAIN[State.UNKNOWN])
        await self.mapper.run(self._port)

    def _behind_a_router(self) -> bool:
        known = self._known()
        return (
            not (self._settings().announce or known.local_only) and known.port > 0 and is_at_home(known.own)
        )

    def _tell(self) -> None:
        self.changed.set()
        self.changed = trio.Event()
        self._wake.set()

    async def _ask_all(self) -> None:
        """One round of questions."""
        found: list[Trial] = []
        offering: list[tuple[Address, NodeId]] = []

        async def one(peer: StaticFarmer, where: Address) -> None:
            port = self._port_to_try
            asked = await ask(self._identity, NodeId(peer.node_id) if peer.node_id else None, where, port)
            if asked.relays and asked.node_id is not None and all(asked.node_id != o[1] for o in offering):
                offering.append((peer.address, asked.node_id))
            found.append(self._trial(peer, where, port, asked))

        async with trio.open_nursery() as nursery:
            for peer in self._settings().peers[:ASKED]:
                for where in await _by_family(peer.address):
                    nursery.start_soon(one, peer, where)
        before = self.state, self._trials
        self._trials = renewed(self._trials, found, self._clock())
        order = [peer.address for peer in self._settings().peers]
        self._offering = sorted(offering, key=lambda one: order.index(one[0]))
        if (self.state, self._trials) != before:
            self._tell()

    @property
    def _port_to_try(self) -> int | None:
        """The port outside; None where there is nothing to ask."""
        settings, mapped = self._settings(), self.mapper.facts
        port = mapped.port or next((one.port for one in settings.announce), self._port)
        return port if port >= FIRST_CHECKED and not self._known().local_only else None

    def _trial(self, peer: StaticFarmer, where: Address, port: int | None, asked: Asked) -> Trial:
        family = "IPv6" if ":" in where.host else "IPv4"
        trial = Trial(str(peer.address), family, port or 0, self._clock(), problem=asked.problem)
        if asked.answer is None:
            return trial
        return Trial(
            asked=trial.asked,
            family=family,
            port=trial.port,
            at=trial.at,
            reached=asked.answer.reached.value,
            seen=asked.answer.seen,
            own=_own_address(where.host),
        )

    # --- relays ---

    def _use_relays(self, nursery: trio.Nursery, admit: Admit) -> None:
        """Attach to relays while nobody can dial this farmer, and leave them when somebody can."""
        wanted = wants_relay(self._known())
        named = {peer.address for peer in self._settings().peers}
        for relay, (one, scope) in list(self._relays.items()):
            if relay not in named or (not wanted and self.state is State.OPEN and not one.streams):
                scope.cancel()
                del self._relays[relay]
        if not wanted:
            return
        # One that is lost is kept, for renters know its address; but another one is used beside it.
        working = sum(one.attached for one, _ in self._relays.values())
        for relay, node_id in self._offering:
            if relay in self._relays or working >= RELAYS or not self._room_for_a_relay():
                continue
            working += 1
            scope = trio.CancelScope()
            one = Attachment(self._identity, relay, node_id, admit, self._tell)
            self._relays[relay] = one, scope
            nursery.start_soon(partial(_run_within, scope, one))

    def _room_for_a_relay(self) -> bool:
        """Whether one more may be used; where too many are kept already, one makes way that is lost."""
        if len(self._relays) < 2 * RELAYS:
            return True
        for relay, (one, scope) in self._relays.items():
            if not one.attached and not one.streams:
                scope.cancel()
                del self._relays[relay]
                return True
        return False


async def _run_within(scope: trio.CancelScope, one: Attachment) -> None:
    with scope:
        await one.run()


def _is_local(host: str) -> bool:
    return host.startswith("127.") or host in ("::1", "localhost")


def _at_home(listening: str) -> tuple[str, ...]:
    """Where a renter in this network dials who listens there. For all addresses of one kind that is the one
    from which this machine talks to the internet; in a network that leads nowhere, all."""
    if listening not in EVERYWHERE:
        return (listening,)
    six = ":" in listening
    own = _own_address("2001:db8::1" if six else "192.0.2.1")
    return (own,) if own else tuple(host for host in own_addresses() if (":" in host) == six)


async def _by_family(address: Address) -> list[Address]:
    """One address of each kind that this name has; the name itself where it has none."""
    found: dict[int, Address] = {}
    with suppress(OSError, ValueError):  # ValueError: nobody can have a name like this
        for family, _, _, _, where in await trio.socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM
        ):
            if family in FAMILIES:
                found.setdefault(family, Address(str(where[0]), address.port))
    return list(found.values()) or [address]


def _own_address(towards: str = "192.0.2.1") -> str:
    """The address of this machine from which it would talk to that one; nothing is sent. Empty: none."""
    family = socket.AF_INET6 if ":" in towards else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((towards, 9))
            return str(probe.getsockname()[0])
    except OSError:
        return ""
