"""One connection to each farmer, under the identity that only this farmer knows us by."""

import contextlib
import logging
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import median
from typing import Final, TypeVar

import trio

from storjfs.errors import StorjfsError
from storjfs.network.control import REQUEST_TIMEOUT
from storjfs.network.failures import PeerUnreachable
from storjfs.network.identity import Identity
from storjfs.network.peer import Connector, Peer
from storjfs.network.streams import open_stream
from storjfs.protocol.ids import NodeId, short
from storjfs.protocol.messages import HelloAnswer, Ping, Request
from storjfs.protocol.signing import Signed
from storjfs.protocol.terms import Address
from storjfs.renter.latency import UsualLatency
from storjfs.renter.places import Place, place_of
from storjfs.renter.settings import KnownFarmer
from storjfs.renter.speed import Speeds, Way

log = logging.getLogger(__name__)

A = TypeVar("A")

PROBE_TIMEOUT = 10.0
UNANSWERED: Final = 0.25
"""Seconds of dialling without an answer after which others are asked, as far as they suffice."""
PROBES = 16
"""Addresses asked at a time who is there."""


class Farmers:
    """The peers by node id. `run` owns them; one is made when it is first asked for.

    `vouchers(farmer)` gives what each hello carries; `greeted(farmer, answer)` is told of each answer to one.
    """

    def __init__(
        self,
        renter_seed: Callable[[bytes], bytes],
        vouchers: Callable[[NodeId], Sequence[Signed]],
        greeted: Callable[[NodeId, HelloAnswer], None],
        rng: random.Random,
        connector: Connector = open_stream,
    ) -> None:
        self._renter_seed = renter_seed
        self._vouchers = vouchers
        self._greeted = greeted
        self._rng = rng
        self._connector = connector
        self._peers: dict[NodeId, Peer] = {}
        self._addresses: dict[NodeId, tuple[Address, ...]] = {}
        self._latency: dict[NodeId, UsualLatency] = {}
        self.speeds = Speeds(trio.current_time)
        self._identities: dict[NodeId, Identity] = {}
        self._nursery: trio.Nursery | None = None
        self._making = trio.Lock()
        self.known: list[KnownFarmer] = []
        """Addresses from the settings whose node id is not known yet."""
        self.named: set[NodeId] = set()
        """Those that a person named, and embedded ones: they are used whatever they offer."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Own all connections until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                task_status.started()
                await trio.sleep_forever()
            finally:
                self._nursery = None
                self._peers.clear()

    def identity(self, farmer: NodeId) -> Identity:
        """Who we are to `farmer`."""
        found = self._identities.get(farmer)
        if found is None:
            found = self._identities[farmer] = Identity(self._renter_seed(farmer))
        return found

    def all(self) -> list[NodeId]:
        """Every farmer that has an address."""
        return list(self._addresses)

    def addresses(self, farmer: NodeId) -> tuple[Address, ...]:
        """Where it listens, as far as is known."""
        return self._addresses.get(farmer, ())

    def move(self, addresses: Mapping[NodeId, Sequence[Address]]) -> None:
        """These farmers listen there from now on; connections that work are kept."""
        for farmer, where in addresses.items():
            self._addresses[farmer] = tuple(where)
            peer = self._peers.get(farmer)
            if peer is not None:
                peer.addresses = tuple(where)

    async def peer(self, farmer: NodeId) -> Peer:
        """The connection to `farmer`, which dials when used. Raises PeerUnreachable outside of `run`."""
        found = self._peers.get(farmer)
        if found is not None:
            return found
        async with self._making:
            if farmer not in self._peers:
                if self._nursery is None:
                    raise PeerUnreachable("the renter is stopping")
                peer = Peer(
                    self.identity(farmer),
                    farmer,
                    self.addresses(farmer),
                    connector=self._connector,
                    vouchers=lambda: self._vouchers(farmer),
                    greeted=lambda answer: self._greeted(farmer, answer),
                    source=self._rng,
                )
                await self._nursery.start(peer.run, name=f"farmer {short(farmer)}")
                self._peers[farmer] = peer
            return self._peers[farmer]

    async def request(self, farmer: NodeId, body: Request[A], seconds: float = REQUEST_TIMEOUT) -> A:
        """The farmer's answer on its control connection; raises as Peer.request."""
        return await (await self.peer(farmer)).request(body, seconds)

    async def silent(self, farmers: Iterable[NodeId], seconds: float) -> set[NodeId]:
        """Those of `farmers` that give no sign of life within so many seconds, connected or not."""
        left = set(farmers)

        async def greet(farmer: NodeId) -> None:
            with contextlib.suppress(StorjfsError, OSError):
                await self.request(farmer, Ping())
                left.discard(farmer)

        with trio.move_on_after(seconds):
            async with trio.open_nursery() as nursery:
                for farmer in tuple(left):
                    nursery.start_soon(greet, farmer)
        return left

    def connected(self, farmer: NodeId) -> bool:
        """Whether a control connection is up."""
        peer = self._peers.get(farmer)
        return peer is not None and peer.connected

    def failing(self, farmer: NodeId) -> bool:
        """Whether the last attempt to connect failed."""
        peer = self._peers.get(farmer)
        return peer is not None and peer.failing

    def lagging(self, farmer: NodeId, way: Way) -> bool:
        """Whether to work around it now: see Speeds; or it was dialled a while ago and does not answer."""
        peer = self._peers.get(farmer)
        return self.speeds.lagging(farmer, way) or (peer is not None and peer.dialling >= UNANSWERED)

    def place(self, farmer: NodeId) -> Place:
        """Where it stands: where it was reached counts more than where it says that it is."""
        peer = self._peers.get(farmer)
        reached = (peer.reached,) if peer is not None and peer.reached else ()
        return place_of((*reached, *(address.host for address in self.addresses(farmer))))

    def latency(self, farmer: NodeId) -> UsualLatency:
        """How fast it usually is; the live object."""
        found = self._latency.get(farmer)
        if found is None:
            found = self._latency[farmer] = UsualLatency()
        return found

    def usual_latency(self, farmer: NodeId) -> float:
        """Seconds that its answers usually take; of one that gave none yet, what those of the others take."""
        own = self.latency(farmer)
        others = () if own.known else [one.usual() for one in self._latency.values() if one.known]
        return median(others) if others else own.usual()

    async def find_out(self, met: Callable[[NodeId], None] = lambda farmer: None) -> None:
        """Learn who answers at addresses that were given without a node id, `PROBES` of them at a time; who
        does not is tried next time. `met` is told of each at once, while others are still waited for.

        The question is asked under a throw-away identity: which of ours to show follows from the answer.
        """
        turn = trio.CapacityLimiter(PROBES)

        async def ask(known: KnownFarmer) -> None:
            async with turn:
                farmer = await self._who_is_at(known)
            if farmer is not None:
                self._enter(farmer, known)
                met(farmer)

        async with trio.open_nursery() as nursery:
            for known in list(self.known):
                nursery.start_soon(ask, known)

    async def _who_is_at(self, known: KnownFarmer) -> NodeId | None:
        if known.node_id is not None:
            return NodeId(known.node_id)
        try:
            stranger = Identity(self._rng.randbytes(32))
            stream = await self._connector(stranger, None, known.addresses, PROBE_TIMEOUT)
        except (StorjfsError, OSError) as error:
            log.info("nobody answers at %s: %s", known.addresses[0], error)
            return None
        farmer = NodeId(getattr(stream, "peer", b""))
        await trio.aclose_forcefully(stream)
        return farmer if len(farmer) == 32 else None

    def _enter(self, farmer: NodeId, known: KnownFarmer) -> None:
        self.named.add(farmer)
        self.move({farmer: known.addresses})
        self.known.remove(known)
