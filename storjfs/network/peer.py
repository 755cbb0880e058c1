"""One farmer as a renter uses it: connects when needed, again after losses, with requests and shards."""

import random
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import trio

from storjfs.network.control import REQUEST_TIMEOUT, ControlConnection, Handler, refuse_all
from storjfs.network.data import DataPool
from storjfs.network.dialling import expect_answers
from storjfs.network.failures import PeerUnreachable, WrongPeer
from storjfs.network.frames import CONTROL_BUFFER, DATA_BUFFER, Buffer, FrameStream
from storjfs.network.greeting import greet
from storjfs.network.identity import Identity
from storjfs.network.origin import address_of
from storjfs.network.streams import DIAL_TIMEOUT, open_stream
from storjfs.network.width import FIRST
from storjfs.protocol.failures import ProtocolViolation, RequestFailed
from storjfs.protocol.greeting import HIGHEST, LOWEST
from storjfs.protocol.ids import ContractId, NodeId, ShardId
from storjfs.protocol.messages import (
    CANCEL_CAPABILITY,
    Get,
    Hello,
    HelloAnswer,
    Purpose,
    Put,
    Request,
    Role,
)
from storjfs.protocol.priorities import Priority
from storjfs.protocol.signing import Signed
from storjfs.protocol.terms import Address

A = TypeVar("A")

Connector = Callable[[Identity, NodeId | None, Sequence[Address], float], Awaitable[trio.abc.Stream]]
"""What dials: `streams.open_stream`, or memory streams in a simulation. Raises PeerUnreachable."""

FIRST_BACKOFF = 0.25
LONGEST_BACKOFF = 60.0
"""Seconds, for one that answers and cannot be talked with."""
LONGEST_ABSENCE = 4.0
"""For one that does not answer: dialling is cheap, done for somebody, and it may be back any moment."""


class Backoff:
    """When to dial again: delays double up to a bound, each with up to half of it taken off at random."""

    __slots__ = ("_delay", "_random", "until")

    def __init__(self, source: random.Random) -> None:
        self._random = source
        self.reset()

    def reset(self) -> None:
        """It worked."""
        self._delay, self.until = FIRST_BACKOFF, 0.0

    def failed(self, now: float, longest: float = LONGEST_BACKOFF) -> None:
        """It did not; `longest` is the bound."""
        self.until = now + min(self._delay, longest) * self._random.uniform(0.5, 1.0)
        self._delay = min(self._delay * 2, LONGEST_BACKOFF)


class Peer:
    """Usable while `run` runs, which owns its connections; when that is cancelled they are closed.

    `addresses` may be replaced at any time. After a failed attempt to connect, calls fail at once with
    PeerUnreachable until its `retry_after` has passed.
    """

    def __init__(
        self,
        identity: Identity,
        node_id: NodeId,
        addresses: Sequence[Address],
        *,
        connector: Connector = open_stream,
        handler: Handler = refuse_all,
        vouchers: Callable[[], Sequence[Signed]] = tuple,
        greeted: Callable[[HelloAnswer], None] | None = None,
        role: Role = Role.RENTER,
        data_connections: int = FIRST,
        source: random.Random | None = None,
    ) -> None:
        """`vouchers()` gives those for each hello, `greeted` gets each answer to one; `handler` serves the
        farmer's requests; `source` is the randomness of the backoff."""
        self.identity, self.node_id = identity, node_id
        self._addresses = tuple(addresses)
        self._worked: Address | None = None
        self._connector, self._handler, self._role = connector, handler, role
        self._vouchers, self._greeted = vouchers, greeted
        self._backoff = Backoff(source or random.Random())
        self._dialling = trio.Lock()
        self._control: ControlConnection | None = None
        self._nursery: trio.Nursery | None = None
        self._cancels = False
        self.reached = ""
        """The numeric address at which it answered last; empty: never, not over TCP, or by a relay."""
        self.failing = False
        """Whether the last attempt to connect failed."""
        self._dials: list[float] = []
        """When those began that are under way."""
        self._data = DataPool(self._dial_data, data_connections)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Own the connections until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._nursery = None
            with trio.CancelScope(shield=True):
                await self._data.aclose()

    @property
    def addresses(self) -> Sequence[Address]:
        """Where to dial. Others than before are tried at once."""
        return self._addresses

    @addresses.setter
    def addresses(self, addresses: Sequence[Address]) -> None:
        if tuple(addresses) != self._addresses:
            self._addresses = tuple(addresses)
            self._worked = None
            self._backoff.reset()

    @property
    def connected(self) -> bool:
        """Whether a control connection is up, as far as is known."""
        return self._control is not None and not self._control.closed

    @property
    def dialling(self) -> float:
        """Seconds for which it has been dialled now without an answer; 0 while it is not."""
        return trio.current_time() - min(self._dials) if self._dials else 0.0

    def disconnect(self) -> None:
        """Drop the control connection; the next request makes a new one."""
        if self._control is not None:
            self._control.close()

    async def request(self, body: Request[A], timeout: float = REQUEST_TIMEOUT) -> A:  # noqa: ASYNC109
        """Ask on the control connection, connecting first where there is none; `timeout` is for the answer.

        A request whose connection turns out to have been lost is sent once more on a new one: all requests
        may be repeated. Raises RequestFailed, RequestTimeout, PeerUnreachable, WrongPeer, ProtocolViolation.
        """
        before = self._control
        connection = await self._connected()
        try:
            return await connection.request(body, timeout)
        except PeerUnreachable:
            if connection is not before:
                raise
        return await (await self._connected()).request(body, timeout)

    async def put_shard(
        self,
        contract_id: ContractId,
        shard_id: ShardId,
        data: Buffer,
        timeout: float = 120.0,  # noqa: ASYNC109
    ) -> Signed:
        """Send a sealed shard; the signed receipt. `data` must not change meanwhile; it is not copied.

        Raises as `request`. Unless it returns, the farmer may or may not hold the shard.
        """
        header = Put(contract_id, shard_id, len(data))
        receipt = (await self._data.put(header, data, timeout)).receipt
        self._backoff.reset()
        return receipt

    async def get_range(
        self,
        contract_id: ContractId,
        shard_id: ShardId,
        offset: int,
        buffer: bytearray | memoryview,
        timeout: float = 60.0,  # noqa: ASYNC109
        priority: Priority = Priority.READ,
        asked: Callable[[], None] = lambda: None,
    ) -> None:
        """Fill `buffer` with the shard's sealed bytes from `offset`; `asked` is called before it may cost.

        Raises as `request`; then and when cancelled the content of `buffer` is undefined.
        """
        view = memoryview(buffer)
        header = Get(contract_id, shard_id, offset, len(view))
        await self._data.get_into(header, view, timeout, priority, asked)
        self._backoff.reset()

    async def _connected(self) -> ControlConnection:
        async with self._dialling:
            if self._control is not None and not self._control.closed:
                return self._control
            nursery = self._nursery
            if nursery is None:
                raise PeerUnreachable("this peer is not running")
            frames = await self._dial(Purpose.CONTROL, CONTROL_BUFFER)
            expect_answers(frames.stream)
            connection = ControlConnection(frames, self._handler, cancels=self._cancels)
            await nursery.start(self._carry, connection)
            self._control = connection
            return connection

    async def _carry(
        self, connection: ControlConnection, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        answered = False
        try:
            await connection.run(task_status=task_status)
            answered = connection.answered
        except ProtocolViolation:
            pass
        if answered:
            self._backoff.reset()
        else:
            # It greets and cannot be talked with: do not run into it again at once.
            self._backoff.failed(trio.current_time())
        if connection.lost:
            with trio.CancelScope(shield=True):
                await self._data.break_off()

    async def _dial_data(self) -> FrameStream:
        return await self._dial(Purpose.DATA, DATA_BUFFER)

    async def _dial(self, purpose: Purpose, buffer_size: int) -> FrameStream:
        """A connection with the hello exchanged."""
        now = trio.current_time()
        if now < self._backoff.until:
            wait = self._backoff.until - now
            raise PeerUnreachable(f"not reachable; next attempt in {wait:.1f} s", retry_after=wait)
        self._dials.append(now)
        try:
            # The one that worked last comes first: one that is silent costs seconds of each dial.
            addresses = sorted(self._addresses, key=lambda one: one != self._worked)
            stream = await self._connector(self.identity, self.node_id, addresses, DIAL_TIMEOUT)
            self._worked = getattr(stream, "address", None)
            frames = FrameStream(stream, buffer_size)
            try:
                answer = await self._greet(frames, purpose)
                self._backoff.until = 0.0
                self.failing, self.reached = False, address_of(stream) or self.reached
                if purpose is Purpose.CONTROL and self._greeted is not None:
                    self._greeted(answer)
            except BaseException:
                await trio.aclose_forcefully(stream)
                raise
        except (PeerUnreachable, ProtocolViolation, RequestFailed) as error:
            self.failing = True
            absent = isinstance(error, PeerUnreachable) and not isinstance(error, WrongPeer)
            self._backoff.failed(trio.current_time(), LONGEST_ABSENCE if absent else LONGEST_BACKOFF)
            raise
        finally:
            self._dials.remove(now)
        return frames

    async def _greet(self, frames: FrameStream, purpose: Purpose) -> HelloAnswer:
        vouchers = tuple(self._vouchers()) if purpose is Purpose.CONTROL else ()
        hello = Hello(purpose, self._role, LOWEST, HIGHEST, (CANCEL_CAPABILITY,), vouchers=vouchers)
        answer = await greet(frames, hello, DIAL_TIMEOUT)
        self._cancels = CANCEL_CAPABILITY in answer.capabilities
        return answer
