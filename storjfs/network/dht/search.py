"""Finding the nodes nearest to a target, without any I/O: whom to ask next, and when it is enough.

Kademlia's iterative lookup (Maymounkov and Mazieres 2002), bounded in all that strangers can make grow.
"""

import enum
import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from storjfs.network.dht.krpc import Answer, Endpoint, Found
from storjfs.network.dht.node_ids import follows_from
from storjfs.protocol.hosts import network_of, on_the_internet

WIDTH: Final = 16
"""The search is over when so many of the nearest nodes that answer have all been asked."""
UNCHOSEN: Final = 8
"""And so many of those whose id follows from their address: who chooses ids is not among them."""
COPIES: Final = 8
"""Of each of the two, how many are asked to keep something."""
MOST_ASKED: Final = 256
MOST_KNOWN: Final = 2048
_FAR: Final = 1 << 160


class _State(enum.Enum):
    NEW = enum.auto()
    ASKED = enum.auto()
    ANSWERED = enum.auto()
    FAILED = enum.auto()


@dataclass(slots=True)
class _Candidate:
    endpoint: Endpoint
    distance: int
    """From the target; _FAR where the id is not known yet."""
    unchosen: bool = False
    """Whether the id follows from the address (BEP 42)."""
    state: _State = _State.NEW
    answer: Answer | None = None


class Search:
    """One lookup of `target`, 20 bytes, among nodes of one IP version.

    `private`: in a test network; else only addresses of the internet are asked, and one node of each /24
    (IPv6: /48), so that who has many addresses side by side does not fill the neighbourhood of a target.
    """

    def __init__(self, target: bytes, start: Iterable[Endpoint], *, version: int, private: bool) -> None:
        self._target = int.from_bytes(target, "big")
        self._version = version
        self._private = private
        self._known: dict[Endpoint, _Candidate] = {}
        self._groups: set[str] = set()
        self._asked = 0
        first = list(start)
        random.shuffle(first)
        for endpoint in first:
            self._learn(endpoint, _FAR)

    def next(self) -> Endpoint | None:
        """Whom to ask now; None: wait for those who are asked, or `finished`."""
        if self._asked >= MOST_ASKED:
            return None
        near = self._near()
        for candidate in [*(one for one in near if one.state is _State.NEW), *self._strangers()]:
            candidate.state = _State.ASKED
            self._asked += 1
            return candidate.endpoint
        return None

    def answered(self, endpoint: Endpoint, answer: Answer) -> None:
        """`endpoint`, that was asked, answered so."""
        candidate = self._known[endpoint]
        candidate.state, candidate.answer = _State.ANSWERED, answer
        candidate.distance = self._distance(answer.id)
        candidate.unchosen = not self._private and follows_from(endpoint[0], answer.id)
        for found in answer.nodes:
            self._found(found)

    def failed(self, endpoint: Endpoint) -> None:
        """`endpoint`, that was asked, did not answer, or not usefully."""
        self._known[endpoint].state = _State.FAILED

    @property
    def finished(self) -> bool:
        """Nobody is left to ask, and nobody is being asked."""
        if any(one.state is _State.ASKED for one in self._known.values()):
            return False
        asked = all(one.state is not _State.NEW for one in self._near()) and not self._strangers()
        return asked or self._asked >= MOST_ASKED

    def nearest(self) -> list[tuple[Endpoint, Answer]]:
        """Who may be asked to keep something at the target: of those that gave a token the nearest.

        COPIES of them, and as many more as make COPIES with unchosen ids.
        """
        willing = [one for one in self._nearest() if one.answer is not None and one.answer.token is not None]
        chosen = _first(willing, COPIES, COPIES)
        return [(one.endpoint, one.answer) for one in chosen if one.answer is not None]

    def _near(self) -> list[_Candidate]:
        """Those near the target that must all have been asked in the end."""
        return _first([one for one in self._nearest() if one.state is not _State.FAILED], WIDTH, UNCHOSEN)

    def _nearest(self) -> list[_Candidate]:
        known = (one for one in self._known.values() if one.distance < _FAR)
        return sorted(known, key=lambda one: one.distance)

    def _strangers(self) -> list[_Candidate]:
        """Nodes to begin with, of which only the address is known."""
        return [one for one in self._known.values() if one.distance == _FAR and one.state is _State.NEW]

    def _found(self, found: Found) -> None:
        unchosen = not self._private and follows_from(found.endpoint[0], found.id)
        self._learn(found.endpoint, self._distance(found.id), unchosen)

    def _learn(self, endpoint: Endpoint, distance: int, unchosen: bool = False) -> None:
        host, port = endpoint
        if endpoint in self._known or len(self._known) >= MOST_KNOWN or not port:
            return
        if (":" in host) != (self._version == 6):
            return
        if not self._private:
            group = network_of(host)
            if group in self._groups or not on_the_internet(host):
                return
            self._groups.add(group)
        self._known[endpoint] = _Candidate(endpoint, distance, unchosen)

    def _distance(self, id_: bytes) -> int:
        return int.from_bytes(id_, "big") ^ self._target


def _first(candidates: list[_Candidate], count: int, unchosen: int) -> list[_Candidate]:
    """The first `count`, and as many after them with unchosen ids as make `unchosen` of these."""
    kept = candidates[:count]
    lacking = unchosen - sum(one.unchosen for one in kept)
    return [*kept, *[one for one in candidates[count:] if one.unchosen][: max(lacking, 0)]]
