"""Which directories can become a mount, and what is said of the others."""

import os
from pathlib import Path

import pytest

from storjfs.daemon import mountpoint
from storjfs.daemon.mountpoint import (
    MountEntry,
    MountpointBusy,
    MountpointError,
    NoFuse,
    canonical,
    dead_mount,
    detach,
    note_mount,
    parse_mountinfo,
    prepare,
    refuse_own,
    taken_back,
)

MOUNTINFO = """\
22 27 0:20 / /proc rw,relatime shared:5 - proc proc rw
90 27 0:51 / /home/ann/my\\040cloud rw,nosuid shared:300 - fuse.storjfs storjfs:default rw
91 90 0:52 / /home/ann/my\\040cloud rw - tmpfs none rw
92 27 0:53 / /mnt rw - ext4 /dev/sda\\0111 rw
"""


def test_mountinfo_names_target_type_and_source() -> None:
    entries = parse_mountinfo(MOUNTINFO)
    assert [(str(entry.target), entry.kind, entry.source) for entry in entries] == [
        ("/proc", "proc", "proc"),
        ("/home/ann/my cloud", "fuse.storjfs", "storjfs:default"),
        ("/home/ann/my cloud", "tmpfs", "none"),
        ("/mnt", "ext4", "/dev/sda\t1"),
    ]


def test_the_newest_mount_on_a_directory_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mountpoint, "mounts", lambda: parse_mountinfo(MOUNTINFO))
    found = mountpoint.mounted_at(Path("/home/ann/my cloud"))
    assert found is not None
    assert found.kind == "tmpfs"
    assert mountpoint.mounted_at(Path("/home/ann")) is None


def test_a_missing_directory_is_made(tmp_path: Path) -> None:
    assert prepare(tmp_path / "a" / "b").is_dir()


def test_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(MountpointError, match="not a directory"):
        prepare(tmp_path / "file")
    with pytest.raises(MountpointError, match="not a directory"):
        prepare(tmp_path / "file" / "below")


def test_a_directory_with_files_is_refused_unless_asked_for(tmp_path: Path) -> None:
    (tmp_path / "precious").touch()
    with pytest.raises(MountpointError, match="not empty"):
        prepare(tmp_path)
    assert prepare(tmp_path, nonempty=True) == tmp_path


def test_a_link_to_a_directory_stands_for_it(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "parent").symlink_to(tmp_path)
    assert canonical(tmp_path / "link") == tmp_path / "real"
    assert canonical(tmp_path / "parent" / "real") == tmp_path / "real"


def test_a_relative_path_and_a_trailing_slash_are_fine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert canonical("cloud/") == Path(os.path.realpath(tmp_path)) / "cloud"


def test_a_fuse_device_one_may_not_use_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mountpoint, "FUSE_DEVICE", tmp_path)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(NoFuse, match="may not use"):
        mountpoint.require_fuse()


def test_without_the_fuse_device_the_way_out_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mountpoint, "FUSE_DEVICE", tmp_path / "fuse")
    with pytest.raises(NoFuse) as caught:
        mountpoint.require_fuse()
    assert "modprobe" in caught.value.hint


def test_directories_made_for_a_mount_that_fails_go_again(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    target = tmp_path / "mine" / "a" / "b"
    with pytest.raises(ZeroDivisionError), taken_back(target):
        prepare(target)
        raise ZeroDivisionError
    assert list(tmp_path.rglob("*")) == [tmp_path / "mine"]
    with pytest.raises(ZeroDivisionError), taken_back(target):
        prepare(target)
        (target.parent / "file").touch()
        raise ZeroDivisionError
    assert (target.parent / "file").exists()
    with pytest.raises(ZeroDivisionError), taken_back(target.parent):
        raise ZeroDivisionError
    assert target.parent.exists()
    with taken_back(target):
        prepare(target)
    assert target.is_dir()


def test_what_would_hide_the_volume_itself_is_refused(tmp_path: Path) -> None:
    own = tmp_path / "home" / "data"
    own.mkdir(parents=True)
    (tmp_path / "link").symlink_to(own)
    for target in (own, own / "journal", own.parent, Path("/")):
        with pytest.raises(MountpointError, match="keeps its own files"):
            refuse_own(target, [tmp_path / "link"])
    refuse_own(tmp_path / "home" / "cloud", [own, tmp_path / "none"])


def test_a_dead_mount_is_that_of_the_volume_whose_process_left_its_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive = False
    monkeypatch.setattr(mountpoint, "mounts", lambda: parse_mountinfo(MOUNTINFO))
    monkeypatch.setattr(mountpoint, "answers", lambda target: alive)
    socket, note = tmp_path / "sock", tmp_path / "note"
    assert dead_mount("default", socket, note) is None
    socket.touch()
    assert dead_mount("default", socket, note) == Path("/home/ann/my cloud")
    assert dead_mount("other", socket, note) is None
    note_mount(note, Path("/home/bob/cloud"))
    assert dead_mount("default", socket, note) is None, "it is another home's"
    note_mount(note, Path("/home/ann/my cloud"))
    assert dead_mount("default", socket, note) == Path("/home/ann/my cloud")
    alive = True
    assert dead_mount("default", socket, note) is None


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The system's tool finds the mount in use as often as the returned file has lines."""
    tries = tmp_path / "tries"
    script = tmp_path / "fusermount3"
    script.write_text(
        "#!/bin/sh\n"
        f'test -s "{tries}" || exit 0\n'
        f'sed -i 1d "{tries}"\n'
        'echo "fusermount3: failed to unmount /x: Device or resource busy" >&2\n'
        "exit 1\n"
    )
    script.chmod(0o700)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(mountpoint, "mounted_at", lambda at: MountEntry(at, mountpoint.OUR_TYPE, "storjfs:x"))
    monkeypatch.setattr(mountpoint, "BETWEEN", 0.0)
    return tries


def test_who_only_looks_at_a_mount_does_not_keep_it_from_being_unmounted(tool: Path, tmp_path: Path) -> None:
    tool.write_text("once\n" * (mountpoint.TRIES - 1))
    detach(tmp_path, lazy=False)
    assert tool.read_text() == ""


def test_a_mount_that_stays_in_use_is_said_to_be(tool: Path, tmp_path: Path) -> None:
    tool.write_text("once\n" * mountpoint.TRIES)
    with pytest.raises(MountpointBusy, match="is in use"):
        detach(tmp_path, lazy=False)
