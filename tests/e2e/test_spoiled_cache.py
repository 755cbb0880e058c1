"""Whatever somebody does to the files of the cache: reads come back right, and nothing else is touched."""

import os
import re
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from storjfs.daemon.client import request

from .drive import Drive
from .silence import forget_pages, stopped

KIB = 1 << 10
FILES = 14


def entries(drive: Drive) -> list[Path]:
    """The cached segments."""
    found = drive.paths().cache_dir.iterdir()
    return sorted(path for path in found if re.fullmatch("[0-9a-f]{32}", path.name))


@pytest.fixture
def stored(drive: Drive) -> dict[Path, bytes]:
    """Files on a mounted drive, each in a segment of its own, of which the cache has a copy."""
    drive.mount()
    content = {}
    for number in range(FILES):
        path = drive.at / f"file{number}"
        content[path] = os.urandom(100 * KIB + 64 * KIB * number)
        path.write_bytes(content[path])
        request(drive.paths().control_socket, "flush")
    assert len(entries(drive)) >= FILES
    return content


def replaced(path: Path, put: Callable[[Path], object]) -> None:
    """Something else in the place of a file."""
    path.unlink()
    put(path)


def spoil(cache: Path, files: list[Path], elsewhere: Path) -> None:
    """To each of the files another harm. `elsewhere` has things that are none of the cache's business."""
    zeroed, short, long, empty, one, other, folder, full, link, hard, dangling, fifo, locked, flipped = files
    zeroed.write_bytes(bytes(zeroed.stat().st_size))
    os.truncate(short, short.stat().st_size // 2 + 1)
    with long.open("ab") as file:
        file.write(os.urandom(300 * KIB))
    os.truncate(empty, 0)
    one.rename(cache / "between")
    other.rename(one)
    (cache / "between").rename(other)
    replaced(folder, Path.mkdir)
    replaced(full, Path.mkdir)
    (full / "something").write_bytes(b"kept")
    replaced(link, lambda path: path.symlink_to(elsewhere / "linked"))
    replaced(hard, lambda path: path.hardlink_to(elsewhere / "hard"))
    replaced(dangling, lambda path: path.symlink_to(elsewhere / "made"))
    replaced(fifo, os.mkfifo)
    locked.chmod(0)
    with flipped.open("r+b") as file:
        file.seek(70 * KIB)
        file.write(b"\xff" * 3)


def spoil_order(cache: Path, how: str, elsewhere: Path) -> None:
    """The file with the order, and the one that it is written to first."""
    order, part = cache / "order", cache / "order.part"
    order.unlink(missing_ok=True)
    if how == "garbage":
        order.write_bytes(os.urandom(100_000))
    elif how == "fifo":
        os.mkfifo(order)
        os.mkfifo(part)
    elif how == "link":
        order.symlink_to(elsewhere / "linked")
        part.symlink_to(elsewhere / "made")
    else:
        order.mkdir()
        (order / "something").touch()
        part.mkdir()


@pytest.mark.parametrize(
    ("mounted_meanwhile", "order"),
    [(False, "garbage"), (False, "fifo"), (False, "link"), (False, "folder"), (True, "link")],
)
def test_reads_come_back_right_from_a_spoiled_cache(
    drive: Drive, stored: dict[Path, bytes], tmp_path: Path, mounted_meanwhile: bool, order: str
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    others = {elsewhere / name: os.urandom(500 * KIB) for name in ("linked", "hard")}
    for path, content in others.items():
        path.write_bytes(content)
    if not mounted_meanwhile:
        drive.umount()
    cache = drive.paths().cache_dir
    spoil(cache, entries(drive)[:FILES], elsewhere)
    spoil_order(cache, order, elsewhere)
    if not mounted_meanwhile:
        drive.mount()
    check(drive, stored)
    # What was spoiled was fetched again, and is cached again, but where a folder is in the way.
    drive.umount()
    drive.mount("-o", "offline_timeout=1")
    check(drive, stored)
    with stopped(drive.farm_pid()):
        missing = 0
        for path, content in stored.items():
            forget_pages(path)
            try:
                assert path.read_bytes() == content
            except OSError:
                missing += 1
        assert missing <= 1
    drive.umount()
    for path, content in others.items():
        assert path.read_bytes() == content
    assert set(elsewhere.iterdir()) == set(others)
    assert [path for path in cache.iterdir() if not stat.S_ISREG(path.lstat().st_mode)] == unremovable(cache)
    assert drive.examine() == {}


def unremovable(cache: Path) -> list[Path]:
    """Folders that are not empty: whoever put something there may want it."""
    return [path for path in cache.iterdir() if path.is_dir() and any(path.iterdir())]


def check(drive: Drive, stored: dict[Path, bytes]) -> None:
    """Everything is read, by us and not from the kernel's memory, and the log knows of no accident."""
    for path, content in stored.items():
        forget_pages(path)
        assert path.read_bytes() == content, path
    assert "Traceback" not in drive.log()
    assert " ERROR " not in drive.log()
