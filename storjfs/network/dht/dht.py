"""The DHT as farmers and renters use it: announce, publish, find."""

import logging
import random
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from typing import Final

import trio

from storjfs.errors import StorjfsError
from storjfs.network.dht.client import Client, NoAnswer, Refused
from storjfs.network.dht.items import Item, newest, put_arguments, target_of
from storjfs.network.dht.krpc import ID_BYTES, Answer, Endpoint
from storjfs.network.dht.node import DhtSettings, Node
from storjfs.network.dht.reachable import may_be_dialled
from storjfs.network.dht.records import FarmerRecord, info_hash, read_record, record_salt
from storjfs.protocol.failures import BadSignature, ProtocolViolation
from storjfs.protocol.hosts import network_of
from storjfs.protocol.ids import NodeId, PublicKey, Signature
from storjfs.protocol.terms import Address

log = logging.getLogger(__name__)

MOST_FOUND: Final = 200
PER_GROUP: Final = 2
"""Addresses that are believed of one /24 (IPv6: /48)."""
OLD_NUMBER: Final = 302
"""BEP 44: the node has an item of a higher number."""


class Outdated(StorjfsError):
    """An item of a higher number is there already, or of the same and other content: `newest`."""

    def __init__(self, newest: Item) -> None:
        super().__init__(f"the DHT has number {newest.number} of this item")
        self.newest = newest


class Dht:
    """A part of the DHT. `run` makes it work; all else may be called from its `started` to its end.

    Nothing that is found is more than a hint: anybody can announce any port of its own address, and nodes can
    keep silent. A farmer is who proves its key at the other end of a connection.
    """

    def __init__(self, settings: DhtSettings, state: bytes = b"") -> None:
        """`state`: what `state()` said in a run before."""
        self.settings = settings
        self.private = settings.private
        self.node = Node(settings, state)
        self._client = Client((one.host for one in settings.listen), private=self.private)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Take part until cancelled; started once it can be asked.

        Raises DhtUnavailable where libtorrent is missing or there is no port, and OSError.
        """
        async with trio.open_nursery() as nursery:
            await nursery.start(self._client.run)
            await nursery.start(self.node.run)
            task_status.started()

    async def state(self) -> bytes:
        """What lets the next run find its neighbours at once; some kilobytes."""
        return await self.node.state()

    async def find(
        self, network: str, *, most: int = MOST_FOUND, per_group: int = PER_GROUP
    ) -> AsyncIterator[Address]:
        """Where farmers of a network may be, in no order, each once; `most` of them.

        The search ends before the first is given: from each node that answered one in turn, so that one that
        names many does not crowd out the others. Of one /24 `per_group` are given; addresses that are not of
        the internet only in a private network. How fast they are dialled is the caller's business.
        """
        found, _ = await farmers_named(
            self._client,
            await self.node.known(),
            network,
            private=self.private,
            most=most,
            per_group=per_group,
        )
        for address in found:
            yield address

    async def announce(self, network: str, port: int) -> int:
        """Say that a farmer of the network listens here on TCP port `port`; how many nodes took note.

        Nodes know the address by what they see, and forget it after half an hour.
        """
        target = info_hash(network)
        near = await self._client.search(
            target, await self.node.known(), b"get_peers", {b"info_hash": target}
        )
        return await self._tell(near, b"announce_peer", {b"info_hash": target, b"port": port})

    async def get(self, key: PublicKey, salt: bytes) -> Item | None:
        """The newest valid item of that key and salt that anybody asked has, None where nobody has one."""
        found, _ = await self._get(key, salt)
        return found

    async def put(self, item: Item) -> int:
        """Have the nodes nearest to it keep `item`, no matter whose it is; how many took it.

        They forget it after two hours. Raises Outdated where a newer one is found, then nothing is put; and
        ProtocolViolation or BadSignature where it is not valid: nobody would take it.
        """
        item.checked()
        there, near = await self._get(item.key, item.salt)
        if there is not None and newest([item, there]) != item:
            raise Outdated(there)
        return await self._tell(near, b"put", put_arguments(item))

    async def record(self, node_id: NodeId, network: str) -> FarmerRecord | None:
        """The newest valid record of a farmer, None where there is none.

        Whoever is asked learns that somebody looks for this farmer.
        """
        item = await self.get(PublicKey(node_id), record_salt(network))
        if item is None:
            return None
        try:
            return read_record(node_id, network, item, private=self.private)
        except ProtocolViolation as error:
            log.info("a farmer's record is malformed: %s", error)
            return None

    async def _get(self, key: PublicKey, salt: bytes) -> tuple[Item | None, list[tuple[Endpoint, Answer]]]:
        valid: list[Item] = []

        def heard(endpoint: Endpoint, answer: Answer) -> None:
            if answer.key != key or len(valid) > 64:
                return
            with suppress(ProtocolViolation, BadSignature):
                item = Item(key, salt, answer.number, answer.value, Signature(answer.signature))
                if item not in valid:
                    valid.append(item.checked())

        target = target_of(key, salt)
        near = await self._client.search(target, await self.node.known(), b"get", {b"target": target}, heard)
        return newest(valid), near

    async def _tell(
        self, near: list[tuple[Endpoint, Answer]], method: bytes, arguments: dict[bytes, int | bytes]
    ) -> int:
        """Tell those of `near` that gave a token; how many accepted."""
        accepted = 0
        own_id = random.randbytes(ID_BYTES)

        async def one(endpoint: Endpoint, token: bytes) -> None:
            nonlocal accepted
            try:
                await self._client.ask(endpoint, own_id, method, {**arguments, b"token": token})
                accepted += 1
            except Refused as error:
                level = logging.INFO if error.code == OLD_NUMBER else logging.DEBUG
                log.log(level, "a node of the DHT %s", error)
            except NoAnswer as error:
                log.debug("%s", error)

        async with trio.open_nursery() as nursery:
            for endpoint, answer in near:
                if answer.token is not None:
                    nursery.start_soon(one, endpoint, answer.token)
        return accepted


async def farmers_named(
    client: Client,
    start: Iterable[Endpoint],
    network: str,
    *,
    private: bool,
    most: int,
    per_group: int = PER_GROUP,
) -> tuple[list[Address], list[Endpoint]]:
    """Where farmers of a network may be, as `Dht.find` gives them; and the nodes that know of such ones, with
    which the next search may begin. `start`: those with which this one does."""
    named: list[list[Endpoint]] = []
    target = info_hash(network)

    def heard(endpoint: Endpoint, answer: Answer) -> None:
        if answer.peers:
            named.append(random.sample(answer.peers, len(answer.peers)))

    near = await client.search(target, start, b"get_peers", {b"info_hash": target}, heard)
    random.shuffle(named)
    found = in_turn(named, private=private, most=most, per_group=per_group)
    return found, [endpoint for endpoint, _ in near]


def in_turn(named: Iterable[list[Endpoint]], *, private: bool, most: int, per_group: int) -> list[Address]:
    """Of what each node named one in turn, each once, as many as are wanted and of one group allowed."""
    found: dict[Address, None] = {}
    groups: dict[str, int] = {}
    lists = [list(one) for one in named]
    while lists and len(found) < most:
        for one in lists:
            host, port = one.pop()
            address = Address(host, port)
            group = network_of(host)
            if address in found or not may_be_dialled(address, private=private):
                continue
            if groups.get(group, 0) >= per_group or len(found) >= most:
                continue
            groups[group] = groups.get(group, 0) + 1
            found[address] = None
        lists = [one for one in lists if one]
    return list(found)
