"""Connections that fail leave no memory behind that only the collector of garbage would find."""

import contextlib

import trio
import trio.testing

from storjfs.network.control import ControlConnection
from storjfs.network.data import serve_shards
from storjfs.network.failures import WrongPeer
from storjfs.network.frames import FrameStream
from storjfs.network.peer import Peer
from storjfs.protocol.failures import ProtocolViolation
from storjfs.protocol.ids import ContractId, ShardId
from storjfs.segments.together import all_of
from tests.knots import knots
from tests.network.farm import RENTER, STRANGER, Farmer, listening

NOBODY = RENTER.node_id


async def test_a_shard_for_whom_another_one_answers() -> None:
    async with listening(Farmer(), STRANGER) as address, trio.open_nursery() as nursery:
        peer = Peer(RENTER, NOBODY, (address,))
        await nursery.start(peer.run)
        with knots() as left:
            with contextlib.suppress(WrongPeer):
                await peer.put_shard(ContractId(bytes(32)), ShardId(bytes(32)), bytes(1 << 20))
            await trio.lowlevel.checkpoint()
        assert left == []
        nursery.cancel_scope.cancel()


async def test_a_control_connection_on_which_garbage_comes() -> None:
    with knots() as left:
        ours, theirs = trio.testing.memory_stream_pair()
        await theirs.send_all(b"\xff" * 20)
        with contextlib.suppress(ProtocolViolation):
            await ControlConnection(FrameStream(ours)).run()
    assert left == []


async def test_a_data_connection_on_which_garbage_comes() -> None:
    with knots() as left:
        ours, theirs = trio.testing.memory_stream_pair()
        await theirs.send_all(b"\xff" * 20)
        with contextlib.suppress(ProtocolViolation):
            await serve_shards(FrameStream(ours), NOBODY, Farmer())
    assert left == []


async def test_several_calls_of_which_one_fails() -> None:
    async def fail() -> None:
        await trio.lowlevel.checkpoint()
        raise OSError

    with knots() as left, contextlib.suppress(OSError):
        await all_of(fail, trio.sleep_forever)
    assert left == []
