"""How a mount ends, where ending it does not go as asked."""

import contextlib
import errno
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import trio

from storjfs.daemon import life
from storjfs.daemon.life import Life, WritesRefused, take_in
from storjfs.daemon.mountpoint import MountpointBusy, MountpointError, detach
from storjfs.daemon.request import MountRequest, Teller
from storjfs.errors import FilesystemError, StorjfsError
from storjfs.filesystem import Capacity, Filesystem
from storjfs.fuse import Adapter, parse_options, serve
from storjfs.segments import Run
from storjfs.store import DiskFull, MetaStore, StoreError
from tests.filesystem.memory_segments import MemorySegments


async def nobody(progress: object) -> None:
    pass


@pytest.mark.parametrize("error", [MountpointBusy("in use"), MountpointError("not allowed")])
async def test_a_mount_that_could_not_be_taken_off_still_sends_the_rest_when_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: StorjfsError
) -> None:
    def refused(target: Path, *, lazy: bool) -> None:
        raise error

    monkeypatch.setattr(life, "detach", refused)
    request = MountRequest(volume="default", mountpoint=str(tmp_path / "cloud"))
    mount = Life(request, Teller(None))
    mount._state = "mounted"
    with pytest.raises(type(error)):
        await mount._umount_asked({"flush": False}, nobody)
    assert not mount._last_flush.cancel_called


class Drive:
    """One whose `failure` keeps it from writing anything down."""

    def __init__(self, failure: StoreError | None = None) -> None:
        self.failure = failure

    def waiting(self) -> int:
        return 7

    async def flush(self) -> None:
        await trio.lowlevel.checkpoint()
        if self.failure is not None:
            raise self.failure


FULL = DiskFull("no space left", errno.ENOSPC, "Free some.")
OVER = StoreError("the disk fails")
LOST = "what was written last and not synced is lost"


@pytest.fixture
def mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Life:
    """One that is mounted, as far as it knows, and has been unmounted once it asks for that."""
    made = Life(MountRequest(volume="default", mountpoint=str(tmp_path / "cloud")), Teller(None))
    made._state = "mounted"
    made._flushed.set()
    monkeypatch.setattr(life, "detach", lambda target, *, lazy: None)
    monkeypatch.setattr(life, "sync_mount", lambda target: None)
    return made


@pytest.mark.parametrize(
    ("failure", "refused"), [(None, ""), (FULL, f"no space left; {LOST}"), (OVER, f"the disk fails; {LOST}")]
)
async def test_a_mount_that_was_taken_off_as_asked_does_not_wait_for_the_farmers(
    mount: Life, failure: StoreError | None, refused: str
) -> None:
    mount._drive = Drive(failure)  # type: ignore[assignment]
    with trio.fail_after(5):
        assert await mount._umount_asked({"flush": False}, nobody) == {"waiting": 7, "refused": refused}
    assert mount._last_flush.cancel_called


async def test_a_full_disk_keeps_the_mount_and_one_that_failed_does_not(mount: Life) -> None:
    mount._adapter = SimpleNamespace(refused=0)  # type: ignore[assignment]
    mount._drive = Drive(FULL)  # type: ignore[assignment]
    with pytest.raises(ExceptionGroup, check=lambda group: group.exceptions == (FULL,)):
        await mount._umount_asked({}, nobody)
    mount._drive = Drive(OVER)  # type: ignore[assignment]
    answer = await mount._umount_asked({}, nobody)
    assert answer == {"waiting": 7, "refused": f"the disk fails; {LOST}"}


@pytest.mark.parametrize("failure", [FULL, OVER], ids=["full", "failed"])
async def test_what_is_unmounted_already_ends_in_good_order(mount: Life, failure: StoreError) -> None:
    mount._drive = Drive(failure)  # type: ignore[assignment]
    mount._unmounted.set()
    await mount._last_words(nobody, 1.0)


DIRTY = """
import mmap, os, sys
file = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o600)
os.write(file, bytes(4096))
os.fsync(file)
pages = mmap.mmap(file, 4096)
pages[:1] = b"x"
os.write(1, b".")
sys.stdin.read()
"""
"""Leaves a page with the kernel until its standard input ends."""


class Refusing(MemorySegments):
    """Refuses what was accepted already, too, where it is full."""

    def append(self, ino: int, off: int, data: bytes) -> Sequence[Run]:
        if self.full:
            raise FilesystemError(self.full)
        return super().append(ino, off, data)


async def test_only_what_the_kernel_held_till_now_counts_as_refused(tmp_path: Path) -> None:
    at = tmp_path / "mount"
    at.mkdir()
    store = MetaStore.open(tmp_path / "meta.db", None)
    segments = Refusing(store)
    space = Capacity(total=1 << 40, free=1 << 39)
    filesystem = Filesystem(store, segments, lambda: space)
    adapter = Adapter(filesystem)

    async def take() -> None:
        with trio.fail_after(60):
            await take_in(at, lambda: adapter.refused)

    @contextlib.asynccontextmanager
    async def dirty(name: str) -> AsyncIterator[None]:
        command = [sys.executable, "-c", DIRTY, str(at / name)]
        process = await trio.lowlevel.open_process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdin is not None
        assert process.stdout is not None
        async with process.stdout, process.stdin:
            assert await process.stdout.receive_some() == b"."
            yield
        await process.wait()

    async with trio.open_nursery() as nursery:
        await nursery.start(store.run)
        await nursery.start(filesystem.run)
        await nursery.start(partial(serve, adapter, at, parse_options([]), "test"))
        async with dirty("taken"):
            await take()
        # The kernel may send the page by itself before it is asked to: then that was told earlier.
        for attempt in range(20):
            segments.full = 0
            lost = f"lost{attempt}"
            async with dirty(lost):
                segments.full = errno.ENOSPC
                try:
                    await take()
                except WritesRefused as error:
                    assert "the rest of it is lost" in str(error)  # noqa: PT017 - it need not be raised
                    break
        else:
            raise AssertionError("no page that the kernel held was refused when it was asked for")
        await take()
        write = f"import os; os.write(os.open({str(at / lost)!r}, os.O_WRONLY), b'told at close')"
        await trio.run_process([sys.executable, "-c", write], check=False)
        await take()
        segments.full = 0
        assert adapter.refused
        await trio.to_thread.run_sync(lambda: detach(at, lazy=False))
        await store.sync()
        nursery.cancel_scope.cancel()
