"""The first mount of a volume that names no farmers waits as long as some are being found."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
import trio.testing

from storjfs.daemon.first_contract import QUIET, first_contract
from storjfs.network.sources import Found, Source
from storjfs.protocol.terms import Address
from tests.idle_clock import idle_clock
from tests.renter.world import PRICE, SELDOM, Site, World, a_world

TOO_DEAR = 3 * PRICE


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> trio.testing.MockClock:
    monkeypatch.setattr("storjfs.daemon.first_contract.LOOK", 2.0)
    return idle_clock(monkeypatch)


class Trickle(Source):
    """Finds one more of `sites` every `pause` seconds; then nothing more, and does not end."""

    private = True

    def __init__(self, sites: list[Site], pause: float) -> None:
        self._sites, self._pause = sites, pause

    async def find(self) -> AsyncIterator[Found]:
        for site in self._sites:
            await trio.sleep(self._pause)
            yield Found((site.address,), site.farmer.node_id)
        await trio.sleep_forever()


class Search(Trickle):
    """One that ends, after a long time."""

    longest = 4 * QUIET

    async def find(self) -> AsyncIterator[Found]:
        await trio.sleep(self.longest)
        for site in self._sites:
            yield Found((site.address,), site.farmer.node_id)


async def some(world: World, count: int, price: int = PRICE) -> list[Site]:
    """So many farmers whose offers say where they are."""
    made = []
    for _ in range(count):
        number = len(world.sites) + 1
        made.append(await world.add_farmer(price=price, announce=(Address(f"8.8.{number}.4", 7420),)))
    return made


async def wait(world: World, source: Source) -> tuple[bool, float, list[str]]:
    """Whether a contract was made, after how long, and what was said meanwhile."""
    said: list[str] = []
    async with world.life(SELDOM, named=False, started=False, sources={"lan": source}) as (renter, _):
        began = trio.current_time()
        made = await first_contract(renter, ["lan"], said.append)
        return made, trio.current_time() - began, said


async def test_it_waits_as_long_as_farmers_are_being_found(
    tmp_path: Path, clock: trio.testing.MockClock
) -> None:
    async with a_world(tmp_path, clock, 0) as world:
        sites = [*await some(world, 3, TOO_DEAR), *await some(world, 1)]
        made, seconds, said = await wait(world, Trickle(sites, QUIET * 0.8))
    assert made
    assert seconds > 3 * QUIET
    assert said[0] == (
        "Looking for farmers (lan): 0 known, 0 of them fit; waiting for the first contract with one."
    )
    assert any("3 known, 0 of them fit" in line for line in said)


async def test_it_waits_for_a_search_that_takes_long(tmp_path: Path, clock: trio.testing.MockClock) -> None:
    async with a_world(tmp_path, clock, 0) as world:
        made, seconds, _ = await wait(world, Search(await some(world, 1), 0))
    assert made
    assert seconds >= Search.longest


async def test_it_gives_up_when_nothing_new_was_found_for_a_while(
    tmp_path: Path, clock: trio.testing.MockClock
) -> None:
    async with a_world(tmp_path, clock, 0) as world:
        made, seconds, _ = await wait(world, Trickle(await some(world, 1, TOO_DEAR), QUIET / 2))
    assert not made
    assert 1.5 * QUIET <= seconds < 3 * QUIET
