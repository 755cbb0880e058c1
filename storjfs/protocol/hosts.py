"""What an address that a stranger names says: whether it is of the internet, and what lies near it. Pure."""

import ipaddress
import re
from functools import lru_cache
from typing import Final, TypeAlias

from storjfs.protocol.terms import RELAYED

_Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
"""RFC 6052: an IPv4 address lies in it, to which a provider without IPv4 leads."""
_NUMBER: Final = re.compile(r"(.*\.)?(\d+|0[xX][0-9a-fA-F]*)\.?", re.ASCII | re.DOTALL)
"""The last part of no name of the internet is a number."""
_LOCAL_NAMES: Final = ("local", "localhost", "internal", "lan", "home", "home.arpa", "invalid", "test")


@lru_cache(maxsize=8192)
def is_private(host: str) -> bool:
    """Whether an address is none of the internet: of this machine, a home, a tunnel, a group, or nobody's.

    Names are not, but for those that always lead to this machine or the local network, and numbers that are
    taken for addresses (`127.1`, inet_aton(3)). Of an address behind a relay, the relay is what is dialled.
    """
    host = host.removeprefix(RELAYED)
    address = _within(_address(host))
    if address is None:
        return is_local_name(host) or _NUMBER.fullmatch(host) is not None
    return not _is_public(address)


@lru_cache(maxsize=8192)
def is_here(host: str) -> bool:
    """Whether an address leads to this machine itself, or holds for one link only: it says nothing to others.

    Of an address behind a relay, the relay is what is dialled.
    """
    host = host.removeprefix(RELAYED)
    address = _within(_address(host))
    if address is None:
        name = host.lower().rstrip(".")
        return name == "localhost" or name.endswith(".localhost") or _NUMBER.fullmatch(host) is not None
    return address.is_loopback or address.is_link_local or address.is_unspecified


@lru_cache(maxsize=8192)
def on_the_internet(host: str) -> bool:
    """Whether this is a numeric address of the internet, in the form in which nodes there have it."""
    address = _address(host)
    return address is not None and _is_public(address)


def network_of(host: str) -> str:
    """What it is cheap to have many addresses of: the /24 of an IPv4 address, the /48 of an IPv6 one, the
    last two labels of a name; of an address behind a relay, that of the relay."""
    host = host.removeprefix(RELAYED)
    address = _within(_address(host))
    if address is None:
        return ".".join(host.lower().rstrip(".").split(".")[-2:])
    return str(ipaddress.ip_network((address, 24 if address.version == 4 else 48), strict=False))


def is_local_name(name: str) -> bool:
    """Whether a name is one that only this machine or the local network knows."""
    return f".{name.lower().rstrip('.')}".endswith(tuple(f".{one}" for one in _LOCAL_NAMES))


def _address(host: str) -> _Address | None:
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None


def _within(address: _Address | None) -> _Address | None:
    """The IPv4 address that an IPv6 one stands for, where it does; else itself."""
    if isinstance(address, ipaddress.IPv6Address):
        if address in _NAT64:
            return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        return address.ipv4_mapped or address
    return address


def _is_public(address: _Address) -> bool:
    if not address.is_global or address.is_multicast or address.is_reserved:
        return False
    if isinstance(address, ipaddress.IPv6Address):
        # Of tunnels the inside may be a private IPv4 address.
        tunnel = address.ipv4_mapped or address.sixtofour or address.teredo
        return not (tunnel or address.is_site_local)
    return True
