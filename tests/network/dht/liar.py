"""Nodes of the DHT that answer what they like."""

import random
from collections.abc import Callable

import trio

from storjfs.network.dht.bencode import Value, decode, encode
from storjfs.network.dht.krpc import Endpoint

Answers = Callable[[bytes, dict[bytes, Value]], "dict[bytes, Value] | bytes"]
"""From a method and its arguments to the body of the answer, or to a whole packet."""


class Liar:
    """A node at `host` with an id of its choice."""

    def __init__(self, host: str, answers: Answers, id_: bytes | None = None) -> None:
        self.host = host
        self.id = id_ or random.randbytes(20)
        self.asked: list[tuple[bytes, dict[bytes, Value]]] = []
        self.puts: list[dict[bytes, Value]] = []
        self._answers = answers
        self.endpoint: Endpoint = (host, 0)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as socket:
            await socket.bind((self.host, 0))
            self.endpoint = socket.getsockname()
            task_status.started()
            while True:
                packet, sender = await socket.recvfrom(4096)
                match decode(packet):
                    case {b"q": bytes(method), b"a": dict(arguments), b"t": bytes(transaction)}:
                        self.asked.append((method, arguments))
                        answer = self._answers(method, arguments)
                        if isinstance(answer, dict):
                            body: dict[bytes, Value] = {b"id": self.id, **answer}
                            answer = encode({b"r": body, b"t": transaction, b"y": b"r"})
                        await socket.sendto(answer, sender)
