"""`fsck`, `scrub` and `gc` of a running drive, and of a volume that is not mounted.

What is found in the books of a mount may be on its way to being right, so it counts only if a second look
finds it as well. A mount mends what its rooms can mend while they run; the rest waits for an unmount.
"""

import contextlib
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Final, TypedDict, TypeVar

import trio

from storjfs.errors import StorjfsError
from storjfs.fuse import MountOptions
from storjfs.integrity import (
    KINDS,
    Collector,
    Examination,
    FarmerCheck,
    Findings,
    LiveMender,
    LocalFiles,
    Mender,
    Scrub,
    View,
    check,
    mend,
)
from storjfs.keys import VolumeKeys
from storjfs.protocol.ids import NodeId
from storjfs.renter.renter import Renter
from storjfs.renter.settings import known_farmers
from storjfs.store import MetaStore
from storjfs.volume import (
    PassphraseSource,
    VolumePaths,
    VolumeSettings,
    has_metadata,
    lock_volume,
    read_settings,
    unlock_volume,
)

from .fsck_report import CLEAN, LEFT, MENDED, SCHEMA, confirmed, not_mended, orphans_spared, report, to_mend
from .missing_farm import may_be_missing, require_farm
from .newest import set_aside_newer
from .parts import embedded_farm, known_ledger, make_renter
from .request import MountRequest
from .wiring import FARM_PATIENCE, Drive, open_drive

log = logging.getLogger(__name__)

LOOK: Final = 0.2
BATCH: Final = 1000
ROUNDS: Final = 8
"""Times that a mount is looked through and mended, should something break it anew meanwhile."""

T = TypeVar("T")
Tell = Callable[[Mapping[str, Any]], Awaitable[None]]


class ScrubRunning(StorjfsError):
    """One scrub at a time: two would download everything twice, and each lose the other's place."""


class ScrubChoice(TypedDict):
    """How to scrub; see Scrub.run."""

    share: float | None
    rate: float
    restart: bool


def scrub_choice(asked: Mapping[str, Any]) -> ScrubChoice:
    """What a request over the control socket says."""
    share = asked.get("share")
    return ScrubChoice(
        share=None if share is None else min(max(float(share), 0.0), 1.0),
        rate=max(float(asked.get("rate", 0.0)), 0.0),
        restart=bool(asked.get("restart", False)),
    )


# --- looking at the books, in a thread ---


async def _watched(view: View, call: Callable[[], T], tell: Tell) -> T:
    """The result of `call`, which works with `view` in a thread; if this is cancelled, it stops soon."""

    async def watch() -> None:
        try:
            while True:
                part, done, of = view.progress
                await tell({"part": part, "done": done, "of": of})
                await trio.sleep(LOOK)
        finally:
            view.stop()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        result = await trio.to_thread.run_sync(call)
        nursery.cancel_scope.cancel()
    part, _, of = view.progress
    if part:
        await tell({"part": part, "done": of, "of": of})
    return result


async def _books(paths: VolumePaths, keys: VolumeKeys, tell: Tell) -> Findings:
    with View(paths.meta_db, keys.metadata_key) as view:
        return await _watched(view, partial(check, view, journal=paths.journal_dir, keys=keys), tell)


# --- fsck of a mount ---


async def fsck_mounted(
    drive: Drive, tell: Tell, *, repair: bool, farmers: bool, delete_unknown: bool = False
) -> dict[str, Any]:
    """Check a drive while it runs, and mend what it can mend meanwhile; nothing if it is read-only.

    `delete_unknown`: farmers delete shards that the books do not know, which else are left.
    """
    may = repair and not drive.filesystem.read_only
    found = await _books_of(drive, tell)
    result = await _mend_books(drive, found, tell) if may else Examination.only(found)
    if farmers:
        comparison = FarmerCheck(drive.store.read, drive.renter.client)
        serving = [(entry.number, bytes(entry.node_id)) for entry in drive.renter.book if entry.serves]
        at_farmers = orphans_spared(found, await comparison.run(serving, tell))
        mended = await _mend_live(drive, to_mend(at_farmers, delete_unknown)) if may else {}
        books, result.found, left = result.left, Findings(), Findings()
        for several in (found, at_farmers):
            result.found.merge(several)
        for several in (books, not_mended(at_farmers, mended)):
            left.merge(several)
        result.left = left
        result.mended |= mended
    return report(drive.paths, result, mounted=True, repair=repair, farmers=farmers)


async def _books_of(drive: Drive, tell: Tell) -> Findings:
    """What is wrong with the books of a running drive: what two looks, one after the other, both find."""
    await drive.store.sync()
    found = await _books(drive.paths, drive.keys, tell)
    if found:
        await drive.store.sync()
        found = confirmed(found, await _books(drive.paths, drive.keys, tell))
    return found


async def _mend_books(drive: Drive, found: Findings, tell: Tell) -> Examination:
    """Mend what the rooms can mend while they run, and look again, until that changes nothing any more."""
    result = Examination(found, found)
    mender = LiveMender(drive.filesystem, drive.segments)
    stuck: set[str] = set()
    for _ in range(ROUNDS):
        codes = [code for code in mender.codes(result.left) if code not in stuck]
        if not codes:
            break
        for code in codes:
            await mender.mend(code, result.left)
        before, result.left = result.left, await _books_of(drive, tell)
        # What was not mended now will not be by doing the same again; another mend may have brought others.
        stuck.update(finding.code for finding in confirmed(before, result.left))
    result.note_mended()
    return result


async def _mend_live(drive: Drive, found: Findings) -> dict[str, int]:
    """Have farmers delete what nothing needs; note as lost what they lack, and rebuild it."""
    mended: dict[str, int] = {}
    orphans: dict[int, list[bytes]] = {}
    for finding in found.kept.get("farmer-orphan", ()):
        shard_id, contract = finding.row
        orphans.setdefault(contract, []).append(shard_id)
    try:
        for contract, shard_ids in orphans.items():
            for start in range(0, len(shard_ids), BATCH):
                await drive.renter.delete(contract, shard_ids[start : start + BATCH])
        if orphans:
            mended["farmer-orphan"] = found.counts["farmer-orphan"]
    except (StorjfsError, OSError) as error:
        log.warning("shards that nothing needs are not deleted: %s", error)
    segments = set()
    amend = drive.segments.amend
    for code in ("farmer-found", "farmer-missing", "farmer-differs"):
        for finding in found.kept.get(code, ()):
            shard_id, seg, _ = finding.row
            lost = code != "farmer-found"
            if amend.shard(seg, shard_id, senseless=False) if lost else amend.found(seg, shard_id):
                segments.add(seg)
                mended[code] = mended.get(code, 0) + 1
    await drive.store.sync()
    for seg in sorted(segments):
        with contextlib.suppress(StorjfsError, OSError):  # the repair task goes on trying
            await drive.segments.rebuild(seg)
    return mended


# --- fsck of a volume that is not mounted ---


async def fsck_unmounted(
    paths: VolumePaths,
    passphrase: PassphraseSource | None,
    tell: Tell,
    *,
    repair: bool,
    farmers: bool,
    delete_unknown: bool = False,
) -> dict[str, Any]:
    """Check a volume that nobody uses, and mend it; `delete_unknown` as of `fsck_mounted`.

    Raises VolumeLocked, StoreError, VolumeDamaged where the metadata are gone, FarmMissing where the farmers
    are to be asked, and what unlocking raises.
    """
    keys = unlock_volume(paths, passphrase)
    with lock_volume(paths):
        if not has_metadata(paths):
            return report(paths, Examination.only(Findings()), mounted=False, repair=repair, farmers=farmers)
        found = await _books(paths, keys, tell)
        at_farmers = Findings()
        if farmers and "database-damaged" not in found.codes:
            if may_be_missing(paths):
                await trio.to_thread.run_sync(require_farm, paths, keys)
            at_farmers = orphans_spared(found, await _ask_farmers(paths, keys, tell))
        result = Examination.only(found)
        if repair and (found or at_farmers):
            if "database-damaged" not in found.codes:
                with View(paths.meta_db, keys.metadata_key) as view:
                    set_aside_newer(paths, lambda sql, args: list(view.rows(sql, args)))
            result = await _mend(paths, keys, found, at_farmers, tell, delete_unknown)
        else:
            result.found.merge(at_farmers)
        return report(paths, result, mounted=False, repair=repair, farmers=farmers)


async def _mend(
    paths: VolumePaths,
    keys: VolumeKeys,
    found: Findings,
    at_farmers: Findings,
    tell: Tell,
    delete_unknown: bool,
) -> Examination:
    key = keys.metadata_key
    mended: dict[str, int] = {}
    with Mender(paths.meta_db, key, 0) as mender:
        for code, several in to_mend(at_farmers, delete_unknown).kept.items():
            if KINDS[code].stage is not None and (count := mender.mend(code, several)):
                mended[code] = count
    first = await _books(paths, keys, tell)

    local = LocalFiles(keys, paths.journal_dir, paths.cache_dir)

    def again() -> Findings:
        return trio.from_thread.run(_books, paths, keys, tell)

    result = await trio.to_thread.run_sync(partial(mend, paths.meta_db, key, first, again, local=local))
    left = not_mended(at_farmers, mended)
    shown = Findings()
    shown.merge(found)
    shown.merge(at_farmers)
    result.left.merge(left)
    result.found = shown
    result.mended = {code: count for code, count in result.mended.items() if code in found.codes} | mended
    return result


async def _ask_farmers(paths: VolumePaths, keys: VolumeKeys, tell: Tell) -> Findings:
    """Compare with the farmers over connections of our own; nothing else of the renter runs."""
    settings = read_settings(paths)
    async with _renter(paths, settings, keys) as (store, renter), trio.open_nursery() as nursery:
        await nursery.start(renter.farmers.run)
        farm = embedded_farm(paths, settings)
        if farm is not None:
            farm.listen(lambda where: renter.farmers.move({NodeId(node): at for node, at in where.items()}))
            nursery.start_soon(farm.run)
            with trio.move_on_after(FARM_PATIENCE):
                await farm.ready.wait()
        serving = [(entry.number, bytes(entry.node_id)) for entry in renter.book if entry.serves]
        found = await FarmerCheck(store.read, renter.client).run(serving, tell)
        nursery.cancel_scope.cancel()
    return found


@contextlib.asynccontextmanager
async def _renter(
    paths: VolumePaths, settings: VolumeSettings, keys: VolumeKeys
) -> AsyncIterator[tuple[MetaStore, Renter]]:
    ledger = known_ledger(paths, settings, keys)
    store = MetaStore.open(paths.meta_db, keys.metadata_key)
    renter = make_renter(paths, settings, keys, store, ledger, known_farmers(settings))
    async with trio.open_nursery() as nursery:
        await nursery.start(store.run)
        try:
            yield store, renter
        finally:
            renter.close()
        nursery.cancel_scope.cancel()
    ledger.close_file()


# --- scrub and gc ---


async def scrub(
    drive: Drive, tell: Tell, *, share: float | None, rate: float, restart: bool
) -> dict[str, Any]:
    """Read shards of a running drive back; see Scrub.run. Raises ScrubRunning where one is under way."""
    try:
        drive.scrubbing.acquire_nowait()
    except trio.WouldBlock:
        raise ScrubRunning(
            "a scrub of this volume is under way",
            hint="Wait for its end, or end it with Ctrl-C; another goes on where it was.",
        ) from None
    try:
        work = Scrub(drive.store, drive.keys, drive.segments, drive.renter.read_back, drive.renter.records)
        state = await work.run(tell, share=share, rate=rate, restart=restart)
    finally:
        drive.scrubbing.release()
    left = state.broken or state.damaged or state.unread
    code = LEFT if left else MENDED if state.wrong else CLEAN
    return {"schema": SCHEMA, "exit_code": code, **state.report()}


async def collect(drive: Drive, tell: Tell) -> dict[str, Any]:
    """Free what nothing needs, of a running drive."""
    work = Collector(drive.store, drive.segments, drive.filesystem, drive.paths.meta_db)
    return (await work.run(tell)).report()


async def with_drive(
    paths: VolumePaths, passphrase: str | None, work: Callable[[Drive], Awaitable[dict[str, Any]]]
) -> dict[str, Any]:
    """Do `work` with a drive that runs in this process as in a mount, but for the mount point.

    Raises VolumeLocked, what unlocking raises, and what keeps a drive from running.
    """
    with lock_volume(paths):
        request = MountRequest(volume=paths.name, mountpoint=os.devnull, passphrase=passphrase)
        async with open_drive(paths, request, MountOptions()) as drive:
            return await work(drive)
