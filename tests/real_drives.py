"""Drives with farmers in a process of their own, in this process and without FUSE."""

import os
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from storjfs.daemon.request import MountRequest
from storjfs.daemon.wiring import Drive, open_drive
from storjfs.fuse import MountOptions
from storjfs.keys import VolumeKeys
from storjfs.store import ROOT_INODE
from storjfs.volume import VolumePaths, VolumeSettings, create_volume


def make_volume(folder: Path, monkeypatch: pytest.MonkeyPatch) -> VolumePaths:
    """A new volume without a passphrase, all of it below `folder`."""
    for name in ("CONFIG_HOME", "DATA_HOME", "CACHE_HOME", "STATE_HOME", "RUNTIME_DIR"):
        (folder / name).mkdir(mode=0o700)
        monkeypatch.setenv(f"XDG_{name}", str(folder / name))
    found = VolumePaths("real")
    entropy = os.urandom(32)
    create_volume(found, entropy, VolumeSettings(volume_id=VolumeKeys(entropy).volume_id), None)
    return found


def running(paths: VolumePaths, *, new_farmers: bool = False) -> AbstractAsyncContextManager[Drive]:
    """The volume's rooms and tasks, and its farm, as long as the context lasts."""
    request = MountRequest(volume="real", mountpoint="/nowhere", new_farmers=new_farmers)
    return open_drive(paths, request, MountOptions())


async def write(drive: Drive, name: bytes, content: bytes) -> int:
    """Make a file in the root folder; its inode."""
    handle, made = await drive.filesystem.create(ROOT_INODE, name, 0o644, 0, 0, 1)
    await drive.filesystem.write(handle, 0, content)
    await drive.filesystem.release(handle)
    return made.ino


async def read(drive: Drive, ino: int) -> bytes:
    """All that is in a file."""
    handle = await drive.filesystem.open(ino, 0)
    found = bytes(await drive.filesystem.read(handle, 0, 1 << 30))
    await drive.filesystem.release(handle)
    return found
