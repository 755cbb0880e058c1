"""Who is asked to dial back dials only who asks, says what came of it, and not too often."""

import os
from contextlib import suppress

import pytest
import trio
import trio.testing

from storjfs.network.control import ControlConnection
from storjfs.network.dial_back import BURST, DialBacks, ask
from storjfs.network.identity import Identity
from storjfs.network.origin import address_of, origin
from storjfs.network.streams import open_stream
from storjfs.protocol.failures import RequestFailed
from storjfs.protocol.ids import NodeId
from storjfs.protocol.messages import (
    DIAL_BACK_CAPABILITY,
    Attach,
    AttachAnswer,
    DialBack,
    DialBackAnswer,
    Hello,
    HelloAnswer,
    Reached,
    Role,
)
from storjfs.protocol.terms import Address
from tests.network.farm import FARMER, STRANGER, Farmer, listening

HERE = "127.0.0.1"


async def reached(port: int) -> Reached:
    return (await DialBacks().answer(FARMER.node_id, HERE, port)).reached


async def test_the_key_that_asked_answers() -> None:
    async with listening(Farmer()) as address:
        assert await reached(address.port) is Reached.YES


async def test_another_key_answers() -> None:
    async with listening(Farmer()) as address:
        answer = await DialBacks().answer(STRANGER.node_id, HERE, address.port)
        assert (answer.reached, answer.seen) == (Reached.OTHER, HERE)


async def test_something_else_answers() -> None:
    async def hang_up(stream: trio.SocketStream) -> None:
        await stream.aclose()

    (listener,) = await trio.open_tcp_listeners(0, host=HERE)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, hang_up, [listener])
        assert await reached(listener.socket.getsockname()[1]) is Reached.OTHER
        nursery.cancel_scope.cancel()


async def test_nothing_listens() -> None:
    (listener,) = await trio.open_tcp_listeners(0, host=HERE)
    port = listener.socket.getsockname()[1]
    await listener.aclose()
    assert await reached(port) is Reached.REFUSED


async def test_nothing_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storjfs.network.dial_back.DIAL_FOR", 0.05)
    (listener,) = await trio.open_tcp_listeners(0, host=HERE)
    try:
        assert await reached(listener.socket.getsockname()[1]) is Reached.SILENT
    finally:
        await listener.aclose()


@pytest.mark.parametrize("same", ["peer", "address"])
async def test_questions_are_bounded_by_who_asks_and_from_where(same: str) -> None:
    dial_backs = DialBacks()
    async with listening(Farmer()) as address:
        for number in range(int(BURST) + 1):
            peer = FARMER if same == "peer" else Identity(os.urandom(32))
            host = f"127.0.0.{number + 1}" if same == "peer" else HERE
            if number < BURST:
                await dial_backs.answer(peer.node_id, host, address.port)
                continue
            with pytest.raises(RequestFailed, match="too many questions"):
                await dial_backs.answer(peer.node_id, host, address.port)


async def test_new_keys_of_an_address_that_asks_too_often_push_out_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("storjfs.network.dial_back.REMEMBERED", 4 * int(BURST))
    dial_backs = DialBacks()
    (listener,) = await trio.open_tcp_listeners(0, host=HERE)
    port = listener.socket.getsockname()[1]
    await listener.aclose()
    for _ in range(int(BURST)):
        await dial_backs.answer(FARMER.node_id, "127.0.0.2", port)
    for _ in range(8 * int(BURST)):
        with suppress(RequestFailed):
            await dial_backs.answer(Identity(os.urandom(32)).node_id, HERE, port)
    with pytest.raises(RequestFailed, match="too many questions"):
        await dial_backs.answer(FARMER.node_id, "127.0.0.3", port)


async def test_who_has_no_address_is_dialled_nowhere() -> None:
    with pytest.raises(RequestFailed, match="no address"):
        await DialBacks().answer(FARMER.node_id, "", 7420)


async def test_a_farmer_that_does_not_know_the_question_answers_it_not() -> None:
    async with listening(Farmer()) as address:
        asked = await ask(STRANGER, None, address, 7420)
    assert (asked.node_id, asked.relays, asked.answer) == (FARMER.node_id, False, None)


async def test_a_farmer_that_asks_itself_learns_nothing() -> None:
    async with listening(Farmer()) as address:
        asked = await ask(FARMER, None, address, address.port)
    assert asked.answer is None
    assert "itself" in asked.problem


async def test_nobody_there_is_a_problem_and_no_error() -> None:
    asked = await ask(STRANGER, None, Address(HERE, 1), 7420)
    assert asked.answer is None
    assert asked.problem


class Babbler(Farmer):
    """Says hello as one does, and then what nobody understands."""

    async def hello(self, peer: NodeId, hello: Hello) -> HelloAnswer:
        return HelloAnswer(0, Role.FARMER, (DIAL_BACK_CAPABILITY,))

    def attached(self, peer: NodeId, connection: ControlConnection) -> None:
        super().attached(peer, connection)
        connection._enqueue(b"\xff" * 64)


@pytest.mark.parametrize("port", [7420, None])
async def test_one_that_does_not_keep_the_protocol_is_a_problem_and_no_error(port: int | None) -> None:
    """Whoever is asked would else end the farmer that asks."""
    async with listening(Babbler()) as address:
        asked = await ask(STRANGER, None, address, port)
    assert asked.answer is None


class Liar(Babbler):
    """Says that it has got through, to a place of its choice."""

    def attached(self, peer: NodeId, connection: ControlConnection) -> None:
        self.control.append(connection)

    async def reach(
        self, peer: NodeId, request: Attach | DialBack, connection: ControlConnection
    ) -> AttachAnswer | DialBackAnswer:
        return DialBackAnswer(Reached.YES, "victim.example.org")


async def test_a_name_that_was_never_dialled_is_no_answer() -> None:
    """It would stand in the farmer's offers as an address where it was reached."""
    async with listening(Liar()) as address:
        asked = await ask(STRANGER, None, address, 7420)
    assert asked.answer is None
    assert "no address" in asked.problem


async def test_where_a_connection_comes_from() -> None:
    async with listening(Farmer()) as address:
        stream = await open_stream(STRANGER, None, [address])
        assert address_of(stream) == HERE
        await trio.aclose_forcefully(stream)
        assert address_of(stream) == ""
    one, _ = trio.testing.memory_stream_pair()
    assert address_of(one) == ""


def test_an_address_of_the_sixth_version_counts_by_its_network() -> None:
    assert origin("2001:db8::1") == origin("2001:db8::2")
    assert origin("::ffff:192.0.2.1") == "192.0.2.1"


async def test_an_address_that_is_not_for_others_is_not_dialled() -> None:
    dialled = False

    async def note(stream: trio.SocketStream) -> None:
        nonlocal dialled
        dialled = True

    (listener,) = await trio.open_tcp_listeners(0, host=HERE)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, note, [listener])
        with pytest.raises(RequestFailed, match="dialled for nobody"):
            port = listener.socket.getsockname()[1]
            await DialBacks(lambda host: host != HERE).answer(FARMER.node_id, HERE, port)
        nursery.cancel_scope.cancel()
    assert not dialled
