"""Whatever bytes come: a value, or ProtocolViolation."""

import tracemalloc
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storjfs.protocol.audits import AuditReply, AuditRequest
from storjfs.protocol.encoding import decode, encode
from storjfs.protocol.failures import ProtocolViolation, RequestFailed
from storjfs.protocol.framing import Frame, open_answer, open_request, parse_frame
from storjfs.protocol.messages import METHODS, GetOffer
from storjfs.protocol.receipts import DeleteOrder, Receipt
from storjfs.protocol.signing import Signed
from storjfs.protocol.terms import Contract, Offer, Proposal, Terms
from storjfs.protocol.vouchers import Tally, Voucher
from tests.protocol import values

WIRE_TYPES: list[type[msgspec.Struct]] = [
    *METHODS,
    *(answer for _, answer in METHODS.values()),
    Offer,
    Terms,
    Proposal,
    Contract,
    Voucher,
    Tally,
    Receipt,
    DeleteOrder,
    AuditRequest,
    AuditReply,
    Signed,
    Frame,
]

json_like = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.binary(max_size=70)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=25,
)  # fmt: skip
nearly_valid = st.builds(msgspec.msgpack.encode, st.lists(json_like, max_size=12))


@given(st.sampled_from(WIRE_TYPES), st.binary(max_size=300) | nearly_valid)
def test_any_bytes_give_a_value_or_a_violation(wanted: type[msgspec.Struct], data: bytes) -> None:
    try:
        value = decode(data, wanted)
    except ProtocolViolation:
        return
    assert isinstance(value, wanted)


@given(st.binary(max_size=100) | nearly_valid)
def test_any_frame_gives_a_request_a_refusal_or_a_violation(data: bytes) -> None:
    try:
        frame = parse_frame(data)
        if frame.is_request:
            open_request(frame)
        else:
            open_answer(frame, GetOffer())
    except (ProtocolViolation, RequestFailed):
        pass


@given(st.data())
def test_a_changed_byte_of_a_contract_is_noticed(data: st.DataObject) -> None:
    contract = Proposal.make(values.RENTER, values.terms()).countersign(values.FARMER)
    stored = bytearray(contract.to_bytes())
    at = data.draw(st.integers(0, len(stored) - 1))
    stored[at] ^= data.draw(st.integers(1, 255))
    try:
        opened = Contract.from_bytes(bytes(stored))
        opened.open()
    except ProtocolViolation:
        return
    assert opened == contract  # the same content in another encoding of the outer array


@pytest.mark.parametrize("opcode", [b"\xdd", b"\xc6", b"\xdb", b"\xdf"], ids=["array", "bin", "str", "map"])
def test_a_claimed_length_costs_no_memory(opcode: bytes) -> None:
    data = encode((values.CONTRACT_ID, ()))[:-1] + opcode + b"\xff\xff\xff\xff"
    wanted: Any
    tracemalloc.start()
    try:
        for wanted in (DeleteOrder, AuditRequest, Signed, Frame):
            with pytest.raises(ProtocolViolation):
                decode(data, wanted)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_deep_nesting_is_a_violation() -> None:
    with pytest.raises(ProtocolViolation):
        parse_frame(b"\x93\x01\x02" + b"\x91" * 1_000_000)


def test_messages_may_grow_at_the_end_and_signed_values_may_not() -> None:
    longer_request = encode([4, 5, 6])
    assert decode(longer_request, GetOffer) == GetOffer()
    with pytest.raises(ProtocolViolation):
        decode(encode([*msgspec.structs.astuple(values.terms()), 1]), Terms)
