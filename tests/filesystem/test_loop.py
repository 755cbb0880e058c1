"""Nothing that a program asks for holds the loop for long, however large the thing is."""

import errno
import stat
import threading
from collections.abc import Awaitable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest
import trio
import trio.testing

from storjfs.daemon.watch import watching
from storjfs.filesystem.windows import WINDOW
from storjfs.segments import Part
from storjfs.store import MODEST, ROOT_INODE, meta, open_meta
from tests.filesystem.volumes import KEY, Volume, check_accounts, fails, volume
from tests.watching import LIMIT, Gauge, limit, longest_step

T = TypeVar("T")
PAGE = 4096
PER_WINDOW = WINDOW // PAGE
STEPS = 30_000  # of SQLite's machine, about 3 ms
FILES = (100, 101, 102)  # one for each round
HUGE = 1 << 44


async def step(operation: Awaitable[T]) -> T:
    """One request, as the kernel sends them: what comes next is another step."""
    result = await operation
    await trio.lowlevel.checkpoint()
    return result


def prepare(
    directory: Path, inodes: dict[int, int], names: Iterator[tuple[Any, ...]], extents: Any = ()
) -> None:
    """Rows as the filesystem would have made them: `inodes` with their sizes, names in the root."""
    db = open_meta(directory / "meta.db", KEY, cache_kib=100_000)
    with db:
        db.execute("INSERT INTO inode VALUES (1, 16877, 0, 0, 2, 0, 0, 0, 0, 0, 1, 0, 0, NULL)")
        db.executemany("INSERT INTO extent VALUES (?, ?, ?, ?, ?, ?, ?)", extents)
        db.executemany(
            "INSERT INTO inode SELECT ?1, 33188, 0, 0, 1, ?2, 0, 0, 0, 0, 0, 0, "
            "(SELECT coalesce(sum(len), 0) FROM extent WHERE ino = ?1), NULL",
            inodes.items(),
        )
        db.executemany("INSERT INTO dentry VALUES (1, ?, ?, ?)", names)
        db.execute("UPDATE counters SET value = 10000000 WHERE key != 'next_seg'")
    db.close()


def with_lives(v: Volume) -> None:
    for seg, live in v.store.read("SELECT seg, sum(len) FROM extent GROUP BY seg"):
        v.segments.lives[seg] = live


def fragmented(directory: Path, windows: int) -> None:
    """Three files of many windows, each page an extent of its own."""
    prepare(
        directory,
        dict.fromkeys(FILES, windows * WINDOW),
        ((b"f%d" % ino, ino, ino) for ino in FILES),
        (
            (ino, page * PAGE, PAGE, 1 + page // 4096, page % 4096 * PAGE, PAGE, 0)
            for ino in FILES
            for page in range(windows * PER_WINDOW)
        ),
    )


async def reaped(v: Volume) -> None:
    while v.fs._orphans.known:
        await trio.lowlevel.checkpoint()
    await v.store.sync()


async def test_a_group_commit_with_all_it_may_hold(tmp_path: Path) -> None:
    """Freezing the changes of a full group, and noting that they are committed."""
    async with volume(tmp_path) as v:

        async def make_files(number: int) -> None:
            folder = (await step(v.fs.mkdir(ROOT_INODE, b"d%d" % number, 0o755, 0, 0))).ino
            for name in range(meta.MAX_CHANGES):
                handle, _ = await step(v.fs.create(folder, b"f%d" % name, 0o644, 0, 0))
                await step(v.fs.write(handle, 0, b"content"))
                await step(v.fs.release(handle))
            await v.store.sync()

        assert await longest_step(make_files) < limit()


async def test_a_group_of_small_overwrites(tmp_path: Path) -> None:
    fragmented(tmp_path, 20)
    async with volume(tmp_path) as v:
        with_lives(v)

        async def overwrite(number: int) -> None:
            handle = await step(v.fs.open(FILES[number], 2))
            for at in range(2 * meta.MAX_CHANGES):
                offset = at * 7919 * PAGE % (20 * WINDOW) + 100
                await step(v.fs.write(handle, offset, b"x" * 200))
            await v.store.sync()

        assert await longest_step(overwrite) < limit()


@pytest.mark.parametrize(
    "way", ["unlink", "rename over", "truncate", "open with O_TRUNC", "several forgotten"]
)
async def test_a_file_of_very_many_extents_goes(tmp_path: Path, way: str) -> None:
    windows = 4 * 64 + 3
    fragmented(tmp_path, windows if way != "several forgotten" else 60)
    async with volume(tmp_path, background=True) as v:
        with_lives(v)
        gauge = Gauge(v.store)

        async def drop(number: int) -> None:
            ino = FILES[number]
            name = b"f%d" % ino
            if way == "truncate":
                await step(v.fs.setattr(ino, size=PAGE + 1))
            elif way == "open with O_TRUNC":
                await step(v.fs.release(await step(v.fs.open(ino, 0o1002))))
            else:
                if way == "rename over":
                    await step(v.fs.mknod(ROOT_INODE, b"new", stat.S_IFREG | 0o644, 0, 0, 0))
                    await step(v.fs.rename(ROOT_INODE, b"new", ROOT_INODE, name))
                else:
                    await step(v.fs.unlink(ROOT_INODE, name))
                v.fs.forget([(ino, 1)])
                await trio.lowlevel.checkpoint()
            await reaped(v)

        assert await longest_step(drop) < limit()
        assert gauge.most < STEPS
        check_accounts(v.store, v.segments)
        left = 3 * 2 if way == "truncate" else 0
        assert v.store.read("SELECT count(*) FROM extent") == [(left,)]


async def test_what_goes_in_the_background_leaves_room_for_programs(tmp_path: Path) -> None:
    fragmented(tmp_path, 100)
    async with volume(tmp_path, background=True) as v:
        with_lives(v)
        held = threading.Event()

        def wait() -> None:
            held.wait()

        v.segments.wait = wait  # nothing is committed meanwhile
        try:
            with trio.fail_after(60):
                await v.fs.unlink(ROOT_INODE, b"f%d" % FILES[0])
                v.fs.forget([(FILES[0], 1)])
                while v.store._flying is None or v.store._changes <= MODEST:
                    await trio.lowlevel.checkpoint()
                await trio.testing.wait_all_tasks_blocked()
                for number in range(100):
                    await v.fs.mknod(ROOT_INODE, b"new%d" % number, stat.S_IFREG, 0, 0, 0)
        finally:
            held.set()
        await reaped(v)


async def test_a_file_of_very_many_extents_is_read(tmp_path: Path) -> None:
    """In steps of few extents; what each of them costs depends on the segments room."""
    windows = 100
    fragmented(tmp_path, windows)
    async with volume(tmp_path) as v:
        gauge = Gauge(v.store)
        v.segments.data = {seg: bytearray(4096 * PAGE) for seg in range(1, 2 + windows * PER_WINDOW // 4096)}
        asked: list[int] = []
        prefetch = v.segments.prefetch

        def note(parts: Sequence[Part]) -> None:
            asked.append(len(parts))
            prefetch(parts)

        v.segments.prefetch = note  # type: ignore[method-assign]
        handle = await v.fs.open(FILES[0], 0)
        with watching(LIMIT) as watch:
            for index in range(windows):
                assert len(await step(v.fs.read(handle, index * WINDOW, WINDOW))) == WINDOW
        assert watch.steps >= windows * PER_WINDOW // 64
        assert max(asked) <= 64
        assert sum(asked) > (windows - 2) * PER_WINDOW, "all of it was read ahead"
        assert gauge.most < STEPS
        await v.fs.release(handle)


async def test_a_sparse_file_as_large_as_can_be_is_cut(tmp_path: Path) -> None:
    places = [0, 5 * WINDOW, HUGE // 2, HUGE - PAGE]
    prepare(
        tmp_path,
        dict.fromkeys(FILES, HUGE),
        ((b"f%d" % ino, ino, ino) for ino in FILES),
        ((ino, off, PAGE, 1, number * 8192, PAGE, 0) for ino in FILES for number, off in enumerate(places)),
    )
    async with volume(tmp_path, background=True) as v:
        with_lives(v)
        gauge = Gauge(v.store)

        async def cut(number: int) -> None:
            await step(v.fs.setattr(FILES[number], size=10))
            await reaped(v)

        assert await longest_step(cut) < limit()
        assert gauge.most < STEPS
        check_accounts(v.store, v.segments)


async def test_a_large_directory_is_listed_searched_and_emptied(tmp_path: Path) -> None:
    count = 100_000
    prepare(
        tmp_path,
        {1000 + number: 0 for number in range(count)},
        ((b"f%06d" % number, 1000 + number, number) for number in range(1, count)),
    )
    async with volume(tmp_path, background=True) as v:
        gauge = Gauge(v.store)

        async def use(number: int) -> None:
            handle = await step(v.fs.opendir(ROOT_INODE))
            cookie, found = 0, 0
            while several := await step(v.fs.readdir(handle, cookie, 32)):
                found += len(several)
                cookie = several[-1][2]
            await step(v.fs.releasedir(handle))
            assert found == count - 1 - 1000 * number
            for at in range(1000):
                name = b"f%06d" % (1 + number + 3 * at)
                ino = (await step(v.fs.lookup(ROOT_INODE, name))).ino
                await step(v.fs.unlink(ROOT_INODE, name))
                v.fs.forget([(ino, 1)])
            await v.store.sync()

        assert await longest_step(use) < limit()
        assert gauge.most < STEPS


async def test_the_kernel_forgets_thousands_of_unlinked_files_at_once(tmp_path: Path) -> None:
    count = 3000
    files = {1000 + number: 3 * PAGE for number in range(3 * count)}
    prepare(
        tmp_path,
        files,
        ((b"f%06d" % ino, ino, ino) for ino in files),
        ((ino, page * PAGE, PAGE, 1, 0, PAGE, 0) for ino in files for page in range(3)),
    )
    async with volume(tmp_path, background=True) as v:
        with_lives(v)

        async def unlink(number: int) -> None:
            gone = range(1000 + number * count, 1000 + (number + 1) * count)
            for ino in gone:
                await step(v.fs.unlink(ROOT_INODE, b"f%06d" % ino))
            v.fs.forget([(ino, 1) for ino in gone])
            await trio.lowlevel.checkpoint()
            await reaped(v)

        assert await longest_step(unlink) < limit()
        check_accounts(v.store, v.segments)


async def test_writers_wait_while_a_slow_disk_takes_a_full_group(tmp_path: Path) -> None:
    """Else what is not yet committed would grow without bounds, and with it what a freeze must do."""
    async with volume(tmp_path) as v:
        taken = trio.Event()
        leave = trio.Event()
        token = trio.lowlevel.current_trio_token()

        def slow() -> None:
            trio.from_thread.run_sync(taken.set, trio_token=token)
            trio.from_thread.run(leave.wait, trio_token=token)

        v.segments.wait = slow
        made = 0

        async def make_many() -> None:
            nonlocal made
            for number in range(4 * meta.MAX_CHANGES):
                await v.fs.mknod(ROOT_INODE, b"f%d" % number, stat.S_IFREG, 0, 0, 0)
                made += 1
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(make_many)
            await taken.wait()
            await trio.testing.wait_all_tasks_blocked()
            assert v.store._changes <= meta.MAX_CHANGES + 10
            waiting_at = made
            assert (await v.fs.lookup(ROOT_INODE, b"f0")).size == 0, "reading goes on"
            v.segments.wait = None
            leave.set()
        assert made == 4 * meta.MAX_CHANGES > waiting_at


async def test_a_directory_whose_names_were_just_removed(tmp_path: Path) -> None:
    """As with `rm -r`: the database still has thousands of names that are gone."""
    count = 2 * meta.MAX_CHANGES + 100  # a group on its way, the next one, and some
    directory, file = 10, 1000
    prepare(tmp_path, {file: 0}, iter(()))
    db = open_meta(tmp_path / "meta.db", KEY)
    with db:
        db.execute("INSERT INTO inode VALUES (?, 16877, 0, 0, 2, 0, 0, 0, 0, 0, 1, 0, 0, NULL)", (directory,))
        db.execute("INSERT INTO dentry VALUES (1, CAST('d' AS BLOB), ?, 10)", (directory,))
        db.executemany(
            "INSERT INTO dentry VALUES (?, ?, ?, ?)",
            ((directory, b"f%06d" % number, file, 100 + number) for number in range(count)),
        )
        db.execute("UPDATE inode SET nlink = 3 WHERE ino = 1")
        db.execute("UPDATE inode SET nlink = ? WHERE ino = ?", (count, file))
    db.close()
    async with volume(tmp_path) as v:
        gauge = Gauge(v.store)
        held = threading.Event()
        gone = 0

        def wait() -> None:
            held.wait()

        v.segments.wait = wait  # nothing is committed meanwhile

        async def look(number: int) -> None:
            handle = await step(v.fs.opendir(directory))
            found = await step(v.fs.readdir(handle, 0, 1))
            await step(v.fs.releasedir(handle))
            assert [name for name, _, _ in found] == [b"f%06d" % gone]
            with fails(errno.ENOTEMPTY):
                await step(v.fs.rmdir(ROOT_INODE, b"d"))

        try:
            while v.store._changes < meta.MAX_CHANGES - 10 or v.store._flying is None:
                await step(v.fs.unlink(directory, b"f%06d" % gone))
                gone += 1
            assert await longest_step(look) < limit()
        finally:
            held.set()
        assert gauge.most < STEPS
        for number in range(gone, count):
            await v.fs.unlink(directory, b"f%06d" % number)
        await v.fs.rmdir(ROOT_INODE, b"d")
