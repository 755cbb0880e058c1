"""What embedded farmers can take is what their disks can take."""

import os
from pathlib import Path

import pytest

from storjfs.daemon import wiring
from storjfs.daemon.rooms import rooms
from storjfs.daemon.status import report as status_of
from storjfs.daemon.wiring import Drive
from storjfs.volume import VolumePaths
from tests.real_drives import make_volume, running

GIB = 1 << 30


def test_farmers_of_one_disk_share_what_is_free_there() -> None:
    disks = {"a": (1, 13 * GIB), "b": (1, 13 * GIB), "c": (2, 5 * GIB)}

    def look(folder: Path) -> tuple[int, int]:
        if folder.name not in disks:
            raise FileNotFoundError
        return disks[folder.name]

    folders = {name.encode() * 32: Path(name) for name in (*disks, "away")}
    assert list(rooms(folders, GIB, look).values()) == [6 * GIB, 6 * GIB, 4 * GIB, 0]


def shown(drive: Drive) -> int:
    """Bytes that df calls available."""
    capacity = drive.capacity()
    return capacity.available_blocks * capacity.block_size


async def test_no_more_is_promised_than_the_disk_can_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All six farmers of a new volume lie on one disk, and three of five shards are data."""
    paths: VolumePaths = make_volume(tmp_path, monkeypatch)
    async with running(paths) as drive:
        status = os.statvfs(paths.farm_dir)
        free = status.f_bavail * status.f_frsize
        # Others write to this disk meanwhile.
        assert abs(status_of(await drive.facts(), None)["data"]["free"] - shown(drive)) < GIB
        assert 0 < shown(drive) <= free * 3 / 5 + GIB
        small = dict.fromkeys(drive.farm_folders.values(), (7, 6 * GIB))
        monkeypatch.setattr(wiring, "rooms", lambda folders, reserve: rooms(folders, 0, small.__getitem__))
        assert shown(drive) <= 6 * GIB * 3 / 5
