"""A signature is worth something for its bytes, its kind and its signer, and for nothing else."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storjfs.protocol.failures import BadSignature, ProtocolViolation
from storjfs.protocol.signing import Kind, Signed, SigningKey, verify
from storjfs.protocol.terms import Terms
from storjfs.protocol.vouchers import Voucher
from tests.protocol import values

VOUCHER = Voucher(values.LANE, values.CONTRACT_ID, 0, 1, 5)


@given(st.sampled_from(Kind), st.binary(max_size=200))
def test_a_signature_fits_its_bytes_and_kind_only(kind: Kind, body: bytes) -> None:
    signature = values.FARMER.sign(kind, body)
    verify(values.FARMER.public, kind, body, signature)
    for other in set(Kind) - {kind}:
        with pytest.raises(BadSignature):
            verify(values.FARMER.public, other, body, signature)
    with pytest.raises(BadSignature):
        verify(values.FARMER.public, kind, body + b"\0", signature)
    with pytest.raises(BadSignature):
        verify(values.STRANGER.public, kind, body, signature)


def test_no_domain_prefix_starts_another() -> None:
    for a, b in itertools.permutations(Kind, 2):
        assert not a.value.startswith(b.value)


@given(st.binary(max_size=80), st.binary(max_size=80))
def test_nonsense_in_place_of_key_or_signature_is_a_bad_signature(signer: bytes, signature: bytes) -> None:
    with pytest.raises(BadSignature):
        verify(signer, Kind.OFFER, b"body", signature)


def test_signed_keeps_the_bytes_that_came() -> None:
    # 5 as a uint16: valid MessagePack that our encoder would never make.
    usual = Signed.make(values.PAYER, Kind.VOUCHER, VOUCHER).body
    odd = usual[:-1] + b"\xcd\x00\x05"
    signed = Signed.from_bytes(Signed(odd, values.PAYER.sign(Kind.VOUCHER, odd)).to_bytes())
    assert signed.body == odd != usual
    assert signed.open(values.PAYER.public, Kind.VOUCHER, Voucher) == VOUCHER


def test_a_well_signed_value_of_another_shape_is_a_violation() -> None:
    signed = Signed.make(values.PAYER, Kind.VOUCHER, VOUCHER)
    with pytest.raises(ProtocolViolation):
        signed.open(values.PAYER.public, Kind.VOUCHER, Terms)


def test_the_secret_is_not_shown() -> None:
    seed = bytes(range(32))
    assert seed.hex() not in repr(SigningKey(seed))
    with pytest.raises(ValueError):
        SigningKey(b"short")
