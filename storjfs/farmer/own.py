"""What the farmer itself takes of its share, beside shards: its records, its settings, space set aside.

All of it counts against the share, and so does the room in which it may grow before anybody looks again, so
that the folder never holds more than was allowed. Decision: docs/decisions/0016-the-farmers-limit.md.
"""

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from storjfs.settlement import Place

DATABASE: Final = "farmer.db"
LOG: Final = "farmer.db-wal"
INDEX: Final = "farmer.db-shm"
LEDGER: Final = "ledger.db"
BALLAST: Final = "ballast"
SHELF: Final = "shelf"

PAGE: Final = 4096
FRAME: Final = PAGE + 24
"""Bytes of a page in SQLite's log."""
MOST_STATEMENTS: Final = 1024
"""Statements of one transaction, unless a single job has more."""
TRANSACTION: Final = 4 << 20
"""Bytes that such a transaction adds to the log at most: none of them changes more than a page of its own."""
PER_CONTRACT: Final = 128 << 10
"""Bytes that the rows of one contract may come to take: 1024 audits, 62 days, its revisions."""
SMALL_FILES: Final = 64 << 10
"""Bytes by which the other files in the folder may grow between two looks."""
LEDGER_LOG: Final = (4 << 20) + (256 << 10)
"""Bytes of the log that a ledger in the farmer's folder has at most, as a rule."""
LEAST_INDEX: Final = 64 << 10
LEAST_DATABASE: Final = 320 << 10
"""Bytes of farmer.db with the first rows in all tables; they may be in the log still."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """How a share of some size is divided up. Bytes."""

    ballast: int
    """Set aside for a full disk, or a share that is used up."""
    log: int
    """The log of farmer.db is copied into it once it is so long."""

    @classmethod
    def of(cls, share: int) -> Self:
        """Less of a small share."""
        return cls(
            ballast=min(max(share // 256, 64 << 10), 4 << 20),
            log=min(max(share // 512, 128 << 10), 4 << 20),
        )

    @property
    def growth(self) -> int:
        """What copying the log may add to farmer.db, before anybody looks again."""
        return self.log + (128 << 10)


class OwnFiles:
    """The farmer's files in `folder`, but for shards. Sizes are those of the last look: `measure` or
    `measure_records`, which block and may be called in any thread."""

    def __init__(self, folder: Path, share: int, ledger: Place | None = None) -> None:
        self.folder = folder
        self.allowance = Allowance.of(share)
        self._with_ledger = isinstance(ledger, Path) and ledger.parent == folder
        self._database = self._log = self._index = 0
        self._ledger_log = self._others = self._largest = 0
        self.ballast = 0
        """Bytes of space set aside that are on the disk."""
        self.measure()

    def measure(self) -> None:
        """Look at all of them. Shelves are not looked into."""
        others = largest = ledger_log = 0
        for name in os.listdir(self.folder):
            if name in (SHELF, BALLAST, DATABASE, LOG, INDEX):
                continue
            size = on_disk(self.folder / name)
            if name == f"{LEDGER}-wal":
                ledger_log = size
            elif not name.startswith(LEDGER):
                largest = max(largest, size)
            others += size
        self._others, self._largest, self._ledger_log = others + on_disk(self.folder), largest, ledger_log
        self.ballast = on_disk(self.folder / BALLAST)
        self.measure_records()

    def measure_records(self) -> None:
        """Look at farmer.db and what belongs to it."""
        self._database = on_disk(self.folder / DATABASE)
        self._log = on_disk(self.folder / LOG)
        self._index = on_disk(self.folder / INDEX)

    @property
    def records(self) -> int:
        """Bytes of farmer.db, its log and its index."""
        return self._database + self._log + self._index

    @property
    def transaction(self) -> int:
        """What one transaction may add to the log: no page is in it twice."""
        return min(TRANSACTION, max(self._database, LEAST_DATABASE) + (64 << 10))

    @property
    def log_is_long(self) -> bool:
        """Whether the log has not been begun anew when it should have been."""
        return self._log > self.allowance.log + self.transaction

    def added_by(self, statements: int) -> int:
        """Bytes at most that a transaction of so many statements adds to the log."""
        return min(self.transaction, (3 * statements + 8) * FRAME)

    @property
    def records_most(self) -> int:
        """What the records take at most while all goes as it should."""
        log = max(self._log, self.allowance.log + self.transaction)
        database = max(self._database, LEAST_DATABASE)
        return database + log + max(self._index, LEAST_INDEX) + self.allowance.growth

    @property
    def besides_records(self) -> int:
        """Bytes of the other files as they are, and may grow."""
        room = SMALL_FILES + self._largest  # files are replaced: the new one is there beside the old
        if self._with_ledger:
            room += max(LEDGER_LOG - self._ledger_log, 0)
        return self._others + room

    @property
    def now(self) -> int:
        """Bytes of all that is there."""
        return self.records + self._others + self.ballast

    def most(self, contracts: int) -> int:
        """Bytes of all that may come to be there with so many contracts."""
        set_aside = max(self.allowance.ballast, self.ballast)
        return self.records_most + self.besides_records + set_aside + contracts * PER_CONTRACT


def on_disk(path: Path) -> int:
    """Bytes that the file or folder takes: those of its blocks, or its length if that is more; 0 for none."""
    with contextlib.suppress(FileNotFoundError):
        found = os.lstat(path)
        return max(found.st_size, found.st_blocks * 512)
    return 0
