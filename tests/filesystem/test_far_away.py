"""Queries are made in a thread first while they have to wait for the disk, and only then."""

import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NoReturn

import pytest
import trio

from storjfs.store import MetaStore, StoreError
from storjfs.store.aside import FIRST, MOST, Aside
from tests.filesystem.volumes import KEY, volume

QUERY = "SELECT value FROM counters WHERE key = ?"


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[MetaStore]:
    store = MetaStore.open(tmp_path / "meta.db", KEY)
    async with trio.open_nursery() as nursery:
        await nursery.start(store.run)
        yield store
        nursery.cancel_scope.cancel()


def slow_on_the_loop(aside: Aside) -> None:
    """As if a query on the loop had read from the disk."""
    aside._blocks = -1
    aside.took(0.1)


async def near_again(aside: Aside) -> int:
    """How many queries in threads it takes until the loop makes them again."""
    count = 0
    while aside.distant:
        await aside.fetch(QUERY, ("next_ino",))
        count += 1
    return count


async def test_one_that_read_from_the_disk_sends_the_next_ones_to_threads(store: MetaStore) -> None:
    aside = store.aside
    assert not aside.distant
    aside.took(0.1)
    first = aside._blocks  # what the test process read before
    aside.distant = False
    aside.took(0.1)
    assert not aside.distant, "it was slow without reading anything"
    aside._blocks = first - 1
    aside.took(0.1)
    assert aside.distant


async def test_after_enough_that_were_not_slow_the_loop_makes_them_itself(store: MetaStore) -> None:
    store.aside.distant = True
    assert await near_again(store.aside) == FIRST


async def test_the_more_often_that_was_wrong_the_longer_it_takes(store: MetaStore) -> None:
    for times in range(1, 4):
        slow_on_the_loop(store.aside)
        assert await near_again(store.aside) == FIRST << times
    for _ in range(20):
        store.aside.distant = False
        slow_on_the_loop(store.aside)
    assert store.aside._needed == MOST


async def test_what_a_thread_cannot_read_is_left_to_the_loop(store: MetaStore) -> None:
    await store.aside.fetch("SELECT * FROM no_such_table", ())


async def test_so_is_everything_where_a_thread_gets_no_connection() -> None:
    def connect() -> NoReturn:
        raise StoreError("too many open files")

    await Aside(connect).fetch(QUERY, ("next_ino",))


async def test_requests_fetch_what_no_cache_has_and_see_what_is_not_committed(tmp_path: Path) -> None:
    async with volume(tmp_path) as v:
        ino = await v.write_file(b"a", b"content")
        await v.store.sync()
        v.evict()
        loop, asked = threading.get_ident(), list[str]()
        fetch = v.store.aside.fetch

        async def noted(sql: str, args: tuple[int | bytes, ...]) -> None:
            asked.append(sql.split(" FROM ")[1].split()[0])
            await fetch(sql, args)
            assert threading.get_ident() == loop

        v.store.aside.fetch = noted  # type: ignore[method-assign,assignment]
        v.store.aside.distant = True
        assert (await v.fs.lookup(1, b"a")).ino == ino
        assert await v.names() == [b"a"]
        handle = await v.fs.open(ino, 0)
        assert await v.fs.read(handle, 0, 10) == b"content"
        await v.fs.release(handle)
        assert asked == ["dentry", "dentry", "dentry", "extent"]
        await v.store.sync()
        v.evict()
        assert (await v.fs.getattr(ino)).size == 7
        assert asked[-1] == "inode"
        await v.fs.rename(1, b"a", 1, b"b")
        assert (await v.fs.lookup(1, b"b")).ino == ino
        assert (await v.fs.lookup(1, b"b")).ino == ino
        assert len(asked) == 5, "what is in memory needs no query"
