"""A drive: the rooms of one volume put together, running, and what the mount process asks of them."""

import contextlib
import logging
import math
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import trio

from storjfs.coding.geometry import FULL_FRAME, SEALED_PIECE
from storjfs.errors import StorjfsError
from storjfs.filesystem import Capacity, Filesystem, Policy
from storjfs.fuse import MountOptions
from storjfs.keys import VolumeKeys
from storjfs.protocol.terms import Address
from storjfs.renter.errors import ShardCorrupt
from storjfs.renter.placement import stripes
from storjfs.renter.settings import known_farmers
from storjfs.segments.segments import Segments
from storjfs.settlement import Settlement
from storjfs.store import MetaStore, StoreError
from storjfs.volume import (
    EmbeddedFarm,
    VolumePaths,
    VolumeSettings,
    has_metadata,
    read_settings,
    unlock_volume,
)

from . import facts
from .farm_child import FarmChild
from .farmers import sources_of
from .first_contract import QUIET, first_contract, has_contract
from .full_disk import FullDisk
from .missing_farm import give_up_missing, may_be_missing, note_embedded, require_farm
from .newest import Newest, set_aside_newer
from .parts import Passphrase, embedded_farm, issuing, make_renter, open_ledger
from .redundancy import BARE, WAITING, of_code, of_leaving, stored_with, widest_with
from .request import MountRequest
from .rooms import free_on, rooms
from .status import Facts

log = logging.getLogger(__name__)

# How long a mount waits for its farmers. With contracts it is usable without them (what is cached, and all
# writes); without any it would not know where to send data to.
KNOWN_PATIENCE = 2.0
FIRST_PATIENCE = 20.0
SETTLE_PATIENCE = 3.0
FARM_PATIENCE = 10.0
LOOK = 0.05
# How long a status report waits for farmers that it does not hear from. Connections are made when they are
# used, and one that is there may lead to somebody who does not answer any more: so all are asked.
GREET_PATIENCE = 3.0
UNPLACED = "SELECT COUNT(*) FROM segment WHERE state IN (0, 1)"


class FarmersUnreachable(StorjfsError):
    """None of the farmers of a new volume answers."""


def plaintext(sealed: int) -> int:
    """Bytes of files in so many bytes of sealed shards: each piece carries a frame's seal and its own."""
    return sealed * FULL_FRAME // SEALED_PIECE


class Drive:
    """A running drive. All methods belong to the loop's thread."""

    def __init__(
        self,
        paths: VolumePaths,
        settings: VolumeSettings,
        cache_size: int,
        keys: VolumeKeys,
        ledger: Settlement,
        options: MountOptions,
        full_disk: FullDisk,
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        """`note` gets lines for whoever waits for the mount."""
        self._note = note
        self.paths = paths
        self.settings = settings
        self.cache_size = cache_size
        self.keys = keys
        self._ledger = ledger
        self.store = MetaStore.open(paths.meta_db, keys.metadata_key)
        self.store.aside.distant = True  # until it is known better
        self._older = set_aside_newer(paths, self.store.read)
        Newest(paths.newest_file, self.store)
        self.renter = make_renter(
            paths, settings, keys, self.store, ledger, known_farmers(settings), sources_of(settings)
        )
        self.segments = Segments(
            self.store,
            keys,
            self.renter,
            journal_dir=paths.journal_dir,
            cache_dir=paths.cache_dir,
            limit=cache_size,
            outage=math.inf if options.offline_wait else options.offline_timeout,
            disk_reserve=settings.disk_reserve,
            older=bool(self._older),
            faulty=self._faulty,
        )
        self._full_disk = full_disk
        full_disk.attach(self.store, self.segments)
        self.renter.mark_lost = self.segments.mark_lost
        self.renter.held = self.segments.held
        self.renter.found = self.segments.amend.found
        self.renter.came = self.segments.farmers_changed
        self.renter.waits = lambda: self.segments.waits_for_farmers
        policy = Policy(read_only=options.read_only, atime=options.atime, sync_network=options.sync_network)
        self.filesystem = Filesystem(
            self.store, self.segments, self.capacity, policy, (os.getuid(), os.getgid())
        )
        self.scrubbing = trio.Lock()
        """Held while a scrub asked for runs."""
        self._started = False
        self._embedded: frozenset[bytes] = frozenset()
        self._wanted: frozenset[bytes] = frozenset()
        self.farm_folders: Mapping[bytes, Path] = {}
        """Where the embedded farmers that run keep what they hold, by node id."""

    # --- what the filesystem and the mount process ask ---

    def capacity(self) -> Capacity:
        """Contracted space, as far as the code leaves it for data, less what waits for its upload.

        Its room is what embedded farmers have disk for, where a disk that several share counts once. Before
        there is any contract, what is planned.
        """
        total, free = self.renter.space()
        kept = self.settings.disk_reserve - self._cached_beside_farmers()
        _, room = self.renter.space(rooms(self.farm_folders, kept))
        if not total:
            k, n = self.renter.code()
            planned, count = self.settings.farmers, self._named()
            total = free = room = k * stripes([self.settings.capacity] * count, n)
            if isinstance(planned, EmbeddedFarm):
                left = max(free_on(self.paths.data_dir)[1] - self.settings.disk_reserve, 0)
                room = min(room, k * stripes([left // count] * count, n))
        waiting = self.segments.waiting_bytes()
        return Capacity(
            total=plaintext(total),
            free=plaintext(max(free - waiting, 0)),
            room=plaintext(max(room - waiting, 0)),
        )

    def _cached_beside_farmers(self) -> int:
        """Bytes of cached copies on the disk of the embedded farmers: they make way for what is stored."""
        try:
            same = os.stat(self.paths.cache_dir).st_dev == os.stat(self.paths.data_dir).st_dev
        except OSError:
            return 0
        return self.segments.cached_bytes() if same else 0

    async def away(self) -> list[str]:
        """Node ids, in hex, of farmers with contracts that do not answer within GREET_PATIENCE."""
        serving = [entry.node_id for entry in self.renter.book if entry.serves]
        absent = await self.renter.farmers.silent(serving, GREET_PATIENCE)
        return sorted(node_id.hex() for node_id in absent)

    def without_room(self) -> list[str]:
        """Node ids, in hex, of farmers with contracts that had no room for the last shard they were sent."""
        full = self.renter.client.without_room
        return sorted(
            {entry.node_id.hex() for entry in self.renter.book if entry.serves and entry.node_id in full}
        )

    async def warning(self) -> str:
        """Lines for who mounts: where too few farmers answer to store anything, or the settings leave too
        little redundancy; else empty.

        Takes some seconds only where farmers do not answer.
        """
        code = of_code(self.renter.code(), self._usable())
        said = (code or await self._silence(), await self._what_stays())
        return "\n".join(f"But {one[0].lower()}{one[1:]}" for one in said if one)

    def _named(self) -> int:
        """Farmers that the settings name."""
        planned = self.settings.farmers
        return planned.count if isinstance(planned, EmbeddedFarm) else len(known_farmers(self.settings))

    def _usable(self) -> int:
        """Farmers for new segments: those with contracts, or, where more are named, as many as are named."""
        taking = {entry.node_id for entry in self.renter.book if self.renter.book.takes(entry)}
        return max(len(taking), self._named())

    async def _what_stays(self) -> str:
        """A sentence where farmers that were taken off the settings hold what cannot move to others."""
        leaving = [e for e in self.renter.book if e.serves and e.node_id in self.renter.book.leaving]
        if not leaving:
            return ""
        rows = await self.store.scan(widest_with(len(leaving)), tuple(one.number for one in leaving))
        return of_leaving(len(leaving), rows[0], self._usable()) if rows else ""

    async def _silence(self) -> str:
        serving = [entry.node_id for entry in self.renter.book if entry.serves]
        k, n = self.renter.code()
        if sum(map(self.renter.farmers.connected, serving)) >= stored_with(k, n):
            return ""
        answering = len(serving) - len(await self.away())
        if answering >= stored_with(k, n):
            return ""
        who = f"only {answering} of {len(serving)} farmers answer" if answering else "no farmer answers"
        read = "not all that is not cached here can be read, and " if answering < k else ""
        return f"{who}: {read}new data stays on this machine until more do."

    def waiting(self) -> int:
        """Bytes that are not with enough farmers yet."""
        return self.segments.waiting_bytes()

    @property
    def failure(self) -> StoreError | None:
        """Why what was written last cannot be made durable; None while it can."""
        return self.store.failure

    async def flush(self) -> None:
        """Return when all data is with enough farmers; waits for them as long as they are away."""
        await self.segments.flush()

    async def audit_now(self) -> dict[str, int]:
        """Audit every shard now."""
        summary = await self.renter.audit_now()
        return {"passed": summary.passed, "failed": summary.failed, "offline": len(summary.silent)}

    async def repair_now(self, tell: Callable[[Mapping[str, Any]], Awaitable[None]]) -> dict[str, int]:
        """Bring every segment back to all its shards, as far as farmers take them."""
        self.segments.farmers_changed()
        await self.store.sync()
        unwell = await trio.to_thread.run_sync(facts.unwell_segments, self.paths.meta_db, self.keys)
        repaired = 0
        for done, seg in enumerate(unwell):
            await tell({"repaired": done, "of": len(unwell)})
            try:
                repaired += await self.segments.rebuild(seg) > 0
            except StorjfsError as error:
                log.warning("%s", error)
        await self.store.sync()
        left = await trio.to_thread.run_sync(facts.unwell_segments, self.paths.meta_db, self.keys)
        return {"repaired": repaired, "left": len(left)}

    async def facts(self) -> Facts:
        """For the status report."""
        serving = [entry.node_id for entry in self.renter.book if entry.serves]
        silent = await self.renter.farmers.silent(serving, GREET_PATIENCE)
        unpaid = ""
        try:
            balance: int | None = await self.renter.cashier.balance()
        except StorjfsError as error:
            balance, unpaid = None, facts.of_silent_ledger(error)
        report = self.segments.report()
        trouble = facts.NO_TROUBLE
        capacity = self.capacity()
        if report.degraded or report.at_risk or report.lost or report.damaged:
            hurt = report.lost > 0 or len(report.damaged) > 0
            look = partial(facts.look_at_trouble, self.paths.meta_db, self.keys, hurt, report.damaged)
            trouble = await trio.to_thread.run_sync(look)
        known = facts.without(silent, self.renter.report(balance))
        if stays := await self._what_stays():
            known.problems.insert(0, stays)
        if unpaid:
            known.problems.append(unpaid)
        absent = facts.away(known) if self._started else []
        unreadable = 0
        if absent:
            count = partial(facts.unreadable_segments, self.paths.meta_db, self.keys, absent)
            unreadable = await trio.to_thread.run_sync(count)
        return facts.gather(
            self.paths.name,
            self.settings,
            self.cache_size,
            self.renter.code(),
            report,
            known,
            trouble,
            addresses={
                entry.node_id.hex(): [str(address) for address in entry.addresses]
                for entry in self.renter.book
            },
            waiting_segments=int(self.store.read(UNPLACED)[0][0]),
            running=self._started,
            disk_problems=[*([self._older] if self._older else ()), *self._full_disk.problems()],
            unwritten=self._full_disk.at_risk,
            free=capacity.available_blocks * capacity.block_size,
            unreadable=unreadable,
            usable=self._usable(),
            waiting_code=next(iter(self.store.read(WAITING)), None),
            bare=(await self.store.scan(BARE))[0][0],
        )

    # --- running ---

    @contextlib.asynccontextmanager
    async def running(self, farm: FarmChild | None) -> AsyncIterator[None]:
        """Everything runs inside; at the end it stops in the order in which it depends on each other."""
        if farm is not None:
            farm.listen(lambda addresses: self._farmers_moved(addresses, farm.leaving, farm.folders))
        async with trio.open_nursery() as below:
            await below.start(self.store.run)
            async with trio.open_nursery() as above:
                await above.start(self._full_disk.run)
                await above.start(self.segments.run)
                await above.start(self.filesystem.run)
                await self._start_renter(above, farm)
                yield
                above.cancel_scope.cancel()
            await self.store.sync()
            below.cancel_scope.cancel()

    async def _start_renter(self, nursery: trio.Nursery, farm: FarmChild | None) -> None:
        """Start it, and wait a little for the farmers, so that the mount is usable from the beginning."""
        if farm is not None:
            with trio.move_on_after(FARM_PATIENCE):
                await farm.ready.wait()
        known = has_contract(self.renter)
        started = trio.Event()

        async def start() -> None:
            await nursery.start(self.renter.run)
            started.set()
            self._started = True
            self.segments.farmers_changed()
            await self._give_up_missing()

        nursery.start_soon(start)
        if self.settings.find and not known:
            if not await first_contract(self.renter, self.settings.find, self._note):
                raise self._nobody_answers(f" and nobody new was found for {QUIET:g} s")
            return
        with trio.move_on_after(KNOWN_PATIENCE if known else FIRST_PATIENCE):
            await started.wait()
            with trio.move_on_after(SETTLE_PATIENCE):
                while not has_contract(self.renter):  # noqa: ASYNC110 - the book tells nobody
                    await trio.sleep(LOOK)
        if not has_contract(self.renter):
            if farm is None:
                raise self._nobody_answers()
            log.error("there is no contract with any embedded farmer yet; data waits here")

    def _nobody_answers(self, nor: str = "") -> FarmersUnreachable:
        problems = self.renter.report().problems
        where = self.paths.settings_file
        if poor := self.renter.cashier.problem:
            problems = [poor]
            hint = f"whoever runs the ledger can give it some: {issuing(self.keys)}"
        elif self.renter.negotiation.refusals:
            hint = f"start them with what this volume wants, or change it in {where}"
        else:
            hint = f"check under [farmers] in {where} whom it names and where it looks for others"
        return FarmersUnreachable(
            f"no farmer made a contract{nor}: " + ("; ".join(problems[:3]) or "nobody answers"), hint=hint
        )

    def _farmers_moved(
        self,
        addresses: Mapping[bytes, Sequence[Address]],
        leaving: frozenset[bytes],
        folders: Mapping[bytes, Path],
    ) -> None:
        """The embedded farm has (re)started."""
        self._embedded = frozenset(addresses)
        self._wanted = self._embedded - leaving
        self.farm_folders = folders
        noted = note_embedded(self.paths, self._embedded, self.renter.book)
        self.renter.do_without(noted - self._embedded)
        self.renter.leave(leaving)
        self.renter.update_addresses(addresses)
        self.segments.farmers_changed()

    async def _give_up_missing(self) -> None:
        """Do so where the embedded farm is complete."""
        planned = self.settings.farmers
        if isinstance(planned, EmbeddedFarm) and len(self._wanted) >= planned.count:
            await give_up_missing(self.renter, self.store, self.paths.farm_dir, self._embedded)

    def _faulty(self, contract: int, shard_id: bytes, error: StorjfsError) -> None:
        log.warning("contract %d, shard %s: %s", contract, shard_id.hex()[:16], error)
        self.renter.fault(contract, shard_id, str(error), told=isinstance(error, ShardCorrupt))


@contextlib.asynccontextmanager
async def open_drive(
    paths: VolumePaths,
    request: MountRequest,
    options: MountOptions,
    note: Callable[[str], None] = lambda text: None,
) -> AsyncIterator[Drive]:
    """A running drive; the caller owns the volume's lock. Raises what keeps it from running. `note` gets
    lines for whoever waits for it.

    The farm child starts first: its start, unlocking and opening the ledger take place at the same time. But
    not before it is clear that no farmers are gone, in whose place it would make new ones.
    """
    settings = read_settings(paths)
    mounted_before = has_metadata(paths)
    full_disk = FullDisk(paths, settings.disk_reserve)
    await trio.to_thread.run_sync(full_disk.make_way)
    source = None if request.passphrase is None else Passphrase(request.passphrase)
    if mounted_before and not request.new_farmers and may_be_missing(paths):
        keys = await trio.to_thread.run_sync(unlock_volume, paths, source)
        await trio.to_thread.run_sync(require_farm, paths, keys)
    async with trio.open_nursery() as nursery:
        farm = embedded_farm(paths, settings)
        if farm is not None:
            nursery.start_soon(farm.run)
        keys = await trio.to_thread.run_sync(unlock_volume, paths, source)
        ledger = await trio.to_thread.run_sync(open_ledger, paths, settings, keys)
        cache_size = request.cache_size or settings.cache_size
        drive = Drive(paths, settings, cache_size, keys, ledger, options, full_disk, note)
        async with drive.running(farm):
            yield drive
        nursery.cancel_scope.cancel()
    ledger.close_file()
