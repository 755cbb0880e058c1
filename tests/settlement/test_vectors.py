"""The chain of a served ledger is that of the committed vectors, and as the documentation says."""

import json
from hashlib import sha256

import msgspec

from tests.settlement.make_vectors import LEDGER_ID, NODE, OPERATOR, PATH, SOURCE, make, rows


def test_the_chain_has_not_changed() -> None:
    assert json.loads(PATH.read_text()) == json.loads(json.dumps(make()))


def test_the_chain_is_as_it_is_documented() -> None:
    vectors = json.loads(PATH.read_text())
    link = sha256(b"storjfs/1 ledger chain\0" + NODE + OPERATOR + LEDGER_ID).digest()
    assert link.hex() == vectors["links"][0]
    for row, expected in zip(rows(), vectors["links"][1:], strict=True):
        body = [row.transfer, row.time, row.kind, row.order_id, row.digest, row.lane, row.memo, row.evidence]
        body.append([list(entry) for entry in row.entries])
        link = sha256(b"storjfs/1 ledger entry\0" + link + msgspec.msgpack.encode(body)).digest()
        assert link.hex() == expected
    key = sha256(b"storjfs/1 ledger order id\0" + SOURCE + b"order").hexdigest()
    assert key == vectors["order id"]["in the books"]
