"""A proof proves its own leaf of its own shard and nothing else; the tree is that of RFC 9162."""

import os
import threading
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storjfs.coding.merkle import (
    HASH,
    LEAF,
    leaf_count,
    leaf_hash,
    leaf_hashes,
    prove,
    sample_indices,
    shard_root,
    tree_root,
    verify,
)

NONCE, CONTRACT, ROOT = (bytes([n]) * 32 for n in (1, 2, 3))


def rfc_tree(leaves: list[bytes]) -> bytes:
    """MTH of RFC 9162, section 2.1.1, word for word."""
    if len(leaves) == 1:
        return sha256(b"\x00" + leaves[0]).digest()
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return sha256(b"\x01" + rfc_tree(leaves[:split]) + rfc_tree(leaves[split:])).digest()


def rfc_path(index: int, leaves: list[bytes]) -> list[bytes]:
    """PATH of RFC 9162, section 2.1.3.1, word for word."""
    if len(leaves) == 1:
        return []
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    if index < split:
        return [*rfc_path(index, leaves[:split]), rfc_tree(leaves[split:])]
    return [*rfc_path(index - split, leaves[split:]), rfc_tree(leaves[:split])]


def split_leaves(data: bytes) -> list[bytes]:
    return [data[at : at + LEAF] for at in range(0, len(data), LEAF)]


@pytest.mark.parametrize("last", [1, 1982, 1983, 1984, 3967, 3968, LEAF - 1, LEAF])
@pytest.mark.parametrize("leaves", [*range(1, 41), 64, 65, 130])
def test_root_and_paths_are_those_of_the_rfc(leaves: int, last: int) -> None:
    data = os.urandom((leaves - 1) * LEAF + last)
    parts = split_leaves(data)
    hashes = leaf_hashes(data)
    root = sha256(b"\x02" + len(data).to_bytes(8, "big") + rfc_tree(parts)).digest()
    assert hashes == b"".join(sha256(b"\x00" + part).digest() for part in parts)
    assert tree_root(hashes, len(data)) == root == shard_root(data)
    indices = range(leaves) if leaves <= 8 else (0, leaves // 2, leaves - 2, leaves - 1)
    assert prove(hashes, indices) == [b"".join(rfc_path(index, parts)) for index in indices]


@pytest.mark.parametrize("leaves", range(1, 41))
def test_a_proof_verifies_its_leaf_and_no_other(leaves: int) -> None:
    data = os.urandom((leaves - 1) * LEAF + 1 + os.urandom(1)[0])
    parts = split_leaves(data)
    hashes = leaf_hashes(data)
    root = tree_root(hashes, len(data))
    for index, path in enumerate(prove(hashes, range(leaves))):
        assert verify(root, len(data), index, parts[index], path)
        for other in range(leaves):
            if other != index:
                assert not verify(root, len(data), other, parts[index], path)
                assert not verify(root, len(data), index, parts[other], path)


@given(st.integers(1, 40), st.integers(1, LEAF), st.data())
def test_whatever_is_changed_about_a_proof_it_fails(leaves: int, last: int, data: st.DataObject) -> None:
    content = os.urandom((leaves - 1) * LEAF + last)
    hashes = leaf_hashes(content)
    root = tree_root(hashes, len(content))
    index = data.draw(st.integers(0, leaves - 1))
    leaf = split_leaves(content)[index]
    (path,) = prove(hashes, [index])

    def flipped(value: bytes) -> bytes:
        bit = data.draw(st.integers(0, len(value) * 8 - 1))
        changed = bytearray(value)
        changed[bit // 8] ^= 1 << bit % 8
        return bytes(changed)

    assert verify(root, len(content), index, leaf, path)
    assert not verify(flipped(root), len(content), index, leaf, path)
    assert not verify(root, len(content), index, flipped(leaf), path)
    assert not verify(root, len(content), index, leaf[:-1], path)
    assert not verify(root, len(content), index, leaf + b"\x00", path)
    assert not verify(root, len(content) + 1, index, leaf, path)
    assert not verify(root, len(content) - 1, index, leaf, path)
    assert not verify(root, len(content), index, leaf, path + bytes(HASH))
    assert not verify(root, len(content), leaves, leaf, path)
    assert not verify(root, len(content), -1, leaf, path)
    if path:
        assert not verify(root, len(content), index, leaf, flipped(path))
        assert not verify(root, len(content), index, leaf, path[:-1])
        assert not verify(root, len(content), index, leaf, path[HASH:])


def test_an_inner_node_does_not_pass_for_a_leaf() -> None:
    data = os.urandom(2 * LEAF)
    hashes = leaf_hashes(data)
    assert not verify(tree_root(hashes, len(data)), 64, 0, hashes, b"")


def test_roots_of_nothing_and_of_wrong_lengths_are_refused() -> None:
    with pytest.raises(ValueError):
        tree_root(b"", 0)
    with pytest.raises(ValueError):
        tree_root(bytes(HASH), LEAF + 1)
    with pytest.raises(IndexError):
        prove(bytes(2 * HASH), [2])


@pytest.mark.parametrize("length", [0, 1, 1983, 1984, 2048, 3967, 4095, 4096])
def test_one_leaf_hashes_as_among_others(length: int) -> None:
    leaf = os.urandom(length)
    assert leaf_hash(leaf) == sha256(b"\x00" + leaf).digest()


def test_hashing_in_several_threads_gives_the_same() -> None:
    data = os.urandom(100 * LEAF + 5)
    expected = leaf_hashes(data)
    found: list[bytes] = []
    threads = [threading.Thread(target=lambda: found.append(leaf_hashes(data))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 4


@given(st.binary(min_size=32, max_size=32), st.integers(1, 2000), st.integers(1, 50))
def test_samples_are_different_leaves_and_as_many_as_asked_for(nonce: bytes, leaves: int, count: int) -> None:
    indices = sample_indices(nonce, CONTRACT, ROOT, 7, leaves, count)
    assert len(indices) == len(set(indices)) == min(count, leaves)
    assert all(0 <= index < leaves for index in indices)
    assert indices == sample_indices(nonce, CONTRACT, ROOT, 7, leaves, count)
    if count >= leaves:
        assert indices == list(range(leaves))


def test_samples_depend_on_each_part_of_the_challenge() -> None:
    base = (NONCE, CONTRACT, ROOT, 1)
    changed = [
        (bytes(32), CONTRACT, ROOT, 1),
        (NONCE, bytes(32), ROOT, 1),
        (NONCE, CONTRACT, bytes(32), 1),
        (NONCE, CONTRACT, ROOT, 2),
    ]
    drawn = [tuple(sample_indices(*parts, 10**6, 4)) for parts in (base, *changed)]
    assert len(set(drawn)) == 5


def test_samples_fall_on_all_leaves_alike() -> None:
    counts = [0] * 10
    for epoch in range(2000):
        for index in sample_indices(NONCE, CONTRACT, ROOT, epoch, 10, 2):
            counts[index] += 1
    # 400 expected each; eight standard deviations.
    assert all(abs(count - 400) < 150 for count in counts)


def test_the_number_of_leaves_is_rounded_up() -> None:
    assert [leaf_count(length) for length in (0, 1, LEAF, LEAF + 1)] == [0, 1, 1, 2]
