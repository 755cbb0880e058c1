"""Whatever moment the process ends at, what is found afterwards is a prefix of what was done."""

import errno
import random
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from storjfs.store import ROOT_INODE, Statement, StoreError
from tests.filesystem.volumes import Volume, check_accounts, check_tables, volume

State = tuple[tuple[bytes, bytes], ...]


async def state_of(v: Volume) -> State:
    """Names and contents of all files."""
    found = []
    for name, ino in await v.entries():
        found.append((name, await v.read_file(ino)))
    return tuple(sorted(found))


async def random_step(v: Volume, chance: random.Random) -> None:
    """One operation of a program that changes something."""
    present = dict(await v.entries())
    name = b"%d" % chance.randrange(6)
    kind = chance.randrange(6)
    if name not in present:
        await v.write_file(name, b"")
    elif kind == 0:
        await v.remove(name)
    elif kind == 1:
        await v.fs.rename(ROOT_INODE, name, ROOT_INODE, b"%d" % chance.randrange(6))
    elif kind == 2:
        await v.fs.setattr(present[name], size=chance.randrange(30_000))
    else:
        handle = await v.fs.open(present[name], 1)
        await v.fs.write(handle, chance.randrange(20_000), chance.randbytes(chance.randrange(1, 9000)))
        await v.fs.release(handle)


def crashed(directory: Path, target: Path) -> None:
    """What would be on the disk now."""
    target.mkdir()
    for path in directory.glob("meta.db*"):
        if not path.name.endswith("-shm"):
            shutil.copy(path, target / path.name)


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 2**32))
async def test_what_a_crash_leaves_is_a_prefix_with_all_that_was_synced(
    tmp_path_factory: object, seed: int
) -> None:
    directory: Path = tmp_path_factory.mktemp("volume")  # type: ignore[attr-defined]
    chance = random.Random(seed)
    states: list[State] = []
    copies: list[tuple[Path, int, dict[int, bytes]]] = []  # directory, states known durable, data written
    async with volume(directory, capacity=50_000) as v:
        await v.store.sync()
        states.append(())
        durable = 0
        for step in range(60):
            await random_step(v, chance)
            states.append(await state_of(v))
            match chance.randrange(8):
                case 0:
                    await v.store.sync()
                    durable = len(states) - 1
                case 1:
                    v.store.request_commit()
                case 2:
                    await trio.lowlevel.checkpoint()
            if chance.randrange(6) == 0:
                target = directory / f"crash {step}"
                crashed(directory, target)
                # Data may be ahead of the metadata, never behind: steps 2 to 5 of a group commit.
                copies.append((target, durable, {seg: bytes(data) for seg, data in v.segments.data.items()}))
    for target, known, data in copies:
        check_tables(target)
        async with volume(target, background=True) as found:
            found.segments.data.update({seg: bytearray(content) for seg, content in data.items()})
            rows = found.store.read("SELECT seg, sum(len) FROM extent GROUP BY seg")
            found.segments.lives.update(dict(rows))
            state = await state_of(found)
            assert state in states[known:], "not a prefix, or something synced is missing"
            while found.fs._orphans.known:
                await trio.lowlevel.checkpoint()
            await found.store.sync()
            check_accounts(found.store, found.segments)


async def test_a_rename_over_a_file_is_one_step(tmp_path: Path) -> None:
    """Neither no file nor half of one, at any commit on the way."""
    async with volume(tmp_path) as v:
        await v.write_file(b"a", b"old")
        await v.store.sync()
        for n in range(20):
            await v.write_file(b"new", b"new %d" % n)
            if n % 3 == 0:
                v.store.request_commit()
            await v.fs.rename(ROOT_INODE, b"new", ROOT_INODE, b"a")
            v.store.request_commit()
            crashed(tmp_path, tmp_path / str(n))
            await v.store.sync()
        segments = v.segments
    for n in range(20):
        async with volume(tmp_path / str(n), segments=segments) as found:
            entries = dict(await found.entries())
            assert b"a" in entries
            content = await found.read_file(entries[b"a"])
            assert content in (b"old" if n == 0 else b"new %d" % (n - 1), b"new %d" % n)


class Copier:
    """A participant that keeps what would be on the disk after each commit."""

    def __init__(self, v: Volume, directory: Path) -> None:
        self.directory = directory
        self.copies: list[Path] = []
        v.store.join(self)

    def freeze(self) -> Sequence[Statement]:
        return ()

    def before_commit(self) -> None:
        return None

    def committed(self, group: int) -> None:
        self.copies.append(self.directory / f"after group {group}")
        crashed(self.directory, self.copies[-1])


async def test_a_full_group_closes_between_two_requests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never halfway through one: a power cut would leave, say, a file that has lost its only name."""
    monkeypatch.setattr("storjfs.store.meta.MAX_CHANGES", 8)
    async with volume(tmp_path) as v:
        copier = Copier(v, tmp_path)
        for n in range(20):
            await v.write_file(b"new", b"new %d" % n)
            await v.fs.rename(ROOT_INODE, b"new", ROOT_INODE, b"a")
            await v.fs.mkdir(ROOT_INODE, b"d%d" % n, 0o755, 0, 0)
            await trio.testing.wait_all_tasks_blocked()
    assert len(copier.copies) > 10
    for copy in copier.copies:
        check_tables(copy)


async def test_everything_pending_survives_a_commit_that_fails_in_between(tmp_path: Path) -> None:
    async with volume(tmp_path) as v:
        await v.write_file(b"a", b"1")
        await v.write_file(b"b", b"2")
        failures = [OSError(errno.ENOSPC, "full"), OSError(errno.EDQUOT, "quota")]

        def sometimes() -> None:
            if failures:
                raise failures.pop()

        v.segments.wait = sometimes
        for number in (errno.EDQUOT, errno.ENOSPC):
            with pytest.raises(StoreError) as caught:
                await v.store.sync()
            assert caught.value.errno == number
        await v.fs.unlink(ROOT_INODE, b"b")
        await v.store.sync()
        assert v.store.failure is None
        before = await state_of(v)
        await v.store.sync()
        segments = v.segments
    async with volume(tmp_path, segments=segments) as v:
        assert await state_of(v) == before == ((b"a", b"1"),)
