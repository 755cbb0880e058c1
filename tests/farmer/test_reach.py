"""A farmer asks others that it got to know, believes them as far as that can be, and is relayed by them."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from storjfs.farmer.reach import GAP, Reach
from storjfs.farmer.reachability import State
from storjfs.farmer.relays import RELAYS, WAITED_FOR
from storjfs.farmer.settings import FarmerSettings
from storjfs.network.dial_back import Asked
from storjfs.network.identity import Identity
from storjfs.protocol.directory import Known
from storjfs.protocol.ids import NodeId
from storjfs.protocol.messages import DialBackAnswer, Reached
from storjfs.protocol.terms import Address

from .test_targets import known

OWN = Address("11.7.7.7", 7420)
"""Where this farmer is, as others see it."""


SETTINGS = FarmerSettings(capacity=1 << 30, ledger=Path("l"), listen=Address("::", 7420), map_port=False)


@dataclass
class World:
    """Others by their address, what they say, and who has dialled this farmer."""

    says: dict[str, tuple[Reached, str]] = field(default_factory=dict)
    relays: set[str] = field(default_factory=set)
    comes: set[str] = field(default_factory=set)
    """Who really dials."""
    met: list[Known] = field(default_factory=list)
    came: dict[str, int] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    rounds: list[float] = field(default_factory=list)
    """When."""
    attached: list["Attachment"] = field(default_factory=list)
    settings: FarmerSettings = SETTINGS

    def meet(
        self, number: int, says: Reached, seen: str = OWN.host, *, comes: bool, relay: bool = False
    ) -> Known:
        one = known(number, f"8.8.{number}.1:7420")
        host = f"8.8.{number}.1"
        self.met.append(one)
        self.says[host] = says, seen
        self.comes |= {host} if comes else set()
        self.relays |= {host} if relay else set()
        return one

    async def ask(self, identity: Identity, node_id: NodeId, address: Address, port: int) -> Asked:
        await trio.lowlevel.checkpoint()
        self.asked.append(address.host)
        if trio.current_time() not in self.rounds:
            self.rounds.append(trio.current_time())
        if address.host in self.comes:
            self.came[address.host] = self.came.get(address.host, 0) + 1
        relays = address.host in self.relays
        return Asked(node_id, relays=relays, answer=DialBackAnswer(*self.says[address.host]))


class Attachment:
    """Attached as soon as it runs, until it is `lost`."""

    def __init__(self, world: World, relay: Address, changed: Callable[[], None]) -> None:
        self.relay, self.changed = relay, changed
        self.attached, self.problem, self.streams = False, "", 0
        world.attached.append(self)
        self.world = world

    async def run(self) -> None:
        self.attached = True
        self.changed()
        try:
            await trio.sleep_forever()
        finally:
            self.world.attached.remove(self)

    def lose(self) -> None:
        self.attached, self.problem = False, "the connection to the relay was lost"
        self.changed()


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    made = World()

    def attachment(identity: Any, relay: Address, node_id: Any, admit: Any, changed: Any) -> Attachment:
        return Attachment(made, relay, changed)

    monkeypatch.setattr("storjfs.farmer.reach.ask", made.ask)
    monkeypatch.setattr("storjfs.farmer.relays.Attachment", attachment)
    return made


@asynccontextmanager
async def reaching(world: World) -> AsyncIterator[Reach]:
    reach = Reach(
        Identity(bytes(range(32))),
        lambda: world.settings,
        lambda: (Address("::", 7420),),
        lambda: world.met,
        lambda: 1_800_000_000.0 + trio.current_time(),
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reach.run, _nobody, lambda host: world.came.get(host, 0))
        await trio.testing.wait_all_tasks_blocked()
        yield reach
        nursery.cancel_scope.cancel()


async def _nobody(transport: trio.SocketStream, head: bytes) -> None:
    raise AssertionError("nobody comes through a relay here")


async def test_a_stranger_who_got_through_shows_that_it_is_open(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    world.meet(1, Reached.YES, comes=True)
    async with reaching(world) as reach:
        assert reach.state is State.OPEN
        assert reach.addresses[0] == OWN
        assert reach.facts().words[0] == "yes: 8.8.1.1:7420 reached 11.7.7.7:7420 from outside"


async def test_one_who_says_so_and_did_not_come_is_not_believed(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    world.meet(1, Reached.YES, comes=False)
    async with reaching(world) as reach:
        assert reach.state is State.UNKNOWN
        world.meet(2, Reached.SILENT, comes=False)
        reach.met_somebody()
        await trio.sleep(2 * GAP)
        assert reach.facts().state == State.CLOSED, "what closes it needs no witness"
        assert OWN not in reach.addresses


async def test_a_stranger_who_names_another_address_than_the_others_is_outvoted(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    for number in (1, 2, 3):
        world.meet(number, Reached.YES, comes=True)
    world.meet(4, Reached.YES, "11.66.66.66", comes=True)
    async with reaching(world) as reach:
        assert Address("11.66.66.66", 7420) not in reach.addresses
        assert OWN in reach.addresses


async def test_who_stands_outside_sees_no_address_of_a_home(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    world.meet(1, Reached.YES, "192.168.1.1", comes=True)
    async with reaching(world) as reach:
        assert Address("192.168.1.1", 7420) not in reach.addresses
        assert reach.state is State.UNKNOWN


async def test_strangers_that_relay_are_used_while_nobody_can_dial_it(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    async with reaching(world) as reach:
        assert reach.state is State.UNKNOWN
        assert "has not met another farmer yet" in reach.facts().words[0]
        for number in range(1, 6):
            world.meet(number, Reached.SILENT, comes=False, relay=number > 2)
        reach.met_somebody()
        await trio.sleep(2 * GAP)
        assert len(world.attached) == RELAYS
        assert all(one.found and one.attached for one in reach.facts().relays)
        assert [one.relay for one in reach.addresses[:RELAYS]] == [one.relay for one in world.attached]
        # One that goes is replaced by another, and forgotten after a while.
        gone = world.attached[0]
        gone.lose()
        await trio.sleep(120)
        assert sum(one.attached for one in world.attached) == RELAYS
        assert gone.relay.through() not in reach.addresses
        await trio.sleep(2 * WAITED_FOR)
        assert gone not in world.attached
        # Once it is open all are left.
        for host in world.says:
            world.says[host] = Reached.YES, OWN.host
            world.comes.add(host)
        reach.look_again()
        await trio.sleep(60)
        assert not world.attached
        assert reach.facts().state == State.OPEN


@pytest.mark.parametrize(
    "narrowed", [{"ask_strangers": False}, {"listen": Address("127.0.0.1", 7420)}], ids=["peers", "local"]
)
async def test_whoever_wants_less_asks_no_stranger(
    world: World, autojump_clock: trio.testing.MockClock, narrowed: dict[str, Any]
) -> None:
    world.settings = world.settings.changed(**narrowed)
    world.meet(1, Reached.SILENT, comes=False, relay=True)
    async with reaching(world) as reach:
        reach.met_somebody()
        await trio.sleep(7200)
        assert not world.asked
        assert not world.attached


async def test_one_that_finds_no_relay_asks_others_less_and_less_often(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    world.meet(1, Reached.SILENT, comes=False)
    async with reaching(world):
        await trio.sleep(600)
        assert 5 <= len(world.asked) <= 8
        await trio.sleep(3 * 86400)
        assert 2000 <= len(world.asked) <= 3 * 86400 / 120 + 8


@pytest.mark.parametrize(("lost", "asked"), [(10.0, 30.0), (50.0, 50.0), (1000.0, 300.0)])
async def test_the_loss_of_a_relay_brings_the_next_round_forward(
    world: World, autojump_clock: trio.testing.MockClock, lost: float, asked: float
) -> None:
    """Though not to a sooner time than while relays are short."""
    for number in range(1, RELAYS + 1):
        world.meet(number, Reached.SILENT, comes=False, relay=True)
    began = trio.current_time()
    async with reaching(world):
        assert len(world.attached) == RELAYS
        if lost <= asked:
            await trio.sleep(lost)
            world.attached[0].lose()
        await trio.sleep_until(began + asked + 1)
    assert [at - began for at in world.rounds] == [0.0, asked]


async def test_a_relay_that_goes_is_replaced_at_once(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    for number in range(1, 5):
        world.meet(number, Reached.SILENT, comes=False, relay=True)
    async with reaching(world):
        await trio.sleep(200)
        assert len(world.attached) == RELAYS
        world.attached[0].lose()
        await trio.sleep(GAP)
        assert sum(one.attached for one in world.attached) == RELAYS


async def test_many_who_become_known_are_not_a_round_of_questions_each(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    async with reaching(world) as reach:
        for number in range(1, 51):
            world.meet(number, Reached.YES, comes=False)
            reach.met_somebody()
            await trio.sleep(0.2)
        await trio.sleep(GAP)
        assert len(world.asked) <= 8 * 4


async def test_a_name_of_a_stranger_is_not_followed_into_the_network_at_home(
    world: World, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lookup(host: str, port: int, **_: object) -> list[tuple[Any, ...]]:
        await trio.lowlevel.checkpoint()
        return [(trio.socket.AF_INET, 0, 0, "", ("192.168.1.1", port))]

    monkeypatch.setattr("trio.socket.getaddrinfo", lookup)
    world.met.append(known(1, "farm.example.org:7420"))
    async with reaching(world) as reach:
        await trio.sleep(600)
        assert not world.asked
        assert reach.state is State.UNKNOWN
