"""Being a relay: joining whoever dials with farmers that cannot be dialled.

Specified in docs/formats/protocol.md, decided in docs/decisions/0013-reachability.md. A relay dials nobody: a
farmer keeps a control connection to it, over which it is asked to come; it passes on what it cannot read.
"""

import logging
import os
from collections import Counter
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

import trio

from storjfs.network.control import ControlConnection
from storjfs.network.failures import PeerUnreachable, RequestTimeout
from storjfs.network.frames import FrameStream
from storjfs.network.guests import Allowance, Allowances
from storjfs.network.origin import address_of, origin
from storjfs.network.splice import Idle, splice
from storjfs.protocol.failures import ErrorCode, ProtocolViolation, RequestFailed
from storjfs.protocol.framing import encode_answer, encode_failure
from storjfs.protocol.ids import NodeId, short
from storjfs.protocol.messages import Arrive, AttachAnswer, Call, Done, Through

log = logging.getLogger(__name__)

K = TypeVar("K", bound=Hashable)

_TOKEN: Final = 32


@dataclass(frozen=True, slots=True)
class RelayLimits:
    """What a relay bears; whoever comes beyond is told that it is busy."""

    farmers: int = 32
    farmers_per_address: int = 4
    streams: int = 256
    """Relayed connections at a time; each is two of TCP."""
    streams_per_farmer: int = 64
    """Of either number, who calls from one address has half."""
    calls_per_farmer: int = 8
    """Callers that wait for one farmer to come ..."""
    calls_per_address: int = 8
    """... and callers from one address that wait."""
    call_rate: float = 10.0
    """Calls per second of one farmer in the long run, and after a pause at once."""
    call_burst: float = 100.0
    call_rate_per_address: float = 5.0
    """The same by callers from one address."""
    call_burst_per_address: float = 50.0
    answer: float = 8.0
    """Seconds that a called farmer has to come in."""
    idle: float = 330.0
    """Seconds in which something has to pass: data connections may be idle a little less."""
    linger: float = 30.0
    """The same once one side has ended."""


RELAY_LIMITS: Final = RelayLimits()


class Line(Protocol):
    """Whose line it is that all passes through."""

    @property
    def step(self) -> int:
        """Bytes that pass at a time, at most."""

    async def pass_on(self, farmer: NodeId, count: int, *, to_farmer: bool) -> None:
        """`count` bytes of this farmer's came, and go on when this returns."""

    def joined(self, farmer: NodeId) -> None:
        """One more connection of this farmer's is relayed."""


class _Place:
    """An attached farmer."""

    __slots__ = ("allowance", "connection", "origin", "waiting")

    def __init__(self, connection: ControlConnection, limits: RelayLimits) -> None:
        self.connection = connection
        self.origin = origin(connection.host)
        self.allowance = Allowance(limits.call_rate, limits.call_burst)
        self.waiting = 0


class _Caller:
    """Somebody who waits for a farmer; `transport` is that farmer's connection, once it has come."""

    __slots__ = ("came", "done", "problem", "transport")

    def __init__(self) -> None:
        self.transport: trio.SocketStream | None = None
        self.problem = ""
        self.came = trio.Event()
        """Or it is known that it will not."""
        self.done = trio.Event()

    def give_up(self, problem: str) -> None:
        """It will not come, unless it has already."""
        self.problem = problem
        self.came.set()


class Relay:
    """All that one relay relays. It serves only while `is_open`; what it has joined goes on."""

    def __init__(self, line: Line, limits: RelayLimits = RELAY_LIMITS, *, is_open: bool = True) -> None:
        self.limits = limits
        self.is_open = is_open
        self._line = line
        self._places: dict[NodeId, _Place] = {}
        self._callers: dict[bytes, _Caller] = {}
        self._waiting: Counter[str] = Counter()
        self._calls = Allowances(limits.call_rate_per_address, limits.call_burst_per_address)
        self._streams: Counter[NodeId] = Counter()
        self._from: Counter[str] = Counter()
        self._between: Counter[tuple[NodeId, str]] = Counter()

    @property
    def attached(self) -> dict[NodeId, int]:
        """The farmers that have a place, with how many connections of each are relayed."""
        return {farmer: self._streams[farmer] for farmer in self._places}

    @property
    def streams(self) -> int:
        """Relayed connections."""
        return self._streams.total()

    @property
    def waiting(self) -> int:
        """Callers whose farmer has not come yet."""
        return len(self._callers)

    # --- farmers ---

    def attach(self, farmer: NodeId, connection: ControlConnection) -> AttachAnswer:
        """A place for `farmer`, until `leave`; of two of its connections the last counts.

        Raises RequestFailed (UNSUPPORTED, BAD_REQUEST, BUSY).
        """
        if not self.is_open:
            raise RequestFailed(ErrorCode.UNSUPPORTED, "this farmer relays nobody")
        if not connection.host:
            raise RequestFailed(ErrorCode.BAD_REQUEST, "a relay is not reached through a relay")
        place = _Place(connection, self.limits)
        others = [one for node_id, one in self._places.items() if node_id != farmer]
        same = sum(one.origin == place.origin for one in others)
        if len(others) >= self.limits.farmers or same >= self.limits.farmers_per_address:
            raise RequestFailed(ErrorCode.BUSY, "this relay has no place left")
        self._places[farmer] = place
        return AttachAnswer(self.limits.streams_per_farmer, connection.host)

    def leave(self, farmer: NodeId, connection: ControlConnection) -> None:
        """This control connection has ended."""
        place = self._places.get(farmer)
        if place is not None and place.connection is connection:
            del self._places[farmer]

    # --- relayed connections ---

    async def join(self, frames: FrameStream, number: int, request: Through | Arrive) -> None:
        """Serve one half of a relayed connection to its end; `number` is the request's. Does not close it.

        Raises ProtocolViolation, trio.BrokenResourceError.
        """
        try:
            if not self.is_open:
                raise RequestFailed(ErrorCode.UNSUPPORTED, "this farmer relays nobody")
            if isinstance(request, Arrive):
                await self._arrive(frames, number, request)
            else:
                await self._through(frames, number, request.farmer)
        except RequestFailed as error:
            await frames.send(encode_failure(number, error.code, error.detail))

    async def _arrive(self, frames: FrameStream, number: int, request: Arrive) -> None:
        """A farmer comes for its caller, and stays until that has no more use for it."""
        caller = self._callers.pop(request.token, None)
        if caller is None:
            raise RequestFailed(ErrorCode.STALE, "nobody waits any more")
        caller.transport = await _below(frames, number)
        caller.came.set()
        await caller.done.wait()

    async def _through(self, frames: FrameStream, number: int, farmer: NodeId) -> None:
        place, where = self._place_for(farmer, frames)
        caller, token = _Caller(), os.urandom(_TOKEN)
        problem: Exception | None = None
        try:
            with self._counted(farmer, where):
                async with trio.open_nursery() as nursery:
                    # Not withdrawn once the farmer has come: it would let go of what it came with.
                    nursery.start_soon(self._call, place, token, caller)
                    try:
                        with self._waits(place, where, token, caller):
                            theirs = await self._until_it_comes(frames, caller)
                        await self._pass(farmer, await _below(frames, number), theirs)
                    except (RequestFailed, ProtocolViolation, trio.BrokenResourceError) as error:
                        problem = error
                    nursery.cancel_scope.cancel()
        finally:
            caller.done.set()
        if problem is not None:
            try:
                raise problem
            finally:
                del problem  # which leads here, and would stay until garbage is looked for

    @contextmanager
    def _counted(self, farmer: NodeId, where: str) -> Iterator[None]:
        """One more connection of `farmer`, from `where`, in this block. Raises RequestFailed (BUSY)."""
        limits, between = self.limits, (farmer, where)
        if self.streams >= limits.streams or self._streams[farmer] >= limits.streams_per_farmer:
            raise RequestFailed(ErrorCode.BUSY, "too many connections are relayed")
        if self._from[where] >= max(limits.streams // 2, 1) or self._between[between] >= max(
            limits.streams_per_farmer // 2, 1
        ):
            raise RequestFailed(ErrorCode.BUSY, "too many connections are relayed for this address")
        with _one_more(self._streams, farmer), _one_more(self._from, where):
            with _one_more(self._between, between):
                yield

    def _place_for(self, farmer: NodeId, frames: FrameStream) -> tuple[_Place, str]:
        """The place of a farmer that may be called, and where the caller is. Raises RequestFailed."""
        place = self._places.get(farmer)
        where = origin(address_of(frames.stream) or "::")
        if place is None:
            raise RequestFailed(ErrorCode.NOT_ATTACHED)
        limits = self.limits
        if place.waiting >= limits.calls_per_farmer or self._waiting[where] >= limits.calls_per_address:
            raise RequestFailed(ErrorCode.BUSY, "too many wait for this farmer")
        if not self._calls.try_spend((farmer, where)):
            raise RequestFailed(ErrorCode.BUSY, "this farmer is called too often from this address")
        if not place.allowance.try_spend():
            raise RequestFailed(ErrorCode.BUSY, "this farmer is called too often")
        return place, where

    @contextmanager
    def _waits(self, place: _Place, where: str, token: bytes, caller: _Caller) -> Iterator[None]:
        """The caller waits in this block, and counts as one who does."""
        self._callers[token] = caller
        place.waiting += 1
        try:
            with _one_more(self._waiting, where):
                yield
        finally:
            self._callers.pop(token, None)
            place.waiting -= 1

    async def _call(self, place: _Place, token: bytes, caller: _Caller) -> None:
        try:
            await place.connection.request(Call(token), self.limits.answer)
        except RequestFailed as error:
            caller.give_up(f"the farmer does not come: {error}")
        except (PeerUnreachable, RequestTimeout, ProtocolViolation):
            caller.give_up("it did not come in time")

    async def _until_it_comes(self, frames: FrameStream, caller: _Caller) -> trio.SocketStream:
        """The farmer's connection.

        Raises RequestFailed where it does not come, trio.BrokenResourceError where the caller leaves,
        ProtocolViolation where that says something more.
        """
        left: Exception | None = None

        async def watch() -> None:
            nonlocal left
            try:
                more = await frames.wait_for_more()
                left = ProtocolViolation("more came before the answer") if more else _gone()
            except trio.BrokenResourceError as error:
                left = error
            caller.came.set()

        with trio.move_on_after(self.limits.answer):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(watch)
                await caller.came.wait()
                nursery.cancel_scope.cancel()
        if left is not None:
            try:
                raise left
            finally:
                left = None  # it leads here, and would stay until garbage is looked for
        if caller.transport is None:
            raise RequestFailed(ErrorCode.NOT_ATTACHED, caller.problem or "it did not come in time")
        return caller.transport

    async def _pass(self, farmer: NodeId, caller: trio.SocketStream, called: trio.SocketStream) -> None:
        line = self._line
        line.joined(farmer)
        try:
            await splice(
                caller,
                called,
                idle=self.limits.idle,
                linger=self.limits.linger,
                from_one=lambda count: line.pass_on(farmer, count, to_farmer=True),
                from_other=lambda count: line.pass_on(farmer, count, to_farmer=False),
                step=lambda: line.step,
            )
        except Idle:
            log.info("a relayed connection of farmer %s was idle for too long", short(farmer))


@contextmanager
def _one_more(counter: Counter[K], key: K) -> Iterator[None]:
    """One more of `key` in this block; what nobody has any more takes no memory."""
    counter[key] += 1
    try:
        yield
    finally:
        counter[key] -= 1
        if not counter[key]:
            del counter[key]


async def _below(frames: FrameStream, number: int) -> trio.SocketStream:
    """Answer that it is done, which ends TLS; the connection below. Raises ProtocolViolation."""
    await frames.send(encode_answer(number, Done()))
    transport, head = frames.detach()
    if head:
        raise ProtocolViolation("more came before the answer")
    return transport


def _gone() -> Exception:
    return trio.BrokenResourceError("the caller left")
