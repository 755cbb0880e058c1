"""What is measured, as functions on a directory: each does its work and returns how long the timed part took.

The same code runs on the bare disk, on the passthrough and on a volume. Data is incompressible and the same
for all.
"""

import itertools
import os
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

MIB = 1 << 20
PAGE = 4096
PATIENCE = 20.0
"""Seconds after which a workload that counts operations stops early; the rate is over what was done."""

_random = random.Random(20)
_POOL = [_random.randbytes(MIB) for _ in range(16)]


@dataclass(frozen=True, slots=True)
class Done:
    """`amount` (bytes or operations) in `seconds`."""

    amount: float
    seconds: float

    @property
    def rate(self) -> float:
        return self.amount / self.seconds


_drop_caches = Path("/proc/sys/vm/drop_caches")


def keep_kernel_caches() -> None:
    """Make `drop_kernel_caches` write back only, for runs whose figures nobody reads."""
    global _drop_caches
    _drop_caches = Path(os.devnull)


def drop_kernel_caches() -> bool:
    """Write back and drop page cache, dentries and inodes; False where that takes root."""
    os.sync()
    try:
        _drop_caches.write_text("3", encoding="ascii")
    except OSError:
        return False
    return True


def sequential_write(
    path: Path, size: int, settle: Callable[[], None] | None = None
) -> tuple[Done, Done | None]:
    """Write `size` bytes in 1 MiB calls and fsync; then `settle`, timed from the start as well."""
    start = time.perf_counter()
    with path.open("wb", buffering=0) as file:
        for block in itertools.islice(itertools.cycle(_POOL), size // MIB):
            file.write(block)
        os.fsync(file.fileno())
    synced = Done(size, time.perf_counter() - start)
    if settle is None:
        return synced, None
    settle()
    return synced, Done(size, time.perf_counter() - start)


def sequential_read(path: Path) -> Done:
    """Read all of it in 1 MiB calls; raises AssertionError where it is not what was written."""
    done, wrong = 0, 0
    buffer = bytearray(MIB)
    start = time.perf_counter()
    with path.open("rb", buffering=0) as file:
        for block in itertools.cycle(_POOL):
            count = file.readinto(buffer)
            if not count:
                break
            # A glance costs nothing measurable; the tests of the project compare every byte.
            wrong += buffer[:64] != block[:64] or buffer[count - 64 : count] != block[count - 64 : count]
            done += count
    elapsed = time.perf_counter() - start
    if wrong or not done:
        raise AssertionError(f"{path}: {wrong} blocks of {done // MIB} are not what was written")
    return Done(done, elapsed)


def random_read(path: Path, count: int) -> Done:
    """Read pages at random positions, one after the other."""
    pages = path.stat().st_size // PAGE
    positions = [page * PAGE for page in random.Random(21).choices(range(pages), k=count)]
    fd = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        return _timed(os.pread(fd, PAGE, position) for position in positions)
    finally:
        os.close(fd)


def random_write(path: Path, count: int) -> Done:
    """Overwrite pages at random positions of an existing file, with an fsync after each 64."""
    pages = path.stat().st_size // PAGE
    positions = [page * PAGE for page in random.Random(22).choices(range(pages), k=count)]
    block = _POOL[0]
    fd = os.open(path, os.O_RDWR)

    def write() -> Iterator[int]:
        for number, position in enumerate(positions, 1):
            start = number * 61 % (MIB - PAGE)
            yield os.pwrite(fd, block[start : start + PAGE], position)
            if number % 64 == 0:
                os.fsync(fd)

    try:
        done = _timed(write())
        os.fsync(fd)
        return done
    finally:
        os.close(fd)


def create_files(root: Path, count: int) -> Done:
    """Make `count` files of 4 KiB, 500 to a folder (the folders are part of the time)."""
    root.mkdir()

    def create() -> Iterator[int]:
        for number in range(count):
            folder = root / f"d{number // 500:04}"
            if number % 500 == 0:
                folder.mkdir()
            fd = os.open(f"{folder}/file-{number:06}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            start = number * 64 % (MIB - PAGE)
            yield os.write(fd, _POOL[1][start : start + PAGE])
            os.close(fd)

    return _timed(create())


def walk(root: Path) -> Done:
    """List the tree and stat every file."""

    def stats(folder: str) -> Iterator[int]:
        with os.scandir(folder) as entries:
            for found in entries:
                if found.is_dir(follow_symlinks=False):
                    yield from stats(found.path)
                else:
                    yield os.lstat(found.path).st_size

    return _timed(stats(str(root)))


def unlink_files(root: Path) -> Done:
    """Remove the files of the tree; its folders go too, untimed."""
    folders = sorted(root.iterdir())
    names = [os.fspath(file) for folder in folders for file in sorted(folder.iterdir())]

    def unlink() -> Iterator[int]:
        for name in names:
            os.unlink(name)
            yield 1

    done = _timed(unlink())
    for left in names[int(done.amount) :]:
        os.unlink(left)
    for folder in folders:
        folder.rmdir()
    root.rmdir()
    return done


def _timed(operations: Iterator[object]) -> Done:
    """Run them one by one until they or the patience end."""
    clock = time.perf_counter
    start = now = clock()
    end = start + PATIENCE
    count = 0
    for _ in operations:
        count += 1
        now = clock()
        if now > end:
            break
    return Done(count, clock() - start if now <= end else now - start)
