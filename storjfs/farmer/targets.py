"""Whom a farmer dials for others, and which strangers it asks for that itself. Pure but for what it is told.

A farmer stands in somebody's network: what strangers make it dial must not be what only that network can.
"""

import random
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Final

from storjfs.farmer.reachability import is_at_home
from storjfs.protocol.directory import Known, network_of
from storjfs.protocol.ids import NodeId
from storjfs.protocol.terms import Address
from storjfs.volume import StaticFarmer

NEARBY: Final = 2
"""Farmers of the network at home that are asked in one round: they cannot say whether it is open outside."""


def may_dial_back(host: str, networks: Iterable[IPv4Network | IPv6Network], gateway: str) -> bool:
    """Whether the address that a question came from may be dialled.

    One of a private network only where this machine is in it: else the question came over a tunnel or proxy,
    and dialling would show what answers on our side of it. Never the router (`gateway`), which stands for
    whoever it translates; nor this machine, on which a farmer need not ask.
    """
    if not is_at_home(host):
        return True
    address = ip_address(host.partition("%")[0])
    return not address.is_loopback and host != gateway and any(address in one for one in networks)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A farmer to ask. One that is not `named` is a stranger, whom nobody vouches for."""

    addresses: tuple[Address, ...]
    node_id: NodeId | None
    named: bool = True
    private: bool = True
    """Whether its address may be one of a private network."""


def candidates(
    peers: Sequence[StaticFarmer],
    known: Iterable[Known],
    using: Collection[NodeId],
    count: int,
    rng: random.Random,
) -> list[Candidate]:
    """Whom to ask, `count` at most: those named, and strangers that answer, drawn at random, those in `using`
    first. One of each network, so that nobody has many votes by having many names."""
    found = [Candidate((one.address,), NodeId(one.node_id) if one.node_id else None) for one in peers[:count]]
    networks = {network_of(one.address.host) for one in peers}
    named = {one.node_id for one in found}
    strangers = [one for one in map(_stranger, known) if one is not None and one.node_id not in named]
    rng.shuffle(strangers)
    strangers.sort(key=lambda one: one.node_id not in using)
    nearby = 0
    for one in strangers:
        host = one.addresses[0].host
        at_home = is_at_home(host)
        fits = nearby < NEARBY if at_home else network_of(host) not in networks
        if fits and len(found) < count:
            nearby += at_home
            networks.add(network_of(host))
            found.append(one)
    return found


def _stranger(known: Known) -> Candidate | None:
    """Where to ask it: where it has shown its key, and at an address of the other kind that it names."""
    first = known.answered_at
    if not known.answers or first is None or first.relay is not None:
        return None
    others = (one for one in known.addresses if one.relay is None and _is_sixth(one) is not _is_sixth(first))
    other = next((one for one in others if _is_sixth(one) is not None), None)
    addresses = (first, other) if other is not None and _is_sixth(first) is not None else (first,)
    return Candidate(addresses, known.node_id, named=False, private=known.private)


def _is_sixth(address: Address) -> bool | None:
    """Whether it is one of IPv6; None for a name, which may have both."""
    try:
        return ip_address(address.host.partition("%")[0]).version == 6
    except ValueError:
        return None
