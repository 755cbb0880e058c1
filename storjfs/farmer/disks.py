"""The disks of a farmer: which there are, which come and go, which fail; as farmer.db knows them.

The first is that of the farmer's own folder. A disk that is new in the settings is taken in; one that is no
longer named is emptied (`moving`) and goes. Decision: docs/decisions/0016-the-farmers-limit.md.
"""

import contextlib
import logging
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import apsw
import trio

from storjfs.coding import merkle
from storjfs.errors import StorjfsError
from storjfs.farmer.damage import Damage
from storjfs.farmer.disk import Disk
from storjfs.farmer.identity import FILE as IDENTITY
from storjfs.farmer.keeping import Keeper
from storjfs.farmer.own import DATABASE, SHELF
from storjfs.farmer.patience import ON_THE_LOOP, PatientDisk
from storjfs.farmer.records import Records, Statement
from storjfs.farmer.settings import DiskShare, FarmerSettings
from storjfs.farmer.shelf import BATCH, FOOTER, Shelf, read_token, token_file
from storjfs.farmer.shelves import FIRST, Shelves
from storjfs.protocol.ids import NodeId
from storjfs.store.durable import sync_folder, write_atomically
from storjfs.volume.errors import SettingsError
from storjfs.volume.files import make_private

log = logging.getLogger(__name__)

TRY_EVERY: Final = 30.0
"""Seconds between two looks whether the other disks work."""
RECORDS_PART: Final = 1024
"""One part in so many of what is shared elsewhere is kept on the first disk, for the records of that."""
AT_ONCE: Final = 200
TOKEN: Final = b"storjfs farmer disk 1"
OF_A_FARMER: Final = (IDENTITY, DATABASE)
OWN_BLOCKS: Final = 4
"""What the farmer has on another disk beside its shelf: a folder, the file that says whose it is."""
_FILE = f"(length + (length + {merkle.LEAF - 1}) / {merkle.LEAF} * {merkle.HASH} + {FOOTER.size})"
_SPACE = f"(({_FILE} + :block - 1) / :block + (length > {BATCH})) * :block"  # storjfs.farmer.shelf.space_of


@dataclass(frozen=True, slots=True)
class DiskRow:
    """One disk in farmer.db."""

    number: int
    folder: str
    """Of the first: empty."""
    token: bytes
    block: int
    shards: int
    stored: int
    """Bytes of these."""
    failing: int | None
    """Since when, seconds since 1970."""
    lost: int
    """1: renters are told that its shards are gone."""


def disk_rows(records: Records) -> list[DiskRow]:
    """All disks, the first one first."""
    rows = records.read(
        "SELECT number, folder, token, block, shards, stored, failing, lost FROM disk ORDER BY number"
    )
    return [DiskRow(*row) for row in rows]


def stored(records: Records) -> int:
    """Bytes of the files of all shards."""
    return sum(row.stored for row in disk_rows(records))


def stored_on(records: Records, shelf: Shelf) -> int:
    """Bytes of the files of shards on a disk; added up anew where its blocks are others than they were.

    Blocking, and only before the records run.
    """
    ((block, found),) = records.read("SELECT block, stored FROM disk WHERE number = ?", shelf.number)
    if block == shelf.block:
        return int(found)
    sql = f"SELECT count(*), coalesce(sum({_SPACE.replace(':block', str(shelf.block))}), 0) FROM shard"
    ((shards, found),) = records.read(f"{sql} WHERE disk = ?", shelf.number)
    records.write_first(
        [
            (
                "UPDATE disk SET block = ?, shards = ?, stored = ? WHERE number = ?",
                (shelf.block, shards, found, shelf.number),
            )
        ]
    )
    return int(found)


def check_new(rows: Sequence[DiskRow], disks: Sequence[DiskShare], node_id: NodeId, own: Path) -> None:
    """Raise SettingsError where a disk that is named cannot be one of this farmer's. Changes nothing."""
    known = {row.folder for row in rows}
    _check_different([own, *(one.folder for one in disks)])
    for one in disks:
        folder = one.folder
        if folder == own or own in folder.parents or folder in own.parents:
            raise SettingsError(
                f"{folder} and the farmer's own folder lie in one another",
                hint="Name a folder on another disk.",
            )
        if str(folder) in known:
            continue
        if not folder.is_dir() and not folder.parent.is_dir():
            raise SettingsError(f"there is no folder {folder.parent}", hint="Is the disk mounted?")
        token = read_token(folder / SHELF)
        if (token and not _is_ours(token, node_id)) or any((folder / name).exists() for name in OF_A_FARMER):
            raise SettingsError(
                f"{folder} belongs to another farmer already", hint="Name a folder of this farmer's alone."
            )
        for row in rows:
            if token and row.token == token and read_token(Path(row.folder) / SHELF) == token:
                raise SettingsError(
                    f"{folder} and {row.folder} are the same disk",
                    hint=f"Name it {row.folder}, or unmount it there.",
                )


def _check_different(folders: Sequence[Path]) -> None:
    """Raise SettingsError where two names are those of one folder."""
    seen: dict[tuple[int, int], Path] = {}
    for folder in folders:
        with contextlib.suppress(OSError):
            found = os.stat(folder)
            other = seen.setdefault((found.st_dev, found.st_ino), folder)
            if other != folder:
                raise SettingsError(f"{folder} and {other} are the same disk", hint="Name each folder once.")


def check_own(folder: Path) -> None:
    """Raise SettingsError where a folder that is to be a farmer's own is a disk of another."""
    if read_token(folder / SHELF).startswith(TOKEN) and not (folder / IDENTITY).exists():
        raise SettingsError(
            f"{folder} is a disk of another farmer", hint="Name a folder of this farmer's alone: --at DIR"
        )


class Disks:
    """Those besides the first. `settings()` are those in force; what a crash interrupts is done again."""

    def __init__(
        self,
        records: Records,
        shelves: Shelves,
        keeper: Keeper,
        damage: Damage,
        node_id: NodeId,
        disk: Disk,
        settings: Callable[[], FarmerSettings],
        clock: Callable[[], float],
    ) -> None:
        self._records = records
        self._shelves = shelves
        self._keeper = keeper
        self._damage = damage
        self._node_id = node_id
        self._disk = disk
        self._newcomers = PatientDisk(disk)
        self._settings = settings
        self._clock = clock
        self._changed = trio.Event()
        # A disk that hangs keeps no other thread.
        self._thread = trio.CapacityLimiter(1)

    def open(self) -> None:
        """Use those that are known, and those that are new in the settings. Blocking, before the records run.

        Raises SettingsError, OSError.
        """
        for row in disk_rows(self._records):
            if row.number != FIRST:
                self._use(row)
        for one in self._new():
            self._records.write_first([self._row_soon(one, disk_rows(self._records))])
            self._use_new(one)
        for shelf in self._shelves.others:
            if shelf.present:
                shelf.stored = stored_on(self._records, shelf)
        self.apply()

    def check(self, settings: FarmerSettings) -> None:
        """Raise SettingsError where these name a disk that cannot be used, OSError where one does not answer.
        Changes nothing."""
        own = self._shelves.first.folder.parent
        rows = disk_rows(self._records)
        PatientDisk(self._disk, ON_THE_LOOP).ask(check_new, rows, settings.disks, self._node_id, own)

    def apply(self) -> None:
        """What the settings say of disks that are in use holds from now on; the rest is `run`'s."""
        settings = self._settings()
        shares = {one.folder: one.share for one in settings.disks}
        for shelf in self._shelves.others:
            share = shares.get(shelf.folder.parent)
            shelf.leaving = share is None
            shelf.limit = share or 0
        for shelf in self._shelves:
            shelf.keep_free = settings.keep_free
        self._shelves.first.elsewhere = sum(shares.values()) // RECORDS_PART
        self._changed.set()

    async def run(self) -> None:
        """Take in disks that are new, try those that fail, give up those that are empty, until cancelled."""
        while True:
            self._changed = trio.Event()
            try:
                await self._look()
            # Of these disks: none of it is a reason for the farmer to end, and all of it is tried again.
            except (StorjfsError, OSError, apsw.Error) as error:
                if isinstance(error, OSError) or not self._shelves.failed(error):
                    log.warning("a disk of the farmer: %s", error)
            with trio.move_on_after(TRY_EVERY if self._shelves.others or self._new() else math.inf):
                await self._changed.wait()

    async def _look(self) -> None:
        for shelf in self._shelves.others:
            await self.try_again(shelf)
            await self._note(shelf)
            if shelf.leaving:
                await self._clear(shelf)
                await self._give_up(shelf)
        for one in self._new():
            rows = disk_rows(self._records)  # which belong to this thread
            row = await trio.to_thread.run_sync(self._row_soon, one, rows, limiter=self._thread)
            await self._records.commit([row])
            self._use_new(one)
            self.apply()

    async def try_again(self, shelf: Shelf) -> None:
        """See whether its disk works; where it comes only now, first what a crash interrupted is finished."""
        if not await trio.to_thread.run_sync(shelf.try_again, limiter=self._thread):
            shelf.read_only = shelf.read_only or "the disk is not there"
        elif not shelf.recovered:
            self._recover(shelf)

    async def _note(self, shelf: Shelf) -> None:
        """Keep since when it fails, and whether it counts as lost."""
        (row,) = (one for one in disk_rows(self._records) if one.number == shelf.number)
        now = int(self._clock())
        since = (row.failing or now) if shelf.read_only else None
        lost = since is not None and now - since >= self._settings().disk_grace
        if (since, int(lost)) != (row.failing, row.lost):
            sql = "UPDATE disk SET failing = ?, lost = ? WHERE number = ?"
            await self._records.commit([(sql, (since, int(lost), shelf.number))])
        if lost and not shelf.lost:
            log.error("the disk of %s is lost: renters of %d shards are told", shelf.folder, row.shards)
        self._lost(shelf, lost)

    def _lost(self, shelf: Shelf, lost: bool) -> None:
        shelf.lost = lost
        (self._damage.lost.add if lost else self._damage.lost.discard)(shelf.number)

    # --- one that comes ---

    def _new(self) -> list[DiskShare]:
        known = {shelf.folder.parent for shelf in self._shelves.others}
        return [one for one in self._settings().disks if one.folder not in known]

    def _row_soon(self, one: DiskShare, rows: Sequence[DiskRow]) -> Statement:
        """As `_row`, unless the disk does not answer."""
        self._newcomers.answers_again()
        return self._newcomers.ask(self._row, one, rows)

    def _row(self, one: DiskShare, rows: Sequence[DiskRow]) -> Statement:
        """Make its folder this farmer's; the row for it. Blocking. Raises SettingsError, OSError."""
        folder = one.folder
        check_new(rows, self._settings().disks, self._node_id, self._shelves.first.folder.parent)
        make_private(folder)
        token = read_token(folder / SHELF)
        for row in rows:
            if token and row.token == token:
                if (shelf := self._shelves.get(row.number)) is not None and shelf.arrivals:
                    raise SettingsError(f"something is arriving at {row.folder}: {folder} is used after that")
                return "UPDATE disk SET folder = ? WHERE number = ?", (str(folder), row.number)
        if not token:
            # Made, and not in farmer.db yet: after a crash here it is found, and used.
            token = b"%s\n%s\n%s\n" % (TOKEN, self._node_id.hex().encode(), os.urandom(16).hex().encode())
            write_atomically(token_file(folder / SHELF), token)
        make_private(folder / SHELF / "arriving")
        sync_folder(folder)
        number = rows[-1].number + 1
        sql = "INSERT INTO disk(number, folder, token, block, shards, stored) VALUES (?, ?, ?, ?, 0, 0)"
        return sql, (number, str(folder), token, self._disk.block(folder))

    def _use_new(self, one: DiskShare) -> None:
        """The index knows of it now: a disk that is new, or one that was mounted elsewhere before."""
        (row,) = (row for row in disk_rows(self._records) if row.folder == str(one.folder))
        shelf = self._shelves.get(row.number)
        if shelf is None:
            self._use(row)
            return
        log.warning("the disk of %s is mounted at %s now", shelf.folder.parent, one.folder)
        shelf.remount(one.folder / SHELF)
        if shelf.try_again():
            self._recover(shelf)

    def _use(self, row: DiskRow) -> None:
        disk = PatientDisk(self._disk)
        shelf = Shelf(
            Path(row.folder) / SHELF,
            0,
            row.stored,
            disk,
            own=lambda: OWN_BLOCKS * shelf.block,
            number=row.number,
            token=row.token,
            block=row.block,
        )
        disk.gave_up = shelf.failed
        shelf.leaving = True  # until the settings say otherwise
        self._shelves.add(shelf)
        if not shelf.read_only:
            self._recover(shelf)
        else:
            log.error("the disk of %s is not used, the others are: %s", shelf.folder, shelf.read_only)
        self._lost(shelf, bool(row.lost))

    def _recover(self, shelf: Shelf) -> None:
        try:
            self._keeper.forget(self._keeper.recover(shelf), shelf.number)
        except OSError as error:
            shelf.stop(error)
            shelf.recovered = False
        else:
            shelf.read_only = ""

    # --- one that goes ---

    async def _clear(self, shelf: Shelf) -> None:
        """Remove what deletions left there that failed; nothing arrives meanwhile."""
        while shelf.recovered and not shelf.read_only and (ids := self._keeper.doomed(shelf, AT_ONCE)):
            shelf.recovered = False
            try:
                await trio.to_thread.run_sync(shelf.remove, ids, limiter=self._thread)
            finally:
                shelf.recovered = True
            self._keeper.forget(ids, shelf.number)
            await self._records.commit(self._keeper.cleared())

    async def _give_up(self, shelf: Shelf) -> None:
        """Forget a disk on which nothing is any more, and leave its folder empty."""
        if shelf.arrivals or shelf.read_only or not shelf.recovered:
            return
        shelf.recovered = False  # nothing arrives meanwhile, though it may be named again
        try:
            await self._records.commit(self._keeper.cleared())
            left = self._records.read(
                "SELECT 1 FROM shard WHERE disk = ? UNION ALL SELECT 1 FROM doomed WHERE disk = ? LIMIT 1",
                shelf.number,
                shelf.number,
            )
            if left:
                return
            await self._records.commit([("DELETE FROM disk WHERE number = ?", (shelf.number,))])
            self._shelves.drop(shelf)
        finally:
            shelf.recovered = True
        await trio.to_thread.run_sync(clear_away, shelf, limiter=self._thread)
        log.warning("the disk of %s is empty, and not used any more", shelf.folder)


def clear_away(shelf: Shelf) -> None:
    """Remove what the farmer made in a folder that holds no shard any more. Blocking; never a shard."""
    with contextlib.suppress(OSError):
        (shelf.folder / "pulse").unlink(missing_ok=True)
        token_file(shelf.folder).unlink(missing_ok=True)
        for name in sorted(os.listdir(shelf.folder)):
            (shelf.folder / name).rmdir()
        shelf.folder.rmdir()


def _is_ours(token: bytes, node_id: NodeId) -> bool:
    return node_id.hex().encode() in token.split(b"\n")
