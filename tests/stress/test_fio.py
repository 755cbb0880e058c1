"""fio finds each block as it wrote it, in every way there is: at once, after a remount, from farmers.

Each block carries its checksum, its place and the seed of its pass, so a lost, misplaced or older block is
noticed as well as a damaged one.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from tests.e2e.drive import Drive

from .conftest import Told
from .length import SECONDS, passes
from .programs import run

SIZE = 12 if SECONDS < 60 else 96  # MiB of each file

# One file per way to write, and one file that three ways share, each in a third of its own (the mapped one in
# the first: fio 3.33 with `offset` writes through a mapping to other places than it says).
WAYS = f"""
[global]
size={SIZE}m
verify=crc32c
verify_fatal=1
verify_state_save=0
thread

[sequential]
rw=write
bs=256k
fsync=16

[random]
rw=randwrite
bssplit=4k/50:12k/30:64k/20
fdatasync=64
numjobs=2

[direct]
rw=randwrite
bs=4k
direct=1
ioengine=libaio
iodepth=8

[direct-large]
rw=write
bs=1m
direct=1
end_fsync=1

[mapped]
rw=randwrite
bs=4k
ioengine=mmap
fsync=128

[shared-buffered]
filename=shared
offset={2 * SIZE}m
rw=randwrite
bs=8k
fsync=64

[shared-direct]
filename=shared
offset={SIZE}m
rw=randwrite
bs=8k
direct=1
ioengine=libaio
iodepth=4

[shared-mapped]
filename=shared
rw=randwrite
bs=4k
ioengine=mmap
"""

# Reads and writes mixed for as long as asked; blocks are read back a hundred writes later.
MIXED = f"""
[global]
size={SIZE}m
runtime={SECONDS}
time_based
rw=randrw
verify=crc32c
verify_backlog=128
verify_fatal=1
verify_state_save=0
thread

[buffered]
bssplit=4k/60:16k/20:128k/20
fsync=32
numjobs=2

[direct]
bs=4k
direct=1
ioengine=libaio
iodepth=8

[mapped]
bs=4k
ioengine=mmap
fsync=64
"""


def fio(jobs: str, at: Path, home: Path, *options: str) -> tuple[int, int]:
    """MiB that fio wrote and read; fails where fio found anything wrong."""
    file = home / "jobs.fio"
    file.write_text(jobs)
    result = home / "result.json"
    run(["fio", "--output-format=json", f"--output={result}", f"--directory={at}", *options, file], home)
    text = result.read_text()
    told: dict[str, Any] = json.loads(text[text.index("{") :])  # notes may stand before it
    assert told["jobs"]
    for job in told["jobs"]:
        assert job["error"] == 0, job["jobname"]
    written, read = (sum(job[way]["io_bytes"] for job in told["jobs"]) >> 20 for way in ("write", "read"))
    return written, read


def test_fio_finds_what_it_wrote_here_and_with_the_farmers(drive: Drive, tell: Told) -> None:
    drive.mount()
    written = 0
    for number in passes():
        at = drive.at / f"pass{number}"
        at.mkdir()
        seed = f"--randseed={number + 1}"
        more, _ = fio(WAYS, at, drive.home, seed, "--do_verify=0")
        written += more
        # Once each from the kernel's memory, the journal and the farmers.
        for forgotten in ("nothing", "kernel", "cache"):
            if forgotten != "nothing":
                remount(drive, without_cache=forgotten == "cache")
            _, read = fio(WAYS, at, drive.home, seed, "--verify_only")
            assert read == more
        shutil.rmtree(at)
    tell(f"{written} MiB in {number + 1} passes of 9 jobs, each verified 3 times")


def remount(drive: Drive, *, without_cache: bool = False) -> None:
    """Unmount and mount; `without_cache`: all data has to come from farmers."""
    drive.umount()
    if without_cache:
        shutil.rmtree(drive.paths().cache_dir)
    drive.mount()


def test_fio_reads_back_while_it_writes(mounted: Drive, tell: Told) -> None:
    at = mounted.at / "mixed"
    at.mkdir()
    written, read = fio(MIXED, at, mounted.home)
    assert read > 0
    tell(f"{written} MiB written, {read} MiB read and verified by 4 jobs")


def test_fio_would_notice_a_changed_byte(mounted: Drive) -> None:
    """The other tests' means of detection is sound."""
    at = mounted.at / "changed"
    at.mkdir()
    jobs = WAYS[: WAYS.index("[random]")]
    fio(jobs, at, mounted.home, "--do_verify=0")
    (file,) = at.iterdir()
    with open(file, "r+b") as changed:
        changed.seek(5_000_000)
        before = changed.read(1)
        changed.seek(5_000_000)
        changed.write(bytes([before[0] ^ 1]))
    command = ["fio", f"--directory={at}", "--verify_only", mounted.home / "jobs.fio"]
    assert "verify failed at file" in run(command, mounted.home, ends=[1])
