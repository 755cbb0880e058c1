"""A farmer that cannot be dialled is reached through a relay, which can read, forge and exhaust nothing."""

import os
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from hashlib import sha256

import pytest
import trio

from storjfs.farmer.relays import RELAYS
from storjfs.network.failures import PeerUnreachable, WrongPeer
from storjfs.network.frames import FrameStream
from storjfs.network.greeting import greet
from storjfs.network.identity import Identity
from storjfs.network.relay import RELAY_LIMITS
from storjfs.network.streams import LIMITS, open_stream, serve
from storjfs.network.through import _join, arrive, dial_through
from storjfs.network.tls import TlsStream
from storjfs.protocol.framing import encode_answer, encode_request
from storjfs.protocol.ids import ContractId, NodeId, ShardId
from storjfs.protocol.messages import (
    Done,
    GetOffer,
    Hello,
    HelloAnswer,
    OfferAnswer,
    Ping,
    Purpose,
    Put,
    Role,
    Through,
)
from storjfs.protocol.terms import Address
from tests.network.farm import FARMER, RENTER, SOMETHING, STRANGER, Farmer
from tests.network.relaying import (
    PATIENCE,
    RELAY,
    SECOND,
    RelayService,
    behind,
    eventually,
    relaying,
    renting,
    run_relay,
)

CONTRACT = ContractId(bytes(32))
SHARD = ShardId(bytes(range(32)))


async def never(*_: object) -> None:
    """In the place of a farmer's way to its caller."""
    await trio.sleep_forever()


async def cut_off(frames: FrameStream) -> None:
    """The other side ends this connection, without an answer."""
    with trio.fail_after(PATIENCE), suppress(trio.BrokenResourceError):
        assert await frames.receive_frame() is None
    await frames.aclose()


async def test_requests_and_shards_pass_both_ways() -> None:
    service, farmer, data = RelayService(), Farmer(), os.urandom(3 << 20)
    async with relaying(service) as (relay, _), behind(farmer, relay), renting(relay.through()) as peer:
        assert await peer.request(GetOffer()) == OfferAnswer(SOMETHING)
        await peer.put_shard(CONTRACT, SHARD, data)
        back = bytearray(len(data))
        await peer.get_range(CONTRACT, SHARD, 0, back)
        assert farmer.shards[SHARD] == back == data
        assert not peer.reached, "where the relay stands tells nothing of the farmer"
    assert min(service.line.passed.values()) > len(data)
    assert service.line.joins == 2
    assert not service.hellos, "the relay heard of no renter"


async def test_nothing_is_left_when_the_renter_is_gone() -> None:
    service, farmer = RelayService(), Farmer()
    async with relaying(service) as (relay, gate), behind(farmer, relay) as (attachment,):
        async with renting(relay.through()) as peer:
            await peer.request(Ping())
            assert attachment.streams == service.relay.streams == 1
        await eventually(lambda: not service.relay.streams and not attachment.streams)
        await eventually(lambda: gate.total == 1)  # the farmer's control connection
        assert not farmer.control


async def test_the_renter_learns_at_once_that_its_farmer_is_gone() -> None:
    service = RelayService()
    async with relaying(service) as (relay, gate):
        async with renting(relay.through()) as peer:
            async with behind(Farmer(), relay):
                await peer.request(Ping())
            await eventually(lambda: not peer.connected and not gate.total)
            with pytest.raises(PeerUnreachable, match="not attached"):
                await peer.request(Ping())


async def test_another_one_behind_the_relay_is_not_taken_for_the_farmer() -> None:
    """A relay that leads elsewhere, which a hostile one may do."""
    service = RelayService()
    async with relaying(service) as (relay, _), behind(Farmer(), relay, identity=STRANGER):
        service.relay._places[FARMER.node_id] = service.relay._places[STRANGER.node_id]
        with pytest.raises(WrongPeer):
            await open_stream(RENTER, FARMER.node_id, [relay.through()])


async def test_what_passes_is_not_to_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the shard nor who the renter is stands in what the relay moves."""
    seen = bytearray()

    async def watched(one: trio.SocketStream, other: trio.SocketStream, **_: object) -> None:
        async def pump(source: trio.SocketStream, target: trio.SocketStream) -> None:
            async for data in source:
                seen.extend(data)
                await target.send_all(data)
            await target.send_eof()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(pump, one, other)
            nursery.start_soon(pump, other, one)

    monkeypatch.setattr("storjfs.network.relay.splice", watched)
    data = b"a secret that is longer than any header " * 1000
    service, farmer = RelayService(), Farmer()
    async with relaying(service) as (relay, _), behind(farmer, relay), renting(relay.through()) as peer:
        await peer.put_shard(CONTRACT, SHARD, data)
    assert farmer.shards[SHARD] == data
    assert len(seen) > len(data)
    assert data[:40] not in seen
    assert bytes(RENTER.node_id) not in bytes(seen)


async def test_a_stranger_with_a_guessed_token_is_not_joined() -> None:
    service = RelayService()
    async with relaying(service) as (relay, _):
        with pytest.raises(PeerUnreachable, match="nobody waits"):
            await arrive(relay, RELAY.node_id, os.urandom(32))


async def test_what_comes_right_behind_the_answer_of_the_relay_is_not_lost() -> None:
    """In one packet with it: the first words of the caller, which are no TLS of the relay."""
    behind_it = b"\x16\x03\x01\x00\x05hello" + bytes(2000)

    async def answer(stream: TlsStream) -> None:
        frames = FrameStream(stream)
        for number, said in enumerate((HelloAnswer(1, Role.FARMER), Done())):
            assert (await frames.receive_frame()) is not None
            stream.tls.write(encode_answer(number, said))
        transport = stream.transport
        await transport.send_all(stream._outgoing.read() + behind_it)
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        (relay,) = await nursery.start(serve, RELAY, "127.0.0.1", 0, answer)
        transport, head = await arrive(relay, RELAY.node_id, os.urandom(32))
        with trio.fail_after(PATIENCE):
            while len(head) < len(behind_it):
                head += await transport.receive_some()
        assert head == behind_it
        await transport.aclose()
        nursery.cancel_scope.cancel()


async def test_a_farmer_comes_only_to_the_relay_it_knows() -> None:
    async with relaying(RelayService(), SECOND) as (relay, _):
        with pytest.raises(WrongPeer):
            await arrive(relay, RELAY.node_id, os.urandom(32))


async def test_a_farmer_that_has_come_is_not_called_off() -> None:
    """Not even where the relay hears of its coming before its answer to the call."""
    service = RelayService()
    async with relaying(service) as (relay, _), behind(Farmer(), relay) as (attachment,):
        come, slow, called_off = attachment._come, trio.Event(), []

        async def come_slowly(relay_id: NodeId, token: bytes) -> Done:
            answer = await come(relay_id, token)
            try:
                await slow.wait()
            except trio.Cancelled:
                called_off.append(token)
                raise
            return answer

        attachment._come = come_slowly  # type: ignore[method-assign]
        async with renting(relay.through()) as peer:
            await peer.request(Ping())
            # What the relay said before on this connection has arrived when this is answered.
            await service.control[0].request(Ping())
            assert not called_off
            slow.set()


async def test_a_caller_that_leaves_frees_the_relay_and_the_farmer() -> None:
    """The farmer is called and has not come: nothing of the call is left."""
    service = RelayService()
    async with relaying(service) as (relay, gate), behind(Farmer(), relay) as (attachment,):
        called, never = trio.Event(), trio.Event()
        withdrawn = trio.Event()

        async def come(*_: object) -> None:
            called.set()
            try:
                await never.wait()
            finally:
                withdrawn.set()

        attachment._come = come  # type: ignore[method-assign, assignment]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(dial_through, RENTER, FARMER.node_id, relay)
            await called.wait()
            assert service.relay.waiting == 1
            nursery.cancel_scope.cancel()
        with trio.fail_after(PATIENCE):
            await withdrawn.wait()
        await eventually(lambda: not service.relay.waiting and not service.relay.streams and gate.total == 1)


async def test_who_speaks_before_the_answer_is_cut_off() -> None:
    service = RelayService()
    async with relaying(service) as (relay, gate), behind(Farmer(), relay) as (attachment,):
        attachment._come = never  # type: ignore[method-assign, assignment]
        stream = await open_stream(STRANGER, None, [relay])
        frames = FrameStream(stream)
        hello = Hello(Purpose.RELAY, Role.RENTER)
        await greet(frames, hello, PATIENCE, encode_request(1, Through(FARMER.node_id)))
        await stream.send_all(b"early")
        await cut_off(frames)
        await eventually(lambda: gate.total == 1 and not service.relay.streams)


async def test_only_the_two_halves_are_asked_for_on_a_relay_connection() -> None:
    async with relaying(RelayService()) as (relay, _):
        stream = await open_stream(STRANGER, None, [relay])
        frames = FrameStream(stream)
        put = encode_request(1, Put(CONTRACT, SHARD, 1))
        await greet(frames, Hello(Purpose.RELAY, Role.RENTER), PATIENCE, put)
        await cut_off(frames)


async def test_a_farmer_that_relays_nobody_says_so() -> None:
    service = RelayService()
    service.relay.is_open = False
    async with relaying(service) as (relay, _), behind(Farmer(), relay, attached=False) as (attachment,):
        await eventually(lambda: "does not know this request" in attachment.problem)
        with pytest.raises(PeerUnreachable, match="relays nobody"):
            await dial_through(RENTER, FARMER.node_id, relay)


async def test_the_places_of_a_relay_are_bounded() -> None:
    limits = replace(RELAY_LIMITS, farmers_per_address=1)
    service = RelayService(limits)
    other = Identity(sha256(b"one more").digest())
    async with relaying(service) as (relay, _), behind(Farmer(), relay):
        async with behind(Farmer(), relay, identity=other, attached=False) as (attachment,):
            await eventually(lambda: "no place left" in attachment.problem)
        assert list(service.relay.attached) == [FARMER.node_id]


async def test_the_streams_of_a_farmer_are_bounded() -> None:
    service = RelayService(replace(RELAY_LIMITS, streams_per_farmer=1))
    async with relaying(service) as (relay, _), behind(Farmer(), relay):
        first = await dial_through(RENTER, FARMER.node_id, relay)
        with pytest.raises(PeerUnreachable, match="too many connections are relayed"):
            await dial_through(RENTER, FARMER.node_id, relay)
        await trio.aclose_forcefully(first)
        await eventually(lambda: not service.relay.streams)
        await trio.aclose_forcefully(await dial_through(RENTER, FARMER.node_id, relay))


@pytest.mark.parametrize("limits", [{"streams": 4}, {"streams_per_farmer": 4}], ids=str)
async def test_one_address_has_half_of_the_streams(limits: dict[str, int]) -> None:
    service = RelayService(replace(RELAY_LIMITS, **limits))
    async with relaying(service) as (relay, _), behind(Farmer(), relay):
        kept = [await dial_through(RENTER, FARMER.node_id, relay) for _ in range(2)]
        with pytest.raises(PeerUnreachable, match="for this address"):
            await dial_through(STRANGER, FARMER.node_id, relay)
        with pytest.MonkeyPatch.context() as elsewhere:
            elsewhere.setattr("storjfs.network.relay.address_of", lambda stream: "127.0.0.2")
            kept.append(await dial_through(RENTER, FARMER.node_id, relay))
        for stream in kept:
            await trio.aclose_forcefully(stream)
        await eventually(lambda: not service.relay.streams)
        assert not service.relay._from
        assert not service.relay._between


async def test_calls_of_one_farmer_are_bounded_in_rate() -> None:
    service = RelayService(replace(RELAY_LIMITS, call_rate=1e-9, call_burst=2.0))
    async with relaying(service) as (relay, _), behind(Farmer(), relay):
        for _ in range(2):
            await trio.aclose_forcefully(await dial_through(RENTER, FARMER.node_id, relay))
        with pytest.raises(PeerUnreachable, match="called too often"):
            await dial_through(RENTER, FARMER.node_id, relay)


async def test_who_calls_without_a_pause_leaves_calls_to_other_addresses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limits = replace(RELAY_LIMITS, call_rate=1e-9, call_burst=4.0)
    limits = replace(limits, call_rate_per_address=1e-9, call_burst_per_address=2.0)
    async with relaying(RelayService(limits)) as (relay, _), behind(Farmer(), relay):
        for _ in range(2):
            await trio.aclose_forcefully(await dial_through(RENTER, FARMER.node_id, relay))
        for _ in range(4):
            with pytest.raises(PeerUnreachable, match="too often from this address"):
                await dial_through(RENTER, FARMER.node_id, relay)
        monkeypatch.setattr("storjfs.network.relay.address_of", lambda stream: "127.0.0.2")
        await trio.aclose_forcefully(await dial_through(RENTER, FARMER.node_id, relay))


async def test_who_stops_in_the_handshake_behind_a_relay_leaves_room_for_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All who come through a relay have one address; it lets one of them have so many of its connections."""
    limits = replace(LIMITS, handshakes_per_address=2, handshakes_per_relay=3)
    monkeypatch.setattr("tests.network.relaying.LIMITS", limits)
    service = RelayService(replace(RELAY_LIMITS, streams_per_farmer=4))
    async with relaying(service) as (relay, _), behind(Farmer(), relay), AsyncExitStack() as stopped:
        for _ in range(2):
            transport, _ = await _join(relay, None, Role.RENTER, Through(FARMER.node_id))
            await stopped.enter_async_context(transport)
        monkeypatch.setattr("storjfs.network.relay.address_of", lambda stream: "127.0.0.2")
        async with renting(relay.through()) as peer:
            await peer.request(Ping())


def test_a_relay_lets_nobody_have_as_many_connections_as_a_farmer_bears_handshakes_through_it() -> None:
    assert RELAY_LIMITS.streams_per_farmer // 2 < LIMITS.handshakes_per_relay
    assert RELAYS * (RELAY_LIMITS.streams_per_farmer // 2) < LIMITS.handshakes


async def test_callers_that_wait_are_bounded() -> None:
    service = RelayService(replace(RELAY_LIMITS, calls_per_address=2))
    async with relaying(service) as (relay, _), behind(Farmer(), relay) as (attachment,):
        attachment._come = never  # type: ignore[method-assign, assignment]
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(dial_through, RENTER, FARMER.node_id, relay)
            await eventually(lambda: service.relay.waiting == 2)
            with pytest.raises(PeerUnreachable, match="too many wait"):
                await dial_through(RENTER, FARMER.node_id, relay)
            nursery.cancel_scope.cancel()


async def test_a_farmer_that_does_not_come_in_time() -> None:
    service = RelayService(replace(RELAY_LIMITS, answer=0.05))
    async with relaying(service) as (relay, _), behind(Farmer(), relay) as (attachment,):
        attachment._come = never  # type: ignore[method-assign, assignment]
        with pytest.raises(PeerUnreachable, match="did not come in time"):
            await dial_through(RENTER, FARMER.node_id, relay)
        assert not service.relay.waiting


async def test_what_is_idle_for_too_long_is_closed() -> None:
    service = RelayService(replace(RELAY_LIMITS, idle=0.2))
    async with relaying(service) as (relay, gate), behind(Farmer(), relay) as (attachment,):
        stream = await dial_through(RENTER, FARMER.node_id, relay)
        await cut_off(FrameStream(stream))
        await eventually(lambda: gate.total == 1 and not attachment.streams)


async def test_a_relay_that_comes_back_is_attached_to_again_and_the_second_takes_over_meanwhile() -> None:
    first, second, farmer = RelayService(), RelayService(), Farmer()
    async with relaying(second, SECOND) as (other, _), trio.open_nursery() as nursery:
        relay, ending = await nursery.start(run_relay, first, 0)
        async with behind(farmer, relay, other) as (one, two):
            async with renting(relay.through(), other.through()) as peer:
                await peer.request(Ping())
                assert (first.relay.streams, second.relay.streams) == (1, 0)
                ending.cancel()
                await eventually(lambda: not one.attached and not peer.connected)
                await peer.request(Ping())
                assert second.relay.streams == 1
                assert two.attached
                _, ending = await nursery.start(run_relay, first, relay.port)
                await eventually(lambda: one.attached)
                peer.addresses = (relay.through(),)
                peer.disconnect()
                await eventually(lambda: not peer.connected)
                await peer.request(Ping())
                assert first.relay.streams == 1
        nursery.cancel_scope.cancel()


async def test_an_address_through_a_relay_needs_a_name_for_who_is_meant() -> None:
    with pytest.raises(PeerUnreachable, match="whose identity is known"):
        await open_stream(RENTER, None, [Address("127.0.0.1", 9).through()])
