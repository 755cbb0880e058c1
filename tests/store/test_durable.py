"""What is said to be on disk has been told to the disk, its name too."""

import os
from pathlib import Path

import pytest

from storjfs.store.durable import copy_atomically, write_atomically

Said = list[tuple[str, str]]


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> Said:
    """What the disk was told, in order: fsync with what it was of, and rename with the new name."""
    told: Said = []
    fsync, rename = os.fsync, os.rename

    def note_fsync(fd: int) -> None:
        told.append(("fsync", os.readlink(f"/proc/self/fd/{fd}")))
        fsync(fd)

    def note_rename(source: Path, target: Path) -> None:
        told.append(("rename", str(target)))
        rename(source, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "rename", note_rename)
    return told


def test_content_comes_before_its_name_and_the_name_is_on_disk_too(tmp_path: Path, said: Said) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert [what for what, _ in said] == ["fsync", "rename", "fsync"]
    assert said[1:] == [("rename", str(path)), ("fsync", str(tmp_path))]
    assert os.listdir(tmp_path) == ["file"]


def test_a_write_that_fails_leaves_the_old_content_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(fd: int) -> None:
        raise OSError("the disk fails")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="the disk fails"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_copy_is_there_whole_or_not_at_all(
    tmp_path: Path, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"content")
    copy_atomically(source, target)
    assert target.read_bytes() == b"content"
    part = str(tmp_path / "target.part")
    assert said == [("fsync", part), ("rename", str(target)), ("fsync", str(tmp_path))]

    def fail(fd: int) -> None:
        raise OSError("the disk fails")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="the disk fails"):
        copy_atomically(source, tmp_path / "other")
    assert sorted(os.listdir(tmp_path)) == ["source", "target"]


@pytest.mark.parametrize("mode", [0o600, 0o640])
def test_the_file_has_the_mode_that_was_asked_for(tmp_path: Path, mode: int) -> None:
    write_atomically(tmp_path / "file", b"", mode)
    assert (tmp_path / "file").stat().st_mode & 0o777 == mode & ~_umask()


def _umask() -> int:
    found = os.umask(0o077)
    os.umask(found)
    return found
