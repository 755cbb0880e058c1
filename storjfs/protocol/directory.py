"""The directory: what is known of farmers, from whom, and since when. Pure.

Everything in it comes from strangers. An entry is an offer that its node key has signed; an address is a hint
until its farmer has answered there. Each source of entries holds a bounded number of them, and by naming more
it drives out only what it alone has named (docs/decisions/0012-meeting.md).
"""

import random
from collections import OrderedDict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Final, Self

from msgspec import Meta, Struct

from storjfs.protocol.encoding import decode, encode
from storjfs.protocol.failures import ProtocolViolation
from storjfs.protocol.hosts import is_here, is_private, network_of
from storjfs.protocol.ids import NodeId, NodeIdField, ShortText, Unsigned
from storjfs.protocol.signing import Signed
from storjfs.protocol.terms import Address, Offer, open_offer

MAX_OFFER: Final = 2048
"""Bytes of a signed offer that others may pass on."""
LONGEST_OFFER: Final = 8 * 86400
"""Seconds an offer may hold at most: one without an end could never be replaced by its farmer."""
FORGOTTEN_AFTER: Final = 7 * 86400
"""Seconds after the end of its offer for which a farmer is still looked for."""
ASKED_EVERY: Final = 6 * 3600.0
"""Seconds between two visits of a farmer that answers."""
FIRST_RETRY: Final = 30.0
FRESH: Final = 86400.0
"""Who answered within so many seconds is passed on to others."""
GIVEN_UP_AFTER: Final = 3
"""Visits in vain after which a farmer does not count as answering any more."""
WAITING: Final = 64
"""Hints of one source that wait for their visit."""
ADDRESSES: Final = 4
"""Addresses of one hint."""
PEERS: Final = "peers "
"""Begins the name of a source that is a network of farmers who were asked."""
PEER_SOURCES: Final = 64
OTHER_SOURCES: Final = 16
"""Ways to find farmers besides, at most."""

_QUOTAS: Final = {"settings": 256, "contracts": 256, "lan": 128, PEERS: 32}
_BY_HAND: Final = ("settings", "contracts")
_OTHER_QUOTA: Final = 512


def is_of_this_machine(source: str) -> bool:
    """Whether `source` is a farmer on this machine, who may name others on it."""
    return source.startswith(PEERS) and is_here(source.removeprefix(PEERS).partition("/")[0])


def peer_source(host: str) -> str:
    """The source that a farmer at `host` is when it is asked for others."""
    return PEERS + network_of(host)


@dataclass(slots=True, kw_only=True)
class Known:
    """One farmer. Times in seconds since 1970, 0 for never; latency in seconds."""

    node_id: NodeId
    signed: Signed
    offer: Offer
    private: bool
    """Whether it was named from within a private network: then its private addresses count too."""
    sources: set[str] = field(default_factory=set)
    confirmed: float = 0.0
    answered_at: Address | None = None
    """Where it proved its key in TLS last."""
    latency: float = 0.0
    failures: int = 0
    """Visits in vain since."""
    tried: float = 0.0

    @property
    def answers(self) -> bool:
        return self.confirmed > 0 and self.failures < GIVEN_UP_AFTER

    @property
    def here(self) -> bool:
        """Whether it may be on this machine: a person says so, somebody who is, or it has answered here."""
        if self.answered_at is not None and is_here(self.answered_at.host):
            return True
        return any(one in _BY_HAND or is_of_this_machine(one) for one in self.sources)

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Where to dial it: first where it has answered."""
        here = self.here
        said = [
            one
            for one in self.offer.addresses
            if not is_private(one.host) or (self.private and (here or not is_here(one.host)))
        ]
        first = [self.answered_at] if self.answered_at is not None else []
        return tuple(dict.fromkeys(first + said))

    def due(self, every: float = ASKED_EVERY) -> float:
        """When it is to be visited next, if it is every so many seconds while it answers."""
        if not self.failures and self.confirmed:
            return self.confirmed + every
        return self.tried + min(FIRST_RETRY * 2.0**self.failures, ASKED_EVERY) if self.tried else 0.0


@dataclass(frozen=True, slots=True)
class Hint:
    """Where a farmer may be; a `node_id` is only what somebody says."""

    source: str
    addresses: tuple[Address, ...]
    node_id: NodeId | None = None
    private: bool = False
    """Whether private addresses in it may be dialled."""


class _Row(Struct, array_like=True):
    signed: Signed
    private: bool
    sources: Annotated[tuple[ShortText, ...], Meta(max_length=PEER_SOURCES + OTHER_SOURCES)]
    confirmed: float
    answered_at: Address | None
    latency: float
    failures: Unsigned
    tried: float


class _Rows(Struct, array_like=True):
    version: int
    rows: list[_Row]


class _Named(Struct, array_like=True):
    """The part of an offer that all versions have in common."""

    version: Unsigned
    farmer: NodeIdField


def quota_of(source: str) -> int:
    """How many entries a source holds at most."""
    return _QUOTAS.get(PEERS if source.startswith(PEERS) else source, _OTHER_QUOTA)


class Directory:
    """Entries by node id, and hints that wait for a visit. Bounded whatever sources say.

    `own`: a node id that is never entered.
    """

    def __init__(self, own: NodeId | None = None) -> None:
        self._own = own
        self._known: dict[NodeId, Known] = {}
        self._held: dict[str, OrderedDict[NodeId, None]] = {}
        self._hints: dict[str, OrderedDict[tuple[NodeId | None, tuple[Address, ...]], Hint]] = {}
        self.changes = 0
        """Grows with every change that is worth keeping."""
        self._fit: list[Known] = []
        self._fit_at: tuple[int, int, bool] | None = None

    def __iter__(self) -> Iterator[Known]:
        return iter(list(self._known.values()))

    def __len__(self) -> int:
        return len(self._known)

    def get(self, node_id: NodeId) -> Known | None:
        return self._known.get(node_id)

    # --- what sources say ---

    def learn(self, source: str, signed: Signed, now: float, *, private: bool = False) -> Known | None:
        """Enter an offer that `source` named, or note that it named it too; an older one than that known
        changes nothing else.

        None, and nothing is entered, where it is not signed by its farmer, too large, has ended, or ends too
        late, or where no address may be dialled: private ones only where the source lies in such a network
        itself (`private`).
        """
        if len(signed.body) > MAX_OFFER:
            return None
        known = self._same(signed)
        if known is None:
            try:
                offer = open_offer(signed)
            except ProtocolViolation:
                return None
            if not now < offer.expires <= now + LONGEST_OFFER or offer.farmer == self._own:
                return None
            if not any(private or not is_private(one.host) for one in offer.addresses):
                return None
            known = self._known.get(offer.farmer)
            if known is None:
                known = Known(node_id=offer.farmer, signed=signed, offer=offer, private=private)
                self._known[known.node_id] = known
            elif offer.expires > known.offer.expires:
                known.signed, known.offer = signed, offer
        elif known.offer.expires <= now:
            return None
        known.private = known.private or private
        self._hold(source, known)
        self.changes += 1
        return self._known.get(known.node_id)

    def _same(self, signed: Signed) -> Known | None:
        """The entry that has exactly this offer already: its signature need not be checked again."""
        try:
            known = self._known.get(decode_farmer(signed))
        except ProtocolViolation:
            return None
        return known if known is not None and known.signed == signed else None

    def answered(
        self, source: str, address: Address, signed: Signed, now: float, latency: float, *, private: bool
    ) -> Known | None:
        """The farmer has shown its key in TLS at `address`, and given this offer there."""
        known = self.learn(source, signed, now, private=private or is_private(address.host))
        if known is not None:
            known.confirmed = known.tried = now
            known.answered_at, known.latency, known.failures = address, latency, 0
            self.changes += 1
        return known

    def missed(self, node_id: NodeId, now: float) -> None:
        """A visit was in vain."""
        known = self._known.get(node_id)
        if known is not None:
            known.failures = min(known.failures + 1, 32)
            known.tried = now
            self.changes += 1

    def hint(self, hint: Hint) -> None:
        """Have an address visited. Of one source the newest `WAITING` wait."""
        if self._own is not None and hint.node_id == self._own:
            return
        allowed = tuple(one for one in hint.addresses if hint.private or not is_private(one.host))[:ADDRESSES]
        if not allowed:
            return
        # Of sources other than peers, which are ways to find farmers, there are few.
        new = hint.source.startswith(PEERS) and hint.source not in self._hints
        if new and sum(one.startswith(PEERS) for one in self._hints) >= PEER_SOURCES:
            return
        waiting = self._hints.setdefault(hint.source, OrderedDict())
        # Whose they are said to be counts where a relay has one address for all behind it.
        who = hint.node_id if any(one.relay is not None for one in allowed) else None
        waiting[who, allowed] = Hint(hint.source, allowed, hint.node_id, hint.private)
        if len(waiting) > WAITING:
            waiting.popitem(last=False)

    # --- bounds ---

    def _hold(self, source: str, known: Known) -> None:
        """`source` holds the entry; if that is one too many, it lets go of its oldest other one, of those
        that do not answer if it has such."""
        held = self._held.get(source)
        if held is None:
            self._bound_peers(source)
            held = self._held[source] = OrderedDict()
        held[known.node_id] = None
        known.sources.add(source)
        if len(held) <= quota_of(source):
            return
        others = [one for one in held if one != known.node_id]
        self._let_go(source, next((one for one in others if not self._known[one].answers), others[0]))

    def _bound_peers(self, source: str) -> None:
        """Make room for one more network of peers: the one with the fewest that answer goes."""
        networks = [one for one in self._held if one.startswith(PEERS)]
        if not source.startswith(PEERS) or len(networks) < PEER_SOURCES:
            return
        least = min(networks, key=lambda one: sum(self._known[who].answers for who in self._held[one]))
        for node_id in list(self._held[least]):
            self._let_go(least, node_id)
        self._held.pop(least, None)

    def _let_go(self, source: str, node_id: NodeId) -> None:
        del self._held[source][node_id]
        if not self._held[source]:
            del self._held[source]
        known = self._known[node_id]
        known.sources.discard(source)
        if not known.sources:
            del self._known[node_id]

    def forget_old(self, now: float) -> None:
        """Drop farmers whose offer ended long ago."""
        for known in self:
            if known.offer.expires + FORGOTTEN_AFTER < now:
                for source in list(known.sources):
                    self._let_go(source, known.node_id)
                self.changes += 1

    # --- what is to be done with it ---

    def take_hints(self, count: int) -> list[Hint]:
        """The next hints to visit, one of each source in turn, oldest first. They wait no longer then."""
        taken: list[Hint] = []
        while len(taken) < count and self._hints:
            for source in list(self._hints):
                if len(taken) < count:
                    taken.append(self._hints[source].popitem(last=False)[1])
                if not self._hints[source]:
                    del self._hints[source]
        return taken

    def due(
        self, now: float, count: int, besides: Collection[NodeId] = (), every: float = ASKED_EVERY
    ) -> list[Known]:
        """Farmers whose visit is due, longest due first; those in `besides` are left out."""
        found = [one for one in self._known.values() if one.due(every) <= now and one.node_id not in besides]
        found.sort(key=lambda one: one.due(every))
        return found[:count]

    def tell(
        self, now: float, count: int, rng: random.Random, *, private: bool, besides: Collection[NodeId] = ()
    ) -> tuple[Signed, ...]:
        """Offers to pass on: of farmers that answered us lately, drawn at random.

        `private`: whether those that have private addresses only are of use to who asks.
        """
        key = self.changes, int(now), private
        if key != self._fit_at:
            # Anybody may ask, again and again: all of them are looked at once a second, or after a change.
            self._fit_at, self._fit = (
                key,
                [
                    one
                    for one in self._known.values()
                    if one.answers
                    and one.confirmed + FRESH > now
                    and one.offer.expires > now
                    and (private or any(not is_private(at.host) for at in one.offer.addresses))
                ],
            )
        drawn = rng.sample(self._fit, min(count + len(besides), len(self._fit)))
        return tuple(one.signed for one in drawn if one.node_id not in besides)[:count]

    # --- keeping ---

    def to_bytes(self) -> bytes:
        """All entries, for `from_bytes`; hints are found again."""
        rows = [
            _Row(
                one.signed,
                one.private,
                tuple(sorted(one.sources)),
                one.confirmed,
                one.answered_at,
                one.latency,
                one.failures,
                one.tried,
            )
            for one in self._known.values()
        ]
        return encode(_Rows(1, rows))

    @classmethod
    def from_bytes(cls, data: bytes, now: float, own: NodeId | None = None) -> Self:
        """What was kept, each signature checked again; what does not pass is left out. Raises
        ProtocolViolation where it is not that at all. Checking takes about 0.1 ms for each."""
        made = cls(own)
        kept = decode(data, _Rows)
        if kept.version != 1:
            raise ProtocolViolation(f"a directory of version {kept.version}, known is 1")
        for row in kept.rows:
            made._restore(row, now)
        made.changes = 0
        return made

    def _restore(self, row: _Row, now: float) -> None:
        try:
            offer = open_offer(row.signed)
        except ProtocolViolation:
            return
        if len(row.signed.body) > MAX_OFFER or not row.sources or offer.farmer in self._known:
            return
        if offer.farmer == self._own or not now - FORGOTTEN_AFTER < offer.expires <= now + LONGEST_OFFER:
            return
        known = Known(
            node_id=offer.farmer,
            signed=row.signed,
            offer=offer,
            private=row.private,
            confirmed=min(row.confirmed, now),
            answered_at=row.answered_at,
            latency=row.latency,
            failures=row.failures,
            tried=min(row.tried, now),
        )
        self._known[offer.farmer] = known
        for source in row.sources:
            if known.node_id in self._known:
                self._hold(source, known)


def decode_farmer(signed: Signed) -> NodeId:
    """Whom an offer names, unchecked. Raises ProtocolViolation."""
    return decode(signed.body, _Named).farmer


def hint_of(source: str, addresses: Sequence[Address], node_id: NodeId | None, *, private: bool) -> Hint:
    """A hint with no more addresses than are dialled."""
    return Hint(source, tuple(dict.fromkeys(addresses))[:ADDRESSES], node_id, private)
