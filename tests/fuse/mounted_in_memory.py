"""A mount whose file data lies in memory: the adapter, the kernel and the filesystem, without farmers.

Run as a program: `mounted_in_memory.py DIRECTORY META_DB [OPTIONS]`; writes a line when it is ready, and
at the end the names of all extended attributes that were asked for to META_DB.asked.
"""

import sys
from pathlib import Path
from typing import Any

import trio

from storjfs.filesystem import Capacity, Filesystem, Policy
from storjfs.fuse import Adapter, parse_options, serve
from storjfs.store import MetaStore
from tests.filesystem.memory_segments import MemorySegments


class CountingAdapter(Adapter):
    """Remembers which extended attributes were asked for."""

    def __init__(self, filesystem: Filesystem) -> None:
        super().__init__(filesystem)
        self.asked: list[str] = []

    async def getxattr(self, inode: int, name: bytes, ctx: Any) -> bytes:
        self.asked.append(name.decode(errors="replace"))
        return await super().getxattr(inode, name, ctx)


async def run(directory: Path, database: Path, words: list[str]) -> list[str]:
    """Serve until unmounted; the attributes that were asked for."""
    options = parse_options(words)
    asked: list[str] = []
    store = MetaStore.open(database, None)
    segments = MemorySegments(store, 1 << 24)
    space = Capacity(total=1 << 40, free=1 << 39)
    filesystem = Filesystem(store, segments, lambda: space, Policy(read_only=options.read_only))
    async with trio.open_nursery() as nursery:
        await nursery.start(store.run)
        await nursery.start(filesystem.run)

        async def session(task_status: trio.TaskStatus[None]) -> None:
            adapter = CountingAdapter(filesystem)
            await serve(adapter, directory, options, "test", task_status=task_status)
            await store.sync()
            asked.extend(adapter.asked)
            nursery.cancel_scope.cancel()

        await nursery.start(session)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
    return asked


if __name__ == "__main__":
    database = Path(sys.argv[2])
    Path(f"{database}.asked").write_text(" ".join(trio.run(run, Path(sys.argv[1]), database, sys.argv[3:])))
