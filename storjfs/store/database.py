"""Opening a database: encryption, durability, schema version."""

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import apsw

from storjfs.errors import StorjfsError
from storjfs.store.ballast import FULL

# AEGIS-256 authenticates each page and costs least per commit of the ciphers of SQLite3 Multiple Ciphers
# (64 rows, synchronous=FULL: 1.7 ms; none 1.8, ChaCha20 2.2, AES-256-CBC 2.3, SQLCipher 3.2, Ascon 2.8).
CIPHER = "aegis"
PAGE_SIZE = 4096
BUSY_TIMEOUT_MS = 20_000
_NOT_WRITTEN: Final = frozenset(
    {
        apsw.SQLITE_IOERR_WRITE,
        apsw.SQLITE_IOERR_TRUNCATE,
        apsw.SQLITE_IOERR_SHMOPEN,
        apsw.SQLITE_IOERR_SHMSIZE,
        apsw.SQLITE_IOERR_SHMMAP,
    }
)
"""Errors after which the file is as it was, and the same may be tried again."""


_DAMAGED: Final = (
    "Nothing was changed, and what farmers hold is still there. storjfs fsck tells more, and mends what it "
    "can; else restore it as docs/how-to/back-up-metadata.md says."
)


class StoreError(StorjfsError):
    """A database cannot be opened, or a commit failed.

    `errno` is what a program should see; `permanent` tells that no later attempt can succeed, so that the
    volume must be mounted again.
    """

    def __init__(
        self, message: str, *, errno: int = errno.EIO, permanent: bool = True, hint: str = ""
    ) -> None:
        super().__init__(message, hint=hint)
        self.errno = errno
        self.permanent = permanent


class DiskFull(StoreError):
    """The disk, or what a quota leaves of it, has no room for what had to be written.

    Nothing was changed, and it may be tried again once there is room.
    """

    def __init__(self, message: str, number: int, hint: str) -> None:
        super().__init__(message, errno=number, permanent=False, hint=hint)


def damage_in(error: BaseException) -> StoreError | None:
    """What to tell a person of an error of SQLite's that means a damaged file; None for any other."""
    if not isinstance(error, apsw.CorruptError | apsw.NotADBError):
        return None
    told = StoreError(
        f"a local database of the volume is damaged ({error})",
        hint=_DAMAGED,
    )
    told.__cause__ = error
    return told


def copy_database(source: Path, target: Path, key: bytes | None) -> None:
    """Make `target` a copy of the database at `source` as of one moment, under the same key. Durable.

    Others may read and write the source meanwhile; its log grows until this ends. Raises StoreError; an
    unfinished target is the caller's to remove.
    """
    connections: list[apsw.Connection] = []
    try:
        for path in (source, target):
            connection = connect(path)
            connections.append(connection)
            connection.set_busy_timeout(BUSY_TIMEOUT_MS)
            _unlock(connection, key)
            run_script(connection, f"PRAGMA page_size={PAGE_SIZE}")
        reading, writing = connections
        with writing.backup("main", reading, "main") as work:
            while not work.done:
                work.step(-1)
    except apsw.Error as error:
        full = found_full(error, connections[-1]) if connections else 0
        if full:
            raise DiskFull(f"no space left for {target}", full, "Give a folder on another disk.") from error
        raise StoreError(f"{source} cannot be copied to {target}: {error}") from error
    finally:
        for connection in reversed(connections):
            connection.close()


def open_database(
    path: Path,
    key: bytes | None,
    schema: str,
    *,
    version: int = 1,
    migrations: Mapping[int, str] | None = None,
    autocheckpoint: int = 1000,
    cache_kib: int = 4096,
) -> apsw.Connection:
    """Open, and create with mode 0600 if missing, the database at `path`.

    `key`: 32 bytes, used as they are (no derivation, so opening costs under a millisecond), or None for a
    database that is not encrypted. `schema` is run once, in one transaction, in a new database;
    `migrations[v]` leads from version v to v + 1. WAL mode, `synchronous=FULL`; `autocheckpoint` in pages, 0
    for never.

    Raises StoreError for a wrong key, a damaged file, or a database made by a newer version; DiskFull where
    there is no room even to open it, for its log needs an index beside it. The connection may be handed to
    another thread but not used by two at a time.
    """
    connection = connect(path)
    try:
        configure(connection, key, autocheckpoint, cache_kib)
        _bring_up_to_date(connection, path, schema, version, migrations or {})
    except apsw.NotADBError as error:
        connection.close()
        raise _does_not_open(path) from error
    except apsw.Error as error:
        full = found_full(error, connection)
        connection.close()
        if full:
            raise _no_room_to_open(path, full) from error
        raise unusable(path, error) from error
    except BaseException:
        connection.close()
        raise
    return connection


def open_to_read(path: Path, key: bytes | None, *, version: int, cache_kib: int) -> apsw.Connection:
    """Open an existing database so that nothing of it is changed, not even its log copied.

    Where nobody has it open SQLite leaves a file of its own (-shm) beside it. Raises StoreError as
    `open_database` does, and for a missing one or one made by an older version.
    """
    try:
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    except apsw.Error as error:
        raise StoreError(f"cannot open the database {path}: {error}") from error
    try:
        connection.set_busy_timeout(BUSY_TIMEOUT_MS)
        _unlock(connection, key)
        run_script(connection, f"PRAGMA cache_size=-{cache_kib}")
        connection.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)
        found = _version_of(connection)
        _refuse_newer(path, found, version)
        if found < version:
            raise StoreError(
                f"the database {path} has format {found}; format {version} is needed",
                hint="Mount the volume once, or let storjfs fsck --repair do it.",
            )
    except apsw.NotADBError as error:
        connection.close()
        raise _does_not_open(path) from error
    except apsw.Error as error:
        connection.close()
        raise unusable(path, error) from error
    except BaseException:
        connection.close()
        raise
    return connection


def connect(path: Path) -> apsw.Connection:
    """A connection to the file at `path`, made with mode 0600 if missing, to be configured.

    Raises StoreError; DiskFull where there is no room to make it.
    """
    try:
        # Made without opening it: closing any descriptor of a file drops all locks that the process has on it
        # (fcntl_locking(2)), among them those of other connections.
        with contextlib.suppress(FileExistsError):
            os.mknod(path, stat.S_IFREG | 0o600)
        return apsw.Connection(str(path))
    except (OSError, apsw.Error) as error:
        if isinstance(error, OSError) and error.errno in FULL:
            raise _no_room_to_open(path, error.errno) from error
        raise StoreError(f"cannot open the database {path}: {error}") from error


def run_script(connection: apsw.Connection, script: str) -> None:
    """Run every statement of `script`: the later ones of one execute() run only as it is drained."""
    for _ in connection.execute(script):
        pass


def unusable(path: Path, error: apsw.Error) -> StoreError:
    """What a person is told where SQLite cannot work with a database."""
    hint = _DAMAGED if isinstance(error, apsw.CorruptError | apsw.NotADBError) else ""
    return StoreError(f"cannot use the database {path}: {error}", hint=hint)


def _does_not_open(path: Path) -> StoreError:
    return StoreError(
        f"the database {path} does not open with this key, or is damaged",
        hint="Check that the volume and its recovery phrase or passphrase belong together.",
    )


def _unlock(connection: apsw.Connection, key: bytes | None) -> None:
    if key is not None:
        if len(key) != 32:
            raise ValueError("a database key has 32 bytes")
        run_script(connection, f"PRAGMA cipher='{CIPHER}'")
        run_script(connection, f"PRAGMA key='raw:{key.hex()}'")


def configure(
    connection: apsw.Connection, key: bytes | None, autocheckpoint: int = 1000, cache_kib: int = 4096
) -> None:
    """How every database here is kept; the parameters are those of `open_database`. Raises apsw.Error."""
    connection.set_busy_timeout(BUSY_TIMEOUT_MS)
    _unlock(connection, key)
    run_script(connection, f"PRAGMA page_size={PAGE_SIZE}")
    run_script(connection, "PRAGMA journal_mode=WAL")
    run_script(connection, "PRAGMA synchronous=FULL")
    run_script(connection, "PRAGMA temp_store=MEMORY")
    run_script(connection, "PRAGMA foreign_keys=ON")
    run_script(connection, f"PRAGMA cache_size=-{cache_kib}")
    run_script(connection, f"PRAGMA journal_size_limit={64 << 20}")
    connection.wal_autocheckpoint(0)
    if autocheckpoint:
        connection.set_wal_hook(_checkpoints(autocheckpoint))
    # Else a join is planned anew at each execution, lest other parameters want another plan: 25 us each.
    connection.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)


def _checkpoints(limit: int) -> Callable[[apsw.Connection, str, int], int]:
    """Copies the log into the database after the commit with which it has `limit` pages, as SQLite would.

    But SQLite overlooks a failed sync of the database, after which the kernel may have dropped pages that an
    earlier pass copied and no later one would copy again. From then on every commit is refused, and closing
    leaves the log alone, so that the next opening copies all of it.
    """

    def committed(connection: apsw.Connection, name: str, pages: int) -> int:
        if pages >= limit:
            try:
                connection.wal_checkpoint(name, mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
            except apsw.Error as error:
                _give_up_if_unsynced(connection, error)
        return apsw.SQLITE_OK

    return committed


def _give_up_if_unsynced(connection: apsw.Connection, error: apsw.Error) -> None:
    """After a failed sync of the database nothing is committed any more (`_checkpoints`)."""

    def refuse() -> bool:
        raise StoreError(
            "a database did not reach the disk and is no longer written",
            hint="Check the disk, and start again; what was confirmed is safe.",
        )

    if sync_failed(error):
        connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        connection.set_commit_hook(refuse)


def cut_log(connection: apsw.Connection, patience_ms: int) -> bool:
    """Copy all of the log into the database and make the log's file empty.

    False, and it is done as far as it goes, where somebody reads or writes for longer than `patience_ms`.
    Raises apsw.Error; after a failed sync nothing is committed any more.
    """
    connection.set_busy_timeout(patience_ms)
    try:
        connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    except apsw.BusyError:
        return False
    except apsw.Error as error:
        _give_up_if_unsynced(connection, error)
        raise
    finally:
        connection.set_busy_timeout(BUSY_TIMEOUT_MS)
    return True


def sync_failed(error: apsw.Error) -> bool:
    """Whether an fsync failed: what it should have written may be lost, and the next one will not say so."""
    return bool(getattr(error, "extendedresult", 0) == apsw.SQLITE_IOERR_FSYNC)


def found_full(error: BaseException, connection: apsw.Connection) -> int:
    """ENOSPC or EDQUOT where that is why something was not written, with `connection` or without it; else 0.

    A failed sync is never meant: what it should have written may be lost (`sync_failed`).
    """
    if isinstance(error, OSError):
        return error.errno if error.errno in FULL else 0
    if isinstance(error, apsw.FullError):
        return errno.ENOSPC
    if isinstance(error, apsw.CantOpenError) or getattr(error, "extendedresult", 0) in _NOT_WRITTEN:
        # SQLite has a result of its own for ENOSPC on a file; EDQUOT, and its log's index, are I/O errors.
        number = connection.system_errno
        return number if number in FULL else 0
    return 0


def _no_room_to_open(path: Path, number: int) -> DiskFull:
    what = "the quota is used up" if number == errno.EDQUOT else "the disk is full"
    return DiskFull(
        f"{path.name} cannot be opened: {what}",
        number,
        f"Free 16 MiB on the disk that holds {path.parent}, and try again; nothing is lost.",
    )


def _version_of(connection: apsw.Connection) -> int:
    value = connection.pragma("user_version")
    assert isinstance(value, int)
    return value


def _refuse_newer(path: Path, found: int, version: int) -> None:
    if found > version:
        raise StoreError(
            f"the database {path} has format {found}; this program knows formats up to {version}",
            hint="Use the newer version of storjfs that wrote it.",
        )


def _bring_up_to_date(
    connection: apsw.Connection, path: Path, schema: str, version: int, migrations: Mapping[int, str]
) -> None:
    found = _version_of(connection)
    if found == version:
        return
    _refuse_newer(path, found, version)
    with connection:
        # Another process may have been quicker between the look above and this transaction.
        found = _version_of(connection)
        if found == 0:
            run_script(connection, schema)
        for step in range(found, version) if found else ():
            if step not in migrations:
                raise StoreError(f"the database {path} has format {found}, which can no longer be read")
            run_script(connection, migrations[step])
        run_script(connection, f"PRAGMA user_version={version}")
