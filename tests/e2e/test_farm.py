"""The embedded farm: killed at any time, and holding no more than it should."""

import hashlib
import os
import random
import shutil
import signal
import threading
from pathlib import Path

from .drive import Drive, alive, await_that, shards_in

MIB = 1 << 20


def test_the_farm_is_killed_again_and_again_under_load(mounted: Drive) -> None:
    done = threading.Event()
    sums: dict[Path, str] = {}

    def write() -> None:
        for number in range(24):
            content = random.Random(number).randbytes(6 * MIB)
            path = mounted.at / f"file{number}"
            path.write_bytes(content)
            sums[path] = hashlib.sha256(content).hexdigest()
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    for _ in range(4):
        farm = mounted.farm_pid()
        os.kill(farm, signal.SIGKILL)
        await_that(lambda killed=farm: not alive(killed), "the farm is gone")
        await_that(lambda killed=farm: farm_runs(mounted, killed), "the farm is started again")
    writer.join(120)
    assert done.is_set()
    mounted.run("flush", timeout=300)
    mounted.umount()
    shutil.rmtree(mounted.paths().cache_dir)
    mounted.mount()
    for path, expected in sums.items():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == expected
    await_that(lambda: mounted.status()["health"] == "healthy", "no trace of it is left")


def test_a_read_outlasts_a_farm_that_starts_anew(mounted: Drive) -> None:
    content = os.urandom(20 * MIB)
    (mounted.at / "file").write_bytes(content)
    mounted.umount()
    shutil.rmtree(mounted.paths().cache_dir)
    mounted.mount()
    os.kill(mounted.farm_pid(), signal.SIGKILL)
    assert (mounted.at / "file").read_bytes() == content


def farm_runs(drive: Drive, other_than: int) -> bool:
    """Whether there is a farm process, and a new one."""
    try:
        return drive.farm_pid() != other_than
    except ValueError:
        return False


def test_a_file_overwritten_ten_times_leaves_little_garbage(mounted: Drive) -> None:
    size = 64 * MIB
    block = os.urandom(MIB)
    for round_ in range(10):
        with open(mounted.at / "file", "r+b" if round_ else "wb") as file:
            file.writelines(bytes([round_, number]) + block[2:] for number in range(size // MIB))
            os.fsync(file.fileno())
    mounted.run("flush", timeout=300)
    coded = size * 5 / 3

    def held() -> int:
        return sum(
            path.stat().st_size for folder in mounted.farmer_folders() for path in shards_in(folder).values()
        )

    await_that(lambda: held() <= 2.5 * coded, f"the farmers hold at most 2.5 times {coded:.0f} bytes")
    with open(mounted.at / "file", "rb") as file:
        for number in range(size // MIB):
            assert file.read(MIB) == bytes([9, number]) + block[2:]
