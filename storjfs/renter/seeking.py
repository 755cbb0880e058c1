"""Farmers that a renter has heard of: kept across restarts, judged, and the user's marks on them."""

import logging
import random
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Final

import trio

from storjfs.network.identity import Identity
from storjfs.network.meeting import Meeting
from storjfs.network.peer import Connector
from storjfs.network.sources import Source
from storjfs.protocol.directory import Directory, Known
from storjfs.protocol.failures import ProtocolViolation
from storjfs.protocol.hosts import is_private
from storjfs.protocol.ids import NodeId, short
from storjfs.protocol.signing import Signed
from storjfs.protocol.terms import MAX_ADDRESSES
from storjfs.renter.book import ContractBook
from storjfs.renter.farmers import Farmers
from storjfs.renter.local_records import LocalRecords
from storjfs.renter.needs import Bidder, Choice, Wanted, choose
from storjfs.renter.settings import RenterSettings
from storjfs.store import StoreError

log = logging.getLogger(__name__)

RECORD: Final = "directory"
KEEP_FIRST: Final = 5.0
KEEP_EVERY: Final = 60.0
"""Seconds after the start, and between two times, that what is known is kept."""
EAGER: Final = 60.0
"""Seconds between two visits of a farmer while too few are known."""


@dataclass(slots=True)
class Marks:
    """What the user said of farmers."""

    blocked: frozenset[NodeId] = frozenset()
    preferred: frozenset[NodeId] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class FarmerReport:
    """One farmer for a person. Money in nanocredits, sizes in bytes, latency in seconds."""

    node_id: str
    addresses: tuple[str, ...]
    price: int | None
    egress_price: int | None
    free: int | None
    region: str
    group: str
    latency: float | None
    score: float | None
    contract: str
    """The state of the contract with it; empty where there is none."""
    used: bool
    why_not: str
    mark: str
    """blocked, preferred, or empty."""
    found_by: tuple[str, ...]
    seen: float | None
    """When it last answered."""


class Seeking:
    """The renter's directory, and whom of it contracts are sought with.

    `sources` are the ways in which farmers are looked for, none for those that are named only; `peers`
    whether farmers are asked for others.
    """

    def __init__(
        self,
        farmers: Farmers,
        book: ContractBook,
        records: LocalRecords,
        settings: RenterSettings,
        settlement: str,
        now: Callable[[], float],
        rng: random.Random,
        connector: Connector,
        news: Callable[[], None],
    ) -> None:
        self.directory = Directory()
        self.marks = Marks()
        self._farmers, self._book, self._records = farmers, book, records
        self._settings, self._settlement = settings, settlement
        self._now, self._rng, self._connector = now, rng, connector
        self._news = news
        self.meeting: Meeting | None = None
        self.choice = Choice((), {})

    async def run(self, sources: Mapping[str, Source], *, peers: bool) -> None:
        """Look for farmers and keep what is known of them, until cancelled."""
        async with trio.open_nursery() as nursery:
            if sources or peers:
                self.meeting = Meeting(
                    self.directory,
                    sources,
                    now=self._now,
                    rng=self._rng,
                    # A key of its own for each visit: none of those that contracts know us by.
                    identity=lambda: Identity(self._rng.randbytes(32)),
                    peers=peers,
                    connector=self._connector,
                    news=self._found,
                    every=self._patience,
                )
                nursery.start_soon(self.meeting.run)
            await self._keep()

    async def load(self) -> None:
        """Take up what was known when the last mount ended."""
        try:
            data = self._records.kept(RECORD)
            if data is not None:
                now = self._now()
                self.directory = await trio.to_thread.run_sync(Directory.from_bytes, data, now)
        except (StoreError, ProtocolViolation) as error:
            log.warning("what was known of farmers is looked for again: %s", error)

    async def _keep(self) -> None:
        kept = self.directory.changes
        pause = KEEP_FIRST
        while True:
            await trio.sleep(pause)
            pause = KEEP_EVERY
            if self.directory.changes != kept:
                kept = self.directory.changes
                await self.save()

    async def save(self) -> None:
        """Keep what is known; a failure costs no more than finding it again."""
        try:
            await self._records.keep(RECORD, self.directory.to_bytes())
        except StoreError as error:
            log.info("what is known of farmers is not kept: %s", error)

    def _found(self) -> None:
        before = self.choice.chosen
        self.choose()
        if self.choice.chosen != before:
            self._news()

    def _patience(self) -> float | None:
        """How long a farmer is not asked again; None for the usual time."""
        return EAGER if len(self.choice.chosen) < self._wanted().aim else None

    def saw(self, farmer: NodeId, signed: Signed) -> None:
        """The farmer itself has given this offer on its own connection."""
        addresses = self._farmers.addresses(farmer)
        if addresses:
            latency = self._farmers.latency(farmer)
            seconds = latency.mean if latency.known else 0.0
            self.directory.answered("contracts", addresses[0], signed, self._now(), seconds, private=True)

    # --- choosing ---

    def _wanted(self) -> Wanted:
        settings = self._settings
        return Wanted(
            needs=settings.needs,
            price_max=settings.price_max,
            egress_price_max=settings.egress_price_max,
            settlement=self._settlement,
            code=settings.code,
            audit_period=settings.audit_period,
            now=self._now(),
        )

    def choose(self) -> None:
        """Judge all that are known; those chosen can be dialled from now on."""
        used = self._used()
        bidders = [self._bidder(one, used) for one in self.directory]
        there = {one.node_id for one in bidders}
        bidders += [
            Bidder(node_id=who, offer=None, used=True, blocked=who in self.marks.blocked)
            for who in used
            if who not in there
        ]
        self.choice = choose(bidders, self._wanted())
        for who in self.choice.chosen:
            known = self.directory.get(who)
            if known is not None and who not in used and known.addresses:
                self._farmers.move({who: known.addresses})
            elif known is not None:
                self._take_relays(known)
                if self.meeting is not None:
                    self._follow(known)

    def _take_relays(self, known: Known) -> None:
        """Dial a farmer that is used through the relays too that its own offer names, after all else. None in
        a private network, but of a farmer that is in one itself: what dials there is the renter."""
        before = self._farmers.addresses(known.node_id)
        nearby = bool(before) and all(is_private(one.host) for one in before)
        relays = [one for one in known.offer.addresses if one.relay is not None and one not in before]
        found = [one for one in relays if nearby or not is_private(one.host)]
        if found and known.answers:
            self._farmers.move({known.node_id: (*before, *found)[:MAX_ADDRESSES]})

    def _follow(self, known: Known) -> None:
        """Dial a farmer that is used, and away, where it has shown its key: addresses at home change."""
        before = self._farmers.addresses(known.node_id)
        found = known.answered_at
        if found is None or found in before or not known.answers or self._farmers.connected(known.node_id):
            return
        where = (found, *before)[:MAX_ADDRESSES]
        log.info("farmer %s is at %s now", short(known.node_id), found)
        self._farmers.move({known.node_id: where})
        self._book.moved(known.node_id, where)

    def _used(self) -> set[NodeId]:
        """Those with a contract that goes on, and those that were named."""
        return {entry.node_id for entry in self._book if entry.serves} | self._farmers.named

    def _bidder(self, known: Known, used: Collection[NodeId]) -> Bidder:
        return Bidder(
            node_id=known.node_id,
            offer=known.offer,
            used=known.node_id in used,
            preferred=known.node_id in self.marks.preferred,
            blocked=known.node_id in self.marks.blocked,
            answers=known.answers,
            latency=known.latency,
        )

    def seeks(self, farmer: NodeId) -> bool:
        """Whether a contract with it is sought or kept."""
        return (
            farmer in self._farmers.named
            or farmer in self.choice.chosen
            or self._book.current(farmer) is not None
        )

    # --- telling ---

    def problems(self) -> list[str]:
        """What keeps farmers from being found, in sentences; none where nobody is looked for."""
        if self.meeting is None:
            return []
        said = [f"farmers are not found by {way}: {why}" for way, why in self.meeting.problems.items()]
        wanted, there = self._wanted(), len(self.choice.chosen)
        if there < wanted.fewest:
            said.append(
                f"{there} farmers that fit are known, and {wanted.fewest} are wanted; storjfs farmers shows "
                "why others do not"
            )
        return said

    def report(self) -> list[FarmerReport]:
        """All that are known, those in use first, then by price."""
        self.choose()
        who = {one.node_id for one in self.directory} | self._used() | self.marks.blocked
        rows = [self._row(one) for one in who]
        rows.sort(key=lambda one: (not one.used, one.price is None, one.price or 0, one.node_id))
        return rows

    def _row(self, who: NodeId) -> FarmerReport:
        known = self.directory.get(who)
        offer = known.offer if known is not None else None
        entry = self._book.current(who)
        standing = self._records.standing(entry.number) if entry is not None else None
        latency = self._farmers.latency(who)
        measured = latency.mean if latency.known else (known.latency if known is not None else 0.0)
        blocked, preferred = who in self.marks.blocked, who in self.marks.preferred
        addresses = known.addresses if known is not None else self._farmers.addresses(who)
        terms = entry.terms if entry is not None else offer
        return FarmerReport(
            node_id=who.hex(),
            addresses=tuple(map(str, addresses)),
            price=terms.price if terms is not None else None,
            egress_price=terms.egress_price if terms is not None else None,
            free=offer.capacity if offer is not None else None,
            region=offer.region if offer is not None else "",
            group=offer.group if offer is not None else (standing.operator if standing else ""),
            latency=measured or None,
            score=standing.score if standing is not None else None,
            contract=entry.state.value if entry is not None else "",
            used=entry is not None and entry.serves and not blocked,
            why_not=self.choice.refused.get(who, ""),
            mark="blocked" if blocked else "preferred" if preferred else "",
            found_by=tuple(sorted(known.sources)) if known is not None else (),
            seen=(known.confirmed or None) if known is not None else None,
        )
