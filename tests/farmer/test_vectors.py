"""What lies on disks stays readable: the committed vectors of the farmer and of the ledger."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from nacl.signing import SigningKey

from storjfs.farmer.account import Bill, LaneAccount
from storjfs.farmer.shelf import Shelf
from storjfs.protocol.ids import PublicKey, ShardId
from storjfs.protocol.vouchers import Tally
from storjfs.settlement.books import issue_message

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[1] / "vectors" / "farmer.json").read_text())


def pattern(length: int) -> bytes:
    """The bytes 0, 1, ..., 250, 0, 1, ..."""
    return bytes(number % 251 for number in range(length))


def shard_file(folder: Path, length: int) -> bytes:
    shelf = Shelf(folder, 1 << 30)
    arrival = shelf.begin(ShardId(bytes(range(32))), length)
    arrival.finish(pattern(length))
    shelf.place(arrival.shard_id)
    return (folder / "00" / bytes(range(32)).hex()).read_bytes()


@pytest.mark.parametrize("vector", VECTORS["shard_files"], ids=lambda vector: str(vector["length"]))
def test_shard_file(vector: dict[str, Any], tmp_path: Path) -> None:
    content = shard_file(tmp_path, vector["length"])
    assert len(content) == vector["file_length"]
    assert hashlib.sha256(content).hexdigest() == vector["file_sha256"]
    assert content[-64:].hex() == vector["footer"]


def test_account() -> None:
    vector = VECTORS["account"]
    account = LaneAccount(
        proofs=Tally(1000, 7),
        egress=Tally(50, 3),
        paid=900,
        counter=12,
        credit=5,
        proofs_paid=800,
        egress_paid=45,
        forgiven=10,
        largest=400,
        bills=(Bill(1, 77, 100),),
        sent=4096,
    )
    assert account.to_bytes().hex() == vector
    assert LaneAccount.from_bytes(bytes.fromhex(vector)) == account


def test_issue() -> None:
    vector = VECTORS["issue"]
    key = SigningKey(bytes.fromhex(vector["operator_seed"]))
    message = issue_message(
        bytes.fromhex(vector["ledger_id"]),
        PublicKey(bytes.fromhex(vector["target"])),
        vector["amount"],
        bytes.fromhex(vector["order"]),
    )
    assert message.hex() == vector["message"]
    assert key.sign(message).signature.hex() == vector["signature"]
