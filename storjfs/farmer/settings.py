"""farmer.toml: what a farmer sells, where it listens, and which settlement it trusts."""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final, Self

from storjfs.farmer.listening import is_local
from storjfs.farmer.prices import DEFAULT
from storjfs.farmer.schedule import ALWAYS, Limit, Schedule
from storjfs.protocol.networks import NETWORK, network_bytes
from storjfs.protocol.terms import Address
from storjfs.settlement import Place
from storjfs.store.durable import write_atomically
from storjfs.volume import StaticFarmer
from storjfs.volume.document import read_document
from storjfs.volume.errors import SettingsError
from storjfs.volume.ledger import ledger_named
from storjfs.volume.units import (
    parse_credits,
    parse_duration,
    parse_region,
    parse_size,
    show_credits,
    show_duration,
    show_size,
)

FILE = "farmer.toml"
FORMAT_VERSION = 1
DAY = 86400
DEFAULT_PORT = 7420
KEEP_FREE: Final = 64 << 20
MOST_CONNECTIONS = 100_000
AT_START = (
    "listen",
    "ledger",
    "connections",
    "connections_per_renter",
    "announce_lan",
    "map_port",
    "dht",
    "dht_listen",
    "dht_bootstrap",
    "network",
)
"""Settings that a running farmer does not change: they hold from its next start."""


@dataclass(frozen=True, slots=True)
class DiskShare:
    """What is shared of a disk beside the farmer's own."""

    folder: Path
    """Absolute; the farmer's alone."""
    share: int
    """Bytes."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """As in `/mnt/disk2/farmer=1 TB`. Raises SettingsError."""
        folder, equals, share = text.rpartition("=")
        if not equals or not os.path.isabs(folder):
            raise SettingsError(
                f"{text!r} is not a folder and how much may be used there",
                hint='Write it as in "/mnt/disk2/farmer=1TB", with the whole path.',
            )
        size = parse_size(share)
        if size < 1 << 20:
            raise SettingsError(
                f"at least 1 MiB must be shared of {folder}",
                hint=f"To take the disk away: storjfs farm empty {folder}",
            )
        return cls(Path(os.path.normpath(folder)), size)

    def __str__(self) -> str:
        return f"{self.folder}={show_size(self.share)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class FarmerSettings:
    """Sizes in bytes, times in seconds, money in nanocredits."""

    capacity: int
    """Bytes that the farmer's folder may take on its disk."""
    ledger: Place
    """The ledger in which renters open their lanes."""
    disks: tuple[DiskShare, ...] = ()
    """Other disks, for more shards."""
    disk_grace: int = 12 * 3600
    """Seconds for which one of these may be away before renters are told that its shards are gone."""
    keep_free: int = KEEP_FREE
    """Bytes of each disk that are never used, whatever the capacity allows."""
    listen: Address | None = None
    """Where to listen; None: on this machine only, on a free port."""
    announce: tuple[Address, ...] = ()
    """Addresses for the offer; none: the one listened on, or those found (`reach`)."""
    price: int = DEFAULT.storage
    """Per GiB and month."""
    egress_price: int = DEFAULT.egress
    """Per GiB sent."""
    group: str = ""
    """Farmers of one group are taken to fail together."""
    region: str = ""
    """Where it stands, for renters who care, as EU or EU-DE."""
    announce_lan: bool = True
    """Whether the local network hears of this farmer, and it of farmers there."""
    term_min: int = 3600
    term_max: int = 366 * DAY
    period_min: int = 60
    period_max: int = 56 * DAY
    grace_max: int = 30 * DAY
    claim_every: int = 3600
    """Seconds between two claims at the settlement."""
    scrub_every: int = 30 * DAY
    """Seconds in which all that is stored is read once, to find what has rotted; 0: never."""
    limit: Limit | None = None
    """Of the bandwidth that shards may take; None: none."""
    schedule: Schedule = ALWAYS
    """When the limit holds; at all other times there is none."""
    connections: int = 512
    """Connections at a time; whoever comes beyond is closed at once."""
    connections_per_renter: int = 16
    dht: bool | None = None
    """Whether strangers may find this farmer, and it them, through the DHT of BitTorrent; None: where others
    can reach it and libtorrent is installed."""
    dht_listen: tuple[Address, ...] = ()
    """Where its node of the DHT listens; none: at all addresses, at the port above the farmer's."""
    dht_bootstrap: tuple[Address, ...] = ()
    """Nodes to begin with; none: those of the public DHT."""
    network: str = NETWORK
    """Farmers and renters of one name find each other."""
    peers: tuple[StaticFarmer, ...] = ()
    """Other farmers: they tell renters of this one, dial back, and relay it if nobody can dial it."""
    ask_strangers: bool = True
    """Whether farmers that it only got to know do the last two as well."""
    map_port: bool = True
    """Ask the router for the port, where this farmer listens behind one and names no address itself."""
    relay: bool = False
    """Be a relay for farmers that cannot be dialled."""
    relay_limit: Limit | None = None
    """Of the bandwidth for that, sent to farmers and received from them; None: none but `limit`."""

    @property
    def local(self) -> bool:
        """Whether it is for this machine only: then nobody else hears of it."""
        return self.listen is None or is_local(self.listen.host)

    def __post_init__(self) -> None:
        if self.capacity < 1 << 20:
            raise SettingsError("a farmer must share at least 1 MiB", hint="Say how much: --share 100GB")
        if not 1 <= self.connections_per_renter <= self.connections <= MOST_CONNECTIONS:
            raise SettingsError(
                f"a farmer has 1 to {MOST_CONNECTIONS} connections, and for each renter 1 to that many",
                hint="The usual ones are 512, and 16 for each renter.",
            )
        if len({one.folder for one in self.disks}) < len(self.disks):
            raise SettingsError("a disk is named twice", hint="Name each folder once.")
        try:
            network_bytes(self.network)
        except ValueError as error:
            raise SettingsError(str(error), hint=f"The usual one is {NETWORK}.") from None

    @classmethod
    def from_toml(cls, text: str) -> Self:
        """Read the text of farmer.toml. Raises SettingsError that names what is wrong."""
        document = read_document(text, FORMAT_VERSION, _FIELDS, name=FILE)
        for key in ("capacity", "ledger"):
            if key not in document:
                raise SettingsError(
                    f"the setting {key} is missing in {FILE}", hint=f"Add the line: {key} = {_EXAMPLES[key]}"
                )
        return cls(**{key: _READ[key](value) for key, value in document.items()})

    def to_toml(self) -> str:
        """The text from which `from_toml` gives an equal object back."""
        lines = [f"version = {FORMAT_VERSION}"]
        for name, comment in _COMMENTS.items():
            value = getattr(self, name)
            text = _SHOW[name](value) if value not in (None, ALWAYS) else None
            lines += ["", f"# {comment}"] if comment else []
            lines.append(f"{name} = {text}" if text is not None else f"# {name} =")
        return "\n".join(lines) + "\n"

    def write(self, folder: Path) -> None:
        """Replace farmer.toml in `folder`, at once and durably. Raises OSError."""
        write_atomically(folder / FILE, self.to_toml().encode(), 0o666)

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """The settings in `folder`, None where there are none. Raises SettingsError."""
        try:
            return cls.from_toml((folder / FILE).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None

    def changed(self, **changes: Any) -> Self:
        """A copy with those `changes` that are not None."""
        return replace(self, **{name: value for name, value in changes.items() if value is not None})

    @property
    def in_all(self) -> int:
        """Bytes that are shared on all disks."""
        return self.capacity + sum(one.share for one in self.disks)

    def shown(self, name: str) -> str:
        """One setting as it stands in farmer.toml, without quotes; empty where it is not set."""
        value = getattr(self, name)
        return _SHOW[name](value).strip('"') if value not in (None, ()) else ""


_EXAMPLES = {"capacity": '"500 GB"', "ledger": '"/path/to/ledger.db"'}
_FIELDS = frozenset(field.name for field in fields(FarmerSettings))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise SettingsError(f"{value!r} in {FILE} must be a text in quotes", hint='Write it in "quotes".')
    return value


def parse_address(text: str) -> Address:
    """`host:port` or a host with the usual port. Raises SettingsError."""
    try:
        if text.isascii() and text.isdecimal():
            raise ValueError(f"{text!r} is a port without a host")
        return Address.parse(text if ":" in text.rpartition("]")[2] else f"{text}:{DEFAULT_PORT}")
    except ValueError as error:
        example = f"127.0.0.1:{text}" if text.isdecimal() else "farmer.example.org:7420"
        raise SettingsError(str(error), hint=f'Write it as in "{example}".') from None


def _addresses(value: Any) -> tuple[Address, ...]:
    if not isinstance(value, list):
        raise SettingsError(
            f"the addresses in {FILE} must be a list", hint='Write it as in ["farm.example.org:7420"].'
        )
    return tuple(parse_address(_text(one)) for one in value)


def _quoted(text: object) -> str:
    # The escapes of JSON are those of TOML's basic strings.
    return json.dumps(str(text), ensure_ascii=False)


def _peers(value: Any) -> tuple[StaticFarmer, ...]:
    if not isinstance(value, list):
        raise SettingsError(
            f"the peers in {FILE} must be a list", hint='Write it as in ["farm.example.org:7420"].'
        )
    return tuple(StaticFarmer.parse(_text(one)) for one in value)


def _disks(value: Any) -> tuple[DiskShare, ...]:
    if not isinstance(value, list):
        raise SettingsError(
            f"the disks in {FILE} must be a list", hint='Write it as in ["/mnt/disk2/farmer=1TB"].'
        )
    return tuple(DiskShare.parse(_text(one)) for one in value)


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise SettingsError(
            f"{value!r} in {FILE} must be a whole number", hint="Write it without quotes: connections = 512"
        )
    return value


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise SettingsError(f"{value!r} in {FILE} must be true or false", hint="Write it without quotes.")
    return value


def _show_list(value: Sequence[object]) -> str:
    return "[" + ", ".join(map(_quoted, value)) + "]"


def _show_truth(value: bool) -> str:
    return str(value).lower()


_DURATIONS: Final = (
    "term_min",
    "term_max",
    "period_min",
    "period_max",
    "grace_max",
    "claim_every",
    "scrub_every",
    "disk_grace",
)
_READ: dict[str, Callable[[Any], Any]] = {
    "capacity": parse_size,
    "keep_free": parse_size,
    "disks": _disks,
    "ledger": lambda value: ledger_named(_text(value)),
    "listen": lambda value: parse_address(_text(value)),
    "announce": _addresses,
    "price": parse_credits,
    "egress_price": parse_credits,
    "group": _text,
    "region": lambda value: parse_region(_text(value)),
    "announce_lan": _truth,
    "limit": lambda value: Limit.parse(_text(value)),
    "schedule": lambda value: Schedule.parse(_text(value)),
    "connections": _count,
    "connections_per_renter": _count,
    "dht": _truth,
    "dht_listen": _addresses,
    "dht_bootstrap": _addresses,
    "network": _text,
    "peers": _peers,
    "ask_strangers": _truth,
    "map_port": _truth,
    "relay": _truth,
    "relay_limit": lambda value: Limit.parse(_text(value)),
    **dict.fromkeys(
        _DURATIONS,
        parse_duration,
    ),
}
_SHOW: dict[str, Callable[[Any], str]] = {
    "capacity": lambda value: _quoted(show_size(value)),
    "keep_free": lambda value: _quoted(show_size(value)),
    "disks": _show_list,
    "ledger": _quoted,
    "listen": _quoted,
    "announce": _show_list,
    "price": lambda value: _quoted(show_credits(value)),
    "egress_price": lambda value: _quoted(show_credits(value)),
    "group": _quoted,
    "region": _quoted,
    "announce_lan": _show_truth,
    "limit": _quoted,
    "schedule": _quoted,
    "connections": str,
    "connections_per_renter": str,
    "dht": _show_truth,
    "dht_listen": _show_list,
    "dht_bootstrap": _show_list,
    "network": _quoted,
    "peers": _show_list,
    "ask_strangers": _show_truth,
    "map_port": _show_truth,
    "relay": _show_truth,
    "relay_limit": _quoted,
    **dict.fromkeys(
        _DURATIONS,
        lambda value: _quoted(show_duration(value)),
    ),
}
_COMMENTS = {
    "capacity": "How much of this disk may be used, for shards and all else.",
    "disks": 'Other disks, each a folder and how much of it, as in ["/mnt/disk2/farmer=1 TB"].',
    "disk_grace": "How long one of these may be away before renters are told that its shards are gone.",
    "keep_free": "How much of each stays free whatever is allowed above.",
    "price": "Credits per GiB and month.",
    "egress_price": "Credits per GiB sent to renters.",
    "listen": "Address and port to listen on; left out: this machine only, any free port.",
    "announce": "Addresses under which renters reach this farmer, if not those that it finds.",
    "group": "What this farmer fails together with: name those on one disk alike, each other disk otherwise.",
    "region": 'Where it stands, as in "EU" or "EU-DE", for renters who care.',
    "announce_lan": "Whether renters and farmers in the local network hear of this farmer, and it of them.",
    "ledger": "The ledger in which lanes are opened: NODEID@host:port of one that is served, or a file.",
    "term_min": "Bounds of a contract's length.",
    "term_max": "",
    "period_min": "Bounds of the audit period.",
    "period_max": "",
    "grace_max": "How long data may be kept at most for a renter that does not pay.",
    "claim_every": "How often earnings are claimed.",
    "scrub_every": "In which time all that is stored is read once, to find rot before renters do; 0: never.",
    "limit": 'Bandwidth for shards, as in "20Mbit" or "10Mbit/50Mbit" (sent/received).',
    "schedule": 'When the limit holds, as in "Mon-Fri 08:00-23:00; Sat,Sun 10:00-24:00"; left out: always.',
    "connections": "Connections at a time, in all and for each renter.",
    "connections_per_renter": "",
    "dht": "Whether strangers find this farmer, by BitTorrent's DHT; left out: with storjfs[dht] they do.",
    "dht_listen": "Addresses and ports of its node there, TCP and UDP; none: the port above that of listen.",
    "dht_bootstrap": "Nodes to begin with; none: those of the public DHT.",
    "network": "The name under which farmers and renters find each other.",
    "peers": "Other farmers: they tell renters of this one, try to dial it, and relay it if they cannot.",
    "ask_strangers": "Whether farmers that it only got to know may do the last two as well.",
    "map_port": "Ask the router for the port.",
    "relay": "Be a relay for farmers that cannot be dialled.",
    "relay_limit": 'Bandwidth for that, as in "20Mbit".',
}
