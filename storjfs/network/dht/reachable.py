"""Which addresses that strangers name are worth a packet or a connection."""

import ipaddress
from typing import Final

from storjfs.protocol.hosts import is_local_name, on_the_internet
from storjfs.protocol.terms import Address

_LONGEST_NAME: Final = 253


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


def _is_public_name(name: str) -> bool:
    labels = name.rstrip(".").lower().split(".")
    if len(name) > _LONGEST_NAME or len(labels) < 2 or labels[-1].isdigit():
        return False
    if is_local_name(name):
        return False
    return all(
        label.isascii()
        and label.replace("-", "a").isalnum()
        and len(label) < 64
        and label.strip("-") == label
        for label in labels
    )
