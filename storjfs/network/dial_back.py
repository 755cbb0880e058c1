"""Can a node be dialled from outside? One asks another to try; the other tries, and dials nobody else.

What is dialled is the address from which the question came, never one that somebody names.
"""

import ipaddress
import os
from collections.abc import Callable
from typing import Final

import trio

from storjfs.network.behind import greeted
from storjfs.network.control import ControlConnection
from storjfs.network.dialling import dial
from storjfs.network.failures import PeerUnreachable, RequestTimeout, WrongPeer
from storjfs.network.guests import Allowances
from storjfs.network.identity import Identity
from storjfs.network.origin import origin
from storjfs.protocol.failures import ErrorCode, ProtocolViolation, RequestFailed
from storjfs.protocol.ids import NodeId
from storjfs.protocol.messages import (
    CANCEL_CAPABILITY,
    DIAL_BACK_CAPABILITY,
    RELAY_CAPABILITY,
    DialBack,
    DialBackAnswer,
    Reached,
)
from storjfs.protocol.terms import Address

DIAL_FOR: Final = 5.0
"""Seconds that a dial for somebody else may take."""
AT_ONCE: Final = 8
"""Such dials under way."""
RATE: Final = 0.1
"""Questions per second of one peer, and of one address, in the long run ..."""
BURST: Final = 8.0
"""... and after a pause at once."""
REMEMBERED: Final = 1024
ANSWER_WITHIN: Final = 20.0


class DialBacks:
    """Answers the questions of others. `may_dial(host)` says whether an address may be dialled for them."""

    def __init__(self, may_dial: Callable[[str], bool] = lambda host: True) -> None:
        self._may_dial = may_dial
        self._under_way = 0
        self._asked = Allowances(RATE, BURST, REMEMBERED)

    async def answer(self, peer: NodeId, host: str, port: int) -> DialBackAnswer:
        """Whether the key of `peer` answers at `port` of `host`, the address that its question came from.

        Raises RequestFailed (BUSY, BAD_REQUEST).
        """
        if not host:
            raise RequestFailed(ErrorCode.BAD_REQUEST, "the connection has no address to dial")
        if not self._may_dial(host):
            raise RequestFailed(ErrorCode.BAD_REQUEST, f"{host} is dialled for nobody")
        if self._under_way >= AT_ONCE or not all(map(self._asked.try_spend, (origin(host), peer))):
            raise RequestFailed(ErrorCode.BUSY, "too many questions of this kind")
        self._under_way += 1
        try:
            return DialBackAnswer(await _look(peer, Address(host, port)), host)
        finally:
            self._under_way -= 1


async def _look(peer: NodeId, address: Address) -> Reached:
    """What answers there."""
    with trio.move_on_after(DIAL_FOR):
        try:
            stream = await dial(Identity(os.urandom(32)), peer, address)
        except ConnectionRefusedError:
            return Reached.REFUSED
        except (WrongPeer, trio.BrokenResourceError):
            return Reached.OTHER
        except (OSError, ValueError) as error:
            # Trio puts what went wrong with each address of a name into one error.
            cause = error.__cause__
            inner = cause.exceptions if isinstance(cause, BaseExceptionGroup) else (cause,)
            return (
                Reached.REFUSED
                if any(isinstance(e, ConnectionRefusedError) for e in inner)
                else Reached.SILENT
            )
        await trio.aclose_forcefully(stream)
        return Reached.YES
    return Reached.SILENT


class Asked:
    """What one other farmer said: `answer` None where it dials back for nobody or did not answer."""

    __slots__ = ("answer", "node_id", "problem", "relays")

    def __init__(
        self,
        node_id: NodeId | None = None,
        *,
        relays: bool = False,
        answer: DialBackAnswer | None = None,
        problem: str = "",
    ) -> None:
        self.node_id, self.relays, self.answer, self.problem = node_id, relays, answer, problem


async def ask(identity: Identity, node_id: NodeId | None, address: Address, port: int | None) -> Asked:
    """Have the farmer at `address` dial back at `port`; with None, only see what it is capable of.

    Raises nothing but Cancelled; what went wrong is in the answer.
    """
    try:
        frames, found, capabilities = await greeted(identity, node_id, address)
    except (PeerUnreachable, RequestFailed, ProtocolViolation) as error:
        return Asked(problem=str(error))
    relays = RELAY_CAPABILITY in capabilities
    if found == identity.node_id:
        await frames.aclose()
        return Asked(problem="this is the farmer itself")
    if port is None or DIAL_BACK_CAPABILITY not in capabilities:
        await frames.aclose()
        return Asked(found, relays=relays)
    connection = ControlConnection(frames, cancels=CANCEL_CAPABILITY in capabilities)
    answer, problem = None, ""

    async def carry() -> None:
        nonlocal problem
        try:
            await connection.run()
        except ProtocolViolation as error:
            problem = str(error)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(carry)
        try:
            answer = _with_an_address(await connection.request(DialBack(port), ANSWER_WITHIN))
        except (PeerUnreachable, RequestTimeout, RequestFailed, ProtocolViolation) as error:
            problem = str(error)
        connection.close()
    return Asked(found, relays=relays, answer=answer, problem=problem)


def _with_an_address(answer: DialBackAnswer) -> DialBackAnswer:
    """The same. Raises ProtocolViolation where what it says to have dialled is no numeric address."""
    try:
        ipaddress.ip_address(answer.seen)
    except ValueError:
        raise ProtocolViolation("it names no address that it has dialled") from None
    return answer
