"""What runs under the recorder: a mount of a volume, with farmers in memory.

`python -m tests.faults.mounted MOUNTPOINT FOLDER RECORD`; writes a line when it is usable, and serves until
it is unmounted.
"""

import sys
from pathlib import Path

import trio

from storjfs.fuse import Adapter, parse_options, serve
from tests.faults.recording import Marks
from tests.faults.volume import TellingFarm, opened


async def run(at: Path, folder: Path, mark: Marks) -> None:
    async with opened(folder, TellingFarm(mark)) as volume:

        async def session(task_status: trio.TaskStatus[None]) -> None:
            await serve(Adapter(volume.fs), at, parse_options([]), "test", task_status=task_status)
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            await nursery.start(session)
            sys.stdout.write("ready\n")
            sys.stdout.flush()


if __name__ == "__main__":
    trio.run(run, Path(sys.argv[1]), Path(sys.argv[2]), Marks(Path(sys.argv[3])))
