"""Which relays a farmer uses, and when it asks others: against other farmers on the loopback."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from storjfs.farmer import reach
from storjfs.farmer.reach import Reach
from storjfs.network.behind import Attachment
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


@pytest.mark.parametrize(("lost", "asked"), [(10.0, 30.0), (50.0, 50.0), (1000.0, 300.0)])
async def test_the_loss_of_a_relay_brings_the_next_round_forward(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, lost: float, asked: float
) -> None:
    """Though not to a sooner time than while relays are short."""
    peers = tuple(StaticFarmer(Address("127.0.0.1", port)) for port in (1, 2))
    values = settings(tmp_path, peers=peers)
    found = Reach(FARMER, lambda: values, lambda: (NOWHERE,))
    for peer in peers:
        one = Attachment(FARMER, peer.address, None, nobody)
        one.attached = True
        found._relays[peer.address] = one, trio.CancelScope()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(found._rest, trio.current_time())
        began = trio.current_time()
        await trio.sleep(min(lost, asked))
        if lost <= asked:
            next(iter(found._relays.values()))[0].attached = False
            found._tell()
    assert trio.current_time() - began == asked


async def nobody(*_: object) -> None:
    raise AssertionError("nobody comes")


async def test_relays_that_are_lost_for_good_keep_no_other_one_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reach, "SHORT_OF_RELAYS", 0.1)
    async with relays(1) as ((last, _),), trio.open_nursery() as nursery:
        wanted, lost = [], []
        for number in range(2 * reach.RELAYS):
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
