"""Farmers in the same local network, by multicast DNS (RFC 6762, RFC 6763): announcing one, finding others.

The library works in threads of its own. What it hears is handed to the loop as hints: anybody in the network
can say anything there.
"""

import ipaddress
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from ipaddress import IPv4Network, IPv6Network
from typing import Any, Final

import trio

from storjfs.errors import StorjfsError
from storjfs.network.sources import Found, Source
from storjfs.protocol.hosts import is_private
from storjfs.protocol.ids import NodeId
from storjfs.protocol.terms import Address

log = logging.getLogger(__name__)

SERVICE: Final = "_storjfs._tcp.local."
WAITING: Final = 256
"""Hints that wait for the loop; what comes beyond is dropped, and heard again later."""
RESOLVE: Final = 3000
"""Milliseconds for the details of a name."""
CLOSE: Final = 5.0
"""Seconds that saying goodbye may take."""
CHECK: Final = 15.0
"""Seconds between two looks at the addresses of this machine."""
EVERYWHERE: Final = ("0.0.0.0", "::")


class NoLan(StorjfsError):
    """Nothing can be heard or said in the local network."""


def own_addresses() -> tuple[str, ...]:
    """The IP addresses of this machine under which others may reach it; loopback ones where it has no other.

    Those of IPv6 that hold for one link only are left out.
    """
    found = [host for host in _all_addresses() if not ipaddress.ip_address(host).is_link_local]
    outside = [host for host in found if not ipaddress.ip_address(host).is_loopback]
    return tuple(dict.fromkeys(outside or found))


def _all_addresses() -> list[str]:
    import ifaddr

    return [
        one.ip if isinstance(one.ip, str) else one.ip[0]
        for adapter in ifaddr.get_adapters()
        for one in adapter.ips
    ]


def own_networks() -> tuple[IPv4Network | IPv6Network, ...]:
    """The networks that this machine is in, of both kinds."""
    import ifaddr

    return tuple(
        ipaddress.ip_interface(
            f"{one.ip if isinstance(one.ip, str) else one.ip[0]}/{one.network_prefix}"
        ).network
        for adapter in ifaddr.get_adapters()
        for one in adapter.ips
    )


def is_near(host: str) -> bool:
    """Whether a numeric address is one of the networks that this machine is in."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return any(address in one for one in own_networks())


def _on_the_link(
    hosts: Sequence[str] | None, networks: Sequence[IPv4Network | IPv6Network], host: str
) -> bool:
    """Whether somebody there can be whom is heard, listening at our addresses `hosts` (None: at all of them).

    What is heard may have come from anywhere. Of this machine itself only where nobody else is heard.
    """
    address = ipaddress.ip_address(host.partition("%")[0])
    if address.is_loopback and not all(map(is_loopback, own_addresses() if hosts is None else hosts)):
        return False
    return any(address in one for one in networks)


def _check_ours(hosts: Sequence[str]) -> None:
    """Raise NoLan for an address that this machine does not have: the library would leave sockets behind."""
    there = _all_addresses()
    for host in hosts:
        if host not in there:
            raise NoLan(f"this machine does not have the address {host}")


async def moved() -> None:
    """Return when this machine has other addresses than now."""
    before = set(_all_addresses())
    while set(_all_addresses()) == before:  # noqa: ASYNC110 - the kernel is asked
        await trio.sleep(CHECK)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach it there."""
    return ipaddress.ip_address(host.partition("%")[0]).is_loopback


def is_at_home(host: str) -> bool:
    """Whether who listens at `host` can be in a local network. A server whose addresses are all public is in
    none: what hears mDNS there answers the whole internet."""
    hosts = own_addresses() if host in EVERYWHERE else (host,)
    return not is_loopback(host) and any(map(is_private, hosts))


@asynccontextmanager
async def announced(node_id: NodeId, host: str, port: int) -> AsyncIterator[None]:
    """While inside, the network hears of the farmer that listens on `port`: on all interfaces where `host` is
    0.0.0.0 or ::, else on that of `host`.

    Raises NoLan. Cancelled, it still says goodbye, which takes CLOSE seconds at most.
    """
    from zeroconf import ServiceInfo, Zeroconf

    hosts = own_addresses() if host in EVERYWHERE else (host,)
    fourth = [one for one in hosts if ipaddress.ip_address(one).version == 4]
    name = node_id.hex()[:32]
    info = ServiceInfo(
        SERVICE,
        f"{name}.{SERVICE}",
        port=port,
        addresses=[ipaddress.ip_address(one).packed for one in hosts],
        properties={"id": node_id.hex(), "v": "1"},
        server=f"storjfs-{name}.local.",
    )

    def begin() -> Any:
        made = Zeroconf(interfaces=fourth)
        try:
            made.register_service(info, strict=False)
        except BaseException:
            made.close()
            raise
        return made

    _check_ours(hosts)
    if not fourth:
        raise NoLan(f"there is no IPv4 address to announce a farmer at {host} from")
    try:
        carrier = await trio.to_thread.run_sync(begin)
    except Exception as error:  # the library's ways to fail are many, and nothing depends on it
        raise NoLan(f"the farmer cannot be announced in the local network: {error}") from error
    try:
        yield
    finally:
        await _close(carrier)


class Lan(Source):
    """Farmers that announce themselves. `hosts`: own IPv4 addresses on whose interfaces to listen, None for
    all of them."""

    private = True

    def __init__(self, hosts: Sequence[str] | None = None) -> None:
        self._hosts = hosts

    async def find(self) -> AsyncIterator[Found]:
        """Those there are, and those that come; ends when this machine gets other addresses, for it listens
        only where it had some. Raises NoLan."""
        send, receive = trio.open_memory_channel[Found](WAITING)
        token = trio.lowlevel.current_trio_token()

        networks = own_networks()

        def hand_over(found: Found) -> None:
            there = tuple(one for one in found.addresses if _on_the_link(self._hosts, networks, one.host))
            if not there:
                log.debug("a farmer announces itself that is not in the local network: %s", found.addresses)
                return
            try:
                send.send_nowait(Found(there, found.node_id))
            except (trio.WouldBlock, trio.ClosedResourceError, trio.BrokenResourceError):
                log.debug("more farmers announce themselves than can be taken in")

        def heard(found: Found) -> None:
            with suppress(trio.RunFinishedError):
                token.run_sync_soon(hand_over, found)

        before = set(_all_addresses())
        try:
            carrier = await trio.to_thread.run_sync(_browse, self._hosts, heard)
        except Exception as error:  # the same
            raise NoLan(f"nothing can be heard in the local network: {error}") from error
        try:
            while True:
                found: Found | None = None
                with trio.move_on_after(CHECK):
                    found = await receive.receive()
                if found is not None:
                    yield found
                elif set(_all_addresses()) != before:
                    return
        finally:
            await _close(carrier)
            send.close()
            receive.close()


def _browse(hosts: Sequence[str] | None, heard: Any) -> Any:
    """Listen; `heard` is called in a thread with each Found. What is returned has to be closed."""
    from zeroconf import InterfaceChoice, ServiceBrowser, ServiceListener, Zeroconf

    class Listener(ServiceListener):
        def add_service(self, zc: Zeroconf, type_: str, name: str) -> None:
            info = zc.get_service_info(type_, name, timeout=RESOLVE)
            found = None if info is None else _found(info)
            if found is not None:
                heard(found)

        def update_service(self, zc: Zeroconf, type_: str, name: str) -> None:
            self.add_service(zc, type_, name)

        def remove_service(self, zc: Zeroconf, type_: str, name: str) -> None:
            """Who says goodbye may be away for a moment only, and anybody can say it for others."""

    _check_ours(hosts or ())
    made = Zeroconf(interfaces=InterfaceChoice.All if hosts is None else list(hosts))
    try:
        ServiceBrowser(made, SERVICE, listener=Listener())
    except BaseException:
        made.close()
        raise
    return made


def _found(info: Any) -> Found | None:
    """The hint in what somebody announced, None where it makes no sense."""
    try:
        node_id = bytes.fromhex((info.decoded_properties.get("id") or "")[:64])
        hosts = info.parsed_scoped_addresses()
        addresses = tuple(Address(host, info.port) for host in hosts if 0 < (info.port or 0) < 65536)
    except (ValueError, TypeError, UnicodeDecodeError):
        return None
    if not addresses or len(node_id) not in (0, 32):
        return None
    return Found(addresses, NodeId(node_id) if node_id else None)


async def _close(carrier: Any) -> None:
    with trio.move_on_after(CLOSE, shield=True):
        try:
            await trio.to_thread.run_sync(carrier.close, abandon_on_cancel=True)
        except Exception as error:  # the same: it has closed what it could
            log.info("the end of multicast DNS: %s", error)
