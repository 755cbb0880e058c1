"""Makes tests/vectors/protocol.json from fixed keys: `python -m tests.protocol.make_vectors`."""

import json
import re
from hashlib import sha256
from pathlib import Path
from typing import Any

from msgspec import Struct

from storjfs.protocol.audits import AuditReply, LeafProof, ShardProof, sign_reply
from storjfs.protocol.failures import ErrorCode
from storjfs.protocol.framing import (
    MAX_REQUEST,
    encode_answer,
    encode_cancel,
    encode_failure,
    encode_request,
)
from storjfs.protocol.ledger import sign_statement
from storjfs.protocol.messages import (
    Done,
    Get,
    GetAnswer,
    GetContract,
    GetOffer,
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
    Through,
)
from storjfs.protocol.receipts import DeleteOrder, sign_delete
from storjfs.protocol.signing import Kind
from storjfs.protocol.vouchers import price_of_audit
from tests.fuzz import samples
from tests.protocol import values

PATH = Path(__file__).parents[1] / "vectors" / "protocol.json"


def make() -> dict[str, Any]:
    """The vectors; bytes as hexadecimal."""
    proposal, contract, shard, root = samples.PROPOSAL, samples.CONTRACT, samples.SHARD, samples.ROOT
    proofs = (ShardProof(shard, (LeafProof(b"leaf", bytes(64)),)), ShardProof(values.shard_id(2), ()))
    reply = AuditReply(contract.contract_id, 1, samples.CHALLENGE.nonce, proofs)
    signed = {
        "offer": samples.SIGNED["offer"][0],
        "voucher": samples.SIGNED_VOUCHER,
        "receipt": samples.SIGNED["receipt"][0],
        "delete": sign_delete(values.RENTER, DeleteOrder(contract.contract_id, (shard,))),
        "audit request": samples.SIGNED["request"][0],
        "audit reply": sign_reply(values.FARMER, reply),
        **{f"ledger order, {tag}": one for tag, one in samples.LEDGER_ORDERS.items()},
        "ledger statement": samples.SIGNED["ledger statement"][0],
        "ledger statement, refused": sign_statement(values.LEDGER, samples.REFUSED),
    }
    keys = {"farmer": values.FARMER, "renter": values.RENTER, "payer": values.PAYER}
    keys["ledger"] = values.LEDGER
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
            "hello, relay": encode_request(0, Hello(Purpose.RELAY, Role.RENTER)).hex(),
            "through": encode_request(1, Through(values.FARMER.node_id)).hex(),
            "cancel": encode_cancel(7).hex(),
            "cancelled": encode_failure(7, ErrorCode.CANCELLED).hex(),
        },
        "messages": {
            **{_name(request): encode_request(1, request).hex() for request in samples.REQUESTS},
            **{_name(answer): encode_answer(1, answer).hex() for answer in samples.ANSWERS},
        },
        "refused": {name: data.hex() for name, data in refused().items()},
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


def _name(message: Struct) -> str:
    """`ListShards` as the specification writes it: `list shards`."""
    return re.sub("(?<!^)([A-Z])", r" \1", type(message).__name__).lower()


def refused() -> dict[str, bytes]:
    """Frames that end the connection on which they come first after the hello."""
    offer = encode_request(1, GetOffer())[4:]
    contract = bytearray(encode_request(1, GetContract(samples.ID))[4:])
    short = bytes(contract).replace(b"\xc4\x20" + samples.ID, b"\xc4\x1f" + samples.ID[:31])
    bodies = {
        "no array": b"\x01",
        "two elements": b"\x92\x01\x04",
        "four elements": b"\x94" + offer[1:] + b"\xc0",
        "a negative id": b"\x93\xff" + offer[2:],
        "an id of 2^63": b"\x93\xcf" + (1 << 63).to_bytes(8, "big") + offer[2:],
        "a method over 255": b"\x93\x01\xcd\x01\x04\x90",
        "a body that is no array": b"\x93\x01\x04\x80",
        "a contract id of 31 bytes": short,
        "bytes behind the array": offer + b"\xc0",
        "a second hello": encode_request(1, Hello(Purpose.CONTROL, Role.RENTER))[4:],
        "an answer to nothing": encode_answer(1, Done())[4:],
    }
    return {
        "a length of zero": bytes(4),
        "a request over 256 KiB": (MAX_REQUEST + 1).to_bytes(4, "big"),
        **{name: len(body).to_bytes(4, "big") + body for name, body in bodies.items()},
    }


if __name__ == "__main__":
    PATH.write_text(json.dumps(make(), indent=1) + "\n")
