"""Finds out whether renters can dial this farmer, and keeps it reachable where they cannot.

Decision: docs/decisions/0013-reachability.md.
"""

import logging
import math
import random
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import Final

import trio

from storjfs.farmer.listening import is_local
from storjfs.farmer.portmap import PortMapper
from storjfs.farmer.reachability import (
    Known,
    ReachFacts,
    State,
    Trial,
    believed,
    explain,
    found_addresses,
    is_at_home,
    judge,
    renewed,
    wants_relay,
)
from storjfs.farmer.relays import RELAYS, Offering, Relays
from storjfs.farmer.settings import FarmerSettings
from storjfs.farmer.targets import Candidate, candidates
from storjfs.network.behind import Admit
from storjfs.network.dial_back import Asked, ask
from storjfs.network.identity import Identity
from storjfs.network.lan import EVERYWHERE, own_addresses
from storjfs.protocol.directory import Known as Met
from storjfs.protocol.hosts import is_private
from storjfs.protocol.ids import NodeId
from storjfs.protocol.terms import MAX_ADDRESSES, Address

log = logging.getLogger(__name__)

ASKED: Final = 8
"""Farmers asked in one round."""
AGAIN: Final = {State.OPEN: 1800.0, State.CLOSED: 300.0, State.UNKNOWN: 60.0}
"""Seconds until they are asked again."""
SHORT_OF_RELAYS: Final = (30.0, 60.0, 120.0)
"""The same where fewer relays lead to it than could: after the first round, the second, and all others."""
GAP: Final = 5.0
"""Seconds between two rounds at least, where others become known."""
FIRST_CHECKED: Final = 1024
"""Ports below are dialled back by nobody."""
FAMILIES: Final = {socket.AF_INET: "IPv4", socket.AF_INET6: "IPv6"}


class Reach:
    """How one farmer is reached. `run` keeps it; `addresses` are what its offers name.

    `settings()` and `listening()` are those of now, `met()` the farmers that it got to know.
    """

    def __init__(
        self,
        identity: Identity,
        settings: Callable[[], FarmerSettings],
        listening: Callable[[], Sequence[Address]],
        met: Callable[[], Iterable[Met]] = tuple,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._identity, self._settings, self._listening = identity, settings, listening
        self._met, self._clock = met, clock
        self._came: Callable[[str], int] = lambda host: 0
        self._rng = random.SystemRandom()
        self._trials: tuple[Trial, ...] = ()
        self._relays = Relays(identity, self._tell)
        self._asked = (0.0, 0)
        """When the last round ended, and how many were asked in it."""
        self._in_vain = 0
        """Rounds since which it is short of relays."""
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
        relayed = tuple(relay.through() for relay in self._relays.attached)
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
            local_only=bool(listening) and all(is_local(one.host) for one in listening),
            own=_own_address(),
            trials=self._trials,
            mapping=self.mapper.facts,
            peers=len(self._settings().peers) + sum(one.found for one in self._trials),
            looks=self._asks_strangers,
        )

    @property
    def _asks_strangers(self) -> bool:
        return self._settings().ask_strangers and not self._settings().local

    def _whom(self) -> list[Candidate]:
        """Whom to ask."""
        strangers = self._met() if self._asks_strangers else ()
        using = self._relays.attached.values()
        return candidates(self._settings().peers, strangers, using, ASKED, self._rng)

    def facts(self) -> ReachFacts:
        """All of it, for `farm status`."""
        known = self._known()
        relays = self._relays.facts()
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

    def met_somebody(self) -> None:
        """Another farmer became known: ask it, if there are not enough yet who say something or relay."""
        if self._asks_strangers and (self.state is State.UNKNOWN or self._short_of_relays()):
            self.look_again()

    async def run(self, admit: Admit, came: Callable[[str], int] = lambda host: 0) -> None:
        """Ask, map and attach, until cancelled; a port that the router was asked for is given back.

        `came(host)` is how often somebody at that address has dialled this farmer.
        """
        self._came = came
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_mapped)
            while True:
                self._look = False
                whom = self._whom()
                if whom:
                    await self._ask_all(whom)
                self._asked = trio.current_time(), len(whom)
                await self._rest(partial(self._use_relays, nursery, admit))
                self._in_vain = self._in_vain + 1 if self._short_of_relays(len(whom)) else 0

    async def _rest(self, use_relays: Callable[[], None]) -> None:
        """Wait for the next round. The loss of a relay brings it forward; who was asked already and relays
        takes its place at once."""
        use_relays()
        while (due := self._due()) > trio.current_time():
            self._wake = trio.Event()
            with trio.move_on_at(due):
                await self._wake.wait()
            use_relays()

    def _due(self) -> float:
        """When the next round begins."""
        when, count = self._asked
        pause = AGAIN[self.state] if count else math.inf
        if self._short_of_relays(count):
            pause = SHORT_OF_RELAYS[min(self._in_vain, len(SHORT_OF_RELAYS) - 1)]
        if self._look:
            # Who is found comes one after the other: not a round for each.
            pause = min(pause, GAP if count else 0.0)
        return when + pause

    def _short_of_relays(self, among: int = RELAYS) -> bool:
        """Whether fewer relays lead here than could, if there are no others than so many."""
        return len(self._relays.attached) < min(RELAYS, among) and wants_relay(self._known())

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

    async def _ask_all(self, whom: Sequence[Candidate]) -> None:
        """One round of questions."""
        found: list[Trial] = []
        offering: dict[NodeId, Offering] = {}

        async def one(candidate: Candidate, named: Address, where: Address) -> None:
            port = self._port_to_try
            before = self._came(where.host)
            asked = await ask(self._identity, candidate.node_id, where, port)
            # Renters of a relay that was named dial it by its name.
            address = named if candidate.named else where
            relays = asked.relays and (candidate.named or not is_at_home(where.host))
            if relays and asked.node_id is not None:
                offered = Offering(address, asked.node_id, found=not candidate.named)
                offering.setdefault(asked.node_id, offered)
            trial = self._trial(address, where, port, asked, found=not candidate.named)
            found.append(believed(trial, came=self._came(where.host) > before))

        async with trio.open_nursery() as nursery:
            for candidate in whom:
                for named in candidate.addresses:
                    for where in await _by_family(named, private=candidate.private):
                        nursery.start_soon(one, candidate, named, where)
        before = self.state, self._trials
        self._trials = renewed(self._trials, found, self._clock())
        order = [address for candidate in whom for address in candidate.addresses if candidate.named]
        self._relays.offering = sorted(
            offering.values(),
            key=lambda one: order.index(one.address) if one.address in order else len(order),
        )
        if (self.state, self._trials) != before:
            self._tell()

    @property
    def _port_to_try(self) -> int | None:
        """The port outside; None where there is nothing to ask."""
        settings, mapped = self._settings(), self.mapper.facts
        port = mapped.port or next((one.port for one in settings.announce), self._port)
        return port if port >= FIRST_CHECKED and not self._known().local_only else None

    def _trial(
        self, address: Address, where: Address, port: int | None, asked: Asked, *, found: bool
    ) -> Trial:
        family = "IPv6" if ":" in where.host else "IPv4"
        trial = Trial(str(address), family, port or 0, self._clock(), problem=asked.problem, found=found)
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
            found=found,
        )

    # --- relays ---

    def _use_relays(self, nursery: trio.Nursery, admit: Admit) -> None:
        """Attach to relays while nobody can dial this farmer, and leave them when somebody can."""
        wanted = wants_relay(self._known())
        named = {peer.address for peer in self._settings().peers}

        def allowed(relay: Offering) -> bool:
            return self._asks_strangers if relay.found else relay.address in named

        self._relays.leave(allowed, spare=not wanted and self.state is State.OPEN)
        if wanted:
            self._relays.use(nursery, admit)


def _at_home(listening: str) -> tuple[str, ...]:
    """Where a renter in this network dials who listens there. For all addresses of one kind that is the one
    from which this machine talks to the internet; in a network that leads nowhere, all."""
    if listening not in EVERYWHERE:
        return (listening,)
    six = ":" in listening
    own = _own_address("2001:db8::1" if six else "192.0.2.1")
    return (own,) if own else tuple(host for host in own_addresses() if (":" in host) == six)


async def _by_family(address: Address, *, private: bool) -> list[Address]:
    """One address of each kind that this name has; the name itself where it has none. Without `private` none
    in a private network, where a name of a stranger may lead."""
    found: dict[int, Address] = {}
    with suppress(OSError, ValueError):  # ValueError: nobody can have a name like this
        for family, _, _, _, where in await trio.socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM
        ):
            if family in FAMILIES and (private or not is_private(str(where[0]))):
                found.setdefault(family, Address(str(where[0]), address.port))
    return list(found.values()) or ([address] if private else [])


def _own_address(towards: str = "192.0.2.1") -> str:
    """The address of this machine from which it would talk to that one; nothing is sent. Empty: none."""
    family = socket.AF_INET6 if ":" in towards else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((towards, 9))
            return str(probe.getsockname()[0])
    except OSError:
        return ""
