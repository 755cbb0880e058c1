"""The packets of the DHT (BEP 5, 32, 43 and 44): questions as bytes, and answers as values.

What is not an answer as these describe it raises ValueError; nothing in it is believed beyond its form.
"""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from storjfs.network.dht.bencode import Value, decode, encode

Endpoint: TypeAlias = tuple[str, int]
"""A numeric address and a port."""

ID_BYTES: Final = 20
TRANSACTION_BYTES: Final = 4
LONGEST_TRANSACTION: Final = 32
LONGEST_TOKEN: Final = 128
NODES_IN_ANSWER: Final = 16
PEERS_IN_ANSWER: Final = 128
_SIZES: Final = {4: ID_BYTES + 6, 6: ID_BYTES + 18}


@dataclass(frozen=True, slots=True)
class Found:
    """A node that another one names."""

    id: bytes
    endpoint: Endpoint


@dataclass(frozen=True, slots=True)
class Answer:
    """What a node answers; all of it is its word alone."""

    transaction: bytes
    id: bytes
    nodes: tuple[Found, ...] = ()
    """NODES_IN_ANSWER of each kind of address at most."""
    peers: tuple[Endpoint, ...] = ()
    token: bytes | None = None
    """Lets the asker put something there, for some minutes."""
    key: bytes = b""
    """An item (BEP 44), unchecked; empty where there is none."""
    number: int = -1
    value: bytes = b""
    signature: bytes = b""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A node's refusal; of the codes 302 matters: it has an item of a higher number."""

    transaction: bytes
    code: int
    words: str


def question(
    transaction: bytes, own_id: bytes, method: bytes, arguments: Mapping[bytes, int | bytes]
) -> bytes:
    """A question of one who answers none: nodes leave it out of their tables (BEP 43)."""
    body: dict[bytes, Value] = {b"id": own_id, **arguments}
    return encode({b"a": body, b"q": method, b"ro": 1, b"t": transaction, b"y": b"q"})


def read_only(packet: bytes) -> bytes | None:
    """What to answer to a question, where none is answered: a refusal; None where the packet is no question.

    Some nodes remember whoever put something there as one to ask, though it said that it is not: better they
    hear at once that it is none than wait for it. Never longer than the question, whose sender is not sure.
    """
    try:
        message = decode(packet)
    except ValueError:
        return None
    if not isinstance(message, dict) or message.get(b"y") != b"q":
        return None
    transaction = _bytes(message, b"t")
    if len(transaction) > LONGEST_TRANSACTION:
        return None
    refusal = encode({b"e": [202, b"read-only"], b"t": transaction, b"y": b"e"})
    return refusal if len(refusal) <= len(packet) else None


def read_answer(packet: bytes) -> Answer | Refusal:
    """The answer in a packet. Raises ValueError for anything else, questions too."""
    message = decode(packet)
    if not isinstance(message, dict):
        raise ValueError("not a message of the DHT")
    transaction = _bytes(message, b"t")
    match message.get(b"y"), message.get(b"r"), message.get(b"e"):
        case b"r", dict() as body, _:
            return _answer(transaction, body)
        case b"e", _, [int(code), bytes(words), *_]:
            return Refusal(transaction, code, words[:100].decode("ascii", "replace"))
    raise ValueError("not an answer")


def _answer(transaction: bytes, body: dict[bytes, Value]) -> Answer:
    id_ = _bytes(body, b"id")
    if len(id_) != ID_BYTES:
        raise ValueError("the id of a node has 20 bytes")
    token = body.get(b"token")
    if not isinstance(token, bytes) or len(token) > LONGEST_TOKEN:
        token = None
    number = body.get(b"seq")
    return Answer(
        transaction,
        id_,
        nodes=_nodes(_bytes(body, b"nodes"), 4) + _nodes(_bytes(body, b"nodes6"), 6),
        peers=_peers(body.get(b"values")),
        token=token,
        key=_bytes(body, b"k"),
        number=number if isinstance(number, int) else -1,
        value=_bytes(body, b"v"),
        signature=_bytes(body, b"sig"),
    )


def _bytes(body: dict[bytes, Value], name: bytes) -> bytes:
    found = body.get(name, b"")
    return found if isinstance(found, bytes) else b""


def _nodes(packed: bytes, version: int) -> tuple[Found, ...]:
    size = _SIZES[version]
    ends = range(size, min(len(packed), size * NODES_IN_ANSWER) + 1, size)
    each = (packed[end - size : end] for end in ends)
    return tuple(Found(one[:ID_BYTES], unpack(one[ID_BYTES:])) for one in each)


def _peers(values: Value | None) -> tuple[Endpoint, ...]:
    if not isinstance(values, list):
        return ()
    packed = [one for one in values[:PEERS_IN_ANSWER] if isinstance(one, bytes) and len(one) in (6, 18)]
    return tuple(map(unpack, packed))


def unpack(packed: bytes) -> Endpoint:
    """The endpoint in 6 or 18 bytes. Raises ValueError."""
    host = ipaddress.ip_address(packed[:-2])
    return str(host), int.from_bytes(packed[-2:], "big")


def pack(endpoint: Endpoint) -> bytes:
    """The inverse of `unpack`. Raises ValueError where the host is not numeric."""
    return ipaddress.ip_address(endpoint[0]).packed + endpoint[1].to_bytes(2, "big")
