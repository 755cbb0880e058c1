"""One farmer: its folder, its parts, and its life."""

import errno
import fcntl
import logging
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Self

import trio

from storjfs.errors import StorjfsError
from storjfs.farmer.book import Book, Clock
from storjfs.farmer.contracting import Contracting
from storjfs.farmer.damage import Damage
from storjfs.farmer.disk import Disk
from storjfs.farmer.disks import Disks, check_own, stored_on
from storjfs.farmer.identity import load_identity
from storjfs.farmer.keeping import Keeper
from storjfs.farmer.listening import EVERYWHERE
from storjfs.farmer.moving import Mover
from storjfs.farmer.neighbours import Neighbours
from storjfs.farmer.own import BALLAST, DATABASE, SHELF, OwnFiles
from storjfs.farmer.payments import Payments
from storjfs.farmer.proving import Prover
from storjfs.farmer.reach import Reach
from storjfs.farmer.records import Records
from storjfs.farmer.relayed import RelayedLine
from storjfs.farmer.scrub import Scrub
from storjfs.farmer.service import FarmerService
from storjfs.farmer.settings import AT_START, FarmerSettings
from storjfs.farmer.shelf import Shelf
from storjfs.farmer.shelves import Shelves
from storjfs.farmer.targets import may_dial_back
from storjfs.farmer.traffic import Traffic
from storjfs.farmer.workers import Workers
from storjfs.ledger import open_settlement
from storjfs.network.dial_back import DialBacks
from storjfs.network.identity import Identity
from storjfs.network.lan import own_networks
from storjfs.network.natpmp import default_gateway
from storjfs.network.relay import RELAY_LIMITS, Relay, RelayLimits
from storjfs.network.streams import LIMITS, Gate, serve_through
from storjfs.protocol.ids import NodeId
from storjfs.protocol.terms import Address
from storjfs.settlement import Settlement
from storjfs.store import Ballast
from storjfs.volume.files import make_private

log = logging.getLogger(__name__)

REVIEW_EVERY = 5.0
RETRY_LEDGER_EVERY = 60
"""Seconds after which a ledger that failed is asked again."""
RETRY_EVERY = 30.0
"""Seconds after which a disk that failed is tried again."""
LINGER = 0.2
"""Seconds that the last answers have to go out in, once they are ready."""
FOLD_EVERY = 30.0
"""Seconds of byte counts that a crash makes history forget."""
LAST_WORDS = 10.0
"""Seconds at most for the last claims when a farmer stops."""
ROOM_TO_OPEN = 1 << 20
LOCAL = Address("127.0.0.1", 1)


class FarmerRunning(StorjfsError):
    """Another process runs the farmer of this folder."""


class Farmer:
    """A farmer. `serve` runs it; made by `open`.

    In its folder, which one process at a time may use: `identity`, `lock`, `farmer.db`, `ballast` (space set
    aside for a full disk) and `shelf/`.
    """

    def __init__(
        self,
        folder: Path,
        settings: FarmerSettings,
        identity: Identity,
        settlement: Settlement,
        lock: int,
        clock: Clock,
        disk: Disk | None,
    ) -> None:
        self.folder = folder
        self.settings = settings
        self.identity = identity
        self.settlement = settlement
        self.listening: tuple[Address, ...] = ()
        self._lock = lock
        self.own = OwnFiles(folder, settings.capacity, settings.ledger)
        self._ballast = Ballast(folder / BALLAST, self.own.allowance.ballast)
        disk = disk or Disk()
        if disk.free(folder) < ROOM_TO_OPEN:
            self._ballast.give_up()
        self._over = True  # until all of it is known
        self.records = Records(folder / DATABASE, self._relieve, self.own, self._for_records)
        self.book = Book(self.records, clock)
        self.shelf = Shelf(
            folder / SHELF,
            settings.capacity,
            disk=disk,
            keep_free=settings.keep_free,
            own=lambda: self.own.most(len(self.book.contracts)),
        )
        self.shelf.stored = stored_on(self.records, self.shelf)
        self.shelves = Shelves(self.shelf)
        self._look_at_limit()
        key = identity.signing
        self.payments = Payments(self.book, settlement, key.public)
        self.traffic = Traffic(clock)
        self.damage = Damage(self.records, clock)
        self.scrub = Scrub(
            self.records,
            self.shelves,
            self.damage,
            clock,
            lambda: self.settings.scrub_every,
            self.traffic.idle,
        )
        self.relayed = RelayedLine(self.traffic, self.records, clock)
        self.relay = Relay(self.relayed, self._relay_limits(), is_open=settings.relay)
        self.reach = Reach(
            identity,
            lambda: self.settings,
            lambda: self.listening,
            lambda: self.neighbours.directory,
            clock,
        )
        workers = Workers()
        self.prover = Prover(self.book, self.payments, self.shelves, self.damage, self.scrub, workers, key)
        self.keeper = Keeper(self.book, self.prover, self.shelves, self.damage, workers, key)
        self.keeper.forget(self.keeper.recover(self.shelf), self.shelf.number)
        self.disks = Disks(
            self.records,
            self.shelves,
            self.keeper,
            self.damage,
            self.node_id,
            disk,
            lambda: self.settings,
            clock,
        )
        self.disks.open()
        self.mover = Mover(self.book, self.shelves, self.keeper, self.damage, self.traffic.idle)
        self.contracting = Contracting(
            self.book,
            self.payments,
            self.keeper,
            self.shelves,
            key,
            settings,
            settlement.name,
            lambda: self.addresses,
        )
        self.neighbours = Neighbours(
            folder,
            identity,
            lambda: self.settings,
            self.contracting.signed_offer,
            clock,
            self.reach.met_somebody,
        )
        self.service = FarmerService(
            self.book,
            self.payments,
            self.keeper,
            self.prover,
            self.contracting,
            self.shelves,
            self.relay,
            self.neighbours,
            DialBacks(self._may_dial_back),
        )

    def _may_dial_back(self, host: str) -> bool:
        """Whether that address may be dialled for who asked from there."""
        return may_dial_back(host, own_networks(), default_gateway())

    def _relay_limits(self) -> RelayLimits:
        """A relayed connection is two of its own: half of these are for renters."""
        most = max(self.settings.connections // 4, 1)
        return replace(RELAY_LIMITS, streams=min(RELAY_LIMITS.streams, most))

    @classmethod
    def open(
        cls,
        folder: Path,
        settings: FarmerSettings,
        *,
        settlement: Settlement | None = None,
        wait: float = 0.0,
        clock: Clock = time.time,
        disk: Disk | None = None,
    ) -> Self:
        """The farmer in `folder`, made if there is none; finishes or undoes what a crash interrupted.

        `settlement`: None for the ledger named in the settings. `wait`: seconds to give a predecessor that is
        still stopping. Blocking. Raises FarmerRunning, IdentityUnusable, SettingsError, StoreError,
        SettlementError, OSError.
        """
        check_own(folder)
        make_private(folder)
        lock = _lock(folder / "lock", wait)
        try:
            identity = load_identity(folder)
            settlement = settlement or open_settlement(settings.ledger, identity.signing, folder)
            return cls(folder, settings, identity, settlement, lock, clock, disk)
        except BaseException:
            os.close(lock)
            raise

    @property
    def node_id(self) -> NodeId:
        return self.identity.node_id

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Where renters reach this farmer."""
        return self.reach.addresses

    async def serve(
        self, *, task_status: trio.TaskStatus[tuple[Address, ...]] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Serve renters until cancelled; `started` gets the addresses listened on.

        When cancelled it claims what it earned, which takes LAST_WORDS at most. The object is closed then.
        """
        where = self.settings.listen
        host: str | None = LOCAL.host
        port = 0
        if where is not None:
            # As usual on Linux, :: is all addresses of both kinds; trio would take those of IPv6 alone.
            host, port = (None if where.host == EVERYWHERE else where.host), where.port
        handler = partial(self.traffic.serve, service=self.service)
        limits = replace(
            LIMITS,
            connections=self.settings.connections,
            per_peer=self.settings.connections_per_renter,
        )
        async with self.running(), trio.open_nursery() as nursery:
            gate = Gate(self.identity, handler, limits)
            self.listening = await nursery.start(serve_through, gate, host, port)
            nursery.start_soon(self.reach.run, partial(gate.admit, relayed=True), gate.came)
            task_status.started(self.listening)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Self]:
        """The farmer at work without a listener, for those who bring connections themselves."""
        try:
            async with trio.open_nursery() as records:
                await records.start(self.records.run)
                try:
                    async with trio.open_nursery() as nursery:
                        self.traffic.configure(self.settings.limit, self.settings.schedule)
                        self.relayed.limit(self.settings.relay_limit)
                        nursery.start_soon(self.traffic.run)
                        nursery.start_soon(self.relayed.run)
                        nursery.start_soon(self.work)
                        nursery.start_soon(self.scrub.run)
                        nursery.start_soon(self.disks.run)
                        nursery.start_soon(self.mover.run)
                        yield self
                        nursery.cancel_scope.cancel()
                finally:
                    with trio.CancelScope(shield=True):
                        with trio.move_on_after(LAST_WORDS):
                            await self._last_words()
                        self.records.stop()
        finally:
            self.close()

    def check(self, settings: FarmerSettings) -> None:
        """Raise SettingsError or OSError where `apply` could not go on with these. Changes nothing."""
        self.disks.check(settings)

    def apply(self, settings: FarmerSettings) -> tuple[list[str], list[str]]:
        """Go on with `settings`; nothing that is connected notices.

        Returns the names of settings that hold from now on, and of those that wait for the next start.
        """
        names = [field.name for field in fields(settings)]
        changed = [name for name in names if getattr(settings, name) != getattr(self.settings, name)]
        waiting = [name for name in changed if name in AT_START]
        self.settings = replace(settings, **{name: getattr(self.settings, name) for name in AT_START})
        self.shelf.limit = self.settings.capacity
        self._look_at_limit()
        self.disks.apply()
        self.mover.again()
        self.contracting.settings = self.settings
        self.traffic.configure(self.settings.limit, self.settings.schedule)
        self.relay.is_open = self.settings.relay
        self.relayed.limit(self.settings.relay_limit)
        self.reach.look_again()
        return [name for name in changed if name not in waiting], waiting

    async def drain(self, seconds: float) -> None:
        """Begin nothing new, and return when what is under way has ended, or after so many seconds."""
        self.traffic.closing = True
        with trio.move_on_after(seconds):
            await self.traffic.idle()
            await trio.sleep(LINGER)

    def close(self) -> None:
        """Give up files and lock of a farmer that does not serve. Idempotent."""
        if self._lock >= 0:
            self.records.close()
            os.close(self._lock)
            self._lock = -1

    async def work(self) -> None:
        """Do what time makes due, until cancelled."""
        claimed = folded = tried = trio.current_time()
        begun = asked = False
        while True:
            try:
                if self.shelf.read_only and trio.current_time() - tried >= RETRY_EVERY:
                    tried = trio.current_time()
                    await self._try_again()
                await self._set_aside()
                if not begun:
                    await self.book.history.begin()
                    begun = True
                await self.contracting.review()
                await self.payments.fold_all()
                if trio.current_time() - folded >= FOLD_EVERY:
                    folded = trio.current_time()
                    await self.book.history.fold()
                    await self.relayed.fold()
                # One that could not be asked has made earnings wait.
                wait = self.settings.claim_every
                if self.payments.trouble:
                    wait = min(wait, RETRY_LEDGER_EVERY)
                if not asked:  # a ledger that was mistyped is told of now, not when a renter comes
                    asked = True
                    await self.payments.try_settlement()
                elif trio.current_time() - claimed >= wait:
                    claimed = trio.current_time()
                    await self.payments.claim_all()
            # A full disk or a locked ledger must not end the farmer; all of it is tried again.
            except Exception as error:
                if not self.shelf.failed(error):
                    log.exception("the farmer's upkeep failed")
            await trio.sleep(REVIEW_EVERY)

    async def _try_again(self) -> None:
        """See whether a disk that failed works again. Raises what farmer.db says where it does not."""
        await self.book.history.fold(force=True)
        await trio.to_thread.run_sync(self.shelf.try_again)

    async def _set_aside(self) -> None:
        """Make the ballast where it is missing and there is room; without it no shard is taken in."""
        if self.own.log_is_long:
            await self.records.commit([])  # which begins it anew
        await trio.to_thread.run_sync(self.own.measure)
        self._over = self._over and self.used > self.shelf.limit
        missing = self._ballast.missing
        room = self.shelf.limit - self.shelf.taken - self.shelf.folders - self.own.most(0)
        if missing and room >= 0 and self.shelf.disk.free(self.folder) >= self.settings.keep_free + missing:
            await trio.to_thread.run_sync(self._ballast.make)
            await trio.to_thread.run_sync(self.own.measure)
        for shelf in self.shelves:
            shelf.full = self._ballast.missing > 0

    # --- its limit ---

    @property
    def used(self) -> int:
        """Bytes of all that is in the folder, and promised to shards that arrive."""
        return self.shelf.taken + self.shelf.folders + self.own.now

    def _look_at_limit(self) -> None:
        self.own.measure()
        self._over = self.used > self.shelf.limit

    def _for_records(self) -> int:
        """Bytes that farmer.db may have with its log.

        Under a limit that was lowered below what is there it is what they need as a rule: what was promised
        is kept. Runs in any thread.
        """
        others = self.shelf.taken + self.shelf.folders + self.own.besides_records + self.own.ballast
        left = self.shelf.limit - others
        return max(left, self.own.records_most) if self._over else left

    def _relieve(self) -> bool:
        """Give up the space set aside. Runs in any thread."""
        given = self._ballast.give_up()
        self.own.measure()
        return given > 0

    async def _last_words(self) -> None:
        try:
            await self.payments.fold_all()
            await self.payments.claim_all()
            await self.book.history.fold(stopping=True)
            await self.relayed.fold()
        except Exception as error:
            if self.shelf.failed(error):
                log.warning(
                    "what was earned last is claimed at the next start, for the disk fails: %s", error
                )
            else:
                log.exception("the last claims failed")


def _lock(path: Path, wait: float) -> int:
    """Lock the folder for this process; a file descriptor to close later. Raises FarmerRunning."""
    until = time.monotonic() + wait
    file = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EINTR) or time.monotonic() >= until:
                os.close(file)
                raise FarmerRunning(
                    f"a farmer is running in {path.parent} already",
                    hint="To change its settings: farmer.toml there, then storjfs farm reload. "
                    "Else stop it, or choose another folder.",
                ) from error
        time.sleep(0.02)
