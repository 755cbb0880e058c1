"""Write tests/vectors/discovery.json anew; run it only for a new version of a format."""

import json
from pathlib import Path
from typing import Any

from storjfs.keys import KnownFarmer, VolumeKeys, seal_farmers
from storjfs.network.dht import FarmerRecord, make_record
from storjfs.network.dht.records import info_hash
from storjfs.protocol.ids import NodeId
from storjfs.protocol.signing import SigningKey
from storjfs.protocol.terms import Address

BEP_44: dict[str, Any] = {
    "key": "77ff84905a91936367c01360803104f92432fcd904a43511876df5cdf3e7e548",
    "number": 1,
    "value": "Hello World!",
}
"""The two mutable items that BEP 44 itself gives as test vectors."""


def farmer_record(network: str, addresses: list[tuple[str, int]], capabilities: list[str]) -> dict[str, Any]:
    seed = bytes(range(32))
    record = FarmerRecord(tuple(Address(host, port) for host, port in addresses), tuple(capabilities))
    item = make_record(SigningKey(seed), network, 1_700_000_000, record)
    return {
        "network": network,
        "seed": seed.hex(),
        "number": item.number,
        "addresses": addresses,
        "capabilities": capabilities,
        "info_hash": info_hash(network).hex(),
        "salt": item.salt.hex(),
        "value": item.value.hex(),
        "signature": item.signature.hex(),
        "target": item.target.hex(),
    }


def recovery_record(name: str, farmers: list[tuple[str, str, int]]) -> dict[str, Any]:
    entropy, nonce = bytes(range(32)), bytes(range(12))
    keys = VolumeKeys(entropy)
    known = [KnownFarmer(NodeId(bytes.fromhex(id_)), Address(host, port)) for id_, host, port in farmers]
    return {
        "name": name,
        "entropy": entropy.hex(),
        "key": SigningKey(keys.discovery_record_signer).public.hex(),
        "nonce": nonce.hex(),
        "farmers": farmers,
        "value": seal_farmers(keys, known, nonce=nonce)[0].hex(),
    }


def main() -> None:
    vectors = {
        "bep44": [
            BEP_44
            | {
                "name": "without salt",
                "salt": "",
                "signature": "305ac8aeb6c9c151fa120f120ea2cfb923564e11552d06a5d856091e5e853cff"
                "1260d3f39e4999684aa92eb73ffd136e6f4f3ecbfda0ce53a1608ecd7ae21f01",
                "target": "4a533d47ec9c7d95b1ad75f576cffc641853b750",
            },
            BEP_44
            | {
                "name": "with salt",
                "salt": "foobar",
                "signature": "6834284b6b24c3204eb2fea824d82f88883a3d95e8b4a21b8c0ded553d17d17d"
                "df9a8a7104b1258f30bed3787e6cb896fca78c58f8e03b5f18f14951a87d9a08",
                "target": "411eba73b6f087ca51a3795d9c8c938d365e32c1",
            },
        ],
        "farmer_records": [
            farmer_record("storjfs", [("192.0.2.1", 7420), ("2001:db8::1", 7420)], ["cancel"]),
            farmer_record("Prüfung", [("farm.example.org", 1)], []),
        ],
        "recovery_records": [
            recovery_record("none", []),
            recovery_record(
                "all forms",
                [
                    ("11" * 32, "192.0.2.1", 7420),
                    ("22" * 32, "2001:db8::1", 7421),
                    ("33" * 32, "farm.example.org", 65535),
                ],
            ),
        ],
    }
    path = Path(__file__).parents[2] / "vectors" / "discovery.json"
    path.write_text(json.dumps(vectors, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
