"""Drives with farmers in a process of their own, in this process and without FUSE."""

import os
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from storjfs.daemon.request import MountRequest
from storjfs.daemon.wiring import Drive, open_drive
from storjfs.fuse import MountOptions
from storjfs.keys import VolumeKeys
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
