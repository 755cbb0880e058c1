"""What tests of fsck, scrub and gc do with a drive that has farmers in a process of their own."""

import os
from pathlib import Path
from typing import Any

import apsw
import trio
import trio.lowlevel

from storjfs.daemon import integrity
from storjfs.daemon.wiring import Drive
from storjfs.store import open_meta
from storjfs.volume import VolumePaths, unlock_volume
from tests.segments.conftest import until

MIB = 1 << 20


class Told:
    """Whoever watches; goes away after `patience` objects."""

    def __init__(self, patience: int = 1 << 30) -> None:
        self.progress: list[dict[str, Any]] = []
        self.patience = patience

    async def __call__(self, progress: Any) -> None:
        self.progress.append(dict(progress))
        if len(self.progress) > self.patience:
            raise trio.BrokenResourceError

    @property
    def parts(self) -> set[str]:
        return {one["part"] for one in self.progress}


async def stored(drive: Drive) -> None:
    """Everything is with all the farmers it should be with."""
    with trio.fail_after(60):
        await drive.segments.flush()
    await until(lambda: drive.segments.report().full > 0, drive.store)
    await until(lambda: not os.listdir(drive.paths.journal_dir), drive.store)


def shard_files(paths: VolumePaths) -> dict[str, Path]:
    return {path.name: path for path in paths.farm_dir.rglob("*") if len(path.name) == 64}


async def fsck(drive: Drive, *, repair: bool = False, delete_unknown: bool = False) -> dict[str, Any]:
    return await integrity.fsck_mounted(
        drive, Told(), repair=repair, farmers=True, delete_unknown=delete_unknown
    )


def damage(paths: VolumePaths, sql: str) -> None:
    connection: apsw.Connection = open_meta(paths.meta_db, unlock_volume(paths, None).metadata_key)
    connection.execute(sql).fetchall()
    connection.close()
