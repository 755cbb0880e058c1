"""Compaction and defragmentation change where bytes lie, and nothing else."""

import contextlib
import os
from pathlib import Path

import pytest
import trio
import trio.testing

from storjfs.filesystem import compactor
from storjfs.filesystem.windows import WINDOW
from storjfs.store import ROOT_INODE
from tests.filesystem.volumes import Volume, check_accounts, volume


async def leave_every_third_of_60_files(v: Volume) -> None:
    for n in range(60):
        await v.write_file(b"%d" % n, os.urandom(5000))
    await v.store.sync()
    for n in range(60):
        if n % 3:
            await v.remove(b"%d" % n)
    await v.store.sync()


async def move_all(v: Volume) -> int:
    """All that is worth it, also what has to give way to something else at a look; how much was moved."""
    moved = 0
    while v.segments.victims():
        moved += await v.fs.compact()
        await v.store.sync()
    # What is empty once that is committed goes with the commit after it.
    await v.fs.compact()
    await v.store.sync()
    return moved


async def test_overwriting_leaves_little_garbage_once_settled(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with volume(tmp_path, capacity=WINDOW) as v:
        handle, _ = await v.fs.create(ROOT_INODE, b"a", 0o644, 0, 0)
        kept = os.urandom(10 * WINDOW)
        for _ in range(10):
            for at in range(0, len(kept), 100_000):
                await v.fs.write(handle, at, kept[at : at + 100_000])
                await v.write_file(b"%d" % (at // 100_000), b"small")
        await v.store.sync()
        await move_all(v)
        check_accounts(v.store, v.segments)
        live = len(kept) + 5 * 105
        assert sum(len(data) for data in v.segments.data.values()) < 2.5 * live
        assert await v.fs.read(handle, 0, len(kept)) == kept


async def test_compaction_touches_no_time_and_no_other_byte(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with volume(tmp_path, capacity=40_000, slow=True) as v:
        expected = {}
        for n in range(60):
            content = os.urandom(5000)
            expected[await v.write_file(b"%d" % n, content)] = content
        await v.store.sync()
        for n, ino in enumerate(list(expected)):
            if n % 3:
                await v.remove(b"%d" % n)
                del expected[ino]
        times = {ino: ((await v.fs.getattr(ino)).mtime, (await v.fs.getattr(ino)).ctime) for ino in expected}
        await v.store.sync()
        before = set(v.segments.data)
        assert await move_all(v) > 0
        assert not before & set(v.segments.data) - {max(before)}
        for ino, content in expected.items():
            assert await v.read_file(ino) == content
            assert ((await v.fs.getattr(ino)).mtime, (await v.fs.getattr(ino)).ctime) == times[ino]
        check_accounts(v.store, v.segments)


async def test_there_is_room_for_what_is_moved_at_the_moment_it_is_appended(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with volume(tmp_path, capacity=40_000, slow=True) as v:
        await leave_every_third_of_60_files(v)
        assert await move_all(v) > 0
        assert v.segments.late == 0


async def test_nothing_is_moved_any_more_once_it_rests(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with volume(tmp_path, capacity=40_000, slow=True) as v, trio.open_nursery() as nursery:
        await leave_every_third_of_60_files(v)
        moving = trio.Event()
        v.segments.while_reading = moving.set
        await nursery.start(v.fs.run)
        await moving.wait()
        await v.fs.rest()
        moved = sum(len(data) for data in v.segments.data.values())
        assert v.segments.victims()
        await trio.sleep(10 * compactor.PERIOD)
        assert sum(len(data) for data in v.segments.data.values()) == moved
        nursery.cancel_scope.cancel()


async def test_what_is_written_while_it_is_moved_wins(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with volume(tmp_path, capacity=10_000, slow=True) as v:
        handle, made = await v.fs.create(ROOT_INODE, b"a", 0o644, 0, 0)
        inode = v.fs._inodes.get(made.ino)
        await v.fs.write(handle, 0, b"old" * 10_000)
        for at in range(0, 30_000, 10_000):
            await v.fs.write(handle, at, b"new" * 2000)
        await v.store.sync()
        raced: list[object] = []

        def overwrite() -> None:
            if not raced:
                runs = v.segments.append(inode.ino, 7000, b"LATER")
                raced.append(runs)
                v.fs._extents.put(inode, 7000, runs)
                v.fs._inodes.mark(inode)

        v.segments.while_reading = overwrite
        await v.fs.compact()
        assert raced
        assert (await v.fs.read(handle, 6999, 7))[1:6] == b"LATER"
        await v.store.sync()
        check_accounts(v.store, v.segments)


@pytest.mark.parametrize("begun", [False, True])
async def test_while_somebody_wants_that_nothing_is_moved(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, begun: bool
) -> None:
    async with volume(tmp_path, capacity=40_000) as v:
        await leave_every_third_of_60_files(v)
        before = list(v.store.read("SELECT * FROM extent ORDER BY ino, off"))
        still, wanted = contextlib.AsyncExitStack(), trio.Event()
        async with trio.open_nursery() as nursery:
            async with still:

                async def hold() -> None:
                    await still.enter_async_context(v.fs.still())
                    wanted.set()

                if begun:
                    read = v.segments.read

                    async def slow_read(*part: int) -> bytes:
                        v.segments.read = read  # type: ignore[method-assign]
                        await hold()
                        return await read(*part)

                    v.segments.read = slow_read  # type: ignore[method-assign, assignment]
                    v.segments.read_now = lambda *part: None  # type: ignore[method-assign]
                else:
                    await hold()
                nursery.start_soon(v.fs.compact)
                await wanted.wait()
                await trio.sleep(60)
                await v.store.sync()
                assert v.fs._is_still()
                assert v.store.read("SELECT * FROM extent ORDER BY ino, off") == before
        assert v.fs.compacted > 0


async def test_a_segment_that_cannot_be_read_stops_nothing(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with volume(tmp_path, capacity=10_000) as v:
        handle, _ = await v.fs.create(ROOT_INODE, b"a", 0o644, 0, 0)
        await v.fs.write(handle, 0, bytes(50_000))
        for at in range(0, 50_000, 10_000):
            await v.fs.write(handle, at, bytes(7000))
        await v.store.sync()
        lost = v.segments.victims()[0]
        content = v.segments.data.pop(lost)
        assert await v.fs.compact() > 0
        assert await v.fs.compact() == 0
        v.segments.data[lost] = content
        assert await v.fs.files_of(lost) == [b"a"]


async def test_fragments_are_joined_after_a_while(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with volume(tmp_path, capacity=8 * WINDOW, background=True) as v:
        handle, made = await v.fs.create(ROOT_INODE, b"a", 0o644, 0, 0)
        inode = v.fs._inodes.get(made.ino)
        expected = bytearray(os.urandom(2 * WINDOW))
        await v.fs.write(handle, 0, bytes(expected))
        for at in range(0, WINDOW, 8192):
            expected[at : at + 4096] = os.urandom(4096)
            await v.fs.write(handle, at, bytes(expected[at : at + 4096]))
        assert len(v.fs._extents.window(inode, 0).extents) == 256
        mtime = inode.mtime
        await trio.sleep(120)
        assert len(v.fs._extents.window(inode, 0).extents) == 1
        assert bytes(await v.fs.read(handle, 0, 2 * WINDOW)) == expected
        assert inode.mtime == mtime
        await v.store.sync()
        check_accounts(v.store, v.segments)


async def test_only_much_writing_holds_compaction_up(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with volume(tmp_path) as v:
        handle, _ = await v.fs.create(ROOT_INODE, b"a", 0o644, 0, 0)

        async def busy(size: int) -> bool:
            await trio.sleep(compactor.QUIET)
            await v.fs.write(handle, 0, bytes(size))
            return v.fs._programs_write()

        assert not await busy(4096)
        assert await busy(compactor.MUCH)
        assert not await busy(4096)
        v.segments.pressed = True
        assert not await busy(compactor.MUCH)


async def test_files_of_a_segment_are_named_by_their_paths(tmp_path: Path) -> None:
    async with volume(tmp_path) as v:
        one = await v.fs.mkdir(ROOT_INODE, b"one", 0o755, 0, 0)
        two = await v.fs.mkdir(one.ino, b"two", 0o755, 0, 0)
        await v.write_file(b"deep", b"x", two.ino)
        await v.write_file(b"top", b"y")
        await v.write_file(b"overwritten", b"y")
        await v.remove(b"overwritten")
        await v.store.sync()
        assert sorted(await v.fs.files_of(1)) == [b"one/two/deep", b"top"]
        assert await v.fs.files_of(77) == []
        # Damaged metadata: two directories that lie in each other.
        v.store.write("UPDATE dentry SET parent = ? WHERE ino = ?", [(two.ino, one.ino)])
        v.store.write("UPDATE inode SET parent = ? WHERE ino = ?", [(two.ino, one.ino)])
        await v.store.sync()
        with trio.fail_after(5):
            assert sorted(await v.fs.files_of(1)) == [b"one/two/deep", b"top"]


@pytest.mark.parametrize("way", ["compact", "defragment"])
async def test_what_happens_to_a_file_while_its_bytes_are_moved_stays(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, way: str
) -> None:
    """Reading may take long; so many files are used meanwhile that memory keeps no other inode."""
    async with volume(tmp_path, capacity=20_000, slow=True) as v:
        ino = await v.write_file(b"a", b"")
        handle = await v.fs.open(ino, 1)
        for at in range(0, 24_000, 1000):
            await v.fs.write(handle, at, os.urandom(1000))
        for at in range(0, 12_000, 1000):
            await v.fs.write(handle, at, os.urandom(1000))
        await v.fs.release(handle)
        await v.store.sync()

        async def change_and_use_others() -> None:
            await v.store.sync()
            v.evict()
            await v.fs.setattr(ino, mode=0o600)
            handle = await v.fs.open(ino, 1)
            await v.fs.write(handle, 90_000, b"the end")
            await v.fs.release(handle)
            await v.store.sync()
            v.evict()

        read = v.segments.read

        async def slow_read(*part: int) -> bytes:
            v.segments.read = read  # type: ignore[method-assign]
            await change_and_use_others()
            return await read(*part)

        v.segments.read = slow_read  # type: ignore[method-assign, assignment]
        assert await (v.fs.compact() if way == "compact" else v.fs.defragment(ino, 0))
        assert v.segments.read is read, "the file changed on the way"
        await v.store.sync()
        v.evict()
        found = await v.fs.getattr(ino)
        assert (found.mode & 0o777, found.size) == (0o600, 90_007)
        check_accounts(v.store, v.segments)
