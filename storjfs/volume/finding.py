"""What a volume's settings say about farmers: where they are looked for, which ones, and what is wanted."""

import difflib
import enum
import json
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from storjfs.volume.errors import SettingsError
from storjfs.volume.units import parse_region, parse_size, show_size

WAYS: Final = ("lan", "peers", "dht")
"""Ways to find farmers: in the local network, by asking those that are known already, and in BitTorrent's
DHT."""
MOST_MARKED: Final = 4096


class Spread(enum.StrEnum):
    """What may hold one shard of a segment."""

    OPERATORS = "operators"
    """One farmer of each operator group is used."""
    FARMERS = "farmers"
    """All that are good."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What is wanted of the farmers that are looked for, besides the limits on prices."""

    size: int | None = None
    """Bytes of files that there should be room for; None: whatever there is."""
    regions: tuple[str, ...] = ()
    """Where they may stand, as they say themselves; none: anywhere."""
    spread: Spread = Spread.OPERATORS

    def fits(self, region: str) -> bool:
        """Whether a farmer of that region will do: `EU-DE` does where `EU` is wanted."""
        return not self.regions or any(f"{region}-".upper().startswith(f"{one}-") for one in self.regions)


def parse_ways(values: Sequence[Any]) -> tuple[str, ...]:
    """Ways to find farmers. Raises SettingsError."""
    for one in values:
        if one not in WAYS:
            near = difflib.get_close_matches(str(one), WAYS, n=1)
            raise SettingsError(
                f"farmers cannot be found by {one!r}",
                hint=f"Did you mean {near[0]}?" if near else f"There are {', '.join(WAYS)}.",
            )
    return tuple(dict.fromkeys(values))


def parse_node_id(text: Any) -> bytes:
    """A node id of 64 hex digits. Raises SettingsError."""
    if not isinstance(text, str) or not re.fullmatch("[0-9a-fA-F]{64}", text):
        raise SettingsError(
            f"{text!r} is not the id of a farmer", hint="It has 64 hex digits; storjfs farmers shows it."
        )
    return bytes.fromhex(text)


def parse_spread(text: Any) -> Spread:
    """Raises SettingsError."""
    try:
        return Spread(text)
    except ValueError:
        raise SettingsError(
            f"farmers cannot be spread over {text!r}", hint=f"There are {', '.join(Spread)}."
        ) from None


def parse_regions(values: Sequence[Any]) -> tuple[str, ...]:
    """Regions in capitals. Raises SettingsError."""
    for one in values:
        if not isinstance(one, str) or not one:
            raise SettingsError(f"{one!r} is not a region", hint='Write it as in "EU" or "EU-DE".')
    return tuple(dict.fromkeys(map(parse_region, values)))


def parse_needs(table: Any) -> Needs:
    """The table [needs]. Raises SettingsError."""
    if not isinstance(table, dict):
        raise SettingsError("setting needs: it must be a table", hint="Begin it with the line [needs].")
    known = ("size", "regions", "spread")
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            raise SettingsError(
                f"there is no setting {key!r} under [needs]",
                hint=f"Did you mean {near[0]}?" if near else f"There are {', '.join(known)}.",
            )
    regions = table.get("regions", [])
    if not isinstance(regions, list):
        raise SettingsError("setting regions: it must be a list", hint='As in: regions = ["EU"]')
    size = table.get("size")
    if isinstance(size, bool) or not isinstance(size, str | int | None):
        raise SettingsError(f"setting size: {size!r} is not a size", hint='Write it as in "1 TB".')
    return Needs(
        size=None if size is None else parse_size(size),
        regions=parse_regions(regions),
        spread=parse_spread(table.get("spread", Spread.OPERATORS.value)),
    )


def show_needs(needs: Needs) -> str:
    """The lines of the table [needs]."""
    size = f'size = "{show_size(needs.size)}"' if needs.size is not None else '# size = "1 TB"'
    regions = f"regions = {show_list(needs.regions)}" if needs.regions else '# regions = ["EU"]'
    return f'{size}\n{regions}\nspread = "{needs.spread}"'


def show_list(values: Sequence[str]) -> str:
    """A list of texts in TOML, one a line where there are several."""
    if len(values) < 2:
        return f"[{', '.join(map(json.dumps, values))}]"
    return "[\n" + "".join(f"    {json.dumps(one)},\n" for one in values) + "]"


def edit_list(text: str, key: str, values: Sequence[str]) -> str:
    """The text of a settings file with another list at `key` under [farmers]; all else stays as it stands.

    Raises ValueError where the text has no such table.
    """
    lines = text.splitlines(keepends=True)
    start = next((i for i, line in enumerate(lines) if re.match(r"\s*\[farmers\]", line)), None)
    if start is None:
        raise ValueError("there is no table [farmers]")
    end = next(
        (i for i in range(start + 1, len(lines)) if re.match(r"\s*\[\w+\]\s*(#.*)?$", lines[i])), len(lines)
    )
    new = f"{key} = {show_list(values)}\n"
    for first in range(start + 1, end):
        if re.match(rf"\s*{key}\s*=", lines[first]):
            last = _end_of_value(lines, first, end)
            return "".join([*lines[:first], *([new] if values else []), *lines[last:]])
    return "".join([*lines[: start + 1], *([new] if values else []), *lines[start + 1 :]])


def _end_of_value(lines: Sequence[str], first: int, end: int) -> int:
    """The line behind the value that begins in line `first`."""
    for last in range(first + 1, end + 1):
        try:
            tomllib.loads("".join(lines[first:last]))
        except tomllib.TOMLDecodeError:
            continue
        return last
    raise ValueError("the list does not end")
