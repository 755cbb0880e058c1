"""How much the contracts have room for."""

from collections.abc import Mapping

from storjfs.protocol.ids import NodeId
from storjfs.renter.book import ContractBook
from storjfs.renter.client import ShardClient
from storjfs.renter.placement import stripes


def space(book: ContractBook, client: ShardClient, rooms: Mapping[NodeId, int]) -> tuple[int, int]:
    """(all, free): bytes of segments, before the erasure code, that the contracts have room for.

    What is held counts, needed or not, and so does what is on its way; shards of contracts that take no new
    ones are going to move to the others. `rooms`: bytes that some farmers can take at most, as far as that is
    known. (0, 0) where there is no contract.
    """
    k, n = client.code()
    total: dict[NodeId, int] = {}
    free: dict[NodeId, int] = {}
    moving = 0
    for entry in book:
        capacity, used, waiting = client.filled(entry)
        if book.takes(entry):
            unused = max(capacity - used - waiting, 0)
            room = min(unused, rooms.get(entry.node_id, capacity))
            taken = capacity - unused
            total[entry.node_id] = total.get(entry.node_id, 0) + taken + room
            free[entry.node_id] = free.get(entry.node_id, 0) + room
        elif entry.serves:
            moving += used
    left = k * stripes(free.values(), n) - moving * k // n
    return k * stripes(total.values(), n), max(left, 0)
