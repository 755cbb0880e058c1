"""Merkle trees over sealed shards: the root of a receipt, the proofs of an audit, the leaves it asks for.

The shape is RFC 9162, section 2.1: leaf hash SHA-256(0x00 | leaf), node SHA-256(0x01 | left | right), a tree
of n leaves split at the largest power of two below n. Leaves are 4 KiB, the last may be short. The root also
covers the length: SHA-256(0x02 | u64 length | tree hash), so the shape is known from the root's preimage.

Leaf hashes travel as one concatenation, 32 bytes each; so do the siblings of a path, from the leaf upwards.
"""

from collections.abc import Iterator, Sequence
from hashlib import sha256
from typing import Final

from storjfs.coding.buffers import Buffer

LEAF: Final = 4096
HASH: Final = 32
_LEAF_PREFIX: Final = b"\x00"
_NODE_PREFIX: Final = b"\x01"
_ROOT_PREFIX: Final = b"\x02"
_LEAF_START: Final = sha256(_LEAF_PREFIX)
_CUT_1: Final = 1983
_CUT_2: Final = 3967
"""Cuts of a leaf below hashlib's 2048 bytes; with the prefix they fall on SHA-256's 64-byte blocks."""
_GIL_PERIOD: Final = 64 * LEAF
_GIL_HELD: Final = 48 * LEAF
_SAMPLE_DOMAIN: Final = b"storjfs audit sample v1\x00"


def leaf_count(length: int) -> int:
    """How many leaves `length` bytes have."""
    return -(-length // LEAF)


def leaf_hashes(data: Buffer) -> bytes:
    """The hashes of all leaves of `data`, concatenated. Meant for a worker thread (1 ms per MiB)."""
    # hashlib gives the GIL away around every update above 2047 bytes. With another busy thread, getting it
    # back for each leaf takes far longer than hashing it (130 MB/s instead of 1000); never giving it away
    # stops the other thread for whole switch intervals. So most leaves are hashed without and some with:
    # measured, that is three times as fast as always giving it away, and slows the other thread no more.
    view = memoryview(data)
    hashes = []
    for start in range(0, len(view), LEAF):
        leaf = _LEAF_START.copy()
        if start % _GIL_PERIOD < _GIL_HELD:
            leaf.update(view[start : start + _CUT_1])
            leaf.update(view[start + _CUT_1 : start + _CUT_2])
            leaf.update(view[start + _CUT_2 : start + LEAF])
        else:
            leaf.update(view[start : start + LEAF])
        hashes.append(leaf.digest())
    return b"".join(hashes)


def leaf_hash(leaf_data: Buffer) -> bytes:
    """The hash of one leaf."""
    view = memoryview(leaf_data)
    leaf = _LEAF_START.copy()
    leaf.update(view[:_CUT_1])
    leaf.update(view[_CUT_1:_CUT_2])
    leaf.update(view[_CUT_2:])
    return leaf.digest()


def tree_root(leaves: Buffer, length: int) -> bytes:
    """The root of a shard of `length` bytes (at least one) with these leaf hashes.

    Raises ValueError where the number of hashes is not that of the length.
    """
    if length <= 0 or len(leaves) != leaf_count(length) * HASH:
        raise ValueError(f"{len(leaves)} bytes of leaf hashes do not fit a length of {length}")
    level = bytes(leaves)
    while len(level) > HASH:
        level = _parents(level)
    return _root(length, level)


def shard_root(data: Buffer) -> bytes:
    """The root of a shard from its bytes."""
    return tree_root(leaf_hashes(data), len(data))


def prove(leaves: Buffer, indices: Sequence[int]) -> list[bytes]:
    """For each leaf index the path from that leaf to the root: its siblings' hashes, concatenated.

    Raises IndexError for an index that has no leaf.
    """
    level = bytes(leaves)
    count = len(level) // HASH
    if any(not 0 <= index < count for index in indices):
        raise IndexError(f"an index is not below {count}")
    at = list(indices)
    paths = [bytearray() for _ in at]
    while len(level) > HASH:
        for number, index in enumerate(at):
            sibling = (index ^ 1) * HASH
            # The last node of an odd level has no sibling; it goes up as it is.
            paths[number] += level[sibling : sibling + HASH]
            at[number] = index >> 1
        level = _parents(level)
    return [bytes(path) for path in paths]


def verify(root: bytes, length: int, index: int, leaf_data: Buffer, path: Buffer) -> bool:
    """Whether `leaf_data` is leaf `index` of the shard of `length` bytes with this root. Never raises."""
    count = leaf_count(length)
    if not 0 <= index < count or len(leaf_data) != min(LEAF, length - index * LEAF):
        return False
    node = leaf_hash(leaf_data)
    siblings = bytes(path)
    taken, last = 0, count - 1
    while last:
        if index & 1 or index < last:
            sibling = siblings[taken : taken + HASH]
            taken += HASH
            pair = sibling + node if index & 1 else node + sibling
            node = sha256(_NODE_PREFIX + pair).digest()
        index >>= 1
        last >>= 1
    return taken == len(siblings) and _root(length, node) == root


def sample_indices(
    nonce: bytes, contract_id: bytes, root: bytes, epoch: int, leaf_count: int, count: int
) -> list[int]:
    """The leaves that a challenge asks for: `count` different ones, or all in order where there are no more.

    Drawn by rejection from the stream SHA-256(domain | nonce | contract id | root | u64 epoch | u64 block)
    for block 0, 1, ..., read as big-endian u64. All ids are 32 bytes.
    """
    if count >= leaf_count:
        return list(range(leaf_count))
    # Values of the incomplete last span of leaf_count would favour low indices.
    limit = 2**64 // leaf_count * leaf_count
    chosen: dict[int, None] = {}
    for value in _stream(_SAMPLE_DOMAIN + nonce + contract_id + root + epoch.to_bytes(8, "big")):
        if len(chosen) >= count:
            break
        if value < limit:
            chosen[value % leaf_count] = None
    return list(chosen)


def _stream(seed: bytes) -> Iterator[int]:
    block = 0
    while True:
        digest = sha256(seed + block.to_bytes(8, "big")).digest()
        for at in range(0, HASH, 8):
            yield int.from_bytes(digest[at : at + 8], "big")
        block += 1


def _parents(level: bytes) -> bytes:
    """The next level up; an odd last node is taken over. Equal to RFC 9162's recursive shape."""
    pairs = len(level) // (2 * HASH) * 2 * HASH
    nodes = [sha256(_NODE_PREFIX + level[at : at + 2 * HASH]).digest() for at in range(0, pairs, 2 * HASH)]
    return b"".join(nodes) + level[pairs:]


def _root(length: int, tree: bytes) -> bytes:
    return sha256(_ROOT_PREFIX + length.to_bytes(8, "big") + tree).digest()
