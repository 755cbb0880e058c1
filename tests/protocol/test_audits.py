"""Proofs of real shards pass; anything else fails for the shard that it concerns, and only for it."""

import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from storjfs.coding import merkle
from storjfs.protocol.audits import (
    LEAF,
    MAX_AUDIT_SHARDS,
    AuditReply,
    AuditRequest,
    LeafProof,
    ShardChallenge,
    ShardProof,
    Verdict,
    batch_limit,
    judge,
    leaf_count,
    open_reply,
    open_request,
    sampled,
    sign_reply,
    sign_request,
)
from storjfs.protocol.encoding import encode
from storjfs.protocol.failures import BadSignature, ProtocolViolation
from storjfs.protocol.framing import MAX_FRAME
from storjfs.protocol.ids import Digest, ShardId
from storjfs.protocol.receipts import (
    DeleteOrder,
    Receipt,
    open_delete,
    open_receipt,
    sign_delete,
    sign_receipt,
)
from tests.protocol import values

TERMS = values.terms()


@dataclass
class Shelf:
    """A farmer's shards, and honest answers from them."""

    shards: dict[ShardId, bytes] = field(default_factory=dict)

    def add(self, number: int, length: int) -> ShardChallenge:
        data = random.Random(number).randbytes(length)
        shard_id = values.shard_id(number)
        self.shards[shard_id] = data
        return ShardChallenge(shard_id, Digest(merkle.shard_root(data)), length)

    def prove(self, request: AuditRequest, shard: ShardChallenge) -> ShardProof:
        data = self.shards[shard.shard_id]
        indices = sampled(TERMS, request, shard, merkle.sample_indices)
        paths = merkle.prove(merkle.leaf_hashes(data), indices)
        return ShardProof(
            shard.shard_id,
            tuple(
                LeafProof(data[index * LEAF : index * LEAF + LEAF], path)
                for index, path in zip(indices, paths, strict=True)
            ),
        )

    def answer(self, request: AuditRequest) -> AuditReply:
        proofs = tuple(self.prove(request, shard) for shard in request.shards)
        return AuditReply(request.contract_id, request.epoch, request.nonce, proofs)


def batch(shelf: Shelf, *lengths: int) -> AuditRequest:
    shards = tuple(shelf.add(number, length) for number, length in enumerate(lengths))
    return AuditRequest(values.CONTRACT_ID, 0, 1, bytes(range(32)), shards)


def verdicts(request: AuditRequest, reply: AuditReply) -> list[Verdict]:
    return judge(TERMS, request, reply, merkle.sample_indices, merkle.verify)


def passed(request: AuditRequest, reply: AuditReply) -> list[bool]:
    return [verdict.passed for verdict in verdicts(request, reply)]


@given(st.lists(st.integers(1, 20 * LEAF), min_size=1, max_size=4))
def test_honest_answers_pass(lengths: list[int]) -> None:
    shelf = Shelf()
    request = batch(shelf, *lengths)
    assert passed(request, shelf.answer(request)) == [True] * len(lengths)


@given(st.data())
def test_a_changed_proof_fails_its_shard_and_no_other(data: st.DataObject) -> None:
    shelf = Shelf()
    request = batch(shelf, 10 * LEAF, 9 * LEAF + 5, 1)
    reply = shelf.answer(request)
    victim = data.draw(st.integers(0, 2))
    proof = reply.proofs[victim]
    which = data.draw(st.integers(0, len(proof.leaves) - 1))
    leaf = proof.leaves[which]
    change = data.draw(st.sampled_from(["leaf", "short", "path", "dropped", "none"]))
    changed: tuple[LeafProof, ...]
    if change == "leaf":
        spoilt = bytes([leaf.leaf[0] ^ 1]) + leaf.leaf[1:]
        changed = (*proof.leaves[:which], LeafProof(spoilt, leaf.path), *proof.leaves[which + 1 :])
    elif change == "short":
        changed = (*proof.leaves[:which], LeafProof(leaf.leaf + b"x", leaf.path), *proof.leaves[which + 1 :])
    elif change == "path":
        spoilt = leaf.path[:-32] if leaf.path else bytes(32)
        changed = (*proof.leaves[:which], LeafProof(leaf.leaf, spoilt), *proof.leaves[which + 1 :])
    elif change == "dropped":
        changed = proof.leaves[:which] + proof.leaves[which + 1 :]
    else:
        changed = ()
    proofs = list(reply.proofs)
    proofs[victim] = ShardProof(proof.shard_id, changed)
    expected = [number != victim for number in range(3)]
    assert passed(request, replace(reply, proofs=tuple(proofs))) == expected


def test_a_shard_left_out_has_failed_and_the_order_does_not_matter() -> None:
    shelf = Shelf()
    request = batch(shelf, LEAF, 2 * LEAF, 3 * LEAF)
    reply = shelf.answer(request)
    shuffled = replace(reply, proofs=(reply.proofs[2], reply.proofs[0]))
    outcome = verdicts(request, shuffled)
    assert [verdict.passed for verdict in outcome] == [True, False, True]
    assert outcome[1].reason == "left out of the answer"


def test_an_answer_to_an_older_challenge_answers_nothing() -> None:
    shelf = Shelf()
    request = batch(shelf, 9 * LEAF)
    reply = shelf.answer(request)
    for other in (replace(request, nonce=bytes(32)), replace(request, epoch=2)):
        with pytest.raises(ProtocolViolation):
            verdicts(other, reply)


def test_other_challenges_ask_for_other_leaves() -> None:
    shelf = Shelf()
    request = batch(shelf, 1000 * LEAF)
    indices = sampled(TERMS, request, request.shards[0], merkle.sample_indices)
    again = sampled(TERMS, replace(request, nonce=bytes(32)), request.shards[0], merkle.sample_indices)
    assert len(set(indices)) == TERMS.samples
    assert indices != again


def test_request_and_reply_belong_to_their_signers() -> None:
    shelf = Shelf()
    request = batch(shelf, LEAF)
    reply = shelf.answer(request)
    assert open_request(sign_request(values.RENTER, request), TERMS) == request
    assert open_reply(sign_reply(values.FARMER, reply), values.FARMER.node_id) == reply
    with pytest.raises(BadSignature):
        open_request(sign_request(values.STRANGER, request), TERMS)
    with pytest.raises(BadSignature):
        open_reply(sign_reply(values.RENTER, reply), values.FARMER.node_id)


@pytest.mark.parametrize("samples", [1, 4, 16, 64])
def test_the_largest_answer_fits_into_a_frame_and_a_larger_request_is_refused(samples: int) -> None:
    limit = batch_limit(samples)
    assert 1 <= limit <= MAX_AUDIT_SHARDS
    largest = LeafProof(bytes(LEAF), bytes(32 * 14))  # 14 levels: a shard of 64 MiB
    proofs = tuple(ShardProof(values.shard_id(n), (largest,) * samples) for n in range(limit))
    reply = AuditReply(values.CONTRACT_ID, 2**63 - 1, bytes(32), proofs)
    assert len(encode(reply)) + 1000 < MAX_FRAME

    shard = ShardChallenge(values.shard_id(0), values.digest("root"), LEAF)
    too_many = AuditRequest(values.CONTRACT_ID, 0, 1, bytes(32), (shard,) * (limit + 1))
    with pytest.raises(ProtocolViolation):
        open_request(sign_request(values.RENTER, too_many), values.terms(samples=samples))


def test_leaves_are_counted_as_the_tree_counts_them() -> None:
    assert merkle.LEAF == LEAF
    for length in (1, LEAF - 1, LEAF, LEAF + 1, 65552 * 64):
        assert leaf_count(length) == merkle.leaf_count(length)


def test_a_receipt_is_for_the_shard_that_was_sent() -> None:
    sent = Receipt(values.CONTRACT_ID, 0, values.shard_id(1), values.digest("root"), 65552)
    signed = sign_receipt(values.FARMER, replace(sent, revision=3))
    assert open_receipt(signed, values.FARMER.node_id, sent).revision == 3
    with pytest.raises(BadSignature):
        open_receipt(signed, values.STRANGER.node_id, sent)
    for other in (
        replace(sent, root=values.digest("other")),
        replace(sent, length=65553),
        replace(sent, shard_id=values.shard_id(2)),
    ):
        with pytest.raises(ProtocolViolation):
            open_receipt(signed, values.FARMER.node_id, other)


def test_only_the_renter_orders_deletion() -> None:
    order = DeleteOrder(values.CONTRACT_ID, (values.shard_id(1), values.shard_id(2)))
    assert open_delete(sign_delete(values.RENTER, order), values.RENTER.node_id) == order
    with pytest.raises(BadSignature):
        open_delete(sign_delete(values.FARMER, order), values.RENTER.node_id)
