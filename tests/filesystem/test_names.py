"""Names: making, linking, renaming, removing, and what each does to times, links and errnos."""

import errno
import os
import stat
from pathlib import Path

import pytest

from storjfs.filesystem import Policy
from storjfs.filesystem.names import RENAME_EXCHANGE, RENAME_NOREPLACE
from storjfs.store import ROOT_INODE, StoreError
from tests.filesystem.volumes import check_accounts, fails, volume


async def test_a_new_volume_has_an_empty_root(tmp_path: Path) -> None:
    async with volume(tmp_path) as v:
        root = await v.fs.getattr(ROOT_INODE)
        assert (stat.S_ISDIR(root.mode), root.nlink, root.size) == (True, 2, 0)
        assert await v.names() == []


async def test_names_and_contents_survive_reopening(tmp_path: Path) -> None:
    async with volume(tmp_path) as v:
        directory = await v.fs.mkdir(ROOT_INODE, b"d", 0o750, 3, 4)
        ino = await v.write_file(b"\xff\x01", b"content", directory.ino)
        await v.store.sync()
        segments = v.segments
    async with volume(tmp_path, segments=segments) as v:
        directory = await v.fs.lookup(ROOT_INODE, b"d")
        assert (directory.mode, directory.uid, directory.gid) == (stat.S_IFDIR | 0o750, 3, 4)
        assert (await v.fs.lookup(directory.ino, b"\xff\x01")).ino == ino
        assert await v.read_file(ino) == b"content"


async def test_inode_numbers_are_never_used_again(tmp_path: Path) -> None:
    async with volume(tmp_path) as v:
        first = await v.write_file(b"a", b"")
        await v.remove(b"a")
        await v.store.sync()
    async with volume(tmp_path) as v:
        assert await v.write_file(b"a", b"") > first


async def test_names_have_at_most_255_bytes_of_any_value(tmp_path: Path) -> None:
    async with volume(tmp_path) as v:
        longest = bytes(range(1, 256)).replace(b"/", b"!")
        assert len(longest) == 255
        await v.write_file(longest, b"")
        assert await v.names() == [longest]
        with fails(errno.ENAMETOOLONG):
            await v.write_file(longest + b"x", b"")
        with fails(errno.ENAMETOOLONG):
            await v.fs.lookup(ROOT_INODE, longest + b"x")
        for name in (b"", b"a/b", b"a\0"):
            with fails(errno.EINVAL):
                await v.fs.mkdir(ROOT_INODE, name, 0o755, 0, 0)


async def test_looking_up(tmp_path: Path) -> None:
    async with volume(tmp_path) as v:
        directory = await v.fs.mkdir(ROOT_INODE, b"d", 0o755, 0, 0)
        assert await v.fs.lookup(directory.ino, b".") is directory
        assert (await v.fs.lookup(directory.ino, b"..")).ino == ROOT_INODE
        with fails(errno.ENOENT):
            await v.fs.lookup(directory.ino, b"x")
        file = await v.write_file(b"f", b"")
        with fails(errno.ENOTDIR):
            await v.fs.lookup(file, b"x")
        with fails(errno.ESTALE):
            await v.fs.getattr(12345)


async def test_changing_a_directory_sets_its_times_and_making_does_not_touch_others(tmp_path: Path) -> None:
    async with volume(tmp_path) as v:
        root = await v.fs.getattr(ROOT_INODE)
        for change in (
            v.fs.mkdir(ROOT_INODE, b"d", 0o755, 0, 0),
            v.fs.symlink(ROOT_INODE, b"s", b"t", 0, 0),
            v.fs.mknod(ROOT_INODE, b"n", stat.S_IFREG | 0o644, 0, 0, 0),
            v.fs.rename(ROOT_INODE, b"n", ROOT_INODE, b"m", 0),
            v.fs.unlink(ROOT_INODE, b"m"),
            v.fs.rmdir(ROOT_INODE, b"d"),
        ):
            before = v.clock()
            atime = root.atime
            await change
            assert root.mtime == root.ctime > before
            assert root.atime == atime


async def test_linking_sets_ctime_and_counts(tmp_path: Path) -> None:
    async with volume(tmp_path) as v:
        ino = await v.write_file(b"a", b"x")
        inode = await v.fs.getattr(ino)
        before, mtime = v.clock(), inode.mtime
        assert await v.fs.link(ino, ROOT_INODE, b"b") is inode
        assert (inode.nlink, inode.mtime) == (2, mtime)
        assert inode.ctime > before
        before = v.clock()
        await v.fs.unlink(ROOT_INODE, b"a")
        assert inode.nlink == 1
        assert inode.ctime > before
        assert await v.read_file((await v.fs.lookup(ROOT_INODE, b"b")).ino) == b"x"


async def test_what_cannot_be_linked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storjfs.filesystem.core.LINK_MAX", 2)
    async with volume(tmp_path) as v:
        directory = await v.fs.mkdir(ROOT_INODE, b"d", 0o755, 0, 0)
        with fails(errno.EPERM):
            await v.fs.link(directory.ino, ROOT_INODE, b"e")
        ino = await v.write_file(b"a", b"")
        await v.fs.link(ino, ROOT_INODE, b"b")
        with fails(errno.EMLINK):
            await v.fs.link(ino, ROOT_INODE, b"c")
        with fails(errno.EEXIST):
            await v.fs.link(ino, ROOT_INODE, b"d")


async def test_new_entries_take_the_group_of_a_set_gid_directory(tmp_path: Path) -> None:
    async with volume(tmp_path) as v:
        shared = await v.fs.mkdir(ROOT_INODE, b"shared", 0o2775, 1, 50)
        below = await v.fs.mkdir(shared.ino, b"below", 0o755, 2, 2)
        file = await v.fs.mknod(shared.ino, b"file", stat.S_IFREG | 0o644, 0, 2, 2)
        assert (below.gid, bool(below.mode & stat.S_ISGID)) == (50, True)
        assert (file.gid, bool(file.mode & stat.S_ISGID)) == (50, False)


async def test_special_files(tmp_path: Path) -> None:
    async with volume(tmp_path) as v:
        device = await v.fs.mknod(ROOT_INODE, b"null", stat.S_IFCHR | 0o666, os.makedev(1, 3), 0, 0)
        fifo = await v.fs.mknod(ROOT_INODE, b"fifo", stat.S_IFIFO | 0o600, 7, 0, 0)
        await v.store.sync()
        v.evict()
        device, fifo = await v.fs.getattr(device.ino), await v.fs.getattr(fifo.ino)
        assert (device.mode, device.rdev) == (stat.S_IFCHR | 0o666, os.makedev(1, 3))
        assert (fifo.mode, fifo.rdev) == (stat.S_IFIFO | 0o600, 0)
        with fails(errno.EINVAL):
            await v.fs.mknod(ROOT_INODE, b"d", stat.S_IFDIR | 0o755, 0, 0, 0)


async def test_symlinks_keep_any_target(tmp_path: Path) -> None:
    async with volume(tmp_path) as v:
        link = await v.fs.symlink(ROOT_INODE, b"s", b"../\xff" * 100, 1, 2)
        assert (link.mode, link.size, link.uid) == (stat.S_IFLNK | 0o777, 400, 1)
        assert await v.fs.readlink(link.ino) == b"../\xff" * 100
        with fails(errno.EINVAL):
            await v.fs.readlink(ROOT_INODE)
        with fails(errno.ENAMETOOLONG):
            await v.fs.symlink(ROOT_INODE, b"t", b"x" * 4096, 0, 0)


async def test_exchanging_swaps_names_and_keeps_links_right(tmp_path: Path) -> None:
    async with volume(tmp_path) as v:
        one = await v.fs.mkdir(ROOT_INODE, b"one", 0o755, 0, 0)
        two = await v.fs.mkdir(ROOT_INODE, b"two", 0o755, 0, 0)
        moved = await v.fs.mkdir(one.ino, b"moved", 0o755, 0, 0)
        file = await v.write_file(b"file", b"x", two.ino)
        await v.fs.rename(one.ino, b"moved", two.ino, b"file", RENAME_EXCHANGE)
        assert (await v.fs.lookup(one.ino, b"moved")).ino == file
        assert (await v.fs.lookup(two.ino, b"file")).ino == moved.ino
        assert (await v.fs.lookup(moved.ino, b"..")).ino == two.ino
        assert (one.nlink, two.nlink) == (2, 3)
        with fails(errno.ENOENT):
            await v.fs.rename(one.ino, b"moved", two.ino, b"nothing", RENAME_EXCHANGE)
        with fails(errno.EINVAL):
            await v.fs.rename(ROOT_INODE, b"two", two.ino, b"file", RENAME_EXCHANGE)
        await v.store.sync()
        check_accounts(v.store, v.segments)


async def test_noreplace_and_unknown_flags(tmp_path: Path) -> None:
    async with volume(tmp_path) as v:
        await v.write_file(b"a", b"1")
        ino = await v.write_file(b"b", b"2")
        with fails(errno.EEXIST):
            await v.fs.rename(ROOT_INODE, b"a", ROOT_INODE, b"b", RENAME_NOREPLACE)
        await v.fs.rename(ROOT_INODE, b"b", ROOT_INODE, b"c", RENAME_NOREPLACE)
        assert (await v.fs.lookup(ROOT_INODE, b"c")).ino == ino
        for flags in (3, 4, 8):
            with fails(errno.EINVAL):
                await v.fs.rename(ROOT_INODE, b"a", ROOT_INODE, b"d", flags)


async def test_a_removed_directory_takes_no_new_names(tmp_path: Path) -> None:
    async with volume(tmp_path) as v:
        directory = await v.fs.mkdir(ROOT_INODE, b"d", 0o755, 0, 0)
        handle = await v.fs.opendir(directory.ino)
        await v.fs.rmdir(ROOT_INODE, b"d")
        assert await v.fs.readdir(handle, 0) == []
        with fails(errno.ENOENT):
            await v.fs.mkdir(directory.ino, b"x", 0o755, 0, 0)
        v.fs.forget([(directory.ino, 1)])
        await v.fs.fsyncdir(handle)
        await v.fs.releasedir(handle)
        with fails(errno.ESTALE):
            await v.fs.getattr(directory.ino)
        await v.store.sync()
        check_accounts(v.store, v.segments)


async def test_a_read_only_mount_changes_nothing(tmp_path: Path) -> None:
    async with volume(tmp_path) as v:
        ino = await v.write_file(b"a", b"content")
        await v.store.sync()
        segments = v.segments
    async with volume(tmp_path, segments=segments, policy=Policy(read_only=True)) as v:
        assert await v.read_file(ino) == b"content"
        handle = await v.fs.open(ino, os.O_RDONLY)
        for change in (
            v.fs.mkdir(ROOT_INODE, b"d", 0o755, 0, 0),
            v.fs.create(ROOT_INODE, b"d", 0o644, 0, 0),
            v.fs.symlink(ROOT_INODE, b"d", b"t", 0, 0),
            v.fs.mknod(ROOT_INODE, b"d", stat.S_IFREG, 0, 0, 0),
            v.fs.link(ino, ROOT_INODE, b"b"),
            v.fs.unlink(ROOT_INODE, b"a"),
            v.fs.rename(ROOT_INODE, b"a", ROOT_INODE, b"b"),
            v.fs.open(ino, os.O_WRONLY),
            v.fs.open(ino, os.O_RDONLY | os.O_TRUNC),
            v.fs.write(handle, 0, b"x"),
            v.fs.setattr(ino, mode=0o600),
            v.fs.setattr(ino, size=0),
            v.fs.setxattr(ino, b"user.a", b"b"),
        ):
            with fails(errno.EROFS):
                await change
        assert v.store.group == 1
        await v.store.sync()
        assert v.store.group == 1


async def test_after_a_failed_commit_nothing_more_is_taken_in(tmp_path: Path) -> None:
    async with volume(tmp_path) as v:
        handle, _ = await v.fs.create(ROOT_INODE, b"a", 0o644, 0, 0)

        def broken() -> None:
            raise OSError(errno.EIO, "broken disk")

        v.segments.wait = broken
        with fails(errno.EIO):
            await v.fs.fsync(handle)
        with fails(errno.EROFS):
            await v.fs.write(handle, 0, b"x")
        with fails(errno.EROFS):
            await v.fs.unlink(ROOT_INODE, b"a")


async def test_on_a_full_disk_files_can_still_be_removed(tmp_path: Path) -> None:
    async with volume(tmp_path) as v:
        await v.write_file(b"b", b"x")
        handle, _ = await v.fs.create(ROOT_INODE, b"a", 0o644, 0, 0)
        full = True

        def write_back() -> None:
            if full:
                raise OSError(errno.ENOSPC, "full")

        v.segments.wait = write_back
        with fails(errno.ENOSPC):
            await v.fs.fsync(handle)
        with fails(errno.ENOSPC):
            await v.fs.mkdir(ROOT_INODE, b"d", 0o755, 0, 0)
        with fails(errno.ENOSPC):
            await v.fs.write(handle, 0, b"x")
        await v.remove(b"b")
        full = False
        await v.fs.fsync(handle)
        await v.fs.mkdir(ROOT_INODE, b"d", 0o755, 0, 0)
        assert sorted(await v.names()) == [b"a", b"d"]


async def test_making_directories_takes_bounded_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storjfs.filesystem.dentries.COMPLETE_NAMES", 100)
    async with volume(tmp_path) as v:
        for number in range(500):
            await v.fs.mkdir(ROOT_INODE, b"%d" % number, 0o755, 0, 0)
            await v.remove(b"%d" % number)
        assert len(v.fs._dentries._complete) <= 100


async def test_an_id_that_is_given_out_twice_takes_no_other_name_away(tmp_path: Path) -> None:
    """Damaged metadata: the counter is behind. Nothing is committed then, which is said at once."""
    async with volume(tmp_path) as v:
        await v.write_file(b"first", b"x")
        v.store.write("UPDATE counters SET value = ? WHERE key = ?", [(1, "next_dentry")])
        await v.store.sync()
    async with volume(tmp_path) as v:
        await v.write_file(b"second", b"y")
        with pytest.raises(StoreError) as caught:
            await v.store.sync()
        assert "fsck --repair" in str(caught.value.hint)
    async with volume(tmp_path) as v:
        assert await v.names() == [b"first"]
