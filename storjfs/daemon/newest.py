"""Whether meta.db is older than what was last written on this machine, and what is kept then.

After a copy of meta.db from a backup was put back, the journal may hold data that only the newer one knows.
Start-up removes what belongs to nothing and cuts what is longer than it should be, as after a crash; so that
is set aside first. The mark is the number of the next segment, written beside local.db after each commit that
raised it. It is not synced: a power cut may leave it behind, never ahead, so nothing is set aside in vain.
"""

import errno
import logging
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from storjfs.store import DiskFull, MetaStore, Statement, StoreError
from storjfs.store.durable import copy_atomically, sync_folder
from storjfs.volume import VolumePaths
from storjfs.volume.files import make_private

log = logging.getLogger(__name__)

Read = Callable[[str, tuple[Any, ...]], Sequence[Any]]

_NEXT = "SELECT value FROM counters WHERE key = 'next_seg'"
_WIDTH = 20


class Newest:
    """Keeps the mark. A participant of the group commit that changes nothing."""

    def __init__(self, path: Path, store: MetaStore) -> None:
        self._path = path
        self._store = store
        self._written = 0
        store.join(self)

    def freeze(self) -> Sequence[Statement]:
        """Nothing of its own."""
        return []

    def before_commit(self) -> None:
        """Nothing has to be on disk before."""
        return

    def committed(self, group: int) -> None:
        """Write the mark where the commit raised it. A disk that is full or fails leaves it as it was."""
        try:
            upcoming = _upcoming(self._store.read(_NEXT))
        except StoreError as error:
            log.info("how far meta.db has come cannot be read: %s", error)
            return
        if upcoming is None or upcoming == self._written:
            return
        try:
            fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.pwrite(fd, b"%0*d\n" % (_WIDTH, upcoming), 0)
            finally:
                os.close(fd)
        except OSError as error:
            log.info("how far meta.db has come is not noted: %s", error)
        else:
            self._written = upcoming


def is_older(paths: VolumePaths, read: Read) -> bool:
    """Whether the metadata that `read` reads lack segments that were committed here."""
    try:
        mark = int(paths.newest_file.read_text())
    except (OSError, ValueError):
        return False
    upcoming = _upcoming(read(_NEXT, ()))
    return upcoming is not None and upcoming < mark


def _upcoming(rows: Sequence[Any]) -> int | None:
    """The number of the next segment; None where damaged metadata do not tell."""
    return rows[0][0] if rows and isinstance(rows[0][0], int) else None


def set_aside_newer(paths: VolumePaths, read: Read) -> str:
    """Keep, where meta.db is older, what of the journal it does not know; a sentence about it, empty if it is
    not older. Raises DiskFull where there is no room for it: nothing was removed then."""
    if not is_older(paths, read):
        return ""
    try:
        return _set_aside(paths, read)
    except OSError as error:
        raise DiskFull(
            f"what is newer than meta.db in {paths.journal_dir} cannot be set aside: {error.strerror}",
            error.errno or errno.EIO,
            "Nothing was removed. Free space on that disk, and try again.",
        ) from error


def _set_aside(paths: VolumePaths, read: Read) -> str:
    kept = paths.journal_kept_dir
    make_private(kept)
    for file in sorted(paths.journal_dir.iterdir()):
        if not re.fullmatch("[0-9a-f]{32}", file.name):
            continue
        rows = read("SELECT state, size FROM segment WHERE segment_id = ?", (bytes.fromhex(file.name),))
        if not rows:
            file.rename(kept / file.name)
        elif rows[0][0] in (0, 1) and file.stat().st_size >= rows[0][1]:
            # Once it is sent from here it goes; a newer meta.db knows other shards of it, or none.
            copy_atomically(file, kept / file.name)
    # Before anything is cut or removed.
    sync_folder(kept)
    where = "What was sent of them is with the farmers."
    if any(kept.iterdir()):
        where = f"What was not sent of them is in {kept}, the rest with the farmers."
    said = (
        "The metadata are older than what was last written here: files that are newer are missing. "
        f"{where} Farmers may fail audits of shards that were deleted since, through no fault of theirs; "
        "see docs/how-to/back-up-metadata.md."
    )
    log.warning("%s", said)
    return said
