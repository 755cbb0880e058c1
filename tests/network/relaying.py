"""A relay on the loopback, a farmer behind it, and renters who dial through it."""

from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256

import trio

from storjfs.network.behind import Attachment
from storjfs.network.control import ControlConnection
from storjfs.network.frames import FrameStream
from storjfs.network.identity import Identity
from storjfs.network.peer import Peer
from storjfs.network.relay import RELAY_LIMITS, Relay, RelayLimits
from storjfs.network.service import serve_tls
from storjfs.network.streams import LIMITS, Gate, Limits, serve_through
from storjfs.protocol.failures import ErrorCode, RequestFailed
from storjfs.protocol.ids import NodeId
from storjfs.protocol.messages import (
    RELAY_CAPABILITY,
    Arrive,
    Attach,
    AttachAnswer,
    DialBack,
    DialBackAnswer,
    Hello,
    HelloAnswer,
    Role,
    Through,
)
from storjfs.protocol.terms import Address
from tests.network.farm import FARMER, RENTER, Farmer

RELAY = Identity(sha256(b"relay").digest())
SECOND = Identity(sha256(b"another relay").digest())
PATIENCE = 20.0


@dataclass
class CountedLine:
    """A line without limits that counts."""

    step: int = 1 << 20
    passed: Counter[bool] = field(default_factory=Counter)
    joins: int = 0

    async def pass_on(self, farmer: NodeId, count: int, *, to_farmer: bool) -> None:
        self.passed[to_farmer] += count

    def joined(self, farmer: NodeId) -> None:
        self.joins += 1


class RelayService(Farmer):
    """A farmer that relays others."""

    def __init__(self, limits: RelayLimits = RELAY_LIMITS) -> None:
        super().__init__()
        self.line = CountedLine()
        self.relay = Relay(self.line, limits)

    async def hello(self, peer: NodeId, hello: Hello) -> HelloAnswer:
        return HelloAnswer(0, Role.FARMER, (RELAY_CAPABILITY,))

    async def reach(
        self, peer: NodeId, request: Attach | DialBack, connection: ControlConnection
    ) -> AttachAnswer | DialBackAnswer:
        if isinstance(request, Attach):
            return self.relay.attach(peer, connection)
        raise RequestFailed(ErrorCode.UNSUPPORTED)

    async def join(self, frames: FrameStream, number: int, request: Through | Arrive) -> None:
        await self.relay.join(frames, number, request)

    def detached(self, peer: NodeId, connection: ControlConnection) -> None:
        super().detached(peer, connection)
        self.relay.leave(peer, connection)


@asynccontextmanager
async def relaying(
    service: RelayService, identity: Identity = RELAY, port: int = 0, limits: Limits = LIMITS
) -> AsyncIterator[tuple[Address, Gate]]:
    """`service` on the loopback, at a port of its own."""
    gate = Gate(identity, partial(serve_tls, service=service), limits)
    async with trio.open_nursery() as nursery:
        (address,) = await nursery.start(serve_through, gate, "127.0.0.1", port)
        yield address, gate
        nursery.cancel_scope.cancel()


async def run_relay(
    service: RelayService,
    port: int,
    identity: Identity = RELAY,
    *,
    task_status: trio.TaskStatus[tuple[Address, trio.CancelScope]],
) -> None:
    """A relay that ends when the scope it is started with is cancelled."""
    with trio.CancelScope() as scope:
        async with relaying(service, identity, port) as (address, _):
            task_status.started((address, scope))
            await trio.sleep_forever()


@asynccontextmanager
async def behind(
    service: Farmer, *relays: Address, identity: Identity = FARMER, attached: bool = True
) -> AsyncIterator[list[Attachment]]:
    """A farmer that listens nowhere and keeps to `relays`."""
    gate = Gate(identity, partial(serve_tls, service=service), LIMITS)
    changed = trio.Event()
    found: list[Attachment] = []

    def note() -> None:
        if all(one.attached for one in found):
            changed.set()

    async with trio.open_nursery() as nursery:
        for relay in relays:
            admit = partial(gate.admit, relayed=True)
            found.append(Attachment(identity, relay, None, admit, note))
            nursery.start_soon(found[-1].run)
        if attached:
            with trio.fail_after(PATIENCE):
                await changed.wait()
        yield found
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def renting(*addresses: Address, farmer: NodeId = FARMER.node_id) -> AsyncIterator[Peer]:
    """A renter that knows a farmer by these addresses."""
    peer = Peer(RENTER, farmer, addresses)
    async with trio.open_nursery() as nursery:
        await nursery.start(peer.run)
        yield peer
        nursery.cancel_scope.cancel()


async def eventually(holds: Callable[[], object]) -> None:
    """Wait until `holds()`, which other tasks of this process, and the kernel, make true."""
    with trio.fail_after(PATIENCE):
        while not holds():  # noqa: ASYNC110 - it is the kernel that is watched
            await trio.sleep(0.005)
