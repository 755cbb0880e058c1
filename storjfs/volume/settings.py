"""The settings of a volume: what a person may change, kept as commented TOML and read at each mount."""

import difflib
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self

from storjfs.protocol.terms import CREDIT, Address
from storjfs.settlement import Place
from storjfs.volume.dht import DhtNeeds, parse_dht, show_dht
from storjfs.volume.document import read_document
from storjfs.volume.errors import SettingsError
from storjfs.volume.finding import (
    MOST_MARKED,
    Needs,
    edit_list,
    parse_needs,
    parse_node_id,
    parse_ways,
    show_list,
    show_needs,
)
from storjfs.volume.ledger import parse_ledger, show_ledger
from storjfs.volume.units import (
    parse_credits,
    parse_duration,
    parse_price,
    parse_size,
    show_credits,
    show_duration,
    show_size,
)

FORMAT_VERSION = 1
MIB = 1 << 20
GIB = 1 << 30
DAY = 86400

_LARGEST_DEFAULT_CACHE = 10 * GIB
_SMALLEST_DEFAULT_CACHE = 256 * MIB
SMALLEST_CACHE = 16 * MIB
"""A full segment of the embedded farmers' code (12 MiB) on its way, and the quarter kept for writes."""
SMALLEST_RESERVE = 32 * MIB
MOST_SHARES = 256  # zfec computes in GF(2^8)
_HOST = re.compile(r"(relay\+)?[A-Za-z0-9._:%-]+")


@dataclass(frozen=True, slots=True)
class EmbeddedFarm:
    """The farmers are `count` real ones in a child process of the mount, on this machine."""

    count: int = 6


@dataclass(frozen=True, slots=True)
class StaticFarmer:
    """A farmer known by its address, and by its node id where that was given too."""

    address: Address
    node_id: bytes | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """`host:port` or `host:port/node id in hex`, `relay+` before it for a relay. Raises SettingsError."""
        where, _, who = text.partition("/")
        try:
            address, node_id = Address.parse(where), bytes.fromhex(who)
        except ValueError:
            address, node_id = None, b""
        if address is None or not _HOST.fullmatch(address.host) or len(node_id) not in (0, 32):
            raise SettingsError(
                f"{text!r} is not the address of a farmer",
                hint="Write host:port, or host:port/node id with the 64 hex digits that the farmer shows.",
            )
        if address.relay is not None and not node_id:
            raise SettingsError(
                f"{text!r} does not say which farmer is meant behind the relay",
                hint="Write relay+host:port/node id, as the farmer shows it.",
            )
        return cls(address, node_id or None)

    def __str__(self) -> str:
        return f"{self.address}/{self.node_id.hex()}" if self.node_id else str(self.address)


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeSettings:
    """Everything in the settings file. Sizes in bytes, times in seconds, money in nanocredits.

    Values that contradict each other raise SettingsError when the object is made.
    """

    volume_id: bytes
    """Tells whether a key file or a recovery phrase belongs to these settings (VolumeKeys.volume_id)."""
    farmers: EmbeddedFarm | tuple[StaticFarmer, ...] = EmbeddedFarm()
    """Embedded ones, or those named by their addresses, which may be none where others are looked for."""
    find: tuple[str, ...] = ()
    """Ways in which further farmers are looked for (`finding.WAYS`)."""
    blocked: tuple[bytes, ...] = ()
    """Node ids of farmers that are not used; what they hold moves to others."""
    preferred: tuple[bytes, ...] = ()
    """Node ids of farmers that get more than others do."""
    needs: Needs = field(default_factory=Needs)
    dht: DhtNeeds = field(default_factory=DhtNeeds)
    ledger: Place | None = None
    """Where farmers are paid; None: in the volume's own ledger file."""
    code: tuple[int, int] | None = None
    """(k, n), or None: by the number of usable farmers."""
    cache_size: int = _LARGEST_DEFAULT_CACHE
    disk_reserve: int = 256 * MIB
    """Free space of the disk below which nothing new is written; a quarter of it again is set aside."""
    capacity: int = 64 * GIB
    """What to contract with each farmer, in sealed bytes; less where a farmer offers less."""
    audit_period: int = DAY
    term: int = 90 * DAY
    """How long a new contract lasts, within the farmer's bounds."""
    price_max: int = CREDIT // 100
    """Per GiB and month; dearer farmers are not used."""
    egress_price_max: int = CREDIT // 20
    """Per GiB fetched."""
    play_balance: int = 1000 * CREDIT
    """What the embedded ledger issues to a new volume."""

    def __post_init__(self) -> None:
        if len(self.volume_id) != 16:
            raise SettingsError("volume_id must have 32 hex digits", hint="Restore it from a backup.")
        if isinstance(self.farmers, EmbeddedFarm):
            _check(1 <= self.farmers.count <= 64, "there can be 1 to 64 embedded farmers")
            _check(
                not self.find,
                "there are embedded farmers, and others are looked for",
                "Keep one of the two lines, embedded or find.",
            )
        else:
            _check(
                bool(self.farmers or self.find),
                "the list of farmers' addresses is empty",
                'Name at least one: addresses = ["host:port"], or write embedded = 6 in its place.',
            )
        both = set(self.blocked) & set(self.preferred)
        _check(not both, "a farmer is blocked and preferred", "Take it out of one of the two lists.")
        _check(
            max(len(self.blocked), len(self.preferred)) <= MOST_MARKED,
            f"more than {MOST_MARKED} farmers are blocked or preferred",
        )
        if self.code is not None:
            k, n = self.code
            _check(
                1 <= k < n <= MOST_SHARES,
                f"a code of {k}/{n} is impossible: k must be under n, n at most 256",
            )
        check_cache_size(self.cache_size)
        _check(
            self.disk_reserve >= SMALLEST_RESERVE,
            f"disk_reserve must be at least {show_size(SMALLEST_RESERVE)}",
        )
        _check(self.capacity >= GIB, "capacity must be at least 1 GiB")
        _check(1 <= self.audit_period <= 8 * 7 * DAY, "audit_period must lie between 1 s and 8 weeks")
        _check(self.term >= 2 * self.audit_period, "term must be at least two audit periods")

    @classmethod
    def from_toml(cls, text: str) -> Self:
        """Read the text of a settings file. Raises SettingsError that names what is wrong.

        What is left out has its default.
        """
        known = {field.name for field in fields(cls)} - _OF_FARMERS
        document = read_document(text, FORMAT_VERSION, known, name="the file")
        tables = {name: document.pop(name, {}) for name in ("farmers", "needs", "dht", "ledger")}
        _check("volume_id" in document, "the setting volume_id is missing", "Restore it from a backup.")
        values = {key: _read(key, _READERS[key], value) for key, value in document.items()}
        values |= {"needs": parse_needs(tables["needs"]), "dht": parse_dht(tables["dht"])}
        return cls(**_farmers(tables["farmers"]), ledger=parse_ledger(tables["ledger"]), **values)

    def to_toml(self) -> str:
        """The text of the settings file, with comments; `from_toml` gives an equal object back."""
        if isinstance(self.farmers, EmbeddedFarm):
            farmers = f'embedded = {self.farmers.count}\n# addresses = ["farm.example.org:7420"]'
        else:
            addresses = "".join(f'    "{farmer}",\n' for farmer in self.farmers)
            farmers = f"addresses = [\n{addresses}]"
        for name in ("find", "blocked", "preferred"):
            marked = [one if isinstance(one, str) else one.hex() for one in getattr(self, name)]
            farmers += f"\n{name} = {show_list(marked)}" if marked else f"\n# {name} = []"
        return _TEMPLATE.format(
            version=FORMAT_VERSION,
            volume_id=self.volume_id.hex(),
            cache_size=show_size(self.cache_size),
            disk_reserve=show_size(self.disk_reserve),
            code="auto" if self.code is None else f"{self.code[0]}/{self.code[1]}",
            capacity=show_size(self.capacity),
            audit_period=show_duration(self.audit_period),
            term=show_duration(self.term),
            price_max=show_credits(self.price_max),
            egress_price_max=show_credits(self.egress_price_max),
            play_balance=show_credits(self.play_balance),
            farmers=farmers,
            needs=show_needs(self.needs),
            dht=show_dht(self.dht),
            ledger=show_ledger(self.ledger),
        )


def default_cache_size(directory: Path) -> int:
    """10 GiB, or a tenth of what is free on the disk of `directory` (it need not exist) if that is less."""
    while not directory.exists():
        directory = directory.parent
    tenth = shutil.disk_usage(directory).free // 10 // MIB * MIB
    return max(_SMALLEST_DEFAULT_CACHE, min(_LARGEST_DEFAULT_CACHE, tenth))


def check_cache_size(size: int) -> int:
    """`size` in bytes, if a drive can work with it. Raises SettingsError."""
    if size < SMALLEST_CACHE:
        raise SettingsError(
            f"a cache_size of {show_size(size)} is too small: what waits for farmers has to fit into it too",
            hint=f"Give at least {show_size(SMALLEST_CACHE)}, better {show_size(_SMALLEST_DEFAULT_CACHE)}; "
            "a number without a unit is bytes.",
        )
    return size


def parse_code(text: str) -> tuple[int, int] | None:
    """(k, n) from `k/n`, None from `auto`. Raises SettingsError."""
    if text == "auto":
        return None
    found = re.fullmatch(r"([0-9]{1,3})/([0-9]{1,3})", text)
    if not found:
        raise SettingsError(f"{text!r} is not an erasure code", hint='Write "auto", or k/n as in "3/5".')
    return int(found[1]), int(found[2])


def _parse_volume_id(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise SettingsError(
            f"{text!r} has characters that are no hex digits", hint="Restore it from a backup."
        ) from None


_READERS: dict[str, Callable[[Any], Any]] = {
    "volume_id": _parse_volume_id,
    "code": parse_code,
    "cache_size": parse_size,
    "disk_reserve": parse_size,
    "capacity": parse_size,
    "audit_period": parse_duration,
    "term": parse_duration,
    "price_max": parse_price,
    "egress_price_max": parse_credits,
    "play_balance": parse_credits,
}

_OF_FARMERS = frozenset({"find", "blocked", "preferred"})
"""Fields that stand in the table [farmers]."""


def edit_farmers(text: str, key: str, values: Sequence[str]) -> str:
    """The text of a settings file with another list at `key` under [farmers], and nothing else changed; an
    empty list is taken out. Raises SettingsError where that makes no sense."""
    wanted = _edited(VolumeSettings.from_toml(text), key, values)
    try:
        made = edit_list(text, key, values)
        if VolumeSettings.from_toml(made) == wanted:
            return made
    except (ValueError, SettingsError):
        pass
    return wanted.to_toml()


def _edited(settings: VolumeSettings, key: str, values: Sequence[str]) -> VolumeSettings:
    if key == "addresses":
        return replace(settings, farmers=tuple(map(StaticFarmer.parse, values)))
    if key == "find":
        return replace(settings, find=parse_ways(values))
    marked = tuple(map(parse_node_id, values))
    return replace(settings, blocked=marked) if key == "blocked" else replace(settings, preferred=marked)


def _read(key: str, reader: Callable[[Any], Any], value: object) -> Any:
    # bool is an int to Python, not to a person.
    number = (
        isinstance(value, int | float) and not isinstance(value, bool) and key not in ("volume_id", "code")
    )
    if not (isinstance(value, str) or number):
        raise SettingsError(
            f"setting {key}: {value!r} is not what belongs there", hint='Write a text in "quotes".'
        )
    try:
        return reader(value)
    except SettingsError as error:
        raise SettingsError(f"setting {key}: {error}", hint=error.hint) from None


def _farmers(table: object) -> dict[str, Any]:
    """The fields that the table [farmers] gives. Raises SettingsError."""
    lists: dict[str, Any] = {}
    if isinstance(table, dict):
        readers = {"find": parse_ways, "blocked": _node_ids, "preferred": _node_ids}
        table = dict(table)
        for name, reader in readers.items():
            values = table.pop(name, [])
            _check(isinstance(values, list), f"setting {name}: it must be a list", f"As in: {name} = []")
            lists[name] = reader(values)
        if not table and lists["find"]:
            return {"farmers": (), **lists}
    return {"farmers": _who(table), **lists}


def _node_ids(values: Sequence[object]) -> tuple[bytes, ...]:
    return tuple(dict.fromkeys(map(parse_node_id, values)))


def _who(table: object) -> EmbeddedFarm | tuple[StaticFarmer, ...]:
    match table:
        case {"addresses": list(addresses), **rest} if not rest and all(
            isinstance(a, str) for a in addresses
        ):
            return tuple(StaticFarmer.parse(address) for address in addresses)
        case {"embedded": int(count), **rest} if not rest and not isinstance(count, bool):
            return EmbeddedFarm(count)
        case dict() if not table:
            return EmbeddedFarm()
        case dict():
            known = ("addresses", "embedded", "find", "blocked", "preferred")
            for key in table:
                near = difflib.get_close_matches(key, known, n=1)
                _check(
                    key in known,
                    f"there is no setting {key!r} under [farmers]",
                    f"Did you mean {near[0]}?" if near else f"There are {', '.join(known)}.",
                )
    raise SettingsError(
        "setting farmers: it must say either embedded = a number, or addresses = a list of texts",
        hint='Keep one of the two lines, as in: addresses = ["127.0.0.1:7421", "127.0.0.1:7422"]',
    )


def _check(
    holds: bool, otherwise: str, hint: str = "Change it there; what is left out has its default."
) -> None:
    if not holds:
        raise SettingsError(otherwise, hint=hint)


_TEMPLATE = """\
# Settings of a storjfs volume, read at each mount. What is left out has its default.
version = {version}

# Which volume these settings belong to; do not change it.
volume_id = "{volume_id}"

# Local disk space for file data: what waits for the farmers, and copies of what they hold, for fast reading.
cache_size = "{cache_size}"

# Below so much free space on this disk nothing new is written; a quarter of it besides is set aside, so that
# deleting goes on when the disk is full. A smaller one is for small disks.
disk_reserve = "{disk_reserve}"

# The erasure code: "auto" chooses by the number of farmers, "3/5" means that any 3 of 5 shards suffice.
code = "{code}"

# Space to contract with each farmer, how often each shard is audited, and how long a contract lasts.
capacity = "{capacity}"
audit_period = "{audit_period}"
term = "{term}"

# The most to pay, in credits: per GiB and month stored, and per GiB fetched.
price_max = "{price_max}"
egress_price_max = "{egress_price_max}"

# Play money that the volume's own ledger gives to it when it is new.
play_balance = "{play_balance}"

# Who keeps the data: farmers embedded in the mount on this machine, or the addresses of others
# (host:port, or host:port/node id). Embedded ones that are left out here are used until what they hold has
# moved to the others, of which there must be as many as a segment has shards; named again they are as before.
# With find = ["lan", "peers", "dht"] others are looked for: in the local network, by asking those known, and
# in BitTorrent's DHT. storjfs farmers shows them, and blocks or prefers some by id.
[farmers]
{farmers}

# What is wanted of farmers that are looked for: room for so much, where they may stand, and whether only one
# of each operator is used ("operators") or all ("farmers").
[needs]
{needs}

# For find = ["dht"]: the name under which farmers and renters find each other, addresses to look from (their
# ports do not count; else all), and nodes to begin with (else those of the public DHT).
[dht]
{dht}

# Where farmers are paid: in a group's ledger (NODEID@host:port), or another file; else in the volume's own.
[ledger]
{ledger}
"""
