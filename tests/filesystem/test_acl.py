"""The arithmetic of access control lists, and how a filesystem keeps them in step with permission bits."""

import errno
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storjfs.errors import FilesystemError
from storjfs.filesystem import acl
from storjfs.filesystem.acl import GROUP, GROUP_OBJ, MASK, OTHER, USER, USER_OBJ, Entry
from storjfs.store import ROOT_INODE

from .volumes import fails, volume

NO_ID = (1 << 32) - 1
BITS = st.integers(0, 7)
MODES = st.integers(0, 0o777)


@st.composite
def lists(draw: st.DrawFn) -> list[Entry]:
    """Any valid list."""
    named = draw(
        st.lists(st.tuples(st.sampled_from([USER, GROUP]), BITS, st.integers(0, NO_ID - 1)), max_size=4)
    )
    entries = [
        (USER_OBJ, draw(BITS), NO_ID),
        (GROUP_OBJ, draw(BITS), NO_ID),
        (OTHER, draw(BITS), NO_ID),
        *named,
    ]
    has_mask: bool = draw(st.booleans())
    if named or has_mask:
        entries.append((MASK, draw(BITS), NO_ID))
    return sorted(entries)


@given(lists())
def test_what_is_built_is_parsed_again(entries: list[Entry]) -> None:
    assert acl.parse(acl.build(entries)) == entries


@given(lists(), MODES)
def test_after_chmod_the_list_says_what_the_bits_say_and_names_keep_theirs(
    entries: list[Entry], mode: int
) -> None:
    changed = acl.with_permissions(entries, mode)
    assert acl.permissions(changed) == mode
    assert [entry for entry in changed if entry[0] in (USER, GROUP)] == [
        entry for entry in entries if entry[0] in (USER, GROUP)
    ]


@given(lists(), MODES)
def test_nothing_is_inherited_that_list_or_program_refuse(default: list[Entry], mode: int) -> None:
    made = acl.permissions(acl.inherited(default, mode))
    assert made == acl.permissions(default) & mode


@given(lists())
def test_a_list_says_more_than_bits_where_it_has_names_or_a_mask(entries: list[Entry]) -> None:
    assert acl.says_more(entries) is (len(entries) > 3)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"nonsense",
        acl.build([]),
        acl.build([(USER_OBJ, 7, NO_ID), (GROUP_OBJ, 7, NO_ID)]),
        acl.build([(USER_OBJ, 7, NO_ID), (GROUP_OBJ, 7, NO_ID), (OTHER, 7, NO_ID)])[:-1],
        acl.build([(USER_OBJ, 7, NO_ID)] * 2 + [(GROUP_OBJ, 7, NO_ID), (OTHER, 7, NO_ID)]),
    ],
)
def test_what_is_no_list_is_refused(value: bytes) -> None:
    with pytest.raises(FilesystemError) as caught:
        acl.parse(value)
    assert caught.value.errno == errno.EINVAL


async def test_lists_and_what_is_inherited_survive_a_crash_together(tmp_path: Path) -> None:
    default = acl.build(
        [(USER_OBJ, 7, NO_ID), (USER, 6, 12), (GROUP_OBJ, 5, NO_ID), (MASK, 7, NO_ID), (OTHER, 0, NO_ID)]
    )
    async with volume(tmp_path) as v:
        directory = (await v.fs.mkdir(ROOT_INODE, b"dir", 0o755, 0, 0)).ino
        await v.fs.setxattr(directory, acl.DEFAULT, default)
        handle, _ = await v.fs.create(directory, b"file", 0o666, 0, 0, umask=0o077)
        await v.fs.release(handle)
        await v.store.sync()
        await v.fs.mkdir(directory, b"lost", 0o777, 0, 0)
    async with volume(tmp_path) as v:
        directory = (await v.fs.lookup(ROOT_INODE, b"dir")).ino
        with fails(errno.ENOENT):
            await v.fs.lookup(directory, b"lost")
        file = await v.fs.lookup(directory, b"file")
        assert file.mode == stat.S_IFREG | 0o660
        held = await v.fs.getxattr(file.ino, acl.ACCESS)
        assert acl.parse(held)[1] == (USER, 6, 12)
        assert await v.fs.getxattr(directory, acl.DEFAULT) == default


async def test_without_a_default_list_the_umask_applies(tmp_path: Path) -> None:
    async with volume(tmp_path) as v:
        handle, file = await v.fs.create(ROOT_INODE, b"file", 0o666, 0, 0, umask=0o027)
        await v.fs.release(handle)
        directory = await v.fs.mkdir(ROOT_INODE, b"dir", 0o777, 0, 0, 0o027)
        fifo = await v.fs.mknod(ROOT_INODE, b"fifo", stat.S_IFIFO | 0o666, 0, 0, 0, 0o027)
        link = await v.fs.symlink(ROOT_INODE, b"link", b"x", 0, 0)
        assert [stat.S_IMODE(made.mode) for made in (file, directory, fifo, link)] == [
            0o640,
            0o750,
            0o640,
            0o777,
        ]


async def test_a_default_list_is_for_directories(tmp_path: Path) -> None:
    async with volume(tmp_path) as v:
        ino = await v.write_file(b"file", b"")
        plain = acl.build([(USER_OBJ, 7, NO_ID), (GROUP_OBJ, 5, NO_ID), (OTHER, 1, NO_ID)])
        with fails(errno.EACCES):
            await v.fs.setxattr(ino, acl.DEFAULT, plain)
        await v.fs.setxattr(ino, acl.ACCESS, plain)
        assert stat.S_IMODE((await v.fs.getattr(ino)).mode) == 0o751
        assert await v.fs.listxattr(ino) == []
