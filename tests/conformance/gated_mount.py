"""A mount that keeps requests waiting: as if no farmer answered.

Run as a program: `gated_mount.py DIRECTORY META_DB`. What waits is told on standard output, a line for each.
SIGUSR1 lets everything through that waits then and later, SIGUSR2 closes the gate.
"""

import signal
import sys
from pathlib import Path

import trio

from storjfs.filesystem import Capacity, Filesystem, Policy
from storjfs.fuse import Adapter, parse_options, serve
from storjfs.store import MetaStore
from tests.filesystem.memory_segments import MemorySegments


def say(word: str) -> None:
    sys.stdout.write(word + "\n")
    sys.stdout.flush()


class GatedSegments(MemorySegments):
    """Reads, room for new data and flushes to farmers wait for the gate."""

    def __init__(self, store: MetaStore) -> None:
        super().__init__(store, 1 << 24, slow=True)
        self.gate = trio.Event()
        self.gate.set()

    async def _through(self, word: str) -> None:
        if not self.gate.is_set():
            say(word)
            await self.gate.wait()

    async def read(self, seg: int, pos: int, run: int, skip: int, length: int) -> bytes:
        await self._through("read")
        return await super().read(seg, pos, run, skip, length)

    async def room(self, *, new: bool = False, moving: bool = False) -> None:
        await self._through("room")

    async def flush(self) -> None:
        await self._through("flush")


async def run(directory: Path, database: Path) -> None:
    """Serve until unmounted."""
    store = MetaStore.open(database, None)
    segments = GatedSegments(store)
    space = Capacity(total=1 << 40, free=1 << 39)
    filesystem = Filesystem(store, segments, lambda: space, Policy(sync_network=True))
    async with trio.open_nursery() as nursery:
        await nursery.start(store.run)
        await nursery.start(filesystem.run)

        async def session(task_status: trio.TaskStatus[None]) -> None:
            await serve(
                Adapter(filesystem, sync_network=True),
                directory,
                parse_options([]),
                "test",
                task_status=task_status,
            )
            nursery.cancel_scope.cancel()

        await nursery.start(session)
        with trio.open_signal_receiver(signal.SIGUSR1, signal.SIGUSR2) as signals:
            say("ready")
            async for number in signals:
                if number == signal.SIGUSR1:
                    segments.gate.set()
                else:
                    segments.gate = trio.Event()
                    say("closed")


if __name__ == "__main__":
    trio.run(run, Path(sys.argv[1]), Path(sys.argv[2]))
