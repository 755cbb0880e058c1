"""Meeting others: asks all sources, visits what they name, and fills a directory with who answers."""

import logging
import math
import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final, TypeVar

import trio

from storjfs.errors import StorjfsError
from storjfs.network.guests import Allowances
from storjfs.network.identity import Identity
from storjfs.network.lan import is_near
from storjfs.network.origin import origin
from storjfs.network.peer import Connector
from storjfs.network.sources import Found, Given, Source
from storjfs.network.streams import open_stream
from storjfs.network.visits import VISIT_ERRORS, visit
from storjfs.protocol.directory import (
    ASKED_EVERY,
    PEERS,
    Directory,
    Hint,
    Known,
    hint_of,
    is_of_this_machine,
    peer_source,
)
from storjfs.protocol.hosts import is_here, is_private, network_of
from storjfs.protocol.ids import NodeId, short
from storjfs.protocol.messages import Role
from storjfs.protocol.signing import Signed
from storjfs.protocol.terms import RELAYED, Address

log = logging.getLogger(__name__)

K = TypeVar("K")
V = TypeVar("V")

VISITS: Final = 8
"""Visits at a time."""
PER_SECOND: Final = 4.0
"""Addresses dialled in the long run ..."""
AT_ONCE: Final = 64
"""... and after a pause."""
SAME_ADDRESS: Final = 30.0
"""Seconds between two visits of one address because of hints."""
RELAY_RATE: Final = 0.5
"""Farmers behind one relay that are visited per second in the long run, for it has one address for all ..."""
RELAY_BURST: Final = 16.0
"""... and after a pause at once."""
HOST_RATE: Final = 0.5
"""Addresses of one host that are dialled per second in the long run, where nobody has answered yet ..."""
HOST_BURST: Final = 16.0
"""... and after a pause at once. Those that a person has named, and this machine, are not counted."""
REMEMBERED: Final = 1024
"""Addresses of which it is known when they were visited last."""
FIRST_RETRY: Final = 60.0
LONGEST: Final = 900.0
"""Seconds after which a source that failed is asked again: twice as many each time, up to so many."""
LATE: Final = 64
"""Hints put off because somebody was just there."""
LOOKED_AT: Final = 128
"""Farmers looked at for the next visit."""
LOOK: Final = 5.0
"""Seconds between two looks for what is due."""


class Meeting:
    """Fills `directory` while `run` runs.

    `identity()` is who we are on a visit. `peers`: whether those visited are asked for others; `own()` is
    what we tell them of ourselves then. `news()` is called when somebody has answered. `every()` gives the
    seconds between two visits of one farmer, None for the usual ones.
    """

    def __init__(
        self,
        directory: Directory,
        sources: Mapping[str, Source],
        *,
        now: Callable[[], float],
        rng: random.Random,
        identity: Callable[[], Identity],
        peers: bool,
        own: Callable[[], Signed | None] = lambda: None,
        role: Role = Role.RENTER,
        connector: Connector = open_stream,
        news: Callable[[], None] = lambda: None,
        every: Callable[[], float | None] = lambda: None,
        near: Callable[[str], bool] = is_near,
    ) -> None:
        self.directory = directory
        self.problems: dict[str, str] = {}
        """By source: why it does not work now."""
        self.asked: set[str] = set()
        """Sources that have ended once, well or not."""
        self.unanswered: dict[Address, str] = {}
        """Addresses that sources named and where nobody answered, with the reason; the newest ones."""
        self._sources = dict(sources)
        self._now, self._rng, self._identity = now, rng, identity
        self._peers, self._own, self._role = peers, own, role
        self._connector, self._news, self._every = connector, news, every
        self._visiting: set[NodeId] = set()
        self._under_way = 0
        self._known_first = False
        self._late: deque[Hint] = deque(maxlen=LATE)
        self._seen: dict[tuple[Address, NodeId | None], float] = {}
        """When an address was dialled last; one of a relay, for whom."""
        self._hosts = Allowances(HOST_RATE, HOST_BURST, REMEMBERED)
        self._by_hand = {name for name, one in sources.items() if isinstance(one, Given)}
        self._near = near
        self._relays = Allowances(RELAY_RATE, RELAY_BURST, REMEMBERED)
        self._to_tell = 0
        self._told = -SAME_ADDRESS
        self._again: deque[NodeId] = deque()
        """Whom to visit again."""
        self._allowance = float(AT_ONCE)
        self._counted = 0.0
        self._wake = trio.Event()

    async def run(self) -> None:
        """Until cancelled."""
        self._counted = trio.current_time()
        async with trio.open_nursery() as nursery:
            for name, source in self._sources.items():
                nursery.start_soon(self._ask, name, source)
            while True:
                self._begin(nursery)
                self._wake = trio.Event()
                with trio.move_on_after(LOOK):
                    await self._wake.wait()

    @property
    def searching(self) -> bool:
        """Whether a search that ends has not done so once."""
        return any(source.longest and name not in self.asked for name, source in self._sources.items())

    def hint(self, hint: Hint) -> None:
        """Have somebody visited soon."""
        self.directory.hint(hint)
        self._wake.set()

    def visit_again(self, count: int) -> None:
        """Have so many of those that answer visited soon, though they were lately, to tell them something.
        It is done once in SAME_ADDRESS seconds at most."""
        self._to_tell = count
        self._wake.set()

    async def _ask(self, name: str, source: Source) -> None:
        """Ask one source again and again."""
        pause = FIRST_RETRY
        while True:
            try:
                async for found in source.find():
                    self.problems.pop(name, None)
                    self.hint(self._hint(name, source, found))
                pause = source.again if name not in self.problems else min(2 * pause, LONGEST)
            except Exception as error:
                # Whatever it is, a mount goes on with the farmers that it has.
                known = isinstance(error, StorjfsError | OSError)
                if name not in self.problems:
                    log.warning("looking for farmers by %s: %s", name, error, exc_info=not known)
                self.problems[name] = str(error) or type(error).__name__
                pause = min(2 * pause, LONGEST)
            self.asked.add(name)
            await trio.sleep(pause * self._rng.uniform(0.75, 1.25))

    @staticmethod
    def _hint(name: str, source: Source, found: Found) -> Hint:
        return hint_of(name, found.addresses, found.node_id, private=source.private)

    # --- visits ---

    def _begin(self, nursery: trio.Nursery) -> None:
        """Start the visits that are due, as far as they are allowed."""
        elapsed = trio.current_time() - self._counted
        self._counted += elapsed
        self._allowance = min(self._allowance + elapsed * PER_SECOND, float(AT_ONCE))
        self.directory.forget_old(self._now())
        self._choose_again()
        for _ in range(len(self._late)):
            self.directory.hint(self._late.popleft())
        while self._under_way < VISITS and self._allowance >= 1:
            # In turn, so that a flood of hints does not keep us from those we know.
            self._known_first = not self._known_first
            known = self._next_known() if self._known_first else None
            hints = [] if known else self.directory.take_hints(1)
            known = known or (None if hints else self._next_known())
            if hints:
                if news := self._worth_it(hints[0]):
                    self._start(nursery, news, None)
            elif known:
                self._start(nursery, *known)
            else:
                return

    def _next_known(self) -> tuple[Hint, Known] | None:
        return self._next_again() or self._due()

    def _start(self, nursery: trio.Nursery, hint: Hint, known: Known | None) -> None:
        """Visit whom a hint names."""
        self._allowance -= 1
        self._under_way += 1
        if hint.node_id is not None:
            self._visiting.add(hint.node_id)
        for address in hint.addresses:
            self._seen[_place(address, hint.node_id)] = trio.current_time()
        _shorten(self._seen)
        nursery.start_soon(self._visit, hint, known)

    def _due(self) -> tuple[Hint, Known] | None:
        """The next farmer to visit. However many are said to be at an address, it is dialled now and then."""
        every = self._every() or ASKED_EVERY
        due = self.directory.due(self._now(), LOOKED_AT, self._visiting, every)
        for known in due:
            hint = self._fresh(_revisit(known, known.addresses), known.answered_at)
            if hint.addresses or not known.addresses:
                return hint, known
        return None

    def _choose_again(self) -> None:
        """Draw those that are visited again, where that was asked for and not done just now."""
        now = trio.current_time()
        if self._to_tell and now - self._told >= SAME_ADDRESS:
            there = [one.node_id for one in self.directory if one.answers]
            self._again.extend(self._rng.sample(there, min(self._to_tell, len(there))))
            self._told, self._to_tell = now, 0

    def _next_again(self) -> tuple[Hint, Known] | None:
        """The next of those that are visited again, only where it has shown its key."""
        while self._again:
            known = self.directory.get(self._again.popleft())
            if known is None or known.answered_at is None or known.node_id in self._visiting:
                continue
            return _revisit(known, (known.answered_at,)), known
        return None

    def _worth_it(self, hint: Hint) -> Hint | None:
        """What of a hint is worth a visit: nothing where the same farmer is known to be, and no address where
        we were just now."""
        known = self._known_at(hint)
        if known is not None:
            self.directory.learn(hint.source, known.signed, self._now(), private=hint.private)
            return None
        if hint.node_id not in self._visiting:
            fresh = self._fresh(hint)
            if fresh.addresses:
                return fresh
        # Heard again later: by then it is known who is there, or it may be dialled again.
        self._late.append(hint)
        return None

    def _known_at(self, hint: Hint) -> Known | None:
        """The farmer that a hint names, if it is known to answer there."""
        if hint.node_id is None:
            there = (one for one in self.directory if one.answers and one.answered_at in hint.addresses)
            return next(there, None)
        known = self.directory.get(hint.node_id)
        fits = known is not None and known.answers and set(hint.addresses) <= set(known.addresses)
        return known if fits else None

    def _fresh(self, hint: Hint, answered_at: Address | None = None) -> Hint:
        """The same without addresses dialled just now. It is to be visited then: relays and hosts count it,
        but for where it has answered."""
        since = trio.current_time() - SAME_ADDRESS

        def fresh(address: Address) -> bool:
            if self._seen.get(_place(address, hint.node_id), -math.inf) > since:
                return False
            if address.relay is not None:
                return self._relays.try_spend(address)
            if address == answered_at or hint.source in self._by_hand or is_here(address.host):
                return True
            return self._hosts.try_spend(host_of(address))

        return replace(hint, addresses=tuple(filter(fresh, hint.addresses)))

    async def _visit(self, hint: Hint, known: Known | None) -> None:
        try:
            here = known.here if known is not None else _may_be_here(hint.source)
            await self._meet(hint, here=here)
        except VISIT_ERRORS as error:
            self._in_vain(hint, known, error)
        except Exception as error:
            # What a stranger says must not end a mount, whatever it finds in us.
            log.exception("a visit failed")
            self._in_vain(hint, known, error)
        finally:
            self._under_way -= 1
            if hint.node_id is not None:
                self._visiting.discard(hint.node_id)
            self._wake.set()

    def _in_vain(self, hint: Hint, known: Known | None, error: Exception) -> None:
        log.info("a visit at %s: %s", hint.addresses[0] if hint.addresses else "no address", error)
        if known is not None:
            # Where not all were dialled, because of what others say, nothing is known of it.
            if set(hint.addresses) >= set(known.addresses):
                self.directory.missed(known.node_id, self._now())
        elif hint.addresses:
            self.unanswered[hint.addresses[0]] = str(error)
            _shorten(self.unanswered)

    async def _meet(self, hint: Hint, *, here: bool) -> None:
        paid = 1

        async def dial(
            identity: Identity, node_id: NodeId | None, places: Sequence[Address], seconds: float
        ) -> trio.abc.Stream:
            nonlocal paid
            self._allowance -= len(places) - paid
            paid = 0
            return await self._connector(identity, node_id, places, seconds)

        found = await visit(
            self._identity(),
            hint.node_id,
            hint.addresses,
            dial,
            ask=self._peers,
            own=self._own(),
            role=self._role,
            public=not hint.private,
            here=here,
        )
        self.unanswered.pop(hint.addresses[0], None)
        now = self._now()
        # Who is elsewhere, though under a private address, may name no private ones: it is not our network.
        host = found.address.host.removeprefix(RELAYED)
        private = is_private(host) and (hint.source in self._by_hand or self._near(host))
        entered = self.directory.answered(
            hint.source, found.address, found.offer, now, found.latency, private=hint.private
        )
        if entered is None:
            log.info("the offer of %s is of no use: too large, ended, or its own", short(found.node_id))
        for signed in found.others:
            self.directory.learn(peer_source(found.address.host), signed, now, private=private)
        self._news()


def _revisit(known: Known, addresses: tuple[Address, ...]) -> Hint:
    """One that is known already. Of what names it the word of a person counts most."""
    source = "settings" if "settings" in known.sources else min(known.sources)
    return Hint(source, addresses, known.node_id, known.private)


def _may_be_here(source: str) -> bool:
    """Whether what a source names may be on this machine: peers elsewhere know nothing of that."""
    return not source.startswith(PEERS) or is_of_this_machine(source)


def host_of(address: Address) -> str:
    """What counts as one host: an IPv4 address, the first 64 bits of an IPv6 one, a domain."""
    try:
        return origin(address.host)
    except ValueError:
        return network_of(address.host)


def _place(address: Address, node_id: NodeId | None) -> tuple[Address, NodeId | None]:
    """What is dialled there: behind a relay there are many."""
    return address, node_id if address.relay is not None else None


def _shorten(table: dict[K, V]) -> None:
    while len(table) > REMEMBERED:
        del table[next(iter(table))]
