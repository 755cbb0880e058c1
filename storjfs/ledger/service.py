"""What a ledger answers on its connections: hello, ping and settle, and nothing else."""

from typing import Any

from msgspec import Struct

from storjfs import __version__
from storjfs.ledger.desk import Desk
from storjfs.network.control import ControlConnection
from storjfs.network.data import ShardSource
from storjfs.network.frames import Buffer
from storjfs.network.service import Service
from storjfs.protocol.failures import ErrorCode, RequestFailed
from storjfs.protocol.ids import NodeId
from storjfs.protocol.messages import (
    LEDGER_CAPABILITY,
    Get,
    Hello,
    HelloAnswer,
    Purpose,
    Put,
    PutAnswer,
    Request,
    Role,
    Settle,
    SettleAnswer,
)


class LedgerService(Service):
    """Hands orders in at the desk. Who dials does not matter: who wants something has signed it."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def hello(self, peer: NodeId, hello: Hello) -> HelloAnswer:
        if hello.purpose is not Purpose.CONTROL:
            raise RequestFailed(ErrorCode.UNSUPPORTED, "a ledger keeps no shards")
        return HelloAnswer(0, Role.LEDGER, (LEDGER_CAPABILITY,), f"storjfs {__version__}")

    async def request(self, peer: NodeId, request: Request[Any]) -> Struct:
        if not isinstance(request, Settle):
            raise RequestFailed(ErrorCode.UNSUPPORTED, type(request).__name__)
        return SettleAnswer(await self._desk.ask(request.order))

    async def put(self, peer: NodeId, header: Put, source: ShardSource) -> PutAnswer:
        raise RequestFailed(ErrorCode.UNSUPPORTED, "a ledger keeps no shards")

    async def get(self, peer: NodeId, header: Get) -> Buffer:
        raise RequestFailed(ErrorCode.UNSUPPORTED, "a ledger keeps no shards")

    def attached(self, peer: NodeId, connection: ControlConnection) -> None:
        """Nothing is ever asked of who dials a ledger."""

    def detached(self, peer: NodeId, connection: ControlConnection) -> None:
        """As `attached`."""
