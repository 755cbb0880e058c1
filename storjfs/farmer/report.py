"""How a farmer is doing, from its records: what it shares, holds, and earned."""

import fcntl
import os
import time
from dataclasses import dataclass
from pathlib import Path

from storjfs.errors import StorjfsError
from storjfs.farmer.book import Book
from storjfs.farmer.identity import load_identity
from storjfs.farmer.records import Records
from storjfs.farmer.settings import FarmerSettings
from storjfs.protocol.contracts import SERVES_SHARDS


class NoFarmer(StorjfsError):
    """There is no farmer in this folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FarmerReport:
    """Sizes in bytes, money in nanocredits."""

    capacity: int
    reserved: int
    """Sold to contracts, whether filled or not."""
    stored: int
    """Bytes of shard files."""
    shards: int
    contracts: int
    """Contracts that are served."""
    unpaid: int
    """Of these, contracts whose renters must pay before they are served again."""
    promised: int
    """Vouchers in all, since the first day."""
    claimed: int
    """Of these, claimed at the settlement."""


def report_of(book: Book, capacity: int) -> FarmerReport:
    """The report of a farmer whose book this is."""
    entries = list(book.contracts.values())
    served = [entry for entry in entries if entry.state in SERVES_SHARDS]
    promised, claimed = book.totals()
    return FarmerReport(
        capacity=capacity,
        reserved=book.reserved,
        stored=book.stored,
        shards=sum(entry.shards for entry in entries),
        contracts=len(served),
        unpaid=sum(not entry.lane.account.serving for entry in served),
        promised=promised,
        claimed=claimed,
    )


def read_report(folder: Path) -> tuple[str, bool, FarmerReport]:
    """The node id (hex), whether a process runs the farmer, and its report. Raises NoFarmer, StoreError."""
    settings = FarmerSettings.read(folder)
    if settings is None or not (folder / "farmer.db").exists():
        raise NoFarmer(
            f"there is no farmer in {folder}", hint=f"Make one: storjfs farm --at {folder} --share 100GB"
        )
    records = Records(folder / "farmer.db")
    try:
        report = report_of(Book(records, time.time), settings.capacity)
    finally:
        records.close()
    return load_identity(folder).node_id.hex(), is_running(folder), report


def is_running(folder: Path) -> bool:
    """Whether a process has locked the farmer's folder."""
    file = os.open(folder / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False
