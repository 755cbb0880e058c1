"""This machine's node of the DHT: libtorrent with everything switched off but the DHT.

It answers others, keeps what they put here within bounds, and knows nodes to begin a search with. Only this
module imports libtorrent, which comes with the extra `storjfs[dht]`.
"""

import ipaddress
import logging
import os
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final

import trio
import trio.lowlevel

from storjfs.errors import StorjfsError
from storjfs.network.dht.bencode import decode
from storjfs.network.dht.krpc import Endpoint, pack, unpack
from storjfs.network.dht.reachable import is_private
from storjfs.protocol.terms import Address

log = logging.getLogger(__name__)

DEFAULT_LISTEN: Final = (Address("0.0.0.0", 7421), Address("::", 7421))
BOOTSTRAP: Final = (
    Address("dht.libtorrent.org", 25401),
    Address("router.bittorrent.com", 6881),
    Address("dht.transmissionbt.com", 6881),
    Address("router.utorrent.com", 6881),
)
"""Where nodes of the public DHT are found that have been there for years."""
LARGEST_STATE: Final = 64 << 10
_NODES_KEPT: Final = 400
_ALERTS: Final = 500
"""What libtorrent reports and nobody has looked at yet, at most; what is beyond is dropped."""
_SLICE: Final = 0.003
"""Seconds of looking at reports before others have their turn."""
_PARTS: Final = (b"node-id", b"nodes", b"nodes6")
"""What is kept of libtorrent's state: lists of byte strings."""
_START: Final = 10.0
_OTHERS: Final = 0.5
"""Seconds for the other addresses, where one cannot be listened on."""
_RESOLVE: Final = 10.0


class DhtUnavailable(StorjfsError):
    """No part in the DHT can be taken: libtorrent is not installed, or there is no port."""


@dataclass(frozen=True, slots=True)
class DhtSettings:
    """Where the node listens and whom it asks first."""

    listen: tuple[Address, ...] = DEFAULT_LISTEN
    """Numeric addresses; port 0 takes a free one. libtorrent opens it for TCP too, and refuses who comes."""
    bootstrap: tuple[Address, ...] = BOOTSTRAP

    @property
    def private(self) -> bool:
        """Whether it is a test network: all addresses are of this machine or a home network."""
        return all(is_private(one.host) for one in (*self.listen, *self.bootstrap))


def require_libtorrent() -> ModuleType:
    """libtorrent. Raises DhtUnavailable that says what to install."""
    try:
        import libtorrent
    except ImportError as error:
        raise DhtUnavailable(
            f"a part in the DHT is taken with libtorrent, which is not there: {error}",
            hint=f"Install it (the extra storjfs[dht]): {sys.executable} -m pip install libtorrent",
        ) from None
    return libtorrent  # type: ignore[no-any-return, unused-ignore]


class Node:
    """One node. `run` is its life; what it learned comes out of `state` and goes into the next one."""

    def __init__(self, settings: DhtSettings, state: bytes = b"") -> None:
        """`state`: of a run before; one that cannot be read counts for nothing."""
        self._lt: Any = None
        self._settings = settings
        self._before = state
        self._sessions: list[Any] = []
        self._first: tuple[Endpoint, ...] = ()
        self._started = False
        self._waiting = trio.CancelScope()
        self._failure = ""
        self.ports: tuple[int, ...] = ()
        """The UDP ports listened on."""
        self.ready = trio.Event()
        """Set when it has looked for its neighbours for the first time, whether it found any or not."""
        self.dropped = 0
        """How often reports of libtorrent were dropped."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Take part until cancelled; started once it listens. Raises DhtUnavailable."""
        # Loading it takes a tenth of a second, starting it some milliseconds.
        self._lt = await trio.to_thread.run_sync(require_libtorrent)
        self._first = await resolve(self._settings.bootstrap)
        readable, writable = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            await trio.to_thread.run_sync(self._start, writable)
            async with trio.open_nursery() as nursery:
                listening = trio.Event()
                nursery.start_soon(self._pump, readable, listening.set)
                with trio.move_on_after(_START) as self._waiting:
                    await listening.wait()
                if not self.ports:
                    where = ", ".join(map(str, self._settings.listen))
                    raise DhtUnavailable(
                        f"the DHT cannot listen on {where} (UDP and TCP): {self._failure or 'no answer'}",
                        hint="Choose another port: dht_listen in farmer.toml, [dht] listen of a volume.",
                    )
                task_status.started()
        finally:
            with trio.CancelScope(shield=True):
                # Its end waits for libtorrent's threads.
                await trio.to_thread.run_sync(self._sessions.clear)
            os.close(readable)
            os.close(writable)

    def _start(self, descriptor: int) -> None:
        """Begin to listen; `descriptor` gets a byte when a report comes and none was waiting."""
        self._sessions.append(self._lt.session(self._parameters()))
        self._sessions[0].set_alert_fd(descriptor)

    async def known(self) -> list[Endpoint]:
        """Nodes to begin a search with: those it was told of, and those of its table or else its last one."""
        found = [*self._first, *(_nodes_of(await self.state()) or _nodes_of(self._before))]
        if not found and self._sessions:
            # No name was found at the start: perhaps there was no network yet.
            self._first = await resolve(self._settings.bootstrap)
            for endpoint in self._first:
                self._sessions[0].add_dht_node(endpoint)
            found = list(self._first)
        return found

    async def state(self) -> bytes:
        """What to give the next one: its id and neighbours, LARGEST_STATE at most; empty after its end."""
        return await trio.to_thread.run_sync(self._state)

    def _state(self) -> bytes:
        flags = self._lt.save_state_flags_t.save_dht_state
        try:
            session = self._sessions[0]
        except IndexError:
            return b""
        found = self._lt.write_session_params(session.session_state(flags), flags)[b"dht state"]
        kept = {name: found[name][:_NODES_KEPT] for name in _PARTS if name in found}
        return bytes(self._lt.bencode({b"dht state": kept}))

    def _parameters(self) -> Any:
        lt, settings = self._lt, self._settings
        parameters = lt.read_session_params(_start_state(self._before, self._first))
        categories = lt.alert.category_t
        parameters.settings = {
            **_NOTHING_BUT_THE_DHT,
            "listen_interfaces": ",".join(map(str, settings.listen)),
            "alert_mask": int(
                categories.error_notification | categories.status_notification | categories.dht_notification
            ),
            **(_PRIVATE if settings.private else {}),
        }
        return parameters

    async def _pump(self, descriptor: int, listening: Callable[[], None]) -> None:
        """Look at what libtorrent reports, never for long without letting others have their turn."""
        while True:
            await trio.lowlevel.wait_readable(descriptor)
            with suppress(BlockingIOError):
                os.read(descriptor, 4096)
            # They are valid until the next call of pop_alerts.
            began = trio.current_time()
            for alert in self._sessions[0].pop_alerts():
                self._look(alert)
                if trio.current_time() - began > _SLICE:
                    await trio.lowlevel.checkpoint()
                    began = trio.current_time()
            if self.ports and not self._started:
                # Not before: without a socket libtorrent would begin without the nodes it was given.
                self._started = True
                self._sessions[0].apply_settings({"enable_dht": True})
                listening()

    def _look(self, alert: Any) -> None:
        lt = self._lt
        if isinstance(alert, lt.listen_succeeded_alert):
            if alert.socket_type == lt.socket_type_t.utp:
                self.ports = tuple(dict.fromkeys((*self.ports, alert.port)))
        elif isinstance(alert, lt.listen_failed_alert):
            self._failure = str(alert.error.message())
            log.info("the DHT: %s", alert.message())
            self._waiting.deadline = min(self._waiting.deadline, trio.current_time() + _OTHERS)
        elif isinstance(alert, lt.dht_bootstrap_alert):
            if not self.ready.is_set():
                self.ready.set()
                # From now on only errors are of interest: each question that comes would be reported.
                mask = lt.alert.category_t.error_notification | lt.alert.category_t.status_notification
                self._sessions[0].apply_settings({"alert_mask": int(mask)})
        elif isinstance(alert, lt.alerts_dropped_alert):
            self.dropped += 1


_NOTHING_BUT_THE_DHT: Final[dict[str, Any]] = {
    "enable_dht": False,
    # Names are looked up here, so that libtorrent never waits for a name server when it is to end.
    "dht_bootstrap_nodes": "",
    "enable_upnp": False,
    "enable_natpmp": False,
    "enable_lsd": False,
    "enable_incoming_tcp": False,
    "enable_outgoing_tcp": False,
    "enable_incoming_utp": False,
    "enable_outgoing_utp": False,
    "listen_system_port_fallback": False,
    "max_retry_port_bind": 0,
    "alert_queue_size": _ALERTS,
    "aio_threads": 1,
    "hashing_threads": 0,
    # What others may have us keep: 2000 announcements on each of 200 targets at most, and 700 items.
    "dht_max_torrents": 200,
    "dht_max_peers": 2000,
    "dht_max_dht_items": 700,
    "dht_item_lifetime": 7200,
    "dht_upload_rate_limit": 8000,
    "dht_restrict_routing_ips": True,
    "dht_restrict_search_ips": True,
    "dht_ignore_dark_internet": True,
    "dht_prefer_verified_node_ids": True,
}
_PRIVATE: Final[dict[str, Any]] = {
    "dht_restrict_routing_ips": False,
    "dht_restrict_search_ips": False,
    "dht_ignore_dark_internet": False,
    "dht_prefer_verified_node_ids": False,
    "dht_enforce_node_id": False,
    "dht_upload_rate_limit": 10_000_000,
    "dht_block_ratelimit": 10_000,
}


def _start_state(before: bytes, first: Iterable[Endpoint]) -> dict[bytes, Any]:
    """What libtorrent begins with: the id and neighbours of `before` where it can be read, and `first`."""
    kept = _read_state(before)
    packed = [pack(endpoint) for endpoint in first]
    kept[b"nodes"] = [*(one for one in packed if len(one) == 6), *kept.get(b"nodes", [])]
    kept[b"nodes6"] = [*(one for one in packed if len(one) == 18), *kept.get(b"nodes6", [])]
    return {b"dht state": kept}


def _read_state(state: bytes) -> dict[bytes, list[bytes]]:
    """The parts of a state that are lists of byte strings; nothing where it is none."""
    kept: dict[bytes, list[bytes]] = {}
    with suppress(ValueError):
        match decode(state, LARGEST_STATE):
            case {b"dht state": dict(parts)}:
                for name in _PARTS:
                    match parts.get(name):
                        case list() as packed:
                            kept[name] = [one for one in packed[:_NODES_KEPT] if isinstance(one, bytes)]
    return kept


def _nodes_of(state: bytes) -> list[Endpoint]:
    parts = _read_state(state)
    found = []
    for packed in (*parts.get(b"nodes", []), *parts.get(b"nodes6", [])):
        with suppress(ValueError):
            found.append(unpack(packed))
    return found


async def resolve(addresses: Iterable[Address]) -> tuple[Endpoint, ...]:
    """The numeric addresses; names that are not found, or not in time, are left out."""
    found: dict[Endpoint, None] = {}

    async def one(address: Address) -> None:
        try:
            infos = await trio.socket.getaddrinfo(
                address.host, address.port, type=trio.socket.SOCK_DGRAM, proto=trio.socket.IPPROTO_UDP
            )
        except (OSError, ValueError) as error:  # ValueError: nobody can have a name like this
            log.info("%s is not found: %s", address.host, error)
            return
        for info in infos:
            with suppress(ValueError):
                found[str(ipaddress.ip_address(info[4][0])), int(info[4][1])] = None

    with trio.move_on_after(_RESOLVE):
        async with trio.open_nursery() as nursery:
            for address in addresses:
                nursery.start_soon(one, address)
    return tuple(found)
