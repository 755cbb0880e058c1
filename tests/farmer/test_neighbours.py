"""What a farmer knows of others: who says of itself where it is, who is passed on, and what is kept."""

from pathlib import Path
from typing import Any

import pytest
import trio

from storjfs.farmer.farmer import Farmer
from storjfs.farmer.neighbours import AT_ONCE, FILE, INTRODUCTIONS
from storjfs.farmer.settings import FarmerSettings
from storjfs.network.identity import Identity
from storjfs.network.meeting import Meeting
from storjfs.protocol.directory import Directory
from storjfs.protocol.ids import NodeId
from storjfs.protocol.messages import FarmerList, GetFarmers
from storjfs.protocol.signing import Signed
from storjfs.protocol.terms import Address, sign_offer
from tests.farmer.renter import Renter
from tests.protocol import values

NOW = 1_800_000_000.0
PUBLIC, PRIVATE = Address("8.8.4.4", 7420), Address("192.168.1.9", 7420)
ASKING = NodeId(bytes(32))


def offer(number: int, *addresses: Address) -> Signed:
    key = values.key(f"farmer {number}")
    return sign_offer(
        key, values.offer(farmer=key.node_id, expires=int(NOW) + 3600, addresses=addresses or (PUBLIC,))
    )


@pytest.fixture
def make(tmp_path: Path) -> Any:
    """Makes the farmer of this test, which announces an address."""

    def made(*announce: Address) -> Farmer:
        settings = FarmerSettings(capacity=1 << 30, ledger=tmp_path / "ledger.db", announce=announce)
        return Farmer.open(tmp_path / "farmer", settings, clock=lambda: NOW)

    return made


def meeting_of(farmer: Farmer) -> Meeting:
    """As in `Neighbours.run`, but nobody is visited."""
    meeting = Meeting(
        farmer.neighbours.directory,
        {},
        now=lambda: NOW,
        rng=farmer.neighbours._rng,
        identity=lambda: Identity(b"i" * 32),
        peers=True,
    )
    farmer.neighbours._meeting = meeting
    return meeting


async def test_those_that_answered_are_passed_on_and_none_else(make: Any) -> None:
    farmer = make(PUBLIC)
    try:
        directory = farmer.neighbours.directory
        for number in (1, 2, 3):
            directory.answered("settings", PUBLIC, offer(number), NOW, 0.1, private=False)
        directory.learn("settings", offer(4), NOW)
        told = (await farmer.neighbours.answer(ASKING, GetFarmers())).offers
        assert set(told) == {offer(1), offer(2), offer(3)}
        assert len((await farmer.neighbours.answer(ASKING, GetFarmers(2))).offers) == 2
        told = (await farmer.neighbours.answer(ASKING, GetFarmers(own=offer(1)))).offers
        assert set(told) == {offer(2), offer(3)}
    finally:
        farmer.close()


async def test_who_asks_from_outside_learns_and_reaches_nothing_in_the_network_at_home(make: Any) -> None:
    """Its router forwards the port, and it does not know its address outside yet."""
    farmer = make(PRIVATE)
    try:
        directory = farmer.neighbours.directory
        directory.answered("lan", PRIVATE, offer(1, PRIVATE), NOW, 0.1, private=True)
        meeting = meeting_of(farmer)
        own = offer(2, Address("192.168.1.1", 7420))
        told = await farmer.neighbours.answer(ASKING, GetFarmers(own=own), near=False)
        assert told.offers == ()
        assert meeting.directory.take_hints(9) == []
        told = await farmer.neighbours.answer(ASKING, GetFarmers(own=own), near=True)
        assert told.offers == (offer(1, PRIVATE),)
        assert len(meeting.directory.take_hints(9)) == 1
    finally:
        farmer.close()


async def test_who_says_of_itself_gets_a_visit_where_that_may_be(make: Any) -> None:
    farmer = make(PUBLIC)
    try:
        meeting = meeting_of(farmer)
        forged = Signed(offer(1).body, offer(2).signature)
        for own in (forged, Signed(b"", forged.signature), offer(3, PRIVATE), offer(4, PRIVATE, PUBLIC)):
            await farmer.neighbours.answer(ASKING, GetFarmers(own=own))
        hints = meeting.directory.take_hints(9)
        assert [(one.addresses, one.private) for one in hints] == [((PUBLIC,), False)]
        assert len(meeting.directory) == 0
    finally:
        farmer.close()


async def test_who_says_of_ever_more_farmers_that_they_are_itself_gets_a_few_visited(
    make: Any, autojump_clock: trio.testing.MockClock
) -> None:
    """Else anybody could have a farmer dial whom he likes, all the time, and nobody else be visited."""
    farmer = make(PUBLIC)
    try:
        meeting = meeting_of(farmer)

        async def introduced(first: int, where: str) -> int:
            for number in range(first, first + 20):
                own = offer(number, Address(f"8.8.{number}.1", 7420))
                await farmer.neighbours.answer(ASKING, GetFarmers(own=own), where)
            return len(meeting.directory.take_hints(99))

        assert await introduced(0, "9.9.9.9") == AT_ONCE
        assert await introduced(20, "9.9.9.9") == 0
        assert await introduced(40, "9.9.9.10") == AT_ONCE
        await trio.sleep(1 / INTRODUCTIONS)
        assert await introduced(60, "9.9.9.9") == 1
    finally:
        farmer.close()


async def test_by_whom_farmers_are_asked_for_is_known_by_the_address(renter: Renter, farmer: Farmer) -> None:
    asked: list[tuple[str, bool]] = []
    answer = farmer.neighbours.answer

    async def noting(peer: NodeId, request: GetFarmers, where: str = "", *, near: bool = True) -> FarmerList:
        asked.append((where, near))
        return await answer(peer, request, where, near=near)

    farmer.neighbours.answer = noting  # type: ignore[method-assign]
    await renter.peer.request(GetFarmers())
    assert asked == [("127.0.0.1", True)]


async def test_a_farmer_within_a_private_network_takes_private_addresses(make: Any) -> None:
    farmer = make(PRIVATE)
    try:
        meeting = meeting_of(farmer)
        await farmer.neighbours.answer(ASKING, GetFarmers(own=offer(3, PRIVATE)))
        (hint,) = meeting.directory.take_hints(9)
        assert hint.private
        meeting.directory.answered("settings", PRIVATE, offer(5, PRIVATE), NOW, 0.1, private=True)
        assert (await farmer.neighbours.answer(ASKING, GetFarmers())).offers == (offer(5, PRIVATE),)
    finally:
        farmer.close()


async def test_what_is_known_survives_a_restart_and_a_spoiled_file_does_no_harm(make: Any) -> None:
    farmer = make(PUBLIC)
    try:
        path = farmer.folder / FILE
        kept = Directory()
        kept.answered("settings", PUBLIC, offer(1), NOW, 0.1, private=False)
        path.write_bytes(kept.to_bytes())
        await farmer.neighbours._load()
        assert len(farmer.neighbours.directory) == 1
        for spoiled in (b"", b"\x00", kept.to_bytes()[:-9]):
            path.write_bytes(spoiled)
            farmer.neighbours.directory = Directory()
            await farmer.neighbours._load()
            assert len(farmer.neighbours.directory) == 0
    finally:
        farmer.close()


async def test_what_is_learnt_is_kept(make: Any, autojump_clock: trio.testing.MockClock) -> None:
    autojump_clock.autojump_threshold = 0.05  # threads at work are not idleness
    farmer = make(PUBLIC)
    try:
        path = farmer.folder / FILE
        async with trio.open_nursery() as nursery:
            nursery.start_soon(farmer.neighbours._keep)
            await trio.testing.wait_all_tasks_blocked()
            farmer.neighbours.directory.answered("settings", PUBLIC, offer(1), NOW, 0.1, private=False)
            with trio.fail_after(1000):
                while not path.exists():  # noqa: ASYNC110 - the file tells nobody
                    await trio.sleep(10)
            nursery.cancel_scope.cancel()
        assert len(Directory.from_bytes(path.read_bytes(), NOW)) == 1
    finally:
        farmer.close()
