"""Whether the embedded farmers that hold a volume's data are still on this machine.

A farm child that finds no farmers makes new ones. Where those of before are away with the data (a folder that
was deleted, a disk that is not attached) that has to be a person's decision. The file `embedded` beside
meta.db says which farmers are embedded ones: their node ids in hex, one per line.
"""

import contextlib
import logging
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import cast

from storjfs.errors import StorjfsError
from storjfs.farmer.embedded import farmer_folders
from storjfs.farmer.identity import FILE as IDENTITY
from storjfs.keys import VolumeKeys
from storjfs.protocol.contracts import SERVES_SHARDS
from storjfs.protocol.ids import NodeId
from storjfs.protocol.signing import SigningKey
from storjfs.renter.audits import HELD_STATES
from storjfs.renter.book import STATE_NUMBERS, ContractBook
from storjfs.renter.renter import Renter
from storjfs.store import MetaStore, open_meta
from storjfs.store.durable import write_atomically
from storjfs.volume import VolumeDamaged, VolumePaths

log = logging.getLogger(__name__)

_STATES = ", ".join(str(STATE_NUMBERS[state]) for state in sorted(SERVES_SHARDS))
_SERVING = f"SELECT contract, node_id FROM contract WHERE state IN ({_STATES})"


class FarmMissing(VolumeDamaged):
    """None of the embedded farmers with which the volume has contracts is there, and its data need them."""


def needed_sql(contracts: int) -> str:
    """A query with so many contracts as parameters: a row where a segment cannot be read without them."""
    return (
        "SELECT 1 FROM segment s WHERE s.state = 2 AND s.k > (SELECT COUNT(DISTINCT h.idx) FROM shard h "
        f"WHERE h.seg = s.seg AND h.state IN {HELD_STATES} "
        f"AND h.contract NOT IN ({', '.join('?' * contracts)})) LIMIT 1"
    )


def note_embedded(paths: VolumePaths, serving: Collection[bytes], book: ContractBook) -> frozenset[bytes]:
    """Keep which farmers are embedded: those that serve now, and those of before that have contracts still.

    They are returned. On disk by then, so before anything is stored with them; where it cannot be written the
    next start does it.
    """
    known = _noted(paths)
    wanted = set(serving) | {farmer for farmer in known if book.current(NodeId(farmer)) is not None}
    if wanted != known:
        text = "".join(f"{one.hex()}\n" for one in sorted(wanted))
        try:
            write_atomically(paths.embedded_file, text.encode())
        except OSError as error:
            log.warning("which farmers are embedded is not noted: %s", error)
    return frozenset(wanted)


def may_be_missing(paths: VolumePaths) -> bool:
    """Whether an embedded farmer is not in its place, so that `require_farm` has to look closer."""
    return not _noted(paths) <= _present(paths.farm_dir)


def require_farm(paths: VolumePaths, keys: VolumeKeys) -> None:
    """Raise FarmMissing where all embedded farmers with contracts are away and data cannot be read without.

    Some of them away is what repair is for. Blocking; nothing but meta.db is opened. Raises StoreError.
    """
    noted = _noted(paths)
    with contextlib.closing(open_meta(paths.meta_db, keys.metadata_key)) as connection:
        serving = cast(Sequence[tuple[int, bytes]], connection.execute(_SERVING).fetchall())
        embedded = [(number, farmer) for number, farmer in serving if farmer in noted]
        present = _present(paths.farm_dir)
        if not embedded or any(farmer in present for _, farmer in embedded):
            return
        contracts = [number for number, _ in embedded]
        if not connection.execute(needed_sql(len(contracts)), contracts).fetchall():
            return
    which = "" if paths.name == "default" else f"--volume {paths.name} "
    raise FarmMissing(
        f"the embedded farmers of the volume {paths.name} are gone: none of the {len(embedded)} that hold "
        f"its data is in {paths.farm_dir}",
        hint="Nothing was changed. Put that folder back (attach its disk, or copy it from a backup) and "
        "mount: then everything is there. Without it, what is not cached here is lost; to go on all the "
        f"same, with new farmers: storjfs mount {which}--new-farmers DIR",
    )


async def give_up_missing(renter: Renter, store: MetaStore, folder: Path, present: Collection[bytes]) -> None:
    """Farmers with contracts that are not among those of a complete embedded farm are gone: their shards are
    rebuilt at once, as long as enough others are left of any segment. More of them at a time are rather a
    disk that is not there; they count as offline farmers do."""
    missing = [entry for entry in renter.book if entry.serves and entry.node_id not in present]
    numbers = tuple(entry.number for entry in missing)
    if missing and await store.scan(needed_sql(len(missing)), numbers):
        log.error("%d embedded farmers with contracts are missing from %s", len(missing), folder)
        return
    for entry in missing:
        if entry.serves:
            try:
                await renter.farmer_removed(entry.node_id)
            except StorjfsError as error:
                # Its shards count as lost in memory at once; a full disk keeps that for a later commit.
                log.warning("farmer %s: %s", entry.node_id.hex()[:16], error)


def _noted(paths: VolumePaths) -> set[bytes]:
    try:
        lines = paths.embedded_file.read_text(encoding="ascii", errors="replace").split()
    except FileNotFoundError:
        return set()
    found = set()
    for line in lines:
        with contextlib.suppress(ValueError):
            found.add(bytes.fromhex(line))
    return found


def _present(folder: Path) -> set[bytes]:
    """Node ids of the farmers in the folder; one that cannot be read is not among them."""
    found = set()
    for farmer in farmer_folders(folder):
        with contextlib.suppress(OSError, ValueError):
            found.add(bytes(SigningKey((farmer / IDENTITY).read_bytes()).node_id))
    return found
