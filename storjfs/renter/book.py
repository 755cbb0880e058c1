"""The contract book: every contract with its newest doubly signed terms, its state, the farmer's addresses.

A participant of meta.db's group commit. Its view in memory is the truth of this process; a change made with
`change` or `add` is durable before the call returns, so whatever is sent afterwards survives a crash here.
"""

import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import msgspec

from storjfs.errors import StorjfsError
from storjfs.protocol.contracts import ACCEPTS_SHARDS, SERVES_SHARDS, Event, State, next_state
from storjfs.protocol.ids import ContractId, NodeId
from storjfs.protocol.terms import Address, Contract, Terms
from storjfs.store import MetaStore, Statement

_LOG = logging.getLogger(__name__)

STATE_NUMBERS: dict[State, int] = {
    State.OFFERED: 0,
    State.PROPOSED: 1,
    State.SIGNED: 2,
    State.FUNDED: 3,
    State.ACTIVE: 4,
    State.RENEWING: 5,
    State.ENDING: 6,
    State.ENDED: 7,
    State.BREACHED: 8,
}
"""As meta.db stores them; never renumbered. A contract enters the book when it is signed."""
OVER = frozenset({State.ENDED, State.BREACHED})
"""Nothing more comes of a contract in these states."""
_STATES = {number: state for state, number in STATE_NUMBERS.items()}

_PUT = (
    "INSERT OR REPLACE INTO contract (contract, contract_id, node_id, state, terms, addresses) "
    "VALUES (?,?,?,?,?,?)"
)


@dataclass(slots=True, eq=False)
class Entry:
    """One contract. `number` is its name inside meta.db. Change it through the book only."""

    number: int
    contract_id: ContractId
    node_id: NodeId
    state: State
    contract: Contract
    terms: Terms
    addresses: tuple[Address, ...]

    @property
    def serves(self) -> bool:
        """Shards are served, audited and paid."""
        return self.state in SERVES_SHARDS

    @property
    def accepts(self) -> bool:
        """New shards may be put."""
        return self.state in ACCEPTS_SHARDS


def _entry_of(
    number: int, contract_id: bytes, node_id: bytes, state: int, signed: bytes, addresses: bytes
) -> Entry:
    """The entry of a row. Raises StorjfsError, KeyError, ValueError or TypeError where it makes no sense."""
    contract = Contract.from_bytes(signed)
    found = tuple(Address.parse(text) for text in msgspec.msgpack.decode(addresses, type=list[str]))
    return Entry(
        number,
        ContractId(contract_id),
        NodeId(node_id),
        _STATES[state],
        contract,
        contract.terms(),
        found,
    )


class ContractBook:
    """All contracts of the volume, those that have ended included.

    `crash_point(name)` is called around every step that a crash must be survived at; tests let it raise.
    """

    def __init__(self, store: MetaStore, crash_point: Callable[[str], None] = lambda name: None) -> None:
        self._store = store
        self._crash_point = crash_point
        self._entries: dict[int, Entry] = {}
        self._of_farmer: dict[NodeId, list[Entry]] = {}
        self._by_id: dict[ContractId, Entry] = {}
        self._changed: dict[int, Entry] = {}
        sql = "SELECT contract, contract_id, node_id, state, terms, addresses FROM contract"
        self._highest = 0
        self.leaving: frozenset[NodeId] = frozenset()
        """Farmers taken off the settings: what they hold moves elsewhere, and they get nothing new. In memory
        only, so that one that is named again is as before."""
        self.absent: frozenset[NodeId] = frozenset()
        """Farmers that cannot take anything until they are back, as is known for certain; in memory only."""
        for row in store.read(sql):
            self._highest = max(self._highest, row[0])
            try:
                self._know(_entry_of(*row))
            except (StorjfsError, KeyError, ValueError, TypeError) as error:
                # Of damaged metadata. One farmer's shards are missed then, which is what the others are for.
                _LOG.error("contract %d cannot be read, its farmer is not used: %s", row[0], error)
        store.join(self)

    # --- looking up ---

    def __iter__(self) -> Iterator[Entry]:
        return iter(list(self._entries.values()))

    def get(self, number: int) -> Entry | None:
        """The contract with this number."""
        return self._entries.get(number)

    def in_state(self, states: Collection[State]) -> list[Entry]:
        """Those in one of `states`, oldest first."""
        return [entry for entry in self if entry.state in states]

    def takes(self, entry: Entry) -> bool:
        """Whether new shards should be put under a contract."""
        return entry.accepts and entry.node_id not in self.leaving and entry.node_id not in self.absent

    def current(self, farmer: NodeId) -> Entry | None:
        """The contract with this farmer that is not over, the newest if there should be several."""
        found = [entry for entry in self.with_farmer(farmer) if entry.state not in OVER]
        return found[-1] if found else None

    def with_farmer(self, farmer: NodeId) -> Sequence[Entry]:
        """All contracts with this farmer, oldest first. Not to be changed."""
        return self._of_farmer.get(farmer, ())

    def by_id(self, contract_id: ContractId) -> Entry | None:
        """The contract with this id."""
        return self._by_id.get(contract_id)

    # --- changing ---

    async def add(self, contract: Contract, state: State, addresses: Sequence[Address]) -> Entry:
        """Enter a contract that both have signed. Durable on return; a second call finds the first entry."""
        known = self.by_id(contract.contract_id)
        if known is not None:
            return known
        terms = contract.open()
        number = self._highest = max(self._entries.keys() | {self._highest}) + 1
        entry = Entry(number, contract.contract_id, terms.farmer, state, contract, terms, tuple(addresses))
        self._crash_point(f"contract: before {state}")
        self._touch(entry)
        await self._store.sync()
        self._crash_point(f"contract: after {state}")
        return entry

    async def change(self, entry: Entry, event: Event, contract: Contract | None = None) -> None:
        """Let `event` happen to a contract, with the next revision if it brings one. Durable on return.

        Raises IllegalTransition, and changes nothing, where the table does not allow it.
        """
        state = next_state(entry.state, event)
        self._crash_point(f"contract: before {event}")
        entry.state = state
        if contract is not None:
            entry.contract, entry.terms = contract, contract.terms()
        self._touch(entry)
        await self._store.sync()
        self._crash_point(f"contract: after {event}")

    async def settle(self) -> None:
        """Make durable what a cancelled or failed `change` left in memory only. Raises StoreError."""
        await self._store.sync()

    def moved(self, farmer: NodeId, addresses: Sequence[Address]) -> None:
        """The farmer listens elsewhere now. Durable with a later group: an address is only a hint."""
        for entry in self.with_farmer(farmer):
            if entry.state not in OVER and entry.addresses != tuple(addresses):
                entry.addresses = tuple(addresses)
                self._touch(entry)

    def _know(self, entry: Entry) -> None:
        if entry.number not in self._entries:
            self._entries[entry.number] = entry
            self._of_farmer.setdefault(entry.node_id, []).append(entry)
            self._by_id.setdefault(entry.contract_id, entry)

    def _touch(self, entry: Entry) -> None:
        self._know(entry)
        self._changed[entry.number] = entry
        self._store.changed()

    # --- participant of the group commit ---

    def freeze(self) -> Sequence[Statement]:
        """The rows changed since the last freeze."""
        rows = [
            (
                entry.number,
                entry.contract_id,
                entry.node_id,
                STATE_NUMBERS[entry.state],
                entry.contract.to_bytes(),
                msgspec.msgpack.encode([str(address) for address in entry.addresses]),
            )
            for entry in self._changed.values()
        ]
        self._changed = {}
        return [(_PUT, rows)] if rows else []

    def before_commit(self) -> None:
        """Nothing has to be on disk before these rows."""
        return

    def committed(self, group: int) -> None:
        """Nothing to drop: the view in memory is kept for good."""
