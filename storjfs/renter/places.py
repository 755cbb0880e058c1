"""Where a farmer stands, as far as an address tells: which farmers are likely to be lost together. Pure.

Public addresses of one /24 (IPv6: one /48) are one network: mostly one site, provider or owner. Private,
loopback, link-local and carrier-grade NAT addresses say nothing of that kind: they are the same numbers
everywhere, and somebody who has farmers there chose each by hand. They make no group; that such farmers stand
close together is only worth a warning.
"""

import functools
import ipaddress
from typing import Final, NamedTuple

_LOCAL: Final = tuple(
    ipaddress.ip_network(text)
    for text in (
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "100.64.0.0/10",
        "169.254.0.0/16",
        "fc00::/7",
        "fe80::/10",
    )
)
HERE: Final = "this machine"


class Place(NamedTuple):
    """Both empty where nothing is known."""

    network: str = ""
    """The public network: two shards of a segment there are avoided."""
    vicinity: str = ""
    """The local network, or HERE: counts for the warning only."""


@functools.lru_cache(4096)
def place_of(hosts: tuple[str, ...]) -> Place:
    """The place that the first of `hosts` with a numeric address tells; names of machines tell nothing."""
    for host in hosts:
        try:
            address = ipaddress.ip_address(host.partition("%")[0])
        except ValueError:
            continue
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        if address.is_unspecified:
            continue
        if address.is_loopback:
            return Place(vicinity=HERE)
        network = str(ipaddress.ip_network((address, 24 if address.version == 4 else 48), strict=False))
        if any(address.version == local.version and address in local for local in _LOCAL):
            return Place(vicinity=network)
        return Place(network=network)
    return Place()
