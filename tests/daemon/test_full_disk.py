"""A quota that is used up: it shows in no free space, so only what was set aside tells when there is room."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import trio

from storjfs.daemon import full_disk
from storjfs.daemon.full_disk import FullDisk
from storjfs.daemon.wiring import Drive
from storjfs.errors import FilesystemError
from storjfs.segments import files, sealer
from storjfs.store import ROOT_INODE, ballast
from tests.real_drives import make_volume, running

PATIENCE = 60.0


class Quota:
    """While `used_up`, nothing that takes space succeeds in the drive's own process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.used_up = False
        monkeypatch.setattr(sealer, "write_all", self._watched(files.write_all))
        monkeypatch.setattr(ballast.Ballast, "_fill", self._watched(ballast.Ballast._fill))

    def _watched(self, call: Any) -> Any:
        def watched(*arguments: Any) -> Any:
            if self.used_up:
                raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
            return call(*arguments)

        return watched


async def make(drive: Drive, name: bytes) -> int:
    """A new open file; its handle."""
    handle, _ = await drive.filesystem.create(ROOT_INODE, name, 0o600, 0, 0)
    return handle


async def until_it_is_made(drive: Drive, name: bytes) -> int:
    """The same, as soon as it is taken."""
    with trio.fail_after(PATIENCE):
        while True:
            try:
                return await make(drive, name)
            except FilesystemError as error:
                if error.errno != errno.EDQUOT:
                    raise
                await trio.sleep(0.05)  # what the kernel says of the disk tells nobody


async def test_a_quota_is_told_as_such_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = make_volume(tmp_path, monkeypatch)
    quota = Quota(monkeypatch)
    async with running(paths) as drive:
        assert paths.ballast.stat().st_blocks * 512 >= drive.settings.disk_reserve // 4
        first = await make(drive, b"first")
        await drive.filesystem.fsync(first)
        quota.used_up = True
        await drive.filesystem.write(first, 0, b"in memory only")
        with pytest.raises(FilesystemError, check=lambda error: error.errno == errno.EDQUOT):
            await drive.filesystem.fsync(first)
        assert not paths.ballast.exists()
        for attempt in (make(drive, b"second"), drive.filesystem.write(first, 0, b"more")):
            with pytest.raises(FilesystemError, check=lambda error: error.errno == errno.EDQUOT):
                await attempt
        facts = await drive.facts()
        assert facts.unwritten
        assert any("is in memory only" in one for one in facts.disk_problems)
        assert any("The quota for" in one for one in facts.disk_problems)
        assert await drive.filesystem.read(first, 0, 100) == b"in memory only"
        await drive.filesystem.unlink(ROOT_INODE, b"first")
        quota.used_up = False
        second = await until_it_is_made(drive, b"second")
        assert paths.ballast.exists()
        await drive.filesystem.write(second, 0, b"on disk")
        await drive.filesystem.fsync(second)
        assert not (await drive.facts()).disk_problems
        assert await drive.filesystem.read(first, 0, 100) == b"in memory only"
        for handle in (first, second):
            await drive.filesystem.release(handle)


def test_way_is_made_also_where_somebody_has_deleted_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = make_volume(tmp_path, monkeypatch)
    paths.cache_dir.rmdir()
    monkeypatch.setattr(full_disk, "_free", lambda folder: 0)
    FullDisk(paths, 256 << 20).make_way()
