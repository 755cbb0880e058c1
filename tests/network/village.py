"""Farmers on memory streams that know each other, and somebody who looks for them."""

import random
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import trio
import trio.testing
from msgspec import Struct

from storjfs.network.failures import PeerUnreachable, WrongPeer
from storjfs.network.identity import Identity
from storjfs.network.meeting import (
    Meeting,
)
from storjfs.network.service import serve_peer
from storjfs.network.sources import Found, Given, Source
from storjfs.protocol.directory import Directory
from storjfs.protocol.failures import ErrorCode, ProtocolViolation, RequestFailed
from storjfs.protocol.ids import NodeId
from storjfs.protocol.messages import FarmerList, GetFarmers, GetOffer, OfferAnswer, Request
from storjfs.protocol.signing import Signed
from storjfs.protocol.terms import Address, sign_offer
from tests.network.farm import Farmer
from tests.protocol import values

NOW = 1_800_000_000.0
Answer = Callable[[Request[Any]], Awaitable[Struct]]


@dataclass
class Node:
    """A farmer at `address`; `knows` are the offers it passes on, `shows` the one it gives as its own."""

    address: Address
    identity: Identity
    knows: list[Signed] = field(default_factory=list)
    shows: Signed | None = None
    silent: bool = False
    old: bool = False
    """Of a version without peer exchange."""
    told: list[Signed | None] = field(default_factory=list)
    dialled: int = 0

    @property
    def node_id(self) -> NodeId:
        return self.identity.node_id

    def offer(self, *addresses: Address) -> Signed:
        """Its own, with other addresses than that where it is, if such are given."""
        made = values.offer(
            farmer=self.node_id, expires=int(NOW) + 86400, addresses=addresses or (self.address,)
        )
        return sign_offer(self.identity.signing, made)

    async def answer(self, request: Request[Any]) -> Struct:
        if self.silent:
            await trio.sleep_forever()
        if isinstance(request, GetOffer):
            return OfferAnswer(self.shows or self.offer())
        if isinstance(request, GetFarmers) and not self.old:
            self.told.append(request.own)
            return FarmerList(tuple(self.knows[: request.limit]))
        raise RequestFailed(ErrorCode.UNSUPPORTED)


class Village:
    """Nodes on memory streams; who is dialled is counted, also where nobody is."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        self.nodes: dict[Address, Node] = {}
        self.dials: dict[Address, int] = {}
        self.callers: set[NodeId] = set()

    def add(self, number: int, host: str | None = None) -> Node:
        node = Node(Address(host or f"8.{number}.1.1", 7420), Identity(sha256(b"node %d" % number).digest()))
        self.nodes[node.address] = node
        return node

    async def connect(
        self, identity: Identity, node_id: NodeId | None, addresses: Sequence[Address], seconds: float
    ) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        self.callers.add(identity.node_id)
        for address in addresses:
            self.dials[address] = self.dials.get(address, 0) + 1
            node = self.nodes.get(address)
            if node is None:
                continue
            if node_id not in (None, node.node_id):
                raise WrongPeer("another")
            ours, theirs = trio.testing.memory_stream_pair()
            ours.peer = node.node_id  # type: ignore[attr-defined]
            self.nursery.start_soon(self._serve, node, theirs, identity.node_id)
            return ours
        raise PeerUnreachable("nobody is there")

    async def _serve(self, node: Node, stream: trio.abc.Stream, peer: NodeId) -> None:
        try:
            await serve_peer(stream, peer, Farmer(answering=node.answer))
        except (trio.BrokenResourceError, trio.ClosedResourceError, ProtocolViolation):
            pass
        finally:
            await trio.aclose_forcefully(stream)

    def meeting(self, sources: dict[str, Source], **more: Any) -> Meeting:
        rng = random.Random(1)
        return Meeting(
            Directory(),
            sources,
            now=lambda: NOW + trio.current_time(),
            rng=rng,
            identity=lambda: Identity(rng.randbytes(32)),
            connector=self.connect,
            **{"peers": True, **more},
        )


def given_at(nodes: Iterable[Node]) -> dict[str, Source]:
    return {"settings": Given(lambda: [Found((one.address,)) for one in nodes])}


async def look(meeting: Meeting, seconds: float) -> set[NodeId]:
    """Who answers after so many (virtual) seconds of looking."""
    with trio.move_on_after(seconds):
        await meeting.run()
    return {one.node_id for one in meeting.directory if one.answers}
