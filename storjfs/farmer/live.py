"""What only the running farmer knows: who is connected, what passes, and does it work."""

import os
from collections import Counter
from typing import TYPE_CHECKING

import msgspec
import trio

from storjfs import __version__
from storjfs.farmer.pulse import ClockWatch, Heartbeat
from storjfs.farmer.reachability import ReachFacts
from storjfs.farmer.settings import FarmerSettings

if TYPE_CHECKING:  # the command that shows all this should not load what the farmer needs to run
    from storjfs.farmer.farmer import Farmer
    from storjfs.farmer.line import Direction
    from storjfs.farmer.traffic import Traffic


SHOWN = 64
"""Relayed farmers that are named."""


class LineFacts(msgspec.Struct, frozen=True):
    """One direction; rates in bytes per second."""

    limit: int | None
    """What holds now."""
    rate: float
    """Of the last ten seconds."""
    total: int
    """Bytes since the start."""
    under_way: int
    """Transfers."""
    waiting: int
    """Transfers that wait for their turn."""


class PeerFacts(msgspec.Struct, frozen=True):
    """A renter that is connected."""

    renter: str
    connections: int
    transfers: int
    """Of its shards, under way in either direction."""


class Selling(msgspec.Struct, frozen=True):
    """Settings that the figures show: bytes, nanocredits, texts as in farmer.toml."""

    share: int
    price: int
    egress_price: int
    listen: str
    limit: str
    schedule: str
    keep_free: int
    disks: tuple[tuple[str, int], ...] = ()
    """Folder and share of the others."""
    silent: tuple[int, ...] = ()
    """Numbers of the disks that do not answer now."""

    @property
    def in_all(self) -> int:
        """Bytes that are shared on all disks."""
        return self.share + sum(share for _, share in self.disks)


class MeetingFacts(msgspec.Struct, frozen=True):
    """Whether strangers find this farmer."""

    network: str
    announced: float | None
    """When it announced itself last, and it worked; seconds since 1970."""
    nodes: int
    """Of the DHT, that keep its record."""
    problem: str
    """Why it is not, or no more; empty if it is, or is about to be."""


class RelayedFacts(msgspec.Struct, frozen=True):
    """A farmer that this one relays."""

    farmer: str
    attached: bool
    streams: int
    """Relayed connections now."""
    to_farmer: int
    """Bytes passed on since yesterday (UTC)."""
    from_farmer: int


class Live(msgspec.Struct, frozen=True):
    """Times in seconds since 1970."""

    pid: int
    version: str
    since: float
    """When it started to serve."""
    addresses: tuple[str, ...]
    """Where renters are told to find it."""
    listening: tuple[str, ...]
    last_contact: float | None
    """When a renter on another machine connected last."""
    connections: int
    renters: tuple[PeerFacts, ...]
    """Whose these are."""
    sent: LineFacts
    received: LineFacts
    arriving: int
    """Shards on their way in."""
    heartbeat: Heartbeat | None
    synchronised: bool | None
    """Whether something keeps the clock right; None if unknown."""
    clock_set_back: float
    clock_step: float
    slept: float
    settlement_trouble: str
    settlement_trouble_since: int
    selling: Selling
    """The settings in force, whatever farmer.toml says."""
    refused_settings: str
    """Why the last farmer.toml was refused; empty if it was not."""
    at_next_start: tuple[str, ...]
    """Settings in farmer.toml that hold from the next start only."""
    dht: MeetingFacts | None = None
    """None: it does not announce itself there."""
    reach: ReachFacts | None = None
    """Whether renters elsewhere can dial it."""
    relaying: bool = False
    """Whether it relays others."""
    relayed: tuple[RelayedFacts, ...] = ()
    """These."""
    announced_lan: bool = False
    """Whether the local network hears of it now."""
    neighbours: int = 0
    """Other farmers that it knows and that answered it last."""


def selling_of(settings: FarmerSettings) -> Selling:
    """What these settings say of it."""
    return Selling(
        share=settings.capacity,
        price=settings.price,
        egress_price=settings.egress_price,
        listen=settings.shown("listen"),
        limit=settings.shown("limit"),
        schedule=settings.shown("schedule"),
        keep_free=settings.keep_free,
        disks=tuple((str(one.folder), one.share) for one in settings.disks),
    )


def facts(
    farmer: "Farmer",
    *,
    since: float,
    heartbeat: Heartbeat | None,
    clock: ClockWatch,
    synchronised: bool | None,
    refused_settings: str,
    at_next_start: tuple[str, ...],
    dht: MeetingFacts | None = None,
) -> Live:
    """All of it, as it is now."""
    traffic, payments = farmer.traffic, farmer.payments
    return Live(
        pid=os.getpid(),
        version=__version__,
        since=since,
        addresses=tuple(map(str, farmer.addresses)),
        listening=tuple(map(str, farmer.listening)),
        last_contact=traffic.last_contact,
        connections=sum(not passage.relayed for passage in traffic.passages),
        renters=_renters(traffic),
        sent=_line(traffic.sent),
        received=_line(traffic.received),
        arriving=farmer.shelves.arriving,
        heartbeat=heartbeat,
        synchronised=synchronised,
        clock_set_back=clock.set_back,
        clock_step=clock.step,
        slept=clock.slept,
        settlement_trouble=payments.trouble,
        settlement_trouble_since=payments.trouble_since,
        selling=msgspec.structs.replace(selling_of(farmer.settings), silent=farmer.shelves.silent),
        refused_settings=refused_settings,
        at_next_start=at_next_start,
        dht=dht,
        reach=farmer.reach.facts(),
        relaying=farmer.relay.is_open,
        relayed=_relayed(farmer),
        announced_lan=farmer.neighbours.announced,
        neighbours=sum(one.answers for one in farmer.neighbours.directory),
    )


def _relayed(farmer: "Farmer") -> tuple[RelayedFacts, ...]:
    attached = farmer.relay.attached
    passed = farmer.relayed.recent()
    return tuple(
        RelayedFacts(
            farmer=one.hex(),
            attached=one in attached,
            streams=attached.get(one, 0),
            to_farmer=passed[one].to_farmer if one in passed else 0,
            from_farmer=passed[one].from_farmer if one in passed else 0,
        )
        for one in list(dict.fromkeys((*attached, *passed)))[:SHOWN]
    )


def _renters(traffic: "Traffic") -> tuple[PeerFacts, ...]:
    connections = Counter(passage.peer for passage in traffic.passages if not passage.relayed)
    return tuple(
        PeerFacts(peer.hex(), count, traffic.sent.transfers_of(peer) + traffic.received.transfers_of(peer))
        for peer, count in connections.items()
    )


def _line(direction: "Direction") -> LineFacts:
    return LineFacts(
        limit=direction.rate,
        rate=direction.meter.rate(trio.current_time()),
        total=direction.meter.total,
        under_way=direction.under_way,
        waiting=direction.waiting,
    )
