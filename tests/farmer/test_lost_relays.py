"""Which relays a farmer uses, against other farmers on the loopback."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from storjfs.farmer import reach
from storjfs.farmer.reach import Reach
from storjfs.farmer.relays import KEPT
from storjfs.network.identity import Identity
from storjfs.network.service import serve_tls
from storjfs.network.streams import LIMITS, Gate
from storjfs.protocol.terms import Address
from storjfs.volume import StaticFarmer
from tests.farmer.renter import settings
from tests.network.farm import FARMER, Farmer
from tests.network.relaying import RelayService, eventually, relaying, run_relay

NOWHERE = Address("127.0.0.1", 1)


@asynccontextmanager
async def reaching(folder: Path, *peers: Address) -> AsyncIterator[Reach]:
    """A farmer that listens to itself only, and has these peers."""
    values = settings(folder, peers=tuple(map(StaticFarmer, peers)))
    found = Reach(FARMER, lambda: values, lambda: (NOWHERE,))
    gate = Gate(FARMER, partial(serve_tls, service=Farmer()), LIMITS)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(found.run, partial(gate.admit, relayed=True))
        yield found
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def relays(count: int) -> AsyncIterator[list[tuple[Address, RelayService]]]:
    async with AsyncExitStack() as stack:
        found = []
        for number in range(count):
            service = RelayService()
            who = Identity(bytes([number + 1]) * 32)
            where, _ = await stack.enter_async_context(relaying(service, who))
            found.append((where, service))
        yield found


def used(found: Reach) -> set[str]:
    return {relay.address for relay in found.facts().relays if relay.attached}


async def test_relays_that_are_lost_for_good_keep_no_other_one_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reach, "SHORT_OF_RELAYS", (0.1,))
    async with relays(1) as ((last, _),), trio.open_nursery() as nursery:
        wanted, lost = [], []
        for number in range(KEPT):
            who = Identity(bytes([number + 8]) * 32)
            where, ending = await nursery.start(run_relay, RelayService(), 0, who)
            wanted.append(where)
            lost.append(ending)
        async with reaching(tmp_path, *wanted, last) as found:
            for ending, where in zip(lost, wanted, strict=True):
                await eventually(partial(attached, found, str(where)))
                ending.cancel()
            await eventually(lambda: used(found) == {str(last)})
        nursery.cancel_scope.cancel()


def attached(found: Reach, where: str) -> bool:
    return where in used(found)


@pytest.mark.parametrize("host", ["farm..example.org", "a" * 70 + ".example.org"])
async def test_a_peer_whose_name_nobody_can_have_ends_nothing(tmp_path: Path, host: str) -> None:
    async with relays(1) as ((where, _),), reaching(tmp_path, Address(host, 7420), where) as found:
        await eventually(lambda: used(found) == {str(where)})
