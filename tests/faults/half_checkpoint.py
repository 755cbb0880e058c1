"""What runs under the recorder: `python -m tests.faults.half_checkpoint WHICH FOLDER RECORD CONTROL`.

The log of a database is copied in two passes (the ledger's in one), commits in between, and the sync of the
last fails, once. Marks: `durable <n>` when row n is committed; `refused for good` when a commit failed.
"""

import errno
import sys
from pathlib import Path

import trio

from storjfs.protocol.ids import PublicKey
from storjfs.renter.durable import DurableDatabase
from storjfs.settlement import Ledger, SettlementError
from storjfs.store import MetaStore, StoreError
from tests.faults.recording import Control, Kind, Marks
from tests.faults.volume import KEYS

ROWS = 40
HELD = "CREATE TABLE held (row INTEGER NOT NULL PRIMARY KEY, value BLOB NOT NULL)"


async def meta(folder: Path, mark: Marks, control: Control) -> None:
    """meta.db, whose log a thread copies."""
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
        store._log.ask()
        while store._log.copying:  # noqa: ASYNC110 - the thread tells nobody
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


async def durable(folder: Path, mark: Marks, control: Control) -> None:
    """A database of the renter, whose log is copied after commits."""
    database = DurableDatabase(folder / "pay.db", KEYS.metadata_key, HELD)
    committed = 0

    async def commit() -> None:
        nonlocal committed
        row = (committed + 1, b"%04d" % (committed + 1) * 25_000)
        await database.write(("INSERT INTO held VALUES (?, ?)", row))
        committed += 1
        mark(f"durable {committed}")

    for _ in range(30):
        await commit()
    database.read("BEGIN")
    database.read("SELECT count(*) FROM held")
    for _ in range(15):  # more than 1,000 pages of log then
        await commit()
    database.read("COMMIT")
    control.fail(errno.EIO, {Kind.SYNC}, 3, 3)  # after the log's, at the commit and before it is copied
    await commit()
    assert control.heal()[1] == 1
    try:
        for _ in range(60):
            await commit()
    except StoreError as error:
        mark("refused for good" if error.permanent else "refused")
    database.close()


async def ledger(folder: Path, mark: Marks, control: Control) -> None:
    """The ledger, whose log two users copy after commits: one's sync fails, the other goes on."""
    first, second = Ledger(folder / "ledger.db"), Ledger(folder / "ledger.db")
    committed = 0

    def commit(ledger: Ledger) -> None:
        nonlocal committed
        ledger.issue(PublicKey(bytes(32)), 1, memo=f"{committed + 1:04d}" * 25_000)
        committed += 1
        mark(f"durable {committed}")

    def pages() -> int:
        return (folder / "ledger.db-wal").stat().st_size // 4120

    while pages() < 980:
        commit(first)
    control.fail(errno.EIO, {Kind.SYNC}, 3, 3)  # after the log's, at the commit and before it is copied
    commit(first)
    assert control.heal()[1] == 1
    try:
        commit(first)
    except SettlementError:
        mark("refused for good")
    for _ in range(60):
        commit(second)
    second.close_file()
    first.close_file()


if __name__ == "__main__":
    which = {"meta": meta, "durable": durable, "ledger": ledger}[sys.argv[1]]
    trio.run(which, Path(sys.argv[2]), Marks(Path(sys.argv[3])), Control(Path(sys.argv[4])))
