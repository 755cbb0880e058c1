"""farmer.toml: what a farmer sells, where it listens, and which settlement it trusts."""

import difflib
import json
import os
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final, Self

from storjfs.farmer.prices import DEFAULT
from storjfs.farmer.schedule import ALWAYS, Limit, Schedule
from storjfs.protocol.terms import Address
from storjfs.volume.errors import SettingsError
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
AT_START = ("listen", "ledger", "connections", "connections_per_renter", "meet", "announce_lan")
"""Settings that a running farmer does not change: they hold from its next start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FarmerSettings:
    """Sizes in bytes, times in seconds, money in nanocredits."""

    capacity: int
    """Bytes that shards and their leaf hashes may take on the disk."""
    ledger: Path
    """The ledger in which renters open their lanes."""
    keep_free: int = KEEP_FREE
    """Bytes of the disk that are never used, whatever the capacity allows."""
    listen: Address | None = None
    """Where to listen; None: on this machine only, on a free port."""
    announce: tuple[Address, ...] = ()
    """Addresses for the offer; none: the one listened on."""
    price: int = DEFAULT.storage
    """Per GiB and month."""
    egress_price: int = DEFAULT.egress
    """Per GiB sent."""
    group: str = ""
    """Farmers of one group are taken to fail together."""
    region: str = ""
    """Where it stands, for renters who care, as EU or EU-DE."""
    meet: tuple[Address, ...] = ()
    """Other farmers, who tell renters of this one."""
    announce_lan: bool = True
    """Whether the local network hears of this farmer."""
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

    def __post_init__(self) -> None:
        if self.capacity < 1 << 20:
            raise SettingsError("a farmer must share at least 1 MiB", hint="Say how much: --share 100GB")
        if not 1 <= self.connections_per_renter <= self.connections <= MOST_CONNECTIONS:
            raise SettingsError(
                f"a farmer has 1 to {MOST_CONNECTIONS} connections, and for each renter 1 to that many",
                hint="The usual ones are 512, and 16 for each renter.",
            )

    @classmethod
    def from_toml(cls, text: str) -> Self:
        """Read the text of farmer.toml. Raises SettingsError that names what is wrong."""
        try:
            document = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise SettingsError(
                f"{FILE} is not valid TOML: {error}",
                hint='Mend that line: texts stand in "quotes", lists in [brackets], and each name once.',
            ) from None
        version = document.pop("version", None)
        if version != FORMAT_VERSION:
            raise SettingsError(
                f"{FILE} has format version {version}; this storjfs knows {FORMAT_VERSION}",
                hint="Use the storjfs that wrote it, or restore the line version = 1.",
            )
        for key in document:
            if key not in _FIELDS:
                near = difflib.get_close_matches(key, _FIELDS, n=1)
                raise SettingsError(
                    f"there is no setting {key!r} in {FILE}",
                    hint=f"Did you mean {near[0]}?" if near else f"There are {', '.join(sorted(_FIELDS))}.",
                )
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
        path, new = folder / FILE, folder / f"{FILE}.new"
        with new.open("w", encoding="utf-8") as file:
            file.write(self.to_toml())
            file.flush()
            os.fsync(file.fileno())
        new.rename(path)

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

    def shown(self, name: str) -> str:
        """One setting as it stands in farmer.toml, without quotes; empty where it is not set."""
        value = getattr(self, name)
        return _SHOW[name](value).strip('"') if value is not None else ""


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


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise SettingsError(
            f"{value!r} in {FILE} must be a whole number", hint="Write it without quotes: connections = 512"
        )
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise SettingsError(f"{value!r} in {FILE} must be true or false", hint="Write it without quotes.")
    return value


_READ: dict[str, Callable[[Any], Any]] = {
    "capacity": parse_size,
    "keep_free": parse_size,
    "ledger": lambda value: Path(_text(value)),
    "listen": lambda value: parse_address(_text(value)),
    "announce": _addresses,
    "price": parse_credits,
    "egress_price": parse_credits,
    "group": _text,
    "region": lambda value: parse_region(_text(value)),
    "meet": _addresses,
    "announce_lan": _flag,
    "limit": lambda value: Limit.parse(_text(value)),
    "schedule": lambda value: Schedule.parse(_text(value)),
    "connections": _count,
    "connections_per_renter": _count,
    **dict.fromkeys(
        ("term_min", "term_max", "period_min", "period_max", "grace_max", "claim_every", "scrub_every"),
        parse_duration,
    ),
}
_SHOW: dict[str, Callable[[Any], str]] = {
    "capacity": lambda value: _quoted(show_size(value)),
    "keep_free": lambda value: _quoted(show_size(value)),
    "ledger": _quoted,
    "listen": _quoted,
    "announce": lambda value: "[" + ", ".join(map(_quoted, value)) + "]",
    "price": lambda value: _quoted(show_credits(value)),
    "egress_price": lambda value: _quoted(show_credits(value)),
    "group": _quoted,
    "region": _quoted,
    "meet": lambda value: "[" + ", ".join(map(_quoted, value)) + "]",
    "announce_lan": lambda value: "true" if value else "false",
    "limit": _quoted,
    "schedule": _quoted,
    "connections": str,
    "connections_per_renter": str,
    **dict.fromkeys(
        ("term_min", "term_max", "period_min", "period_max", "grace_max", "claim_every", "scrub_every"),
        lambda value: _quoted(show_duration(value)),
    ),
}
_COMMENTS = {
    "capacity": "How much of this disk may be used.",
    "keep_free": "How much of it stays free whatever is allowed above.",
    "price": "Credits per GiB and month.",
    "egress_price": "Credits per GiB sent to renters.",
    "listen": "Address and port to listen on; left out: this machine only, any free port.",
    "announce": "Addresses under which renters reach it, if not the one above or those of this machine.",
    "group": "What this farmer fails together with: name those on one disk alike, each other disk otherwise.",
    "region": 'Where it stands, as in "EU" or "EU-DE", for renters who care.',
    "meet": "Addresses of other farmers: they tell renters of this one.",
    "announce_lan": "Whether renters in the local network are told of this farmer.",
    "ledger": "The ledger file in which lanes are opened.",
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
}
