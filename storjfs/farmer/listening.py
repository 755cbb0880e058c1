"""Where a farmer listens: at all addresses of its machine unless its owner wants less, at a port it keeps."""

import errno
import ipaddress
import socket
from typing import Final

from storjfs.protocol.terms import Address

EVERYWHERE: Final = "::"
"""All addresses, of IPv4 and IPv6."""
FIRST_PORT: Final = 7420
LAST_PORT: Final = 7450
FAMILIES: Final = {socket.AF_INET: "0.0.0.0", socket.AF_INET6: EVERYWHERE}


def is_local(host: str) -> bool:
    """Whether only this machine can connect there."""
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return host.rstrip(".").lower() == "localhost"


def free_port() -> int:
    """A TCP port at all addresses for a new farmer, with the one above it free for its node of the DHT.

    The usual one, on a machine with several farmers the next free one, so that routers and firewalls can be
    told beforehand; any other only where all of those are taken.
    """
    for port in range(FIRST_PORT, LAST_PORT, 2):
        if _is_free(port, socket.SOCK_STREAM) and _is_free(port + 1, socket.SOCK_DGRAM):
            return port
    with socket.create_server(("", 0)) as any_port:
        return int(any_port.getsockname()[1])


def _is_free(port: int, kind: socket.SocketKind) -> bool:
    """Whether somebody could listen there. A kind of address that this machine lacks is free."""
    for family, host in FAMILIES.items():
        try:
            with socket.socket(family, kind) as probe:
                if kind is socket.SOCK_STREAM:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                probe.bind((host, port))
                if kind is socket.SOCK_STREAM:
                    # With SO_REUSEADDR a port that another listens on can be bound, and not listened on.
                    probe.listen(1)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
    return True


def dht_port(listen: Address | None) -> int:
    """Where the node of the DHT of a farmer listens that listens there."""
    port = listen.port if listen is not None else FIRST_PORT
    return port + 1 if port < 65535 else port - 1
