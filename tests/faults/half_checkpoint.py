"""What runs under the recorder: `python -m tests.faults.half_checkpoint FOLDER RECORD CONTROL`.

The log of meta.db is copied in two passes, with commits in between, and the sync of the second fails, once.
Marks: `durable <n>` when row n is committed; `refused` when a commit failed.
"""

import errno
import sys
from pathlib import Path

import trio

from storjfs.store import MetaStore, StoreError
from tests.faults.recording import Control, Kind, Marks
from tests.faults.volume import KEYS

ROWS = 40


async def run(folder: Path, mark: Marks, control: Control) -> None:
    store = MetaStore.open(folder / "meta.db", KEYS.metadata_key)
    committed = 0

    async def commit() -> None:
        nonlocal committed
        row = (committed + 1, b"%04d" % (committed + 1) * 500)
        store.write("INSERT INTO xattr (ino, name, value) VALUES (?, 'user.row', ?)", [row])
        await store.sync()
        committed += 1
        mark(f"durable {committed}")

    async def checkpoint() -> None:
        store._checkpointing = True
        store._checkpoints.put(True)
        while store._checkpointing:  # noqa: ASYNC110 - the thread tells nobody
            await trio.sleep(0.001)

    async with trio.open_nursery() as nursery:
        await nursery.start(store.run)
        for _ in range(ROWS):
            await commit()
        # Whoever reads an older state keeps the first pass from reaching the log's end, and so from syncing.
        store.read("BEGIN")
        store.read("SELECT count(*) FROM xattr")
        for _ in range(ROWS):
            await commit()
        await checkpoint()
        store.read("COMMIT")
        control.fail(errno.EIO, {Kind.SYNC}, 2, 2)  # the first is the log's
        await checkpoint()
        assert control.heal()[1] == 1
        try:
            # More than the log holds, so that it would start anew.
            for _ in range(2 * ROWS):
                await commit()
                await checkpoint()
        except StoreError as error:
            mark("refused for good" if error.permanent else "refused")
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(run, Path(sys.argv[1]), Marks(Path(sys.argv[2])), Control(Path(sys.argv[3])))
