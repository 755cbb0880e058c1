"""Two sides of one control connection, or one side and raw bytes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio
import trio.testing
from msgspec import Struct

from storjfs.network.control import CONTROL_LIMITS, ControlConnection, ControlLimits, Handler, refuse_all
from storjfs.network.frames import FrameStream
from storjfs.network.guests import Guest
from storjfs.protocol.failures import ProtocolViolation
from storjfs.protocol.messages import (
    OfferAnswer,
    Request,
)
from tests.network.farm import SOMETHING


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
