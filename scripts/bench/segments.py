"""Time the segments room alone, against real farmers in another process, without FUSE.

    python scripts/bench/segments.py [--mib N] [--profile FILE] [directory]

Appended plaintext per second to local durability and to network durability, 4 KiB runs with a commit per
64, then reading from farmers with an empty cache (sequentially with read-ahead, and 4 KiB at random), and
from the cache.
"""

import argparse
import contextlib
import cProfile
import os
import random
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import trio

MIB = 1 << 20


def use_directory(folder: Path) -> None:
    """Have everything of the volume lie below `folder`."""
    for name in ("CONFIG", "DATA", "CACHE", "STATE", "RUNTIME"):
        variable = f"XDG_{name}_DIR" if name == "RUNTIME" else f"XDG_{name}_HOME"
        path = folder / name.lower()
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.environ[variable] = str(path)


def farm_seconds() -> float:
    """Processor time of this process's children, the farmers, until now."""
    total = 0
    for task in Path("/proc/self/task").iterdir():
        for child in (task / "children").read_text().split():
            fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def timed(what: str, mib: float = 0.0, count: int = 0) -> Iterator[None]:
    """Say how long the body took, and what rate that is."""
    start, cpu, farm = time.perf_counter(), time.process_time(), farm_seconds()
    yield
    seconds, used = time.perf_counter() - start, time.process_time() - cpu
    rate = f"{mib / seconds:8.0f} MiB/s" if mib else f"{count / seconds:8.0f} /s"
    farm = farm_seconds() - farm
    sys.stdout.write(f"{what:44} {rate}   {seconds:7.2f} s, CPU: {used:6.2f} s here, {farm:6.2f} s farmers\n")


async def main(mib: int, profile: str | None) -> None:
    from storjfs.daemon.request import MountRequest
    from storjfs.daemon.wiring import open_drive
    from storjfs.fuse import MountOptions
    from storjfs.keys import VolumeKeys, new_entropy
    from storjfs.volume import VolumePaths, VolumeSettings, create_volume

    paths = VolumePaths("bench")
    entropy = new_entropy()
    create_volume(paths, entropy, VolumeSettings(volume_id=VolumeKeys(entropy).volume_id), None)
    request = MountRequest(volume="bench", mountpoint="/nowhere")
    written: list[tuple[int, int, int]] = []
    profiler = cProfile.Profile()
    async with open_drive(paths, request, MountOptions()) as drive:
        segments, store = drive.segments, drive.store
        block = random.Random(1).randbytes(MIB)

        async def write() -> None:
            for number in range(mib):
                await segments.room()
                for run in segments.append(1, number * MIB, block):
                    segments.live(run.seg, run.length)
                    written.append(run)
                await trio.lowlevel.checkpoint()

        if profile:
            profiler.enable()
        with timed("append and flush, in all", mib):
            with timed("append and commit", mib):
                await write()
                await store.sync()
            await segments.flush()
        profiler.disable()
        with timed("4 KiB runs, a commit per 64", count=64 * 200):
            for _ in range(200):
                await segments.room()
                for _ in range(64):
                    for run in segments.append(2, 0, block[:4096]):
                        segments.live(run.seg, run.length)
                await store.sync()
        await segments.flush()
        while segments.report().degraded or segments.report().at_risk or list(paths.journal_dir.iterdir()):
            await store.sync()
            await trio.sleep(0.1)
    shutil.rmtree(paths.cache_dir)
    await read(written, profiler, bool(profile))
    if profile:
        profiler.dump_stats(profile)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    sys.stdout.write(f"{'peak RSS':44} {peak:8.0f} MiB\n")


async def read(written: list[tuple[int, int, int]], profiler: cProfile.Profile, profiling: bool) -> None:
    """From farmers, then from the cache."""
    from storjfs.daemon.request import MountRequest
    from storjfs.daemon.wiring import open_drive
    from storjfs.fuse import MountOptions
    from storjfs.segments import Part
    from storjfs.volume import VolumePaths

    request = MountRequest(volume="bench", mountpoint="/nowhere")
    mib = sum(run[2] for run in written) / MIB
    async with open_drive(VolumePaths("bench"), request, MountOptions()) as drive:
        segments = drive.segments
        some = random.Random(2).sample(written, min(200, len(written)))
        with timed("4 KiB at random from farmers", count=len(some)):
            for seg, pos, length in some:
                await segments.read(seg, pos, length, length // 2, min(4096, length // 2))
        if profiling:
            profiler.enable()
        with timed("sequentially from farmers, read-ahead", mib):
            for number, (seg, pos, length) in enumerate(written):
                if number % 4 == 0:
                    ahead = written[number + 4 : number + 24]
                    segments.prefetch([Part(*run, 0, run[2]) for run in ahead])
                await segments.read(seg, pos, length, 0, length)
        profiler.disable()
        with timed("sequentially from the cache", mib):
            for seg, pos, length in written:
                if segments.read_now(seg, pos, length, 0, length) is None:
                    await segments.read(seg, pos, length, 0, length)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=512)
    parser.add_argument("--profile")
    parser.add_argument("directory", nargs="?")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.directory) as scratch:
        use_directory(Path(scratch))
        sys.setswitchinterval(0.0005)
        trio.run(main, arguments.mib, arguments.profile)
