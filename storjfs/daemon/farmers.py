"""What a mount knows of farmers, and what its user says of them: kept in the settings, and told to the mount.

Without a mount the settings alone are changed, and the next mount reads them.
"""

import dataclasses
import enum
import threading
from collections.abc import Iterable, Sequence
from typing import Any

import trio

from storjfs.errors import StorjfsError
from storjfs.network.sources import Found, Given, Source
from storjfs.protocol.ids import NodeId
from storjfs.renter.renter import Renter
from storjfs.renter.settings import KnownFarmer
from storjfs.volume import (
    EmbeddedFarm,
    SettingsError,
    StaticFarmer,
    VolumePaths,
    VolumeSettings,
    change_farmers,
    parse_node_id,
    read_settings,
)

_changing = threading.Lock()
"""Held while the settings file is read and written."""
SHORTEST = 6
"""Hex digits of an id by which a farmer may be named."""


class Mark(enum.StrEnum):
    """What a user says of a farmer."""

    BLOCKED = "blocked"
    PREFERRED = "preferred"
    NONE = ""


class NoSuchFarmer(StorjfsError):
    """Nobody of that id is known, or several are."""


def sources_of(settings: VolumeSettings) -> dict[str, Source] | None:
    """The ways in which a volume looks for farmers, None where it uses those it names only."""
    if not settings.find:
        return None
    named = settings.farmers if not isinstance(settings.farmers, EmbeddedFarm) else ()
    found = tuple(
        Found((one.address,), NodeId(one.node_id) if one.node_id is not None else None) for one in named
    )
    sources: dict[str, Source] = {"settings": Given(lambda: found)}
    if "lan" in settings.find:
        from storjfs.network.lan import Lan

        sources["lan"] = Lan()
    if "dht" in settings.find:
        from storjfs.network.dht import DhtSettings, DhtSource
        from storjfs.network.dht.node import BOOTSTRAP
        from storjfs.network.dht.source import ANY_PORT

        dht = settings.dht
        part = DhtSettings(dht.listen or ANY_PORT, dht.bootstrap or BOOTSTRAP)
        sources["dht"] = DhtSource(part, dht.network)
    return sources


def known(renter: Renter) -> list[dict[str, Any]]:
    """The rows of `storjfs farmers` (docs/reference/control-socket.md)."""
    return [dataclasses.asdict(row) for row in renter.seeking.report()]


def mark_named(word: object) -> Mark:
    """The mark of that name. Raises SettingsError."""
    try:
        return Mark(word)  # type: ignore[arg-type]
    except ValueError:
        raise SettingsError(
            f"there is no mark {word!r}", hint="blocked, preferred, or an empty text"
        ) from None


def find_farmer(text: str, ids: Iterable[str]) -> bytes:
    """The node id that `text` begins, of those in `ids` (hex); a whole one need not be among them.

    Raises NoSuchFarmer, SettingsError.
    """
    if len(text) == 64:
        return parse_node_id(text)
    found = sorted({one for one in ids if one.startswith(text.lower())})
    if len(text) < SHORTEST or len(found) != 1:
        several = f"{len(found)} farmers have ids that begin so" if found else "no farmer of that id is known"
        raise NoSuchFarmer(
            f"{text!r}: {several if len(text) >= SHORTEST else 'that is too short for an id'}",
            hint="Give more of its id; storjfs farmers --json shows them in full.",
        )
    return bytes.fromhex(found[0])


def mark(paths: VolumePaths, ids: Iterable[str], farmer: str, word: Mark) -> tuple[VolumeSettings, bytes]:
    """Block, prefer, or take the mark off, in the settings: what they are then, and whom it meant. `ids` are
    those that are known, in hex. Blocking. Raises NoSuchFarmer, SettingsError, SettingsFileError."""
    with _changing:
        settings = read_settings(paths)
        marked = [one.hex() for one in (*settings.blocked, *settings.preferred)]
        node_id = find_farmer(farmer, [*marked, *ids])
        changes: dict[str, Sequence[str]] = {}
        for kind, before in ((Mark.BLOCKED, settings.blocked), (Mark.PREFERRED, settings.preferred)):
            left = [one.hex() for one in before if one != node_id]
            # What it was before goes first, for it cannot be both.
            if kind is word:
                changes[kind.value] = [*left, node_id.hex()]
            else:
                changes = {kind.value: left, **changes}
        return change_farmers(paths, changes), node_id


def add(paths: VolumePaths, text: str) -> tuple[StaticFarmer, bool]:
    """Name one more farmer by its address, in the settings; whether it was not named already. Blocking.

    Raises SettingsError, SettingsFileError.
    """
    one = StaticFarmer.parse(text)
    with _changing:
        settings = read_settings(paths)
        if isinstance(settings.farmers, EmbeddedFarm):
            raise SettingsError(
                f"the farmers of the volume {paths.name} are embedded, and others cannot be added to them",
                hint="Make a volume with farmers of your own; see docs/how-to/other-farmers.md.",
            )
        if one in settings.farmers:
            return one, False
        change_farmers(paths, {"addresses": [str(each) for each in (*settings.farmers, one)]})
        return one, True


async def mark_mounted(paths: VolumePaths, renter: Renter, farmer: str, word: Mark) -> dict[str, Any]:
    """`mark`, and the mount takes it up. What is in the settings holds, also if this is cancelled."""
    ids = [row.node_id for row in renter.seeking.report()]
    settings, node_id = await trio.to_thread.run_sync(mark, paths, ids, farmer, word)
    renter.mark(settings.blocked, settings.preferred)
    return {"node_id": node_id.hex(), "mark": word.value}


async def add_mounted(paths: VolumePaths, renter: Renter, text: str) -> dict[str, Any]:
    """`add`, and the mount takes it up."""
    one, new = await trio.to_thread.run_sync(add, paths, text)
    if new:
        renter.name(KnownFarmer(addresses=(one.address,), node_id=one.node_id))
    return {"address": str(one)}
