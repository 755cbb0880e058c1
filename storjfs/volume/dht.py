"""What a volume's settings say about the DHT, where farmers can be looked for."""

import difflib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from storjfs.protocol.networks import NETWORK, network_bytes
from storjfs.protocol.terms import Address
from storjfs.volume.errors import SettingsError


@dataclass(frozen=True, slots=True, kw_only=True)
class DhtNeeds:
    """Who is looked for there, and how."""

    network: str = NETWORK
    """Farmers and renters of one name find each other."""
    listen: tuple[Address, ...] = ()
    """Addresses to look from, whose ports do not count; none: all."""
    bootstrap: tuple[Address, ...] = ()
    """Nodes to begin with; none: those of the public DHT."""

    def __post_init__(self) -> None:
        try:
            network_bytes(self.network)
        except ValueError as error:
            raise SettingsError(str(error), hint=f"The usual one is {NETWORK}.") from None


_KEYS: Final = ("network", "listen", "bootstrap")


def parse_dht(table: object) -> DhtNeeds:
    """What the table [dht] says. Raises SettingsError."""
    if not isinstance(table, dict):
        raise SettingsError("setting dht: it must be a table", hint="Write its lines under [dht].")
    for key in table:
        if key not in _KEYS:
            near = difflib.get_close_matches(str(key), _KEYS, n=1)
            raise SettingsError(
                f"there is no setting {key!r} under [dht]",
                hint=f"Did you mean {near[0]}?" if near else f"There are {', '.join(_KEYS)}.",
            )
    network = table.get("network", NETWORK)
    if not isinstance(network, str):
        raise SettingsError(f"setting network: {network!r} is not a name", hint='Write it in "quotes".')
    return DhtNeeds(
        network=network,
        listen=_addresses("listen", table.get("listen", [])),
        bootstrap=_addresses("bootstrap", table.get("bootstrap", [])),
    )


def show_dht(needs: DhtNeeds) -> str:
    """The lines of the table [dht]."""
    lines = [f"{'# ' if needs.network == NETWORK else ''}network = {json.dumps(needs.network)}"]
    for key in ("listen", "bootstrap"):
        values: Sequence[Address] = getattr(needs, key)
        shown = ", ".join(json.dumps(str(one)) for one in values)
        lines.append(f"{'' if values else '# '}{key} = [{shown}]")
    return "\n".join(lines)


def _addresses(key: str, values: Any) -> tuple[Address, ...]:
    try:
        if not isinstance(values, list) or not all(isinstance(one, str) for one in values):
            raise ValueError(f"{values!r} is not a list of texts")
        return tuple(map(Address.parse, values))
    except ValueError as error:
        raise SettingsError(
            f"setting {key}: {error}", hint=f'Write it as in: {key} = ["192.0.2.1:6881"]'
        ) from None
