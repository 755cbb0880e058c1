"""Space set aside: taken for real, given back for real, made whole after a crash."""

import errno
import os
from pathlib import Path

import pytest

from storjfs.store import Ballast, ballast

MIB = 1 << 20
SIZE = 8 * MIB


@pytest.fixture(params=["promised", "written"])
def path(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where one is made, with blocks that the filesystem promises or by writing them."""
    if request.param == "written":
        monkeypatch.setattr(ballast, "_PROMISES", frozenset())
    return tmp_path / "ballast"


def blocks(path: Path) -> int:
    return path.stat().st_blocks * 512


def test_it_takes_its_size_of_the_disk_until_it_is_given_up(path: Path) -> None:
    one = Ballast(path, SIZE)
    assert one.missing == SIZE
    assert one.make()
    assert one.missing == 0
    assert blocks(path) >= SIZE
    assert one.give_up() == SIZE
    assert one.missing == SIZE
    assert not path.exists()
    assert one.give_up() == 0


@pytest.mark.parametrize("left", [0, 3 * MIB])
def test_what_a_crash_left_of_it_is_made_whole(path: Path, left: int) -> None:
    path.write_bytes(os.urandom(left))
    one = Ballast(path, SIZE)
    assert one.missing == SIZE - left
    assert one.make()
    assert blocks(path) >= SIZE


def test_a_file_of_the_right_length_without_blocks_is_no_ballast(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(SIZE)
    one = Ballast(path, SIZE)
    assert one.missing == SIZE
    assert one.make()
    assert blocks(path) >= SIZE


def test_whoever_has_it_open_does_not_keep_its_blocks(path: Path) -> None:
    one = Ballast(path, SIZE)
    assert one.make()
    with path.open("rb") as reader:
        one.give_up()
        assert os.fstat(reader.fileno()).st_blocks == 0


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_without_room_nothing_is_left_of_it(path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def full(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "posix_fallocate", full)
    monkeypatch.setattr(os, "pwrite", full)
    one = Ballast(path, SIZE)
    assert not one.make()
    assert not path.exists()
    monkeypatch.undo()
    assert one.make()


def test_none_at_all_is_whole(tmp_path: Path) -> None:
    one = Ballast(tmp_path / "ballast", 0)
    assert one.missing == 0
    assert one.make()
    assert not one.path.exists()
