"""The embedded farm lives as long as its mount, and comes back when it dies."""

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import trio

from storjfs.daemon.farm_child import FarmChild

PATIENCE = 30


def children() -> set[int]:
    """Processes that we started and that still run."""
    found = set()
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if fields[0] != "Z" and int(fields[1]) == os.getpid():
                found.add(int(folder.name))
    return found


async def test_a_farm_that_dies_is_started_again_and_ends_with_us(tmp_path: Path) -> None:
    farm = FarmChild(tmp_path, 2, tmp_path / "ledger.db", 1 << 30, 1 << 26, tmp_path / "farm.log")
    send, receive = trio.open_memory_channel[Mapping[bytes, Any]](10)
    before = children()
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            farm.listen(send.send_nowait)
            nursery.start_soon(farm.run)
            first = await receive.receive()
            assert len(first) == 2
            (process,) = children() - before
            os.kill(process, signal.SIGKILL)
            second = await receive.receive()
            assert set(second) == set(first), "the same farmers, elsewhere"
            assert farm.ready.is_set()
            nursery.cancel_scope.cancel()
    assert children() == before


async def test_who_listens_late_is_told_at_once(tmp_path: Path) -> None:
    farm = FarmChild(tmp_path, 1, tmp_path / "ledger.db", 1 << 30, 1 << 26, tmp_path / "farm.log")
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(farm.run)
            await farm.ready.wait()
            told: list[Mapping[bytes, Any]] = []
            farm.listen(told.append)
            assert [len(one) for one in told] == [1]
            nursery.cancel_scope.cancel()


async def test_a_farm_that_cannot_start_is_no_reason_to_wait(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    farm = FarmChild(tmp_path / "file", 1, tmp_path / "ledger.db", 1 << 30, 1 << 26, tmp_path / "farm.log")
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(farm.run)
            await farm.ready.wait()
            assert farm.addresses == {}
            nursery.cancel_scope.cancel()
