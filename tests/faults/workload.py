"""What runs under the recorder: `python -m tests.faults.workload FOLDER RECORD SEED LENGTH OPENINGS`, or with
`recover` instead of the numbers only a start of what lies in FOLDER, with its first fsync.

Marks: `started <n>` before request n, `acknowledged <n>` after it, `durable <n>` when an fsync has returned
before which n requests were acknowledged; `compacted <bytes>`; `sealed <segment id> <nonce>`; and what the
farmers are told.
"""

import sys
from pathlib import Path

import trio

from tests.faults.history import Request, random_history
from tests.faults.recording import Marks
from tests.faults.volume import TellingFarm, Volume, opened, sealing


async def carry_out(volume: Volume, requests: list[Request], mark: Marks, first: int = 0) -> None:
    """The requests, numbered from `first`, with their marks."""
    for number, request in enumerate(requests, first):
        mark(f"started {number + 1}")
        if request.kind != "let go" or request.path in volume.held:  # else an earlier mount held it
            await volume.do(request)
        mark(f"acknowledged {number + 1}")
        if request.kind in ("fsync", "flush"):
            mark(f"durable {number + 1}")


async def run(folder: Path, mark: Marks, history: list[Request], openings: int) -> None:
    """The history in so many mounts: the volume is left without a last sync in between."""
    farm = TellingFarm(mark)
    share = -(-len(history) // openings)
    for number in range(openings):
        async with opened(folder, farm) as volume:
            part = history[number * share : (number + 1) * share]
            await carry_out(volume, part, mark, number * share)
            await volume.do(Request("fsync"))
            mark(f"durable {number * share + len(part)}")
            mark(f"compacted {volume.compacted}")
            for handle in volume.held.values():
                await volume.fs.release(handle)


async def recover(folder: Path, mark: Marks) -> None:
    """A start: what the last run left is sorted, orphans are reaped, segments found open are sent."""
    async with opened(folder, TellingFarm(mark)) as volume:
        await volume.settled()
        await volume.segments.flush()
        await volume.do(Request("fsync"))


def main() -> None:
    folder, record, *words = Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:]
    mark = Marks(record)
    with sealing(lambda segment_id, nonce: mark(f"sealed {segment_id.hex()} {nonce.hex()}")):
        if words == ["recover"]:
            trio.run(recover, folder, mark)
        else:
            seed, length, openings = map(int, words)
            trio.run(run, folder, mark, random_history(seed, length), openings)


if __name__ == "__main__":
    main()
