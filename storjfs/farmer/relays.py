"""The relays that lead to one farmer: which of those that offer it are used, and until when."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import trio

from storjfs.farmer.reachability import RelayFacts
from storjfs.network.behind import Admit, Attachment
from storjfs.network.identity import Identity
from storjfs.protocol.ids import NodeId
from storjfs.protocol.terms import Address

RELAYS: Final = 2
"""Relays used at a time: when one is lost, renters have the other's address already."""
KEPT: Final = 2 * RELAYS
"""The same with those that were lost, which are dialled again, for renters know their addresses."""
WAITED_FOR: Final = 1800.0
"""Seconds for which that is done where it is a stranger."""


@dataclass(frozen=True, slots=True)
class Offering:
    """A farmer that relays others."""

    address: Address
    node_id: NodeId
    found: bool
    """It is a stranger: the owner did not name it."""


class _Used:
    """A relay that is used, or was."""

    __slots__ = ("attachment", "lost", "offering", "scope")

    def __init__(self, offering: Offering, attachment: Attachment) -> None:
        self.offering, self.attachment = offering, attachment
        self.scope = trio.CancelScope()
        self.lost: float | None = trio.current_time()
        """Since when it is not attached."""

    @property
    def works(self) -> bool:
        """It is attached, or may be soon: it is dialled for the first time."""
        return self.attachment.attached or not self.attachment.problem

    def look(self) -> None:
        """Note whether it is attached."""
        if self.attachment.attached:
            self.lost = None
        elif self.lost is None:
            self.lost = trio.current_time()

    @property
    def forgotten(self) -> bool:
        """A stranger that is gone; one who was named is waited for."""
        since = self.lost
        return self.offering.found and since is not None and trio.current_time() - since > WAITED_FOR

    async def run(self) -> None:
        with self.scope:
            await self.attachment.run()


class Relays:
    """Those of one farmer. `changed()` is called when one is attached, and when it is no more."""

    def __init__(self, identity: Identity, changed: Callable[[], None]) -> None:
        self._identity, self._changed = identity, changed
        self._used: dict[Address, _Used] = {}
        self.offering: Sequence[Offering] = ()
        """Who relays others, of those that were asked last, the best first."""

    @property
    def attached(self) -> dict[Address, NodeId]:
        """Those that lead here now."""
        return {relay: one.offering.node_id for relay, one in self._used.items() if one.attachment.attached}

    def facts(self) -> tuple[RelayFacts, ...]:
        return tuple(
            RelayFacts(
                str(relay),
                one.attachment.attached,
                one.attachment.problem,
                one.attachment.streams,
                one.offering.found,
            )
            for relay, one in self._used.items()
        )

    def leave(self, allowed: Callable[[Offering], bool], *, spare: bool) -> None:
        """Leave those not allowed any more or forgotten, and if they are `spare` all that nobody uses."""
        self.offering = [one for one in self.offering if allowed(one)]
        for relay, one in list(self._used.items()):
            one.look()
            unused = spare and not one.attachment.streams
            if unused or one.forgotten or not allowed(one.offering):
                self._drop(relay)

    def use(self, nursery: trio.Nursery, admit: Admit) -> None:
        """Attach to as many of those that offer it as are missing. Who is lost is replaced, and kept as long
        as there is room."""
        working = sum(one.works for one in self._used.values())
        there = {one.offering.node_id for one in self._used.values()}
        for offering in self.offering:
            relay = offering.address
            if relay in self._used or offering.node_id in there:
                continue
            if working >= RELAYS or not self._has_room():
                return
            working += 1
            attachment = Attachment(self._identity, relay, offering.node_id, admit, self._changed)
            self._used[relay] = used = _Used(offering, attachment)
            nursery.start_soon(used.run)

    def _has_room(self) -> bool:
        """Whether one more may be used; where too many are kept already, one makes way that is lost."""
        if len(self._used) < KEPT:
            return True
        for relay, one in self._used.items():
            if not one.works and not one.attachment.streams:
                self._drop(relay)
                return True
        return False

    def _drop(self, relay: Address) -> None:
        self._used.pop(relay).scope.cancel()
