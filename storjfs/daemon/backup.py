"""A copy of what a volume is on this machine, besides what farmers keep: docs/how-to/back-up-metadata.md."""

import contextlib
import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

from storjfs.errors import StorjfsError
from storjfs.store import StoreError, copy_database, open_meta
from storjfs.store.durable import sync_folder, write_atomically
from storjfs.volume import PassphraseSource, VolumePaths, has_metadata, unlock_volume
from storjfs.volume.files import make_private

from .client import kept_still
from .mountpoint import OUR_TYPE, canonical, mounts

_UNSENT: Final = "SELECT COALESCE(SUM(live), 0) FROM segment WHERE state IN (0, 1)"


class Backup(NamedTuple):
    """What was made: names of its files, and bytes of the volume's files that were not with the farmers."""

    names: list[str]
    unsent: int


class BackupExists(StorjfsError):
    """There is something at the place of the backup already; nothing is overwritten."""


class BackupFailed(StorjfsError):
    """The backup could not be written."""


def _refuse_useless(paths: VolumePaths, target: Path) -> None:
    """Raises BackupFailed for a place that is lost with the volume: in the drive, or beside its files."""
    place = canonical(target)
    drives = [one.target for one in mounts() if (one.kind, one.source) == (OUR_TYPE, f"storjfs:{paths.name}")]
    own = [Path(os.path.realpath(directory)) for directory in paths.directories]
    for where in (*drives, *own):
        if place.is_relative_to(where):
            raise BackupFailed(
                f"{target} lies in {where}, which is lost when the volume is; nothing was written",
                hint="give a folder on another disk",
            )


def back_up(
    paths: VolumePaths,
    passphrase: PassphraseSource | None,
    target: Path,
    progress: Callable[[dict[str, Any]], None] | None = None,
) -> Backup:
    """Write key, settings and databases of a volume into the new folder `target`.

    A mount may be running: it sends to the farmers what it can first, of which `progress` is told, and moves
    nothing meanwhile. Each database is copied as of one moment, meta.db first, so that the others know all
    that it refers to. The folder appears whole or not at all, and is on disk when this returns. Raises
    BackupExists, BackupFailed, StoreError, VolumeDamaged, ReportedError, and what unlocking raises.
    """
    keys = unlock_volume(paths, passphrase)
    has_metadata(paths)
    _refuse_useless(paths, target)
    if os.path.lexists(target):
        raise BackupExists(f"{target} exists already; it is not overwritten", hint="give another name")
    part = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    databases = ((paths.meta_db, keys.metadata_key), (paths.pay_db, keys.pay_key), (paths.ledger_db, None))
    try:
        make_private(part)
        with kept_still(paths.control_socket, progress):
            for source, key in databases:
                if source.exists():
                    copy_database(source, part / source.name, key)
        unsent = _unsent(part / paths.meta_db.name, keys.metadata_key)
        for file in (paths.operator_file, paths.embedded_file, paths.settings_file, paths.key_file):
            if file.exists():
                write_atomically(part / file.name, file.read_bytes())
        for file in part.iterdir():
            file.chmod(0o600)
        names = sorted(os.listdir(part))
        part.rename(target)
        sync_folder(target.parent)
    except OSError as error:
        raise BackupFailed(
            f"the backup {target} cannot be written: {error.strerror}", hint="give another folder"
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return Backup(names, unsent)


def _unsent(meta_db: Path, key: bytes) -> int:
    """Live bytes of segments that were not stored when this copy was made."""
    if not meta_db.exists():
        return 0
    try:
        with contextlib.closing(open_meta(meta_db, key, read_only=True)) as connection:
            ((found,),) = connection.execute(_UNSENT)
            return int(found)
    except StoreError:
        return 0  # one of an earlier version is copied as it is
    finally:
        # Whoever only reads leaves an empty log behind.
        for beside in ("-wal", "-shm"):
            meta_db.with_name(meta_db.name + beside).unlink(missing_ok=True)
