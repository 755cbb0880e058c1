"""The real farmer process with hostile peers in every state: it serves, and keeps nothing for them."""

import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from storjfs.errors import StorjfsError
from storjfs.network.identity import Identity
from storjfs.settlement import Ledger
from tests.farmer.renter import MIB, Renter, renting
from tests.farmer.test_embedded import Farm
from tests.network.attackers import (
    STATES,
    Target,
    a_flood,
    garbage,
    garbage_under_tls,
    half_a_record,
    oversize,
    replay,
    silence,
)

STRIKES = [a_flood, garbage, garbage_under_tls, half_a_record, oversize, replay, silence]
LATER = 60.0
"""Seconds for which what is left of attackers is waited for."""


@pytest.fixture
def farm(tmp_path: Path) -> Iterator[Farm]:
    farm = Farm(tmp_path, count=1)
    yield farm
    if farm.process is not None:
        farm.kill()


def open_files(process: int) -> int:
    return len(os.listdir(f"/proc/{process}/fd"))


def memory(process: int) -> int:
    """Bytes of the process in memory."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def attack(
    target: Target,
    reach: Callable[[Target], Awaitable[trio.abc.Stream]],
    strike: Callable[[trio.abc.Stream], Awaitable[None]],
    under_way: trio.Event,
) -> None:
    """Strike, and stay connected until the test is over."""
    with suppress(StorjfsError, trio.BrokenResourceError, trio.ClosedResourceError):
        stream = await reach(target)
        try:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await strike(stream)
            under_way.set()
            await trio.sleep_forever()
        finally:
            await trio.aclose_forcefully(stream)


async def work(renter: Renter) -> None:
    """What a renter does with a farmer."""
    shard = await renter.put(MIB)
    assert await renter.get(shard) == shard.data
    assert [verdict.passed for verdict in await renter.audit(shard)] == [True]
    await renter.pay()
    assert await renter.delete(shard) == 1


async def test_a_farmer_under_attack_takes_shards_proves_and_is_paid(farm: Farm, tmp_path: Path) -> None:
    farm.start()
    assert farm.process is not None
    process, ledger = farm.process.pid, Ledger(tmp_path / "ledger.db")
    farmer, address = farm.farmers[0]
    async with renting(ledger, farmer, address) as renter:
        await renter.agree()
        await work(renter)
        files, size = open_files(process), memory(process)
        async with trio.open_nursery() as attacks:
            strikes = [(reach, strike) for reach in STATES for strike in STRIKES]
            for number, (reach, strike) in enumerate(strikes):
                target = Target(Identity(number.to_bytes(32, "big")), farmer, address)
                under_way = trio.Event()
                attacks.start_soon(attack, target, reach, strike, under_way)
                if number % 8 == 7:  # not more handshakes at a time than one address may have
                    with trio.move_on_after(1):
                        await under_way.wait()
            for _ in range(3):
                await work(renter)
            most = memory(process)
            attacks.cancel_scope.cancel()
        with trio.fail_after(LATER):
            while open_files(process) > files:  # noqa: ASYNC110 - a real process is watched
                await trio.sleep(0.1)
        await work(renter)
    assert most - size < 100 * MIB
    ledger.close_file()
    assert farm.let_go() == 0
