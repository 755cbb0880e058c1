"""Listing directories: nothing lost, nothing twice, whatever happens meanwhile."""

from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from storjfs.store import ROOT_INODE
from tests.filesystem.volumes import volume


async def test_a_hundred_thousand_entries(tmp_path: Path) -> None:
    async with volume(tmp_path) as v:
        directory = (await v.fs.mkdir(ROOT_INODE, b"d", 0o755, 0, 0)).ino
        expected = [b"entry %d" % n for n in range(100_000)]
        for name in expected:
            await v.fs.mknod(directory, name, 0o644, 0, 0, 0)
        assert await v.names(directory, 32) == expected  # partly from the database, partly not
        await v.store.sync()
        v.evict()
        assert await v.names(directory, 1000) == expected
        held = v.fs._inodes.cache
        assert len(held.young) + len(held.old) < 40_000


async def test_entries_come_with_their_attributes(tmp_path: Path) -> None:
    async with volume(tmp_path) as v:
        ino = await v.write_file(b"a", b"content")
        for _ in range(2):
            handle = await v.fs.opendir(ROOT_INODE)
            ((name, attributes, cookie),) = await v.fs.readdir(handle, 0)
            assert (name, attributes.ino, attributes.size) == (b"a", ino, 7)
            assert await v.fs.readdir(handle, cookie) == []
            await v.fs.releasedir(handle)
            await v.store.sync()
            v.evict()


async def test_a_listing_can_go_back_to_any_cookie(tmp_path: Path) -> None:
    async with volume(tmp_path) as v:
        for n in range(50):
            await v.write_file(b"%d" % n, b"")
        handle = await v.fs.opendir(ROOT_INODE)
        entries = await v.fs.readdir(handle, 0, 100)
        for at in (40, 3, 49, 0, 17):
            cookie = entries[at][2]
            assert [entry[0] for entry in await v.fs.readdir(handle, cookie, 5)] == [
                entry[0] for entry in entries[at + 1 : at + 6]
            ]


steps = st.lists(
    st.one_of(
        st.tuples(st.just("list"), st.integers(1, 6)),
        st.tuples(st.just("make"), st.integers(0, 30)),
        st.tuples(st.just("remove"), st.integers(0, 30)),
        st.tuples(st.just("replace"), st.integers(0, 30)),
        st.tuples(st.just("commit"), st.just(0)),
        st.tuples(st.just("freeze"), st.just(0)),
        st.tuples(st.just("evict"), st.just(0)),
    ),
    max_size=60,
)


@settings(max_examples=60, deadline=None)
@given(st.sets(st.integers(0, 30)), steps)
async def test_what_stays_is_listed_exactly_once(
    tmp_path_factory: object, first: set[int], steps: list[tuple[str, int]]
) -> None:
    async with volume(tmp_path_factory.mktemp("volume")) as v:  # type: ignore[attr-defined]
        directory = (await v.fs.mkdir(ROOT_INODE, b"d", 0o755, 0, 0)).ino
        for n in first:
            await v.write_file(b"%d" % n, b"", directory)
        present, stayed, ever = set(first), set(first), set(first)
        handle = await v.fs.opendir(directory)
        cookie, listed = 0, list[int]()
        for what, n in [*steps, *[("list", 7)] * 40]:
            if what == "list":
                entries = await v.fs.readdir(handle, cookie, n)
                for name, attributes, cookie in entries:  # noqa: B007
                    assert attributes.nlink
                    assert (await v.fs.lookup(directory, name)).ino == attributes.ino
                    listed.append(int(name))
            elif what == "make" and n not in present:
                await v.write_file(b"%d" % n, b"", directory)
                present.add(n)
                ever.add(n)
            elif what == "remove" and n in present:
                await v.remove(b"%d" % n, directory)
                present.discard(n)
                stayed.discard(n)
            elif what == "replace" and n in present:
                await v.write_file(b"%d" % n, b"", ROOT_INODE)
                await v.fs.rename(ROOT_INODE, b"%d" % n, directory, b"%d" % n)
            elif what == "commit":
                await v.store.sync()
            elif what == "freeze":
                v.store.request_commit()
            elif what == "evict":
                v.evict()
        assert stayed <= set(listed) <= ever
        for n in stayed:
            assert listed.count(n) == 1
        assert sorted(map(int, await v.names(directory, 3))) == sorted(present)
