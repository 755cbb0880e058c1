"""Makes tests/vectors/protocol.json from fixed keys: `python -m tests.protocol.make_vectors`."""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

from storjfs.protocol.audits import (
    AuditReply,
    AuditRequest,
    LeafProof,
    ShardChallenge,
    ShardProof,
    sign_reply,
    sign_request,
)
from storjfs.protocol.failures import ErrorCode
from storjfs.protocol.framing import encode_answer, encode_failure, encode_request
from storjfs.protocol.messages import (
    Get,
    GetAnswer,
    HeldShard,
    Hello,
    HelloAnswer,
    ListShards,
    Ping,
    Propose,
    Purpose,
    Put,
    Role,
    ShardList,
)
from storjfs.protocol.receipts import DeleteOrder, Receipt, sign_delete, sign_receipt
from storjfs.protocol.signing import Kind
from storjfs.protocol.terms import Proposal, sign_offer
from storjfs.protocol.vouchers import Voucher, price_of_audit, sign_voucher
from tests.protocol import values

PATH = Path(__file__).parents[1] / "vectors" / "protocol.json"


def make() -> dict[str, Any]:
    """The vectors; bytes as hexadecimal."""
    proposal = Proposal.make(values.RENTER, values.terms())
    contract = proposal.countersign(values.FARMER)
    voucher = Voucher(values.LANE, contract.contract_id, 0, 1, 123_456_789)
    shard, root = values.shard_id(1), values.digest("root")
    request = AuditRequest(
        contract.contract_id, 0, 1, bytes(range(32)), (ShardChallenge(shard, root, 65552),)
    )
    proofs = (ShardProof(shard, (LeafProof(b"leaf", bytes(64)),)), ShardProof(values.shard_id(2), ()))
    signed = {
        "offer": sign_offer(values.FARMER, values.offer()),
        "voucher": sign_voucher(values.PAYER, voucher),
        "receipt": sign_receipt(values.FARMER, Receipt(contract.contract_id, 0, shard, root, 65552)),
        "delete": sign_delete(values.RENTER, DeleteOrder(contract.contract_id, (shard,))),
        "audit request": sign_request(values.RENTER, request),
        "audit reply": sign_reply(values.FARMER, AuditReply(contract.contract_id, 1, request.nonce, proofs)),
    }
    keys = {"farmer": values.FARMER, "renter": values.RENTER, "payer": values.PAYER}
    return {
        "seeds": {name: sha256(name.encode()).hexdigest() for name in keys},
        "public keys": {name: key.public.hex() for name, key in keys.items()},
        "domains": {kind.name.lower(): kind.value.hex() for kind in Kind},
        "lane": values.LANE.hex(),
        "contract": {
            "terms": contract.body.hex(),
            "renter signature": contract.renter_signature.hex(),
            "farmer signature": contract.farmer_signature.hex(),
            "stored": contract.to_bytes().hex(),
            "contract id": contract.contract_id.hex(),
        },
        "signed": {
            name: {"body": one.body.hex(), "signature": one.signature.hex(), "stored": one.to_bytes().hex()}
            for name, one in signed.items()
        },
        "frames": {
            "hello, control": encode_request(
                0, Hello(Purpose.CONTROL, Role.RENTER, vouchers=(signed["voucher"],))
            ).hex(),
            "hello answer": encode_answer(0, HelloAnswer(1, Role.FARMER, ("x",), "software")).hex(),
            "ping": encode_request(7, Ping()).hex(),
            "propose": encode_request(8, Propose(proposal)).hex(),
            "put": encode_request(0, Put(contract.contract_id, shard, 65552)).hex(),
            "get": encode_request(0, Get(contract.contract_id, shard, 65552, 100)).hex(),
            "get answer": encode_answer(0, GetAnswer(100)).hex(),
            "list shards": encode_request(9, ListShards(contract.contract_id, shard, 3)).hex(),
            "shard list": encode_answer(9, ShardList((HeldShard(shard, root, 65552),))).hex(),
            "failure": encode_failure(300, ErrorCode.NO_SPACE, "full").hex(),
        },
        "prices": [
            {
                "price": price,
                "bytes": size,
                "period": period,
                "carry": carry,
                "result": price_of_audit(values.terms(price=price, audit_period=period), size, 1, carry),
            }
            for price, size, period, carry in (
                (1_500_000, 1 << 30, 86400, 0),
                (1_500_000, 4_195_328, 86400, 0),
                (10**15, 67_108_864, 1, 123),
                (1, 65552, 3600, 2_783_138_807_808_000 - 1),
            )
        ],
    }


if __name__ == "__main__":
    PATH.write_text(json.dumps(make(), indent=1) + "\n")
