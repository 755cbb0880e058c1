"""Attributes, extended attributes, space."""

import errno
import os
import stat
from pathlib import Path

import pytest

from storjfs.filesystem import Policy
from storjfs.filesystem.inodes import XATTR_BYTES
from storjfs.store import ROOT_INODE
from tests.filesystem.volumes import fails, volume

DAY = 86_400 * 10**9


async def test_a_change_of_mode_sets_ctime_only(tmp_path: Path) -> None:
    async with volume(tmp_path) as v:
        inode = await v.fs.getattr(await v.write_file(b"a", b""))
        before, mtime, atime = v.clock(), inode.mtime, inode.atime
        await v.fs.setattr(inode.ino, mode=0o4711)
        assert (inode.mode, inode.mtime, inode.atime) == (stat.S_IFREG | 0o4711, mtime, atime)
        assert inode.ctime > before


async def test_a_new_owner_clears_the_set_id_bits_of_programs(tmp_path: Path) -> None:
    async with volume(tmp_path) as v:
        inode = await v.fs.getattr(await v.write_file(b"a", b""))
        for before, after in ((0o6755, 0o755), (0o6745, 0o2745), (0o2755, 0o755)):
            await v.fs.setattr(inode.ino, mode=before)
            await v.fs.setattr(inode.ino, uid=5)
            assert stat.S_IMODE(inode.mode) == after
        directory = await v.fs.mkdir(ROOT_INODE, b"d", 0o2755, 0, 0)
        await v.fs.setattr(directory.ino, gid=5)
        assert stat.S_IMODE(directory.mode) == 0o2755


async def test_a_new_size_sets_mtime_and_ctime(tmp_path: Path) -> None:
    async with volume(tmp_path) as v:
        inode = await v.fs.getattr(await v.write_file(b"a", b"12345"))
        for size in (3, 3, 10):
            before = v.clock()
            await v.fs.setattr(inode.ino, size=size)
            assert inode.mtime == inode.ctime > before
        assert await v.read_file(inode.ino) == b"123" + bytes(7)


async def test_given_times_are_kept_to_the_nanosecond_even_before_1970(tmp_path: Path) -> None:
    async with volume(tmp_path) as v:
        ino = await v.write_file(b"a", b"")
        await v.fs.setattr(ino, atime=-5, mtime=2**62 + 1, ctime=77)
        await v.store.sync()
        v.evict()
        inode = await v.fs.getattr(ino)
        assert (inode.atime, inode.mtime, inode.ctime) == (-5, 2**62 + 1, 77)


async def test_writing_leaves_the_times_to_the_kernel(tmp_path: Path) -> None:
    async with volume(tmp_path) as v:
        handle, inode = await v.fs.create(ROOT_INODE, b"a", 0o644, 0, 0)
        times = inode.mtime, inode.ctime
        await v.fs.write(handle, 0, b"x")
        assert (inode.mtime, inode.ctime) == times


async def test_blocks_count_what_is_there_and_not_holes(tmp_path: Path) -> None:
    async with volume(tmp_path) as v:
        handle, inode = await v.fs.create(ROOT_INODE, b"a", 0o644, 0, 0)
        await v.fs.write(handle, 1 << 40, bytes(4096))
        assert (inode.size, inode.blocks) == ((1 << 40) + 4096, 8)
        await v.fs.write(handle, 1 << 40, bytes(2048))
        assert inode.blocks == 8
        await v.fs.setattr(inode.ino, size=(1 << 40) + 100)
        assert inode.blocks == 1


async def test_relatime_renews_what_is_older_than_a_change_or_a_day(tmp_path: Path) -> None:
    async with volume(tmp_path) as v:
        ino = await v.write_file(b"a", b"content")
        inode = await v.fs.getattr(ino)
        await v.read_file(ino)
        first = inode.atime
        assert first > inode.mtime
        await v.read_file(ino)
        assert inode.atime == first
        v.clock.now += DAY
        await v.read_file(ino)
        second = inode.atime
        assert second > first
        await v.fs.setattr(ino, mode=0o600)
        await v.read_file(ino)
        assert inode.atime > second


async def test_noatime_never_renews(tmp_path: Path) -> None:
    async with volume(tmp_path, policy=Policy(atime="noatime")) as v:
        ino = await v.write_file(b"a", b"content")
        atime = (await v.fs.getattr(ino)).atime
        await v.read_file(ino)
        assert (await v.fs.getattr(ino)).atime == atime


async def test_access_follows_the_permission_bits(tmp_path: Path) -> None:
    async with volume(tmp_path) as v:
        ino = await v.write_file(b"a", b"")
        await v.fs.setattr(ino, mode=0o640, uid=7, gid=8)
        for uid, gids, mode, allowed in (
            (7, {1}, 6, True),
            (7, {1}, 1, False),
            (9, {8}, 4, True),
            (9, {8}, 2, False),
            (9, {9}, 4, False),
            (0, {0}, 6, True),
            (0, {0}, 1, False),
        ):
            assert await v.fs.access(ino, mode, uid, gids) is allowed


async def test_statfs_asks_for_the_contracted_space(tmp_path: Path) -> None:
    async with volume(tmp_path) as v:
        capacity = await v.fs.statfs()
        assert capacity.blocks * capacity.block_size == 1 << 40
        assert capacity.free_blocks * 2 == capacity.blocks


async def test_xattrs_survive_and_go_with_their_inode(tmp_path: Path) -> None:
    async with volume(tmp_path) as v:
        ino = await v.write_file(b"a", b"")
        before = v.clock()
        await v.fs.setxattr(ino, b"user.a", b"1")
        await v.fs.setxattr(ino, b"trusted.b", b"\0" * 65_536)
        await v.fs.setxattr(ino, b"security.c", b"")
        assert (await v.fs.getattr(ino)).ctime > before
        for _ in range(2):
            assert sorted(await v.fs.listxattr(ino)) == [b"security.c", b"trusted.b", b"user.a"]
            assert await v.fs.getxattr(ino, b"trusted.b") == b"\0" * 65_536
            await v.store.sync()
            v.evict()
        await v.fs.removexattr(ino, b"user.a")
        await v.fs.setxattr(ino, b"user.a", b"2")
        await v.store.sync()
        v.evict()
        assert await v.fs.getxattr(ino, b"user.a") == b"2"
        await v.remove(b"a")
        await v.store.sync()
        assert v.store.read("SELECT * FROM xattr") == []


@pytest.mark.parametrize("committed", [True, False])
async def test_limits_of_xattrs(tmp_path: Path, committed: bool) -> None:
    async with volume(tmp_path) as v:
        ino = await v.write_file(b"a", b"")
        await v.fs.setxattr(ino, b"user.a", b"1")
        if committed:
            await v.store.sync()
            v.evict()
        with fails(errno.ENODATA):
            await v.fs.getxattr(ino, b"user.b")
        with fails(errno.ENODATA):
            await v.fs.removexattr(ino, b"user.b")
        with fails(errno.E2BIG):
            await v.fs.setxattr(ino, b"user.b", bytes(65_537))
        with fails(errno.ERANGE):
            await v.fs.setxattr(ino, b"user." + b"b" * 251, b"")
        with fails(errno.EEXIST):
            await v.fs.setxattr(ino, b"user.a", b"", 1)
        with fails(errno.ENODATA):
            await v.fs.setxattr(ino, b"user.b", b"", 2)
        for name in (b"system.nfs4_acl", b"nonsense"):
            with fails(errno.EOPNOTSUPP):
                await v.fs.setxattr(ino, name, b"")
            with fails(errno.EOPNOTSUPP):
                await v.fs.getxattr(ino, name)
        with fails(errno.ENOSPC):
            for n in range(17):
                await v.fs.setxattr(ino, b"user.%d" % n, bytes(65_536))


@pytest.mark.parametrize("beyond", [1 << 63, 1 << 80, -(1 << 63) - 1, -(1 << 80)])
async def test_a_time_beyond_what_is_kept_becomes_the_nearest_and_harms_nobody(
    tmp_path: Path, beyond: int
) -> None:
    async with volume(tmp_path) as v:
        ino = await v.write_file(b"a", b"")
        await v.fs.setattr(ino, atime=beyond, mtime=beyond, ctime=beyond)
        await v.store.sync()
        await v.write_file(b"b", b"still works")
        await v.store.sync()
        v.evict()
        found = await v.fs.getattr(ino)
        nearest = (1 << 63) - 1 if beyond > 0 else -(1 << 63)
        assert (found.atime, found.mtime, found.ctime) == (nearest,) * 3


async def test_an_inode_is_found_by_its_number_alone_whatever_it_is(tmp_path: Path) -> None:
    async with volume(tmp_path) as v:
        file = await v.write_file(b"a", b"")
        directory = (await v.fs.mkdir(ROOT_INODE, b"d", 0o755, 0, 0)).ino
        for ino in (file, directory, ROOT_INODE):
            assert (await v.fs.lookup(ino, b".")).ino == ino
        assert (await v.fs.lookup(directory, b"..")).ino == ROOT_INODE
        with fails(errno.ESTALE):
            await v.fs.lookup(directory + 1, b".")
        opened = await v.fs.open(file, 0)
        await v.remove(b"a")
        with fails(errno.ESTALE):
            await v.fs.lookup(file, b".")  # though it is still there, for those who have it open
        await v.fs.release(opened)
        with fails(errno.ESTALE):
            await v.fs.lookup(file, b".")


async def test_capabilities_end_with_any_change_of_content_or_owner(tmp_path: Path) -> None:
    name = b"security.capability"
    async with volume(tmp_path) as v:
        ino = await v.write_file(b"a", b"program")
        handle = await v.fs.open(ino, os.O_RDWR)

        async def truncate_on_opening() -> None:
            await v.fs.release(await v.fs.open(ino, os.O_WRONLY | os.O_TRUNC))

        for change in (
            lambda: v.fs.write(handle, 0, b"x"),
            lambda: v.fs.setattr(ino, size=3),
            lambda: v.fs.setattr(ino, uid=5),
            truncate_on_opening,
        ):
            await v.fs.setxattr(ino, name, b"powers")
            await v.fs.setattr(ino, mode=0o755, mtime=1)
            assert await v.fs.getxattr(ino, name) == b"powers"
            await change()
            with fails(errno.ENODATA):
                await v.fs.getxattr(ino, name)
        await v.fs.release(handle)


async def test_attributes_are_bounded_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = 60_000
    async with volume(tmp_path, policy=Policy(atime="noatime")) as v:
        cache = v.fs._inodes.cache
        monkeypatch.setattr(cache, "_limit", 1000)
        monkeypatch.setattr(cache, "_rotate_at", 1000)
        inos = []
        for n in range(100):
            inos.append(await v.write_file(b"%d" % n, b""))
            await v.fs.setxattr(inos[-1], b"user.a", bytes(size))
            if n % 5 == 0:
                await v.store.sync()
        await v.store.sync()
        for _ in range(2):
            for ino in inos:
                assert len(await v.fs.getxattr(ino, b"user.a")) == size
            held = [inode for half in (cache.young, cache.old) for inode in half.values() if inode.xattrs]
            assert len(held) * size < 3 * 1000 * XATTR_BYTES
