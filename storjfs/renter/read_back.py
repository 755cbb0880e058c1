"""Reading whole shards back: a small random share each week, to find the rot that sampled leaves miss."""

import hashlib
import logging
from collections.abc import Callable

import trio

from storjfs.coding.merkle import shard_root
from storjfs.errors import StorjfsError
from storjfs.protocol.priorities import Priority
from storjfs.renter.audits import HELD_STATES, MarkLost
from storjfs.renter.book import ContractBook
from storjfs.renter.client import ShardClient
from storjfs.renter.clock import sleep_until
from storjfs.renter.errors import RenterError, ShardCorrupt, ShardMissing
from storjfs.renter.local_records import LocalRecords
from storjfs.renter.schedule import Due, Window
from storjfs.renter.settings import RenterSettings
from storjfs.store import MetaStore, StoreError

log = logging.getLogger(__name__)

WEEK = 7 * 86400.0
WINDOWS = 168
ROWS = 400
PAUSE = 0.01
PAUSE_AFTER_ERROR = 60.0
CURSOR = "read-back cursor"


class ReadBack:
    """A background task of the least importance: one shard at a time, paid as egress like any read."""

    def __init__(
        self,
        book: ContractBook,
        client: ShardClient,
        records: LocalRecords,
        store: MetaStore,
        settings: RenterSettings,
        mark_lost: MarkLost,
        now: Callable[[], float],
    ) -> None:
        self._book = book
        self._client = client
        self._records = records
        self._store = store
        self._settings = settings
        self._mark_lost = mark_lost
        self._now = now

    async def run(self) -> None:
        """Read back until cancelled."""
        secret = hashlib.blake2b(await self._records.secret(), digest_size=32, person=b"read back").digest()
        known = self._records.cursor(CURSOR)
        cursor = self._now() if known is None else min(known, self._now())
        while True:
            cursor = max(cursor, self._now() - WEEK)
            window = Window(secret, WEEK, cursor, cursor + WEEK / WINDOWS, limit=4096)
            try:
                await self._gather(window, secret)
                for due in window.due():
                    await sleep_until(self._now, due.at)
                    await self.check(due)
                await sleep_until(self._now, window.end)
                await self._records.set_cursor(CURSOR, window.end)
                cursor = window.end
            except (StorjfsError, OSError) as error:
                log.warning("reading back: %s", error)
                await trio.sleep(PAUSE_AFTER_ERROR)

    async def _gather(self, window: Window, secret: bytes) -> None:
        after = b""
        week = int(window.start // WEEK)
        sql = (
            f"SELECT contract, seg, idx, shard_id FROM shard WHERE shard_id > ? "
            f"AND state IN {HELD_STATES} ORDER BY shard_id LIMIT {ROWS}"
        )
        while rows := await self._store.read_patiently(sql, (after,)):
            window.consider([row for row in rows if self.drawn(secret, row[3], week)])
            after = rows[-1][3]
            await trio.sleep(PAUSE)

    def drawn(self, secret: bytes, shard_id: bytes, week: int) -> bool:
        """Whether a shard is among this week's share."""
        data = shard_id + week.to_bytes(4, "big")
        digest = hashlib.blake2b(data, key=secret, digest_size=4, person=b"drawn").digest()
        return int.from_bytes(digest, "big") < self._settings.read_back_share * (1 << 32)

    async def check(self, due: Due, deeper: Callable[[bytearray], None] = lambda data: None) -> bool | None:
        """Read one shard whole; True if it is what it was, False if it is lost now, None if nobody knows.

        `deeper` gets the sealed bytes of one that is what it was, in a worker thread.
        """
        entry = self._book.get(due.contract)
        sql = f"SELECT root, length FROM shard WHERE shard_id = ? AND contract = ? AND state IN {HELD_STATES}"
        rows = self._store.read(sql, (due.shard_id, due.contract))
        if entry is None or not entry.serves or not rows:
            return None
        root, length = rows[0]
        told = False
        try:
            data = await self._client.get(due.contract, due.shard_id, 0, length, Priority.AUDIT)
            found = await trio.to_thread.run_sync(shard_root, data)
            reason = "" if found == root else "read back whole, it is not what was stored"
            if not reason:
                await trio.to_thread.run_sync(deeper, data)
        except ShardMissing as error:
            reason, told = str(error), isinstance(error, ShardCorrupt)
        except (RenterError, StoreError) as error:
            log.info("shard not read back: %s", error)
            return None
        if not reason:
            return True
        if self._client.was_deleted(due.shard_id):
            return None
        held = self._client.held(due.contract)[0] if told else None
        self._mark_lost(due.seg, due.idx, due.shard_id)
        await self._records.fault(
            due.contract, due.shard_id, reason, self._now(), self._settings.audit_period, told_of=held
        )
        return False
