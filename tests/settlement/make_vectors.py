"""Makes tests/vectors/ledger.json from fixed keys: `python -m tests.settlement.make_vectors`."""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

from storjfs.protocol.ids import LaneId, NodeId, PublicKey
from storjfs.settlement.chain import Row, first_link, next_link, order_key

PATH = Path(__file__).parents[1] / "vectors" / "ledger.json"
NODE, OPERATOR, SOURCE, TARGET = (sha256(name.encode()).digest() for name in ("node", "operator", "a", "b"))
LANE = sha256(b"lane").digest()
LEDGER_ID = bytes(range(16))


def rows() -> list[Row]:
    """Transfers with and without each of what may be missing."""
    key = order_key(PublicKey(SOURCE), b"order")
    return [
        Row(
            *(1, 1_800_000_000, "issue", None, sha256(b"1").digest(), None, "welcome", b"signature"),
            (("issue", OPERATOR, -1000), ("person", SOURCE, 1000)),
        ),
        Row(
            *(2, 1_800_000_001, "open", key, sha256(b"2").digest(), LaneId(LANE), "", b"order"),
            (("lane", LANE, 600), ("person", SOURCE, -600)),
        ),
        Row(3, 1_800_000_002, "extend", key[::-1], sha256(b"3").digest(), LaneId(LANE), "", None, ()),
    ]


def make() -> dict[str, Any]:
    """The vectors; bytes as hexadecimal."""
    link = first_link(NodeId(NODE), PublicKey(OPERATOR), LEDGER_ID)
    links = [link]
    for row in rows():
        links.append(next_link(links[-1], row))
    return {
        "node id": NODE.hex(),
        "operator": OPERATOR.hex(),
        "ledger id": LEDGER_ID.hex(),
        "order id": {
            "account": SOURCE.hex(),
            "order": b"order".hex(),
            "in the books": order_key(PublicKey(SOURCE), b"order").hex(),
        },
        "rows": [
            {
                "transfer": row.transfer,
                "time": row.time,
                "kind": row.kind,
                "order id": row.order_id and row.order_id.hex(),
                "digest": row.digest.hex(),
                "lane": row.lane and row.lane.hex(),
                "memo": row.memo,
                "evidence": row.evidence and row.evidence.hex(),
                "entries": [[kind, key.hex(), amount] for kind, key, amount in row.entries],
            }
            for row in rows()
        ],
        "links": [link.hex() for link in links],
    }


if __name__ == "__main__":
    PATH.write_text(json.dumps(make(), indent=1) + "\n")
