"""What overwriting costs: bytes moved by compaction and defragmentation, and the garbage that farmers hold.

    python scripts/bench/overwrite.py [--mib N] [--times N] [directory]

A file of N MiB in a new volume with embedded farmers, no FUSE, overwritten so many times in each pattern,
with an fsync per 4 MiB and the background at work. `most held` by farmers is watched meanwhile, `held` is
what is left when all has come to rest, both per byte of the file and before the erasure code.
"""

import argparse
import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import trio
from rich.console import Console
from rich.table import Table
from segments import MIB, use_directory

Pattern = Callable[[random.Random, int], tuple[int, int]]
PAGE = 4096
COMMIT = 4 * MIB


def uniform(length: int) -> Pattern:
    return lambda source, size: (source.randrange(size // length) * length, length)


def hot(source: random.Random, size: int) -> tuple[int, int]:
    """Nine of ten writes go to a tenth of the pages."""
    pages = size // PAGE
    return source.randrange(pages // 10 if source.random() < 0.9 else pages) * PAGE, PAGE


PATTERNS = {
    "4 KiB anywhere": uniform(PAGE),
    "4 KiB, nine tenths to one tenth": hot,
    "64 KiB anywhere": uniform(16 * PAGE),
    "1 MiB anywhere": uniform(MIB),
}


async def main(name: str, mib: int, times: int) -> list[str]:
    """One row of the table."""
    from storjfs.daemon.request import MountRequest
    from storjfs.daemon.wiring import open_drive
    from storjfs.fuse import MountOptions
    from storjfs.keys import VolumeKeys, new_entropy
    from storjfs.store import ROOT_INODE
    from storjfs.volume import VolumePaths, VolumeSettings, create_volume

    paths = VolumePaths("bench")
    entropy = new_entropy()
    create_volume(paths, entropy, VolumeSettings(volume_id=VolumeKeys(entropy).volume_id), None)
    source, size = random.Random(1), mib * MIB
    pool = source.randbytes(4 * MIB)
    async with open_drive(
        paths, MountRequest(volume="bench", mountpoint="/nowhere"), MountOptions()
    ) as drive:
        fs, segments, store = drive.filesystem, drive.segments, drive.store

        def held() -> float:
            """With farmers, before the erasure code."""
            return segments.report().stored_bytes / size

        handle, _ = await fs.create(ROOT_INODE, b"large", 0o600, 0, 0)
        for at in range(0, size, MIB):
            await fs.write(handle, at, pool[:MIB])
        await drive.flush()
        sent_before = segments._uploader.sent_bytes
        done, most = 0, held()
        while done < times * size:
            at, length = PATTERNS[name](source, size)
            start = source.randrange(len(pool) - length + 1)
            await fs.write(handle, at, pool[start : start + length])
            done += length
            if done % COMMIT < length:
                await store.sync()
                most = max(most, held())
        extents = "SELECT COUNT(*) FROM extent"
        fragments = (await store.scan(extents))[0][0] / mib
        quiet = 0
        while quiet < 8:  # the background looks every 5 seconds and lets fragments rest for 30
            before = fs.compacted + fs.defragmented
            await drive.flush()
            await trio.sleep(6)
            quiet = quiet + 1 if fs.compacted + fs.defragmented == before else 0
        k, n = segments._placement.code()
        sent = (segments._uploader.sent_bytes - sent_before) * k / n
        rest = (await store.scan(extents))[0][0] / mib
        return [
            name,
            f"{fs.compacted / done:.2f}",
            f"{fs.defragmented / done:.2f}",
            f"{1 + (fs.compacted + fs.defragmented) / done:.2f}",
            f"{sent / done:.2f}",
            f"{most:.2f}",
            f"{held():.2f}",
            f"{fragments:.0f} / {rest:.0f}",
        ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=256)
    parser.add_argument("--times", type=int, default=4)
    parser.add_argument("directory", nargs="?")
    arguments = parser.parse_args()
    sys.setswitchinterval(0.0005)
    table = Table(title="per byte that programs write, and per byte of the file")
    for column in (
        "pattern", "compacted", "defragmented", "written here", "sent", "most held", "held", "extents per MiB"
    ):  # fmt: skip
        table.add_column(column, no_wrap=True, justify="left" if column == "pattern" else "right")
    for pattern in PATTERNS:
        with tempfile.TemporaryDirectory(dir=arguments.directory) as scratch:
            use_directory(Path(scratch))
            table.add_row(*trio.run(main, pattern, arguments.mib, arguments.times))
    Console(width=120).print(table)
