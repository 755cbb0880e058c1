"""Which addresses that strangers name are worth a packet or a connection, and which lie together."""

import ipaddress
from typing import Final

from storjfs.protocol.terms import Address

_TUNNELS: Final = ipaddress.ip_network("64:ff9b::/96")
"""Of NAT64: an IPv4 address lies in it."""
_NOT_ON_THE_INTERNET: Final = (
    "local",
    "localhost",
    "internal",
    "lan",
    "home",
    "home.arpa",
    "invalid",
    "test",
)
_LONGEST_NAME: Final = 253


def on_the_internet(host: str) -> bool:
    """Whether a numeric address is one of the public internet: not of this machine, a home or a tunnel."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    if not address.is_global or address.is_multicast or address.is_reserved:
        return False
    if isinstance(address, ipaddress.IPv6Address):
        # Whose inside may be a private IPv4 address.
        return not (address.ipv4_mapped or address.sixtofour or address.teredo or address in _TUNNELS)
    return True


def may_be_dialled(address: Address, *, private: bool) -> bool:
    """Whether an address that a stranger named may be dialled at all.

    `private`: in a test network, where any numeric address and any name may. Elsewhere a name must look like
    one of the internet; what it resolves to is for whoever dials to judge. Of one behind a relay, the relay
    is what is dialled.
    """
    address = address.relay or address
    if not 1 <= address.port <= 65535:
        return False
    try:
        ipaddress.ip_address(address.host)
    except ValueError:
        return private or _is_public_name(address.host)
    return private or on_the_internet(address.host)


def is_private(host: str) -> bool:
    """Whether `host` is a numeric address that is not of the internet, and not "any"."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return not address.is_unspecified and not on_the_internet(host)


def group_of(host: str) -> str:
    """What one owner easily has many addresses of: the /24 of an IPv4 address, the /48 of an IPv6 one."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    prefix = 24 if address.version == 4 else 48
    return str(ipaddress.ip_network((address, prefix), strict=False))


def _is_public_name(name: str) -> bool:
    labels = name.rstrip(".").lower().split(".")
    if len(name) > _LONGEST_NAME or len(labels) < 2 or labels[-1].isdigit():
        return False
    if any(name.rstrip(".").lower().endswith(f".{suffix}") for suffix in _NOT_ON_THE_INTERNET):
        return False
    return all(
        label.isascii()
        and label.replace("-", "a").isalnum()
        and len(label) < 64
        and label.strip("-") == label
        for label in labels
    )
