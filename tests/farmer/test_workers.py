"""Reads and audits go on while uploads wait for a slow disk; work that is cancelled in time is not done."""

import threading
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trio
import trio.testing

from storjfs.coding.buffers import Buffer
from storjfs.farmer.disk import Disk
from storjfs.farmer.workers import MOST, WORKERS, Workers
from storjfs.protocol.priorities import Priority
from storjfs.settlement import Ledger
from tests.farmer.renter import MIB, farming, renting


class SlowDisk(Disk):
    """Takes no byte while `ready` is not set."""

    def __init__(self) -> None:
        self.ready = threading.Event()
        self.ready.set()

    def write(self, file: int, data: Buffer, offset: int) -> None:
        self.ready.wait()
        super().write(file, data, offset)


@pytest.fixture
def disk() -> Iterator[SlowDisk]:
    disk = SlowDisk()
    yield disk
    disk.ready.set()


async def test_reads_and_audits_pass_uploads_that_wait_for_the_disk(
    tmp_path: Path, ledger: Ledger, disk: SlowDisk
) -> None:
    async with AsyncExitStack() as stack:
        farmer = await stack.enter_async_context(farming(tmp_path, disk=disk))
        renters = [
            await stack.enter_async_context(renting(ledger, farmer.node_id, farmer.listening[0]))
            for _ in range(WORKERS)
        ]
        for renter in renters:
            await renter.agree(capacity=4 * MIB)
        shard = await renters[0].put(70_000)
        disk.ready.clear()
        async with trio.open_nursery() as uploads:
            for renter in renters:
                for _ in range(2):
                    uploads.start_soon(renter.put, 70_000)
            while not farmer.keeper._workers.waiting:  # noqa: ASYNC110 - other threads have a part in it
                await trio.sleep(0.01)
            try:
                with trio.fail_after(60):
                    assert await renters[0].get(shard, 5, 1000) == shard.data[5:1005]
                    assert [verdict.passed for verdict in await renters[0].audit(shard)] == [True]
            finally:
                disk.ready.set()
        assert sum(len(renter.shards) for renter in renters) == 2 * WORKERS + 1


async def test_work_that_is_cancelled_before_its_turn_is_not_done() -> None:
    workers, free, done = Workers(), threading.Event(), list[str]()

    def work(name: str) -> None:
        free.wait()
        done.append(name)

    async with trio.open_nursery() as nursery:
        for number in range(MOST[Priority.UPLOAD]):
            nursery.start_soon(workers.run, Priority.UPLOAD, work, f"upload {number}")
        await trio.testing.wait_all_tasks_blocked()
        scope = trio.CancelScope()

        async def cancelled() -> None:
            with scope:
                await workers.run(Priority.UPLOAD, work, "cancelled")

        nursery.start_soon(cancelled)
        await trio.testing.wait_all_tasks_blocked()
        assert workers.waiting == 1
        scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert workers.waiting == 0
        free.set()
    assert sorted(done) == [f"upload {number}" for number in range(MOST[Priority.UPLOAD])]
