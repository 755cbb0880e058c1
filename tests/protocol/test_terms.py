"""Offers, proposals, countersigned contracts and their chain of revisions."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storjfs.protocol.failures import BadSignature, ProtocolViolation
from storjfs.protocol.ids import ContractId, Digest, PublicKey, lane_id
from storjfs.protocol.signing import Kind, Signed
from storjfs.protocol.terms import (
    Address,
    Contract,
    Proposal,
    check_successor,
    objections,
    open_offer,
    sign_offer,
)
from tests.protocol import values

NOW = 1_800_000_000


def contract(**changes: Any) -> Contract:
    return Proposal.make(values.RENTER, values.terms(**changes)).countersign(values.FARMER)


def test_an_offer_is_the_farmers_own() -> None:
    assert open_offer(sign_offer(values.FARMER, values.offer())) == values.offer()
    with pytest.raises(BadSignature):
        open_offer(sign_offer(values.STRANGER, values.offer()))


def test_both_signatures_make_a_contract_that_survives_storage() -> None:
    made = contract()
    assert Contract.from_bytes(made.to_bytes()) == made
    assert made.open() == made.terms() == values.terms()
    assert made.contract_id == ContractId(made.digest)


def test_the_signatures_of_the_parties_cannot_stand_for_each_other() -> None:
    body = contract().body
    renter, farmer = (
        values.RENTER.sign(Kind.TERMS_RENTER, body),
        values.FARMER.sign(Kind.TERMS_FARMER, body),
    )
    Contract(body, renter, farmer).open()
    for wrong in (
        Contract(body, farmer, renter),
        Contract(body, renter, values.STRANGER.sign(Kind.TERMS_FARMER, body)),
        Contract(body, values.RENTER.sign(Kind.TERMS_FARMER, body), farmer),
    ):
        with pytest.raises(BadSignature):
            wrong.open()


def test_a_revision_follows_its_predecessor_and_keeps_the_id() -> None:
    first = contract()
    second_terms = values.terms(
        revision=1, contract_id=first.contract_id, predecessor=first.digest, capacity=5, end=1_900_000_000
    )
    check_successor(first, second_terms)
    second = Proposal.make(values.RENTER, second_terms).countersign(values.FARMER)
    second.open()
    assert second.contract_id == first.contract_id != ContractId(second.digest)


@pytest.mark.parametrize(
    "changes",
    [
        {"revision": 2},
        {"predecessor": Digest(bytes(range(32)))},
        {"contract_id": ContractId(bytes(range(32)))},
        {"payer": values.STRANGER.public},
        {"renter": values.STRANGER.node_id},
        {"settlement": "other"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_terms_that_do_not_follow_are_refused(changes: dict[str, Any]) -> None:
    first = contract()
    fields = {"revision": 1, "contract_id": first.contract_id, "predecessor": first.digest} | changes
    with pytest.raises(ProtocolViolation):
        check_successor(first, values.terms(**fields))


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 2},
        {"end": 1_800_000_000},
        {"revision": 1},
        {"contract_id": values.CONTRACT_ID},
        {"predecessor": values.digest("x")},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_terms_that_contradict_themselves_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ProtocolViolation):
        Proposal.make(values.RENTER, values.terms(**changes)).open()


def test_terms_within_the_offer_meet_no_objection() -> None:
    assert objections(values.offer(), values.terms(), NOW) == []


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"farmer": values.STRANGER.node_id}, "farmer"),
        ({"payee": values.STRANGER.public}, "payee"),
        ({"settlement": "evm"}, "settlement"),
        ({"price": 999_999}, "price"),
        ({"egress_price": 499_999}, "egress"),
        ({"capacity": 1 << 50}, "sale"),
        ({"end": 1_800_000_010}, "term"),
        ({"audit_period": 59}, "audit period"),
        ({"payment_grace": 31 * 86400}, "grace"),
        ({"start": NOW - 10**6, "end": NOW - 1}, "over"),
    ],
)
def test_each_breach_of_the_offer_is_named(changes: dict[str, Any], word: str) -> None:
    assert any(word in text for text in objections(values.offer(), values.terms(**changes), NOW))


def test_an_expired_offer_is_named() -> None:
    assert objections(values.offer(expires=NOW - 1), values.terms(), NOW) == ["the offer has expired"]


@given(st.text(max_size=10), st.text(max_size=10))
def test_lanes_differ_by_settlement_and_direction(a: str, b: str) -> None:
    payer, payee = values.PAYER.public, values.FARMER.public
    assert (lane_id(a, payer, payee) == lane_id(b, payer, payee)) == (a == b)
    assert lane_id(a, payer, payee) != lane_id(a, payee, payer)
    assert lane_id(a, PublicKey(bytes(32)), payee) != lane_id(a, payer, payee)


@pytest.mark.parametrize(
    "address",
    [
        Address("farm.example", 1),
        Address("2001:db8::1", 65535),
        Address("farm.example", 1).through(),
        Address("2001:db8::1", 65535).through(),
    ],
)
def test_addresses_are_read_as_they_are_shown(address: Address) -> None:
    assert Address.parse(str(address)) == address


def test_an_address_may_lead_through_a_relay() -> None:
    address = Address.parse("relay+[2001:db8::1]:7420")
    assert address.relay == Address("2001:db8::1", 7420)
    assert Address("2001:db8::1", 7420).relay is None


@pytest.mark.parametrize(
    "text",
    [
        *("", "host", ":1", "host:", "host:0", "host:65536", "host:x"),
        *("relay+host", "relay+:1", "relay+relay+host:1"),
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        Address.parse(text)


def test_signed_values_compare_by_their_bytes() -> None:
    signed = sign_offer(values.FARMER, values.offer())
    assert Signed.from_bytes(signed.to_bytes()) == signed
