"""Where hints about farmers come from: the interface of each way to find them."""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass

from storjfs.protocol.ids import NodeId
from storjfs.protocol.terms import Address


@dataclass(frozen=True, slots=True)
class Found:
    """Where a farmer may be. Nothing of it is believed before the farmer has answered there."""

    addresses: tuple[Address, ...]
    node_id: NodeId | None = None
    """Who is said to be there, if anybody says so."""


class Source(ABC):
    """One way to find farmers.

    `private`: whether it looks only into networks that this machine is in, so that private addresses it finds
    are meant for us. `again`: seconds after which it is asked again when it has ended. `longest`: seconds
    that it may take until it ends, 0 where it never does or takes no time.
    """

    private: bool = False
    again: float = 60.0
    longest: float = 0.0

    @abstractmethod
    def find(self) -> AsyncIterator[Found]:
        """What is found, as it is found; ends when there is nothing more for now, and is asked again later.

        It bounds what it holds while nobody takes it. Cancelling it, or closing the iterator, leaves nothing
        behind. Raises StorjfsError or OSError where this way does not work now.
        """


class Given(Source):
    """Addresses that a person has named: `named()` gives those of now."""

    private = True

    def __init__(self, named: Callable[[], Iterable[Found]]) -> None:
        self._named = named

    async def find(self) -> AsyncIterator[Found]:
        """All of them, once."""
        for one in self._named():
            yield one
