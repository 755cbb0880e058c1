"""The status of a volume that is not mounted, from what the last mount left on disk. Nothing is changed."""

from collections.abc import Mapping
from typing import Any

import trio

from storjfs.keys import VolumeKeys
from storjfs.segments import Holdings, SegmentsReport
from storjfs.settlement import SettlementError
from storjfs.store import MetaStore
from storjfs.volume import (
    PassphraseSource,
    VolumePaths,
    VolumeSettings,
    has_metadata,
    read_settings,
    unlock_volume,
)

from . import facts, farmers, status
from .parts import known_ledger, make_renter, own_account
from .redundancy import BARE

# Counters that the catalogue of segments keeps in meta.db.
_COUNTERS = (
    "segments_full",
    "segments_degraded",
    "segments_at_risk",
    "segments_lost",
    "segments_stored_bytes",
)


def read_report(paths: VolumePaths, passphrase: PassphraseSource | None) -> dict[str, Any]:
    """The status report. Raises what unlock_volume and has_metadata raise, and StoreError."""
    keys = unlock_volume(paths, passphrase)
    settings = read_settings(paths)
    if not has_metadata(paths):
        return status.report(_never_mounted(paths, settings), None)
    return trio.run(_read, paths, settings, keys)


def read_farmers(paths: VolumePaths, passphrase: PassphraseSource | None) -> list[dict[str, Any]]:
    """What the last mount knew of farmers, as `farmers.known`. Raises as `read_report`."""
    keys = unlock_volume(paths, passphrase)
    settings = read_settings(paths)
    return trio.run(_read_farmers, paths, settings, keys) if has_metadata(paths) else []


async def _read_farmers(
    paths: VolumePaths, settings: VolumeSettings, keys: VolumeKeys
) -> list[dict[str, Any]]:
    store = MetaStore.open(paths.meta_db, keys.metadata_key)
    renter = make_renter(paths, settings, keys, store, known_ledger(paths, settings, keys))
    await renter.seeking.load()
    return farmers.known(renter)


def _never_mounted(paths: VolumePaths, settings: VolumeSettings) -> status.Facts:
    return facts.gather(
        paths.name,
        settings,
        settings.cache_size,
        settings.code or (0, 0),
        SegmentsReport(0, 0, 0, 0, 0, 0, 0, 0, (), (), settings.cache_size),
        facts.NO_CONTRACTS,
        facts.NO_TROUBLE,
        addresses={},
        waiting_segments=0,
        running=False,
    )


async def _read(paths: VolumePaths, settings: VolumeSettings, keys: VolumeKeys) -> dict[str, Any]:
    store = MetaStore.open(paths.meta_db, keys.metadata_key)
    ledger = known_ledger(paths, settings, keys)
    renter = make_renter(paths, settings, keys, store, ledger)
    counters = dict(store.read("SELECT key, value FROM counters"))
    renter.held = Holdings(counters).under
    unpaid = ""
    try:
        balance: int | None = ledger.balance(own_account(keys))
    except SettlementError as error:
        balance, unpaid = None, facts.of_silent_ledger(error)
    segments = _segments(paths, store, counters, settings.cache_size)
    trouble = facts.NO_TROUBLE
    if segments.degraded or segments.at_risk or segments.lost:
        trouble = facts.look_at_trouble(paths.meta_db, keys, segments.lost > 0)
    known = renter.report(balance)
    if unpaid:
        known.problems.append(unpaid)
    return status.report(
        facts.gather(
            paths.name,
            settings,
            settings.cache_size,
            renter.code() if settings.code or list(renter.book) else (0, 0),
            segments,
            known,
            trouble,
            addresses={one.node_id.hex(): [str(at) for at in one.addresses] for one in renter.book},
            waiting_segments=store.read("SELECT COUNT(*) FROM segment WHERE state IN (0, 1)")[0][0],
            running=False,
            bare=store.read(BARE)[0][0],
        ),
        None,
    )


def _segments(
    paths: VolumePaths, store: MetaStore, counters: Mapping[str, int], limit: int
) -> SegmentsReport:
    """What the segments room would report, without taking up its work."""
    full, degraded, at_risk, lost, stored = (counters.get(name, 0) for name in _COUNTERS)
    ((waiting,),) = store.read("SELECT COALESCE(SUM(size), 0) FROM segment WHERE state IN (0, 1)")
    ((to_delete,),) = store.read("SELECT COUNT(*) FROM doomed")
    cached = 0
    if paths.cache_dir.is_dir():
        cached = sum(entry.lstat().st_blocks * 512 for entry in paths.cache_dir.iterdir())
    room = max(limit - waiting, 0)
    return SegmentsReport(stored, waiting, cached, full, degraded, at_risk, lost, to_delete, (), (), room)
