"""The real process with several farmers: starts, stops, is killed while it takes shards, and starts again."""

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import pytest
import trio

from storjfs.errors import StorjfsError
from storjfs.protocol.ids import NodeId
from storjfs.protocol.terms import Address
from storjfs.settlement import Ledger
from tests.farmer.renter import MIB, Renter, renting

PATIENCE = 30.0


@dataclass
class Farm:
    """The child process, and the pipe that keeps it alive."""

    folder: Path
    count: int = 3
    process: subprocess.Popen[bytes] | None = None
    hold: int = -1
    farmers: list[tuple[NodeId, Address]] = field(default_factory=list)

    def start(self, *words: str) -> None:
        ready, ready_child = os.pipe()
        parent_child, self.hold = os.pipe()
        with (self.folder / "log").open("ab") as log:
            self._spawn(ready_child, parent_child, log, *words)
        os.close(ready_child)
        os.close(parent_child)
        assert select.select([ready], [], [], PATIENCE)[0], "the farm did not get ready"
        with os.fdopen(ready) as lines:
            line = lines.readline()
        assert line, (self.folder / "log").read_text()
        self.farmers = [
            (NodeId(bytes.fromhex(one["node_id"])), Address.parse(one["address"])) for one in json.loads(line)
        ]

    def _spawn(self, ready_child: int, parent_child: int, log: IO[bytes], *words: str) -> None:
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "storjfs.farmer.embedded"),
                *("--dir", str(self.folder / "farm"), "--count", str(self.count)),
                *("--ledger", str(self.folder / "ledger.db"), "--capacity", str(64 * MIB)),
                *("--ready-fd", str(ready_child), "--parent-fd", str(parent_child), *words),
            ],
            pass_fds=(ready_child, parent_child),
            stderr=log,
        )

    def let_go(self) -> int:
        """End it as a parent does that goes away; the exit code."""
        assert self.process is not None
        os.close(self.hold)
        self.hold = -1
        return self.process.wait(PATIENCE)

    def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(PATIENCE)
        if self.hold >= 0:
            os.close(self.hold)
            self.hold = -1


@pytest.fixture
def farm(tmp_path: Path) -> Iterator[Farm]:
    farm = Farm(tmp_path)
    yield farm
    if farm.process is not None:
        farm.kill()


def test_starts_fast_and_ends_with_its_parent(farm: Farm) -> None:
    farm.start()
    assert len(farm.farmers) == 3
    began = time.monotonic()
    assert farm.let_go() == 0
    assert time.monotonic() - began < 5


def test_ends_on_sigterm(farm: Farm) -> None:
    farm.start()
    assert farm.process is not None
    farm.process.terminate()
    assert farm.process.wait(PATIENCE) == 0


def test_farmers_are_the_same_after_a_restart_and_new_after_a_wipe(farm: Farm) -> None:
    farm.start()
    before = [node_id for node_id, _ in farm.farmers]
    farm.let_go()
    shutil.rmtree(farm.folder / "farm" / "farmer-01")
    farm.start()
    after = [node_id for node_id, _ in farm.farmers]
    assert (after[0], after[2]) == (before[0], before[2])
    assert after[1] not in before


def test_a_farmer_can_be_left_out(farm: Farm) -> None:
    farm.start()
    before = [node_id for node_id, _ in farm.farmers]
    farm.let_go()
    farm.start("--without", "1")
    assert [node_id for node_id, _ in farm.farmers] == [before[0], before[2]]


def test_a_damaged_farmer_is_left_out(farm: Farm) -> None:
    farm.start()
    before = [node_id for node_id, _ in farm.farmers]
    farm.let_go()
    (farm.folder / "farm" / "farmer-00" / "identity").write_bytes(b"x")
    (farm.folder / "farm" / "farmer-01" / "farmer.db").write_bytes(b"x" * 8192)
    farm.start()
    assert [node_id for node_id, _ in farm.farmers] == [before[2]]


def test_successor_waits_for_a_predecessor_that_is_still_stopping(farm: Farm) -> None:
    farm.start()
    first, hold = farm.process, farm.hold
    assert first is not None
    os.close(hold)
    farm.start()
    assert first.wait(PATIENCE) == 0


async def upload(renter: Renter, sizes: list[int], stored: Callable[[], None]) -> None:
    """Put shards until the farm is gone; what has a receipt is in `renter.shards`."""
    with contextlib.suppress(StorjfsError, trio.BrokenResourceError):
        for size in sizes:
            await renter.put(size)
            stored()


@pytest.mark.parametrize("receipts", [1, 8])
async def test_after_a_kill_every_shard_with_a_receipt_is_there(
    farm: Farm, ledger: Ledger, receipts: int
) -> None:
    farm.start()
    seeds = [os.urandom(32) for _ in farm.farmers]
    renters: list[Renter] = []
    async with contextlib.AsyncExitStack() as stack:
        for (node_id, address), seed in zip(farm.farmers, seeds, strict=True):
            renter = await stack.enter_async_context(renting(ledger, node_id, address, seed))
            await renter.agree(capacity=32 * MIB)
            renters.append(renter)
        async with trio.open_nursery() as nursery:
            enough = trio.Semaphore(0)
            for renter in renters:
                for size in (65552, MIB + 16):
                    nursery.start_soon(upload, renter, [size] * 12, enough.release)
            for _ in range(receipts):
                await enough.acquire()
            farm.kill()
    shards = [list(renter.shards) for renter in renters]
    assert sum(map(len, shards)) >= receipts
    farm.start()
    async with contextlib.AsyncExitStack() as stack:
        for (node_id, address), seed, before in zip(farm.farmers, seeds, renters, strict=True):
            renter = await stack.enter_async_context(renting(ledger, node_id, address, seed))
            renter.contract, renter.offer = before.contract, before.offer
            for shard in before.shards:
                assert await renter.get(shard) == shard.data
            if before.shards:
                assert all(verdict.passed for verdict in await renter.audit(*before.shards))
            # The same shard may be put again, whether its receipt was lost or not.
            seen = await renter.look()
            assert seen.shards >= len(before.shards)
            await renter.put(MIB)
            assert (await renter.look()).used == seen.used + MIB
    assert not list((farm.folder / "farm").glob("*/shelf/arriving/*"))


async def test_contract_signed_before_a_kill_is_the_same_after_it(farm: Farm, ledger: Ledger) -> None:
    farm.count = 1
    farm.start()
    seed = os.urandom(32)
    async with renting(ledger, *farm.farmers[0], seed) as renter:
        terms = await renter.draft()
        first = await renter.propose(terms)
        farm.kill()
    farm.start()
    async with renting(ledger, *farm.farmers[0], seed) as again:
        again.offer = renter.offer
        assert await again.propose(terms) == first
        again.fund(1000)
        assert (await again.notify()).contract == first.contract


async def test_vouchers_survive_a_kill_and_are_claimed_later(farm: Farm, ledger: Ledger) -> None:
    farm.count = 1
    farm.start()
    node_id, address = farm.farmers[0]
    seed = os.urandom(32)
    async with renting(ledger, node_id, address, seed) as renter:
        await renter.agree()
        await renter.pay(12345)
        farm.kill()
    farm.start()
    async with renting(ledger, *farm.farmers[0], seed) as again:
        again.contract, again.offer = renter.contract, renter.offer
        assert (await again.look()).voucher == renter.voucher
    assert farm.let_go() == 0
    assert ledger.balance(renter.terms.payee) == 12345
