"""meta.db: group commit as decided in record 1."""

import errno
import threading
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import apsw
import pytest
import trio
import trio.testing

from storjfs.store import MetaStore, Statement, StoreError, open_meta
from tests.knots import knots

KEY = bytes(range(32))
INSERT = "REPLACE INTO counters VALUES (?, ?)"


class Counters:
    """A participant whose overlay is a dict."""

    def __init__(self, store: MetaStore) -> None:
        self.store = store
        self.dirty: dict[str, int] = {}
        self.groups: list[int] = []
        self.wait: Callable[[], None] | None = None
        store.join(self)

    def set(self, key: str, value: int) -> None:
        self.dirty[key] = value
        self.store.changed()

    def freeze(self) -> Sequence[Statement]:
        rows = list(self.dirty.items())
        self.dirty = {}
        return [(INSERT, rows)] if rows else []

    def before_commit(self) -> Callable[[], None] | None:
        return self.wait

    def committed(self, group: int) -> None:
        self.groups.append(group)


@pytest.fixture
def store(tmp_path: Path) -> MetaStore:
    return MetaStore.open(tmp_path / "meta.db", KEY)


@pytest.fixture
def counters(store: MetaStore) -> Counters:
    return Counters(store)


def value(store: MetaStore, key: str) -> int | None:
    rows = store.read("SELECT value FROM counters WHERE key = ?", (key,))
    return rows[0][0] if rows else None


async def test_sync_makes_changes_durable(
    tmp_path: Path, store: MetaStore, counters: Counters, nursery: trio.Nursery
) -> None:
    await nursery.start(store.run)
    counters.set("a", 1)
    assert value(store, "a") is None
    await store.sync()
    assert value(store, "a") == 1
    assert counters.groups == [1]
    other = open_meta(tmp_path / "meta.db", KEY)
    assert other.execute("SELECT value FROM counters WHERE key='a'").fetchall() == [(1,)]
    other.close()


async def test_sync_without_changes_commits_nothing(
    store: MetaStore, counters: Counters, nursery: trio.Nursery
) -> None:
    await nursery.start(store.run)
    await store.sync()
    assert counters.groups == []


async def test_concurrent_syncs_share_commits(
    store: MetaStore, counters: Counters, nursery: trio.Nursery
) -> None:
    await nursery.start(store.run)

    async def change(n: int) -> None:
        counters.set(f"k{n}", n)
        await store.sync()
        assert value(store, f"k{n}") == n

    async with trio.open_nursery() as several:
        for n in range(50):
            several.start_soon(change, n)
    assert len(counters.groups) <= 2


async def test_changes_made_during_a_commit_belong_to_the_next_group(
    store: MetaStore, counters: Counters, nursery: trio.Nursery
) -> None:
    gate = threading.Event()
    counters.wait = lambda: None if gate.wait(10) else pytest.fail("the gate stayed shut")
    await nursery.start(store.run)
    counters.set("a", 1)
    store.request_commit()
    counters.set("b", 2)
    assert value(store, "a") is None
    gate.set()
    await store.sync()
    assert (value(store, "a"), value(store, "b")) == (1, 2)
    assert counters.groups == [1, 2]


async def test_a_group_closes_by_itself(
    store: MetaStore, counters: Counters, nursery: trio.Nursery, mock_clock: trio.testing.MockClock
) -> None:
    await nursery.start(store.run)
    done = trio.Event()
    counters.committed = lambda group: done.set()  # type: ignore[method-assign]
    counters.set("a", 1)
    await trio.testing.wait_all_tasks_blocked()
    mock_clock.jump(4.9)
    await trio.testing.wait_all_tasks_blocked()
    assert store.group == 1
    mock_clock.jump(0.2)
    await done.wait()
    assert value(store, "a") == 1
    assert store.group == 2


async def test_a_full_disk_loses_nothing_and_is_retried(
    store: MetaStore, counters: Counters, nursery: trio.Nursery
) -> None:
    def full() -> None:
        raise OSError(errno.ENOSPC, "full")

    counters.wait = full
    await nursery.start(store.run)
    counters.set("a", 1)
    with pytest.raises(StoreError) as caught:
        await store.sync()
    assert caught.value.errno == errno.ENOSPC
    assert store.failure is not None
    assert not store.failure.permanent
    full_once = [True]

    def emptied() -> None:
        full_once.clear()

    counters.wait = None
    counters.set("b", 2)
    store._failed.prepare[:] = [emptied]  # type: ignore[union-attr]
    await store.sync()
    assert not full_once
    assert (value(store, "a"), value(store, "b")) == (1, 2)
    assert store.failure is None
    assert counters.groups == [2]


async def test_syncs_that_fail_leave_nothing(
    store: MetaStore, counters: Counters, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What is logged is kept here for the report of a test that fails, and the error with it.
    monkeypatch.setattr("storjfs.store.meta._LOG.disabled", True)

    def full() -> None:
        raise OSError(errno.ENOSPC, "full")

    async def fail() -> None:
        with pytest.raises(StoreError):
            await store.sync()

    counters.wait = full
    await nursery.start(store.run)
    with knots() as left:
        for number in range(3):
            counters.set("a", number)
            async with trio.open_nursery() as several:
                for _ in range(2):
                    several.start_soon(fail)
    assert left == []


def broken() -> None:
    raise OSError(errno.EIO, "broken")


async def test_a_failed_fsync_ends_all_writing(
    store: MetaStore, counters: Counters, nursery: trio.Nursery
) -> None:
    counters.wait = broken
    await nursery.start(store.run)
    counters.set("a", 1)
    for _ in range(2):
        with pytest.raises(StoreError) as caught:
            await store.sync()
        assert caught.value.permanent
    counters.wait = None
    with pytest.raises(StoreError):
        await store.sync()
    assert value(store, "a") is None


async def test_syncs_that_fail_for_long_leave_nothing_behind(
    store: MetaStore, counters: Counters, nursery: trio.Nursery
) -> None:
    counters.wait = broken
    await nursery.start(store.run)
    counters.set("a", 1)
    for _ in range(100):
        with suppress(StoreError):
            await store.sync()
    assert store.failure is not None
    assert len(list(traceback.walk_tb(store.failure.__traceback__))) < 10


async def test_a_failing_statement_leaves_nothing_of_its_group(
    store: MetaStore, nursery: trio.Nursery
) -> None:
    await nursery.start(store.run)
    store.write(INSERT, [("a", 1)])
    store.write("INSERT INTO counters VALUES (?, ?)", [("a", 1)])
    with pytest.raises(StoreError):
        await store.sync()
    assert value(store, "a") is None


async def test_the_log_starts_anew_under_load(
    tmp_path: Path, store: MetaStore, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storjfs.store.log.WAL_PAGES", 200)
    await nursery.start(store.run)
    largest = 0
    for n in range(300):
        store.write("REPLACE INTO xattr VALUES (?, ?, ?)", [(n % 40, b"x", bytes(20_000))])
        await store.sync()
        largest = max(largest, (tmp_path / "meta.db-wal").stat().st_size)
    assert largest < 4 << 20


async def test_the_log_starts_anew_also_while_no_other_connection_can_be_had(
    tmp_path: Path, store: MetaStore, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storjfs.store.log.WAL_PAGES", 200)
    refused = []

    def no_descriptors(cache_kib: int) -> apsw.Connection:
        refused.append(cache_kib)
        raise StoreError("too many open files")

    monkeypatch.setattr(store, "_connect", no_descriptors)
    await nursery.start(store.run)
    largest = 0
    for n in range(300):
        store.write("REPLACE INTO xattr VALUES (?, ?, ?)", [(n % 40, b"x", bytes(20_000))])
        await store.sync()
        largest = max(largest, (tmp_path / "meta.db-wal").stat().st_size)
    assert largest < 4 << 20
    assert len(refused) > 1, "it is tried again each time"


async def test_cancelling_ends_the_commit_under_way(
    tmp_path: Path, store: MetaStore, counters: Counters
) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(store.run)
        counters.set("a", 1)
        store.request_commit()
        counters.set("b", 1)
        nursery.cancel_scope.cancel()
    again = MetaStore.open(tmp_path / "meta.db", KEY)
    assert (value(again, "a"), value(again, "b")) == (1, None)


async def test_a_page_that_cannot_be_read_is_one_error_of_ours(tmp_path: Path, nursery: trio.Nursery) -> None:
    path = tmp_path / "meta.db"
    async with trio.open_nursery() as inner:
        store = MetaStore.open(path, KEY)
        await inner.start(store.run)
        store.write("REPLACE INTO xattr VALUES (?, ?, ?)", [(n, b"x", bytes(3000)) for n in range(200)])
        await store.sync()
        inner.cancel_scope.cancel()
    with path.open("r+b") as file:
        for at in range(40 * 4096 + 2000, path.stat().st_size, 4096):
            file.seek(at)
            file.write(b"damage")
    store = MetaStore.open(path, KEY)
    await nursery.start(store.run)
    for _ in range(2):
        with pytest.raises(StoreError, match="cannot be read"):
            store.read("SELECT sum(length(value)) FROM xattr")
        with pytest.raises(StoreError, match="cannot be read"):
            await store.scan("SELECT sum(length(value)) FROM xattr")
    assert store.failure is None
    assert value(store, "next_ino") == 2


async def test_a_mistake_of_who_is_told_of_a_commit_ends_nothing(
    store: MetaStore, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    class Mistaken(Counters):
        def committed(self, group: int) -> None:
            raise RuntimeError("a mistake")

    mistaken, later = Mistaken(store), Counters(store)
    await nursery.start(store.run)
    for number in (1, 2):
        mistaken.set("a", number)
        await store.sync()
        assert value(store, "a") == number
    assert later.groups == [1, 2]
    assert store.failure is None
    assert "RuntimeError: a mistake" in caplog.text
