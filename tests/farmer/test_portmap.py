"""A router is asked for a port, asked again in time, and gets it back."""

import sys
import threading
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

from storjfs.farmer import portmap
from storjfs.farmer.portmap import AGAIN, LEASE, PortMapper
from storjfs.farmer.reachability import MappingFacts
from storjfs.network.natpmp import RouterRefused

GATEWAY = "192.168.1.1"
Asked = list[tuple[float, int, int, int]]


class Router:
    """One that speaks NAT-PMP; `lease` is what it grants."""

    def __init__(self) -> None:
        self.asked: Asked = []
        self.lease = LEASE
        self.refuses = ""
        self.silent = False

    async def outside_address(self, gateway: str) -> str | None:
        assert gateway == GATEWAY
        return None if self.silent else "198.51.100.7"

    async def map_port(self, gateway: str, inside: int, outside: int, seconds: int) -> tuple[int, int]:
        self.asked.append((trio.current_time(), inside, outside, seconds))
        if self.refuses:
            raise RouterRefused(self.refuses)
        return outside + 1 if outside == inside else outside, self.lease


@pytest.fixture
def router(monkeypatch: pytest.MonkeyPatch) -> Router:
    """In the place of the one of this network, which is left alone; without UPnP."""
    made = Router()
    monkeypatch.setattr(portmap, "default_gateway", lambda: GATEWAY)
    monkeypatch.setattr(portmap, "outside_address", made.outside_address)
    monkeypatch.setattr(portmap, "map_port", made.map_port)
    monkeypatch.setitem(sys.modules, "miniupnpc", None)
    return made


async def run_for(mapper: PortMapper, seconds: float) -> None:
    with trio.move_on_after(seconds):
        await mapper.run(7420)


async def test_the_port_is_asked_for_again_after_half_of_the_time_and_given_back(
    router: Router, autojump_clock: trio.testing.MockClock
) -> None:
    seen: list[MappingFacts] = []
    mapper = PortMapper(lambda: seen.append(mapper.facts))
    begun = trio.current_time()
    await run_for(mapper, LEASE * 1.2)
    times = [at - begun for at, *_ in router.asked]
    assert times == pytest.approx([0, LEASE / 2, LEASE, LEASE * 1.2])
    # What the router once gave is asked for from then on; the last is the end of it.
    assert [outside for _, _, outside, _ in router.asked] == [7420, 7421, 7421, 0]
    assert router.asked[-1][3] == 0
    assert seen == [
        MappingFacts("asking"),
        MappingFacts("mapped", "NAT-PMP", "198.51.100.7", 7421),
        MappingFacts(),
    ]


async def test_a_router_that_refuses_is_asked_again_later(
    router: Router, autojump_clock: trio.testing.MockClock
) -> None:
    router.refuses = "its settings do not allow it"
    mapper = PortMapper()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mapper.run, 7420)
        await trio.sleep(AGAIN / 2)
        assert mapper.facts.state == "refused"
        assert "settings" in mapper.facts.problem
        router.refuses = ""
        await trio.sleep(AGAIN)
        assert mapper.facts.state == "mapped"
        router.silent = True
        await trio.sleep(LEASE)
        assert mapper.facts.state in ("none", "missing")
        nursery.cancel_scope.cancel()


class Upnp:
    """The library, with a router that has these ports taken."""

    taken: tuple[int, ...] = ()
    only_for_ever = False
    refuses = ""
    mapped: dict[int, int] = {}  # noqa: RUF012

    def __init__(self) -> None:
        self.lanaddr = "192.168.1.20"

    def discover(self) -> int:
        return 1

    def selectigd(self) -> None:
        return

    def externalipaddress(self) -> str:
        return "198.51.100.7"

    def addportmapping(self, port: int, *rest: Any) -> None:
        if self.refuses:
            raise Exception(self.refuses)
        if port in self.taken:
            raise Exception("ConflictInMappingEntry")
        if self.only_for_ever and rest[-1]:
            raise Exception("OnlyPermanentLeasesSupported")
        self.mapped[port] = rest[-1]

    def deleteportmapping(self, port: int, protocol: str) -> None:
        del self.mapped[port]


@pytest.fixture
def upnp(router: Router, monkeypatch: pytest.MonkeyPatch) -> type[Upnp]:
    """A router without NAT-PMP."""
    router.silent = True
    made = type("Upnp", (Upnp,), {"mapped": {}})
    monkeypatch.setitem(sys.modules, "miniupnpc", SimpleNamespace(UPnP=made))
    return made


async def until_asked(mapper: PortMapper, nursery: trio.Nursery) -> None:
    nursery.start_soon(mapper.run, 7420)
    with trio.fail_after(20):
        while mapper.facts.state in ("off", "asking"):  # noqa: ASYNC110 - a thread is watched
            await trio.sleep(0.01)


@pytest.mark.parametrize(
    ("taken", "only_for_ever", "lease"), [((), False, LEASE), ((7420,), False, LEASE), ((), True, 0)]
)
async def test_upnp_gives_a_port_or_another_one(
    upnp: type[Upnp], taken: tuple[int, ...], only_for_ever: bool, lease: int
) -> None:
    upnp.taken, upnp.only_for_ever = taken, only_for_ever
    mapper = PortMapper()
    async with trio.open_nursery() as nursery:
        await until_asked(mapper, nursery)
        facts = mapper.facts
        assert (facts.state, facts.how, facts.address) == ("mapped", "UPnP", "198.51.100.7")
        assert upnp.mapped == {facts.port: lease}
        assert (facts.port == 7420) == (not taken)
        nursery.cancel_scope.cancel()
    assert not upnp.mapped


async def test_the_library_is_called_by_one_thread_at_a_time(upnp: type[Upnp]) -> None:
    """It frees what it found before when it looks anew: also where nobody waits for that any more."""
    begun, go_on, given_back = threading.Event(), threading.Event(), threading.Event()

    def discover(self: Upnp) -> int:
        begun.set()
        go_on.wait(20)
        return 1

    def give_back(self: Upnp, port: int, protocol: str) -> None:
        given_back.set()

    upnp.discover = discover  # type: ignore[method-assign]
    upnp.deleteportmapping = give_back  # type: ignore[method-assign]
    mapper = PortMapper()
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mapper._by_upnp)
            with trio.fail_after(20):
                await trio.to_thread.run_sync(begun.wait, 20)
            nursery.cancel_scope.cancel()
        mapper.facts = MappingFacts("mapped", "UPnP", "198.51.100.7", 7420)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mapper._give_back)
            await trio.testing.wait_all_tasks_blocked(0.1)
            assert not given_back.is_set()
            go_on.set()
        assert given_back.is_set()
    finally:
        go_on.set()


@pytest.mark.parametrize("address", ["", "0.0.0.0", "None", "::", "192.168.0.3", "100.64.1.1"])
def test_what_a_router_without_a_line_says_is_announced_to_nobody(address: str) -> None:
    assert not MappingFacts("mapped", "UPnP", address, 7420).leads_outside
    assert MappingFacts("mapped", "UPnP", "198.51.100.7", 7420).leads_outside


async def test_a_router_that_gives_no_port_has_given_none(
    router: Router, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def no_port(*_: object) -> tuple[int, int]:
        return 0, LEASE

    monkeypatch.setattr(portmap, "map_port", no_port)
    mapper = PortMapper()
    async with trio.open_nursery() as nursery:
        await until_asked(mapper, nursery)
        assert (mapper.facts.state, mapper.facts.port) == ("refused", 0)
        nursery.cancel_scope.cancel()


async def test_upnp_that_refuses_says_why(upnp: type[Upnp]) -> None:
    upnp.refuses = "Action Not Authorized"
    mapper = PortMapper()
    async with trio.open_nursery() as nursery:
        await until_asked(mapper, nursery)
        assert (mapper.facts.state, mapper.facts.problem) == ("refused", "Action Not Authorized")
        nursery.cancel_scope.cancel()


async def test_without_the_extra_it_is_said(router: Router) -> None:
    router.silent = True
    mapper = PortMapper()
    async with trio.open_nursery() as nursery:
        await until_asked(mapper, nursery)
        assert mapper.facts.state == "missing"
        assert "storjfs[upnp]" in mapper.facts.problem
        nursery.cancel_scope.cancel()
