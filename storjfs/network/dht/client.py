"""Asking the DHT: questions over UDP with their answers, and searches made of them."""

import logging
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, NoReturn

import trio

from storjfs.errors import StorjfsError
from storjfs.network.dht.krpc import (
    ID_BYTES,
    TRANSACTION_BYTES,
    Answer,
    Endpoint,
    Refusal,
    question,
    read_answer,
    read_only,
)
from storjfs.network.dht.search import Search

log = logging.getLogger(__name__)

PATIENCE: Final = 2.0
"""Seconds that a node has to answer in."""
AT_A_TIME: Final = 8
"""Nodes that one search asks at a time."""
SEARCHES: Final = 4
"""Searches at a time; others wait."""
LONGEST_SEARCH: Final = 60.0
_PACKET: Final = 4096


class NoAnswer(StorjfsError):
    """The node did not answer in time, or not as one does."""


class Refused(StorjfsError):
    """The node refused, with a code of BEP 5 or 44."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(f"refused: {refusal.code} {refusal.words}")
        self.code = refusal.code


@dataclass(slots=True)
class _Question:
    done: trio.Event = field(default_factory=trio.Event)
    answer: Answer | Refusal | None = None


class Client:
    """Asks from a port of its own, one for each IP version; `run` makes it work.

    It answers no question and belongs in no table (BEP 43). Its id is another one for each search, so that
    nodes cannot tell by it which searches belong together.
    """

    def __init__(self, hosts: Iterable[str], *, private: bool) -> None:
        """`hosts`: numeric addresses to ask from, the first of each version counts."""
        self._hosts = {6 if ":" in host else 4: host for host in reversed(list(hosts))}
        self._private = private
        self._sockets: dict[int, trio.socket.SocketType] = {}
        self._open: dict[tuple[bytes, Endpoint], _Question] = {}
        self._places = trio.CapacityLimiter(SEARCHES)

    @property
    def versions(self) -> tuple[int, ...]:
        """The IP versions that it can ask over."""
        return tuple(self._sockets)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> NoReturn:
        """Receive until cancelled. Raises OSError where no port can be had."""
        failed: OSError | None = None
        try:
            for version, host in self._hosts.items():
                family = trio.socket.AF_INET6 if version == 6 else trio.socket.AF_INET
                try:
                    socket = trio.socket.socket(family, trio.socket.SOCK_DGRAM)
                    self._sockets[version] = socket
                    if version == 6:
                        socket.setsockopt(trio.socket.IPPROTO_IPV6, trio.socket.IPV6_V6ONLY, 1)
                    await socket.bind((host, 0))
                except OSError as error:  # a machine without IPv6, say
                    failed = error
                    if version in self._sockets:
                        self._sockets.pop(version).close()
            if not self._sockets:
                raise failed or OSError("there is no address to ask the DHT from")
            async with trio.open_nursery() as nursery:
                for socket in self._sockets.values():
                    nursery.start_soon(self._receive, socket)
                task_status.started()
        finally:
            for socket in self._sockets.values():
                socket.close()
        raise AssertionError("receiving ends only when cancelled")

    async def ask(
        self, endpoint: Endpoint, own_id: bytes, method: bytes, arguments: Mapping[bytes, int | bytes]
    ) -> Answer:
        """One question. Raises NoAnswer or Refused. When cancelled, an answer that comes is dropped."""
        socket = self._sockets.get(6 if ":" in endpoint[0] else 4)
        if socket is None:
            raise NoAnswer(f"there is no way to {endpoint[0]} from here")
        transaction = os.urandom(TRANSACTION_BYTES)
        asked = _Question()
        self._open[transaction, endpoint] = asked
        try:
            with trio.move_on_after(PATIENCE):
                await socket.sendto(question(transaction, own_id, method, arguments), endpoint)
                await asked.done.wait()
        except OSError as error:
            raise NoAnswer(f"{endpoint[0]}: {error}") from error
        finally:
            del self._open[transaction, endpoint]
        match asked.answer:
            case Answer() as answer:
                return answer
            case Refusal() as refusal:
                raise Refused(refusal)
        raise NoAnswer(f"{endpoint[0]} does not answer")

    async def search(
        self,
        target: bytes,
        start: Iterable[Endpoint],
        method: bytes,
        arguments: Mapping[bytes, int | bytes],
        heard: Callable[[Endpoint, Answer], None] = lambda endpoint, answer: None,
    ) -> list[tuple[Endpoint, Answer]]:
        """Ask the nodes ever nearer to `target`; those that should keep something there (`Search.nearest`).

        `start`: nodes to begin with. `heard` gets each answer when it comes. Ends by itself: after
        LONGEST_SEARCH seconds at most, with what has been found until then.
        """
        searches = [
            Search(target, start, version=version, private=self._private) for version in self.versions
        ]
        own_id = os.urandom(ID_BYTES)
        async with self._places:
            with trio.move_on_after(LONGEST_SEARCH):
                async with trio.open_nursery() as nursery:
                    for search in searches:
                        nursery.start_soon(self._pursue, search, own_id, method, arguments, heard)
        return [found for search in searches for found in search.nearest()]

    async def _pursue(
        self,
        search: Search,
        own_id: bytes,
        method: bytes,
        arguments: Mapping[bytes, int | bytes],
        heard: Callable[[Endpoint, Answer], None],
    ) -> None:
        send, receive = trio.open_memory_channel[None](AT_A_TIME)

        async def one(endpoint: Endpoint) -> None:
            try:
                answer = await self.ask(endpoint, own_id, method, arguments)
            except (NoAnswer, Refused):
                search.failed(endpoint)
            else:
                search.answered(endpoint, answer)
                heard(endpoint, answer)
            await send.send(None)

        async with trio.open_nursery() as nursery:
            under_way = 0
            while not search.finished:
                while under_way < AT_A_TIME and (endpoint := search.next()) is not None:
                    under_way += 1
                    nursery.start_soon(one, endpoint)
                await receive.receive()
                under_way -= 1

    async def _receive(self, socket: trio.socket.SocketType) -> NoReturn:
        while True:
            # From an error, an ICMP message about something sent before, nothing follows.
            with suppress(OSError):
                packet, sender = await socket.recvfrom(_PACKET)
                try:
                    self._heard(read_answer(packet), (sender[0], sender[1]))
                except ValueError:
                    if (refusal := read_only(packet)) is not None:
                        await socket.sendto(refusal, sender)

    def _heard(self, answer: Answer | Refusal, sender: Endpoint) -> None:
        asked = self._open.get((answer.transaction, sender))
        if asked is not None and asked.answer is None:
            asked.answer = answer
            asked.done.set()
