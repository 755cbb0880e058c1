"""Reading, writing, cutting."""

import errno
import os
from pathlib import Path

import pytest
import trio

from storjfs.filesystem import Capacity, Policy
from storjfs.filesystem.windows import WINDOW
from storjfs.store import ROOT_INODE
from tests.filesystem.volumes import check_accounts, fails, volume


async def test_holes_read_as_zeros(tmp_path: Path) -> None:
    async with volume(tmp_path) as v:
        handle, inode = await v.fs.create(ROOT_INODE, b"a", 0o644, 0, 0)
        await v.fs.write(handle, 5 * WINDOW - 3, b"123456")
        assert await v.fs.read(handle, 5 * WINDOW - 5, 100) == b"\0\x00123456"
        assert await v.fs.read(handle, 0, 10) == bytes(10)
        assert await v.fs.read(handle, 3 * WINDOW - 2, 4) == bytes(4)
        assert await v.fs.read(handle, inode.size, 10) == b""


async def test_a_file_may_reach_as_far_as_offsets_do(tmp_path: Path) -> None:
    async with volume(tmp_path) as v:
        handle, inode = await v.fs.create(ROOT_INODE, b"a", 0o644, 0, 0)
        end = (1 << 63) - 1
        await v.fs.write(handle, end - 1, b"x")
        assert inode.size == end
        assert await v.fs.read(handle, end - 2, 10) == b"\0x"
        with fails(errno.EFBIG):
            await v.fs.write(handle, end, b"x")
        with fails(errno.EFBIG):
            await v.fs.setattr(inode.ino, size=end + 1)
        await v.fs.setattr(inode.ino, size=1)
        await v.fs.setattr(inode.ino, size=end)
        assert await v.fs.read(handle, end - 2, 10) == bytes(2)


async def test_opening_with_o_trunc_empties_the_file(tmp_path: Path) -> None:
    async with volume(tmp_path) as v:
        ino = await v.write_file(b"a", b"content")
        before = v.clock()
        handle = await v.fs.open(ino, os.O_WRONLY | os.O_TRUNC)
        inode = await v.fs.getattr(ino)
        assert inode.size == inode.stored == 0
        assert inode.mtime == inode.ctime > before
        await v.fs.write(handle, 3, b"x")
        assert await v.fs.read(handle, 0, 10) == b"\0\0\0x"


async def test_create_opens_what_exists_unless_exclusive(tmp_path: Path) -> None:
    async with volume(tmp_path) as v:
        ino = await v.write_file(b"a", b"content")
        handle, inode = await v.fs.create(ROOT_INODE, b"a", 0o600, 0, 0, os.O_RDWR)
        assert inode.ino == ino
        assert await v.fs.read(handle, 0, 10) == b"content"
        with fails(errno.EEXIST):
            await v.fs.create(ROOT_INODE, b"a", 0o600, 0, 0, os.O_EXCL)


async def test_directories_and_unknown_handles_are_no_files(tmp_path: Path) -> None:
    async with volume(tmp_path) as v:
        with fails(errno.EISDIR):
            await v.fs.open(ROOT_INODE, 0)
        with fails(errno.EISDIR):
            await v.fs.setattr(ROOT_INODE, size=0)
        with fails(errno.EBADF):
            await v.fs.read(99, 0, 1)
        with fails(errno.EBADF):
            await v.fs.readdir(99, 0, 1)


async def test_no_room_is_told_at_once(tmp_path: Path) -> None:
    async with volume(tmp_path) as v:
        handle, inode = await v.fs.create(ROOT_INODE, b"a", 0o644, 0, 0)
        v.segments.full = errno.ENOSPC
        with fails(errno.ENOSPC):
            await v.fs.write(handle, 0, b"x")
        assert inode.size == 0


async def test_fsync_reaches_the_farmers_only_if_asked_to(tmp_path: Path) -> None:
    for network in (False, True):
        async with volume(tmp_path, policy=Policy(sync_network=network)) as v:
            handle, _ = await v.fs.create(ROOT_INODE, b"%d" % network, 0o644, 0, 0)
            await v.fs.fsync(handle)
            directory = await v.fs.opendir(ROOT_INODE)
            await v.fs.fsyncdir(directory)
            assert v.segments.flushes == 2 * network


async def test_a_sequential_reader_is_read_ahead_of_wider_and_wider(tmp_path: Path) -> None:
    async with volume(tmp_path, capacity=12 << 20) as v:
        ino = await v.write_file(b"a", bytes(60 * WINDOW))
        handle = await v.fs.open(ino, 0)
        ahead = []
        fetched = 0
        for n in range(60):
            await v.fs.read(handle, n * WINDOW, WINDOW)
            fetched = sum(part.length for part in v.segments.prefetched) >> 20
            ahead.append(fetched - n)
        assert ahead[:4] == [1, 2, 4, 8]
        assert max(ahead) == 16
        assert min(ahead[12:40]) >= 8
        assert fetched == 59, "every byte once, but for what was read itself"


async def test_a_random_reader_is_not_read_ahead_of(tmp_path: Path) -> None:
    async with volume(tmp_path, capacity=12 << 20) as v:
        ino = await v.write_file(b"a", bytes(64 * WINDOW))
        handle = await v.fs.open(ino, 0)
        for n in (50, 3, 27, 60, 11):
            await v.fs.read(handle, n * WINDOW, 4096)
        assert v.segments.prefetched == []


async def test_a_read_that_waited_gives_the_bytes_of_one_moment(tmp_path: Path) -> None:
    """Also when what it was reading is overwritten, committed and gone before it comes back."""
    async with volume(tmp_path, slow=True, capacity=1000) as v:
        handle, _ = await v.fs.create(ROOT_INODE, b"a", 0o644, 0, 0)
        await v.fs.write(handle, 0, b"old" * 1000)
        await v.store.sync()
        overwritten = trio.Event()

        async def overwrite() -> None:
            await v.fs.write(handle, 0, b"new" * 1000)
            await v.fs.write(handle, 5000, b"x" * 3000)
            await v.store.sync()
            overwritten.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(overwrite)
            while not overwritten.is_set():
                found = await v.fs.read(handle, 0, 3000)
                assert found in (b"old" * 1000, b"new" * 1000)
        assert await v.fs.read(handle, 0, 3000) == b"new" * 1000


async def test_bytes_that_nobody_has_are_an_input_error(tmp_path: Path) -> None:
    async with volume(tmp_path, slow=True) as v:
        ino = await v.write_file(b"a", b"content")
        v.segments.data.clear()
        with fails(errno.EIO):
            await v.read_file(ino)


async def test_windows_and_inodes_are_bounded_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with volume(tmp_path, policy=Policy(atime="noatime")) as v:
        for cache in (v.fs._inodes.cache, v.fs._extents._cache):
            monkeypatch.setattr(cache, "_limit", 50)
            monkeypatch.setattr(cache, "_rotate_at", 50)
        inos = []
        for n in range(500):
            inos.append(await v.write_file(b"%d" % n, b"content %d" % n))
            if n % 20 == 0:
                await v.store.sync()
        await v.store.sync()
        for n, ino in enumerate(inos):
            assert await v.read_file(ino) == b"content %d" % n
        for cache in (v.fs._inodes.cache, v.fs._extents._cache):
            assert len(cache.young) + len(cache.old) + len(cache._leaving) < 250


async def test_a_new_file_costs_few_rows(tmp_path: Path) -> None:
    async with volume(tmp_path) as v:
        await v.write_file(b"a", bytes(4096))
        rows = [(sql.split()[2], len(rows)) for sql, rows in v.fs.freeze() if not sql.startswith("DELETE")]
        assert sorted(rows) == [("counters", 1), ("counters", 2), ("dentry", 1), ("extent", 1), ("inode", 2)]


async def test_accounts_after_overwriting_everything_in_pieces(tmp_path: Path) -> None:
    async with volume(tmp_path, capacity=100_000) as v:
        handle, inode = await v.fs.create(ROOT_INODE, b"a", 0o644, 0, 0)
        await v.fs.write(handle, 0, bytes(3 * WINDOW))
        for n in range(300):
            await v.fs.write(handle, n * 9001, os.urandom(7000))
        await v.fs.setattr(inode.ino, size=2 * WINDOW + 77)
        await v.store.sync()
        check_accounts(v.store, v.segments)
        assert inode.stored == inode.size


async def test_full_is_said_early_and_what_was_accepted_is_still_taken(tmp_path: Path) -> None:
    async with volume(tmp_path) as v:
        handle, inode = await v.fs.create(ROOT_INODE, b"a", 0o644, 0, 0)
        v.fs._space = lambda: Capacity(1 << 40, 100 << 20)
        v.fs._space_checked = -1e9
        with fails(errno.ENOSPC):
            await v.fs.create(ROOT_INODE, b"b", 0o644, 0, 0)
        with fails(errno.ENOSPC):
            await v.fs.open(inode.ino, os.O_WRONLY)
        with fails(errno.ENOSPC):
            await v.fs.mkdir(ROOT_INODE, b"d", 0o755, 0, 0)
        await v.fs.write(handle, 0, b"accepted before")
        assert await v.read_file(inode.ino) == b"accepted before"
        await v.remove(b"a")


@pytest.mark.parametrize("how", ["open", "create", "truncate"])
async def test_who_waits_for_room_works_on_the_inode_that_all_others_see(tmp_path: Path, how: str) -> None:
    """So many files are used meanwhile that memory keeps no other inode."""
    async with volume(tmp_path) as v:
        ino = await v.write_file(b"a", b"content")
        await v.store.sync()

        where = v.store if how == "truncate" else v.segments
        room = where.room

        async def used_by_others(**what: object) -> None:
            where.room = room  # type: ignore[method-assign]
            await v.store.sync()
            v.evict()
            await v.fs.setattr(ino, mode=0o600)

        where.room = used_by_others  # type: ignore[method-assign]
        if how == "create":
            handle, _ = await v.fs.create(ROOT_INODE, b"a", 0o644, 0, 0)
        else:
            handle = await v.fs.open(ino, os.O_WRONLY | (os.O_TRUNC if how == "truncate" else 0))
        assert where.room == room, "nobody waited"
        await v.fs.write(handle, 0, b"more than before")
        found = await v.fs.getattr(ino)
        assert (found.size, found.mode & 0o777) == (16, 0o600)
        await v.fs.release(handle)
        await v.store.sync()
        v.evict()
        found = await v.fs.getattr(ino)
        assert (found.size, found.mode & 0o777) == (16, 0o600)
        assert await v.read_file(ino) == b"more than before"


@pytest.mark.parametrize("limit", range(10, 200, 10))
async def test_what_leaves_memory_while_a_file_is_cut_is_cut_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    async with volume(tmp_path, policy=Policy(atime="noatime")) as v:
        handle, made = await v.fs.create(ROOT_INODE, b"a", 0o644, 0, 0)
        for index in range(40):
            await v.fs.write(handle, index * WINDOW, b"content")
        await v.store.sync()
        v.evict()
        cache = v.fs._extents._cache
        monkeypatch.setattr(cache, "_limit", limit)
        monkeypatch.setattr(cache, "_rotate_at", limit)
        for index in range(0, 40, 2):
            await v.fs.read(handle, index * WINDOW, 7)
        await v.fs.setattr(made.ino, size=1)
        await v.fs.release(handle)
        await v.store.sync()
        assert v.store.read("SELECT off, len FROM extent") == [(0, 1)]
        check_accounts(v.store, v.segments)
