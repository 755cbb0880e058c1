"""Where a connection comes from."""

import ipaddress

import trio


def below(stream: trio.abc.Stream, *, relayed: bool = True) -> trio.SocketStream | None:
    """The TCP connection below `stream`, None without one; `relayed`: also where it leads to a relay only."""
    found: object = stream
    while not isinstance(found, trio.SocketStream):
        if found is None or (not relayed and getattr(found, "through_relay", False)):
            return None
        found = getattr(found, "transport", None)
    return found


def address_of(stream: trio.abc.Stream) -> str:
    """The IP address (no zone) of the other side of the TCP connection below `stream`.

    Empty without one, and where a relay is in between: that is not the other side's.
    """
    transport = below(stream, relayed=False)
    if transport is None:
        return ""
    try:
        address = ipaddress.ip_address(str(transport.socket.getpeername()[0]).partition("%")[0])
    except (OSError, ValueError):
        return ""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def origin(host: str) -> str:
    """What counts as one address: an IPv4 address, or the first 64 bits of an IPv6 one."""
    address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.IPv6Network((address, 64), strict=False))
    return str(address)
