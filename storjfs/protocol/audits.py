"""Challenges and proofs (RFC 9162 trees over sealed shards), and what an answer proves.

One request is a batch for one contract under one fresh nonce. It is persisted before it is sent and repeated
byte for byte until it is answered; the leaves it asks for follow from (nonce, contract, root, epoch), so they
are not sent. The tree itself is the caller's: `sample` and `verify` are functions of storjfs.coding.merkle.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Final

from msgspec import Meta, Struct

from storjfs.protocol.failures import ProtocolViolation
from storjfs.protocol.ids import (
    ContractIdField,
    DigestField,
    NodeId,
    NonceField,
    ShardId,
    ShardIdField,
    Unsigned,
)
from storjfs.protocol.receipts import ShardLength
from storjfs.protocol.signing import Kind, Signed, SigningKey
from storjfs.protocol.terms import Terms

LEAF: Final = 4096
MAX_AUDIT_SHARDS: Final = 128
"""Shards in one batch at most; see `batch_limit` for what the samples per shard leave of that."""
MAX_AUDIT_LEAVES: Final = 512
"""Leaves in one answer at most, so that it fits into one frame."""
MAX_PATH: Final = 32 * 32

Sample = Callable[[bytes, bytes, bytes, int, int, int], list[int]]
"""`sample(nonce, contract_id, root, epoch, leaf_count, count)`: the leaf indices asked for."""
Verify = Callable[[bytes, int, int, bytes, bytes], bool]
"""`verify(root, length, index, leaf, path)`: whether the leaf lies there under this root."""


class ShardChallenge(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One shard as its receipt describes it."""

    shard_id: ShardIdField
    root: DigestField
    length: ShardLength


class AuditRequest(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A batch of challenges, signed by the renter (`Kind.AUDIT_REQUEST`)."""

    contract_id: ContractIdField
    revision: Unsigned
    epoch: Unsigned
    """Number of the batch on this contract: grows by one."""
    nonce: NonceField
    shards: Annotated[tuple[ShardChallenge, ...], Meta(min_length=1, max_length=MAX_AUDIT_SHARDS)]


class LeafProof(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One leaf (4 KiB, the last of a shard may be short) and its siblings' hashes, from the leaf upwards."""

    leaf: Annotated[bytes, Meta(min_length=1, max_length=LEAF)]
    path: Annotated[bytes, Meta(max_length=MAX_PATH)]


class ShardProof(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The leaves asked for, in the order of the sampled indices; none at all says: the shard is missing."""

    shard_id: ShardIdField
    leaves: Annotated[tuple[LeafProof, ...], Meta(max_length=64)]

    @property
    def missing(self) -> bool:
        return not self.leaves


class AuditReply(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The answer to one request, signed by the farmer (`Kind.AUDIT_REPLY`)."""

    contract_id: ContractIdField
    epoch: Unsigned
    nonce: NonceField
    proofs: Annotated[tuple[ShardProof, ...], Meta(max_length=MAX_AUDIT_SHARDS)]


class Verdict(Struct, frozen=True):
    """What an answer proves about one shard; `reason` says in words why it failed."""

    shard_id: ShardId
    passed: bool
    reason: str = ""


def leaf_count(length: int) -> int:
    """Leaves of a shard of `length` sealed bytes."""
    return -(-length // LEAF)


def batch_limit(samples: int) -> int:
    """How many shards a request may name where each is asked for `samples` leaves."""
    return max(1, min(MAX_AUDIT_SHARDS, MAX_AUDIT_LEAVES // samples))


def sign_request(key: SigningKey, request: AuditRequest) -> Signed:
    """The renter's signature under a batch. Persist the result before sending it."""
    return Signed.make(key, Kind.AUDIT_REQUEST, request)


def open_request(signed: Signed, terms: Terms) -> AuditRequest:
    """The batch, if the renter of `terms` signed it and it is not larger than allowed.

    Raises BadSignature, ProtocolViolation. Whether it is for this contract is the caller's to look up.
    """
    request = signed.open(terms.renter, Kind.AUDIT_REQUEST, AuditRequest)
    if len(request.shards) > batch_limit(terms.samples):
        raise ProtocolViolation("the audit names too many shards")
    return request


def sign_reply(key: SigningKey, reply: AuditReply) -> Signed:
    """The farmer's signature under an answer."""
    return Signed.make(key, Kind.AUDIT_REPLY, reply)


def open_reply(signed: Signed, farmer: NodeId) -> AuditReply:
    """The answer, if `farmer` signed it. Raises BadSignature, ProtocolViolation."""
    return signed.open(farmer, Kind.AUDIT_REPLY, AuditReply)


def sampled(terms: Terms, request: AuditRequest, shard: ShardChallenge, sample: Sample) -> list[int]:
    """The leaf indices that `request` asks for of `shard`, in the order of the answer."""
    count = leaf_count(shard.length)
    wanted = min(terms.samples, count)
    return sample(request.nonce, request.contract_id, shard.root, request.epoch, count, wanted)


def judge(
    terms: Terms, request: AuditRequest, reply: AuditReply, sample: Sample, verify: Verify
) -> list[Verdict]:
    """One verdict per shard of `request`, in its order. A shard left out of the answer has failed.

    Raises ProtocolViolation for an answer to another request: that answers nothing. Shards that were not
    asked for are ignored; of several answers for one shard the first counts.
    """
    asked = (request.contract_id, request.epoch, request.nonce)
    if (reply.contract_id, reply.epoch, reply.nonce) != asked:
        raise ProtocolViolation("the answer belongs to another audit")
    proofs: dict[ShardId, ShardProof] = {}
    for proof in reply.proofs:
        proofs.setdefault(proof.shard_id, proof)
    return [
        _judge(terms, request, shard, proofs.get(shard.shard_id), sample, verify) for shard in request.shards
    ]


def _judge(
    terms: Terms,
    request: AuditRequest,
    shard: ShardChallenge,
    proof: ShardProof | None,
    sample: Sample,
    verify: Verify,
) -> Verdict:
    if proof is None:
        return Verdict(shard.shard_id, False, "left out of the answer")
    if proof.missing:
        return Verdict(shard.shard_id, False, "the farmer says it is missing")
    indices: Sequence[int] = sampled(terms, request, shard, sample)
    if len(proof.leaves) != len(indices):
        return Verdict(shard.shard_id, False, "wrong number of leaves")
    for index, leaf in zip(indices, proof.leaves, strict=True):
        if not verify(shard.root, shard.length, index, leaf.leaf, leaf.path):
            return Verdict(shard.shard_id, False, f"leaf {index} does not belong to the shard")
    return Verdict(shard.shard_id, True)
