"""What the farmer shares, from its records and a look at its disks; whether it runs or not."""

import contextlib
import os
from pathlib import Path
from typing import Final

from storjfs.farmer.book import Book
from storjfs.farmer.disk import Disk
from storjfs.farmer.disks import OWN_BLOCKS, RECORDS_PART, DiskRow, disk_rows
from storjfs.farmer.figures import DiskFigures, Space
from storjfs.farmer.live import Selling
from storjfs.farmer.own import SHELF, OwnFiles
from storjfs.farmer.patience import PatientDisk, Silent
from storjfs.farmer.shelf import Shelf
from storjfs.farmer.shelves import FIRST

LOOK: Final = 3.0
"""Seconds that a look at a disk may take."""


def space_of_all(book: Book, selling: Selling, folder: Path) -> tuple[Space, tuple[DiskFigures, ...]]:
    """All disks together, and each. Blocking: asks for the sizes of folders and of the farmer's own files."""
    own = OwnFiles(folder, selling.share)
    shares = dict(selling.disks)
    shelves, disks = [], []
    for row in disk_rows(book.records):
        shelf = _shelf(row, folder, own, len(book.contracts))
        shelf.limit = shares.get(row.folder, 0) if row.number != FIRST else selling.share
        beside = shelf.folders + (own.now if row.number == FIRST else 0)
        shelves.append(shelf)
        silent = shelf.disk.given_up or row.number in selling.silent
        disks.append(_disk(row, shelf, folder, beside if shelf.present else 0, silent=silent))
    shelves[0].elsewhere = sum(shares.values()) // RECORDS_PART
    counted = [shelf for shelf in shelves if shelf.limit and shelf.present]
    most = sum(shelf.beside for shelf in counted)
    sold = book.reserved
    space = Space(
        share=selling.in_all,
        sold=sold,
        stored=sum(one.stored for one in disks),
        left=max(sum(shelf.limit for shelf in counted) - sold - most, 0),
        keep_free=selling.keep_free,
        disk_free=sum(one.free for one in disks),
        disk_size=sum(one.size for one in disks),
        own=sum(one.used - one.stored for one in disks),
        own_most=most,
    )
    return space, tuple(disks)


def _shelf(row: DiskRow, folder: Path, own: OwnFiles, contracts: int) -> Shelf:
    if row.number == FIRST:
        return Shelf(folder / SHELF, 0, row.stored, own=lambda: own.most(contracts))
    where = Path(row.folder) / SHELF
    size = OWN_BLOCKS * row.block
    return Shelf(
        where,
        0,
        row.stored,
        PatientDisk(Disk(), LOOK),
        own=lambda: size,
        number=row.number,
        token=row.token,
        block=row.block,
    )


def _disk(row: DiskRow, shelf: Shelf, folder: Path, beside: int, *, silent: bool) -> DiskFigures:
    first = row.number == FIRST
    free = size = 0
    with contextlib.suppress(Silent):
        if shelf.present:
            found = shelf.disk.ask(os.statvfs, shelf.folder)
            free, size = found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize
    state = "working" if first or shelf.limit else "leaving"
    if row.lost:
        state = "lost"
    elif silent or shelf.disk.given_up:
        state = "not answering"
    elif row.failing is not None or not shelf.present:
        state = "failing"
    return DiskFigures(
        number=row.number,
        folder=str(folder) if first else row.folder,
        share=shelf.limit,
        used=row.stored + beside,
        stored=row.stored,
        shards=row.shards,
        free=free,
        size=size,
        state=state,
        failing_since=row.failing,
    )
