"""Two sides of one control connection, or one side and raw bytes, or a listener that echoes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio
import trio.testing
from msgspec import Struct

from storjfs.network.control import CONTROL_LIMITS, ControlConnection, ControlLimits, Handler, refuse_all
from storjfs.network.frames import FrameStream
from storjfs.network.guests import Guest
from storjfs.network.identity import Identity
from storjfs.network.streams import Limits, serve
from storjfs.network.tls import TlsStream
from storjfs.protocol.failures import ProtocolViolation
from storjfs.protocol.messages import (
    OfferAnswer,
    Request,
)
from storjfs.protocol.terms import Address
from tests.network.farm import FARMER, SOMETHING


async def give_offer(request: Request[Any]) -> Struct:
    await trio.lowlevel.checkpoint()
    return OfferAnswer(SOMETHING)


@asynccontextmanager
async def connected(
    ours: Handler = refuse_all,
    theirs: Handler = give_offer,
    our_limits: ControlLimits = CONTROL_LIMITS,
    their_limits: ControlLimits = CONTROL_LIMITS,
    their_guest: Guest | None = None,
) -> AsyncIterator[tuple[ControlConnection, ControlConnection]]:
    """Two sides of one connection."""
    a, b = trio.testing.memory_stream_pair()
    one = ControlConnection(FrameStream(a), ours, our_limits)
    other = ControlConnection(FrameStream(b), theirs, their_limits, guest=their_guest)
    async with trio.open_nursery() as nursery:
        await nursery.start(one.run)
        await nursery.start(other.run)
        yield one, other
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def facing_raw_bytes(
    handler: Handler = give_offer, limits: ControlLimits = CONTROL_LIMITS, *, cancels: bool = True
) -> AsyncIterator[tuple[ControlConnection, FrameStream, list[BaseException | None]]]:
    """A connection, the raw other end of its stream, and how its run ended (once it has)."""
    a, b = trio.testing.memory_stream_pair()
    connection = ControlConnection(FrameStream(a), handler, limits, cancels=cancels)
    ended: list[BaseException | None] = []

    async def run(*, task_status: trio.TaskStatus[None]) -> None:
        try:
            await connection.run(task_status=task_status)
            ended.append(None)
        except ProtocolViolation as error:
            ended.append(error)

    async with trio.open_nursery() as nursery:
        await nursery.start(run)
        yield connection, FrameStream(b), ended
        await b.aclose()


@asynccontextmanager
async def echoing(limits: Limits = Limits(), identity: Identity = FARMER) -> AsyncIterator[Address]:  # noqa: B008
    """A listener whose streams answer with the peer's node id, then echo."""

    async def echo(stream: TlsStream) -> None:
        await stream.send_all(stream.peer)
        async for data in stream:
            await stream.send_all(data)

    async with trio.open_nursery() as nursery:
        addresses = await nursery.start(lambda task_status: serve(
            identity, "127.0.0.1", 0, echo, limits=limits, task_status=task_status
        ))  # fmt: skip
        yield addresses[0]
        nursery.cancel_scope.cancel()
