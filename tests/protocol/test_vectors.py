"""The formats are those of the committed vectors: a change here is a change of the protocol's version."""

import json
import struct

import pytest
from nacl.signing import VerifyKey

from storjfs.protocol.conversation import Conversation
from storjfs.protocol.encoding import decode, encode
from storjfs.protocol.failures import ProtocolViolation
from storjfs.protocol.framing import frame_length, open_request, parse_frame
from storjfs.protocol.messages import METHODS, AuditAnswer, HelloAnswer, Role
from storjfs.protocol.terms import Contract
from tests.fuzz import samples
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
    signers |= {f"ledger order, {tag}": "payer" for tag in samples.WANTED}
    signers |= {"ledger statement": "ledger", "ledger statement, refused": "ledger"}
    assert signers.keys() == vectors["signed"].keys()
    for kind, signer in signers.items():
        one = vectors["signed"][kind]
        domain = bytes.fromhex(vectors["domains"][kind.split(",")[0].replace(" ", "_")])
        key = VerifyKey(bytes.fromhex(vectors["public keys"][signer]))
        key.verify(domain + bytes.fromhex(one["body"]), bytes.fromhex(one["signature"]))


def test_frames_of_the_vectors_say_what_they_say() -> None:
    vectors = json.loads(PATH.read_text())["messages"]
    found = set()
    for text in vectors.values():
        frame = parse_frame(bytes.fromhex(text)[4:])
        if frame.is_request:
            found.add(type(open_request(frame)))
    assert found == set(METHODS)


def test_what_is_to_be_refused_is_refused() -> None:
    for name, text in json.loads(PATH.read_text())["refused"].items():
        data = bytes.fromhex(text)
        with pytest.raises(ProtocolViolation):
            conversation = Conversation()
            frame_length(data[:4], conversation.frame_limit)
            conversation.receive(parse_frame(data[4:]))
            raise AssertionError(name)


def test_an_answer_of_before_is_understood() -> None:
    """Fields that were added since have their defaults."""
    old = decode(encode((1, "farmer", ("x",), "software", ())), HelloAnswer)
    assert old == HelloAnswer(1, Role.FARMER, ("x",), "software")
    reply = samples.SIGNED["reply"][0]
    assert decode(encode((reply, None)), AuditAnswer) == AuditAnswer(reply)


def test_frames_start_with_their_length() -> None:
    for text in json.loads(PATH.read_text())["frames"].values():
        frame = bytes.fromhex(text)
        assert struct.unpack(">I", frame[:4]) == (len(frame) - 4,)
        assert frame[4] == 0x93  # MessagePack: an array of three
