"""Which part of the farmer answers which request."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import apsw
from msgspec import Struct

from storjfs import __version__
from storjfs.farmer.book import Book
from storjfs.farmer.contracting import Contracting
from storjfs.farmer.keeping import Keeper
from storjfs.farmer.neighbours import Neighbours
from storjfs.farmer.payments import Payments
from storjfs.farmer.proving import Prover
from storjfs.farmer.shelves import Shelves
from storjfs.network.control import ControlConnection
from storjfs.network.data import ShardSource
from storjfs.network.dial_back import DialBacks
from storjfs.network.frames import FrameStream
from storjfs.network.origin import origin
from storjfs.network.relay import Relay
from storjfs.network.service import Service
from storjfs.protocol.failures import ErrorCode, ProtocolViolation, RequestFailed
from storjfs.protocol.hosts import is_private
from storjfs.protocol.ids import NodeId
from storjfs.protocol.messages import (
    DIAL_BACK_CAPABILITY,
    RELAY_CAPABILITY,
    Arrive,
    Attach,
    AttachAnswer,
    Audit,
    ContractList,
    Delete,
    DialBack,
    DialBackAnswer,
    End,
    FundNotice,
    Get,
    GetContract,
    GetFarmers,
    GetOffer,
    Hello,
    HelloAnswer,
    ListContracts,
    ListShards,
    OfferAnswer,
    Pay,
    Propose,
    Purpose,
    Put,
    PutAnswer,
    Request,
    Role,
    Through,
    VoucherAnswer,
)
from storjfs.protocol.signing import Signed

_LISTED = 1024
_Answer = Callable[[NodeId, Any], Awaitable[Struct]]


class FarmerService(Service):
    """What a farmer does for its renters."""

    def __init__(
        self,
        book: Book,
        payments: Payments,
        keeper: Keeper,
        prover: Prover,
        contracting: Contracting,
        shelves: Shelves,
        relay: Relay,
        neighbours: Neighbours,
        dial_backs: DialBacks,
    ) -> None:
        self._book = book
        self._shelves = shelves
        self._relay = relay
        self._neighbours = neighbours
        self._dial_backs = dial_backs
        self._payments = payments
        self._keeper = keeper
        self._contracting = contracting
        self.connections: dict[NodeId, set[ControlConnection]] = {}
        self._answers: dict[type[Request[Any]], _Answer] = {
            GetOffer: self._offer,
            Propose: lambda peer, request: contracting.propose(peer, request.proposal),
            FundNotice: contracting.fund,
            GetContract: self._contract,
            ListContracts: self._contracts,
            ListShards: keeper.list_shards,
            Audit: prover.audit,
            Pay: self._pay,
            Delete: keeper.delete,
            GetFarmers: self._farmers,
            End: lambda peer, request: contracting.end(peer, request.contract_id),
        }

    async def hello(self, peer: NodeId, hello: Hello) -> HelloAnswer:
        """Take the renter's newest vouchers, show our best ones."""
        vouchers: tuple[Signed, ...] = ()
        if hello.purpose is Purpose.CONTROL:
            for voucher in hello.vouchers:
                try:
                    with self._disk_may_fail():
                        await self._payments.accept(voucher)
                except (RequestFailed, ProtocolViolation):
                    continue  # a wrong voucher, or one that the disk does not take, is no reason not to talk
            with self._disk_may_fail():
                best = [lane.voucher for lane in self._book.lanes_of(peer)]
            vouchers = tuple(voucher for voucher in best if voucher is not None)
        able = (DIAL_BACK_CAPABILITY, *((RELAY_CAPABILITY,) if self._relay.is_open else ()))
        return HelloAnswer(0, Role.FARMER, able, f"storjfs {__version__}", vouchers)

    async def request(self, peer: NodeId, request: Request[Any]) -> Struct:
        answer = self._answers.get(type(request))
        if answer is None:
            raise RequestFailed(ErrorCode.UNSUPPORTED, type(request).__name__)
        with self._disk_may_fail():
            return await answer(peer, request)

    async def put(self, peer: NodeId, header: Put, source: ShardSource) -> PutAnswer:
        with self._disk_may_fail():
            return await self._keeper.put(peer, header, source)

    async def get(self, peer: NodeId, header: Get) -> bytes:
        with self._disk_may_fail():
            return await self._keeper.get(peer, header)

    async def reach(
        self, peer: NodeId, request: Attach | DialBack, connection: ControlConnection
    ) -> AttachAnswer | DialBackAnswer:
        if isinstance(request, Attach):
            return self._relay.attach(peer, connection)
        return await self._dial_backs.answer(peer, connection.host, request.port)

    async def join(self, frames: FrameStream, number: int, request: Through | Arrive) -> None:
        await self._relay.join(frames, number, request)

    @contextmanager
    def _disk_may_fail(self) -> Iterator[None]:
        """Say BUSY where the disk fails or is full: the same may work later, and nothing was changed."""
        try:
            yield
        except (apsw.Error, OSError) as error:
            if isinstance(error, apsw.FullError):
                raise RequestFailed(ErrorCode.BUSY, "the farmer's disk is full") from error
            if self._shelves.failed(error):
                raise RequestFailed(ErrorCode.BUSY, "the farmer's disk fails") from error
            raise

    def attached(self, peer: NodeId, connection: ControlConnection) -> None:
        self.connections.setdefault(peer, set()).add(connection)

    def detached(self, peer: NodeId, connection: ControlConnection) -> None:
        self.connections[peer].discard(connection)
        if not self.connections[peer]:
            del self.connections[peer]
        self._relay.leave(peer, connection)

    async def _offer(self, peer: NodeId, request: GetOffer) -> OfferAnswer:
        return OfferAnswer(self._contracting.signed_offer())

    async def _farmers(self, peer: NodeId, request: GetFarmers) -> Struct:
        hosts = [one.host for one in self.connections.get(peer, ())]
        near = bool(hosts) and all(host and is_private(host) for host in hosts)
        where = origin(hosts[0]) if hosts and hosts[0] else ""
        return await self._neighbours.answer(peer, request, where, near=near)

    async def _contract(self, peer: NodeId, request: GetContract) -> Struct:
        return self._contracting.answer(self._book.find(request.contract_id, peer))

    async def _contracts(self, peer: NodeId, request: ListContracts) -> ContractList:
        return ContractList(self._book.ids_of(peer, request.after, _LISTED))

    async def _pay(self, peer: NodeId, request: Pay) -> VoucherAnswer:
        lane = await self._payments.accept(request.voucher)
        if lane.voucher is None:
            raise RequestFailed(ErrorCode.BAD_REQUEST, "the voucher promises nothing")
        return VoucherAnswer(lane.voucher)
