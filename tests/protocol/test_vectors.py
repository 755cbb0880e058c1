"""The formats are those of the committed vectors: a change here is a change of the protocol's version."""

import json
import struct

from nacl.signing import VerifyKey

from storjfs.protocol.terms import Contract
from tests.protocol import values
from tests.protocol.make_vectors import PATH, make


def test_the_formats_have_not_changed() -> None:
    assert json.loads(PATH.read_text()) == json.loads(json.dumps(make()))


def test_stored_contracts_stay_readable() -> None:
    vectors = json.loads(PATH.read_text())["contract"]
    contract = Contract.from_bytes(bytes.fromhex(vectors["stored"]))
    assert contract.open() == values.terms()
    assert contract.contract_id.hex() == vectors["contract id"]


def test_signatures_are_plain_ed25519_over_domain_and_body() -> None:
    vectors = json.loads(PATH.read_text())
    signers = {"offer": "farmer", "voucher": "payer", "receipt": "farmer", "delete": "renter"}
    signers |= {"audit request": "renter", "audit reply": "farmer"}
    for kind, signer in signers.items():
        one = vectors["signed"][kind]
        domain = bytes.fromhex(vectors["domains"][kind.replace(" ", "_")])
        key = VerifyKey(bytes.fromhex(vectors["public keys"][signer]))
        key.verify(domain + bytes.fromhex(one["body"]), bytes.fromhex(one["signature"]))


def test_frames_start_with_their_length() -> None:
    for text in json.loads(PATH.read_text())["frames"].values():
        frame = bytes.fromhex(text)
        assert struct.unpack(">I", frame[:4]) == (len(frame) - 4,)
        assert frame[4] == 0x93  # MessagePack: an array of three
