"""Frames: lengths are judged before anything is read, and every method has its number and its answer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storjfs.protocol.failures import TEXTS, ErrorCode, ProtocolViolation, RequestFailed, plain
from storjfs.protocol.framing import (
    HEADER,
    MAX_FRAME,
    encode_answer,
    encode_failure,
    encode_request,
    frame_length,
    open_answer,
    open_request,
    parse_frame,
)
from storjfs.protocol.ids import ContractId, ShardId
from storjfs.protocol.messages import ANSWER, FAILURE, METHODS, REQUESTS, Done, Get, GetAnswer, Ping
from storjfs.protocol.signing import Kind, Signed
from storjfs.protocol.terms import Address
from tests.protocol import values

GET = Get(ContractId(bytes(32)), ShardId(bytes(32)), 65552, 1)


def body(frame: bytes) -> bytes:
    assert frame_length(frame[:HEADER]) == len(frame) - HEADER
    return frame[HEADER:]


@given(st.integers(0, 2**63 - 1))
def test_requests_and_answers_find_each_other(number: int) -> None:
    request = parse_frame(body(encode_request(number, GET)))
    answer = parse_frame(body(encode_answer(number, GetAnswer(1))))
    assert request.is_request
    assert not answer.is_request
    assert request.id == answer.id == number
    assert open_request(request) == GET
    assert open_answer(answer, GET) == GetAnswer(1)


@given(st.sampled_from(ErrorCode), st.text(max_size=400))
def test_refusals_carry_code_and_words(code: ErrorCode, detail: str) -> None:
    frame = parse_frame(body(encode_failure(3, code, detail)))
    with pytest.raises(RequestFailed) as caught:
        open_answer(frame, GET)
    assert caught.value.code is code
    assert caught.value.detail == plain(detail[:256])
    assert TEXTS[code] in str(caught.value)


def test_words_that_utf8_cannot_carry_do_no_harm() -> None:
    with pytest.raises(RequestFailed):
        open_answer(parse_frame(body(encode_failure(3, ErrorCode.INTERNAL, "\udc80"))), GET)


def test_an_unknown_code_is_still_a_refusal() -> None:
    with pytest.raises(RequestFailed) as caught:
        open_answer(parse_frame(body(encode_failure(0, 4711))), GET)
    assert caught.value.code == 4711


def test_every_code_has_a_text() -> None:
    assert set(TEXTS) == set(ErrorCode)


@given(st.integers(0, 2**32 - 1), st.integers(1, 2**32))
def test_a_frame_is_refused_by_its_length_alone(length: int, limit: int) -> None:
    header = length.to_bytes(4, "big")
    if 0 < length <= limit:
        assert frame_length(header, limit) == length
    else:
        with pytest.raises(ProtocolViolation):
            frame_length(header, limit)


def test_method_numbers_are_unique_and_not_those_of_answers() -> None:
    assert len(REQUESTS) == len(METHODS)
    assert not {ANSWER, FAILURE} & set(REQUESTS)


def test_unknown_methods_are_refused_not_fatal() -> None:
    frame = bytearray(body(encode_request(1, Ping())))
    frame[2] = 99
    with pytest.raises(RequestFailed) as caught:
        open_request(parse_frame(bytes(frame)))
    assert caught.value.code is ErrorCode.UNSUPPORTED


def test_a_request_where_an_answer_is_due_is_a_violation() -> None:
    with pytest.raises(ProtocolViolation):
        open_answer(parse_frame(body(encode_request(1, Ping()))), Ping())


def test_words_of_the_other_side_are_one_line_without_commands_to_a_terminal() -> None:
    words = "no\r\n2026-01-01 INFO all is well\x1b[2J\u202e, grüße"
    frame = parse_frame(body(encode_failure(1, ErrorCode.REFUSED, words)))
    with pytest.raises(RequestFailed) as caught:
        open_answer(frame, Ping())
    assert str(caught.value).isprintable()
    assert caught.value.detail == "no\ufffd\ufffd2026-01-01 INFO all is well\ufffd[2J\ufffd, grüße"
    assert str(Address("a\x1b[2J.example", 7420)) == "a\ufffd[2J.example:7420"


def test_what_is_too_large_is_not_sent() -> None:
    huge = Signed(bytes(MAX_FRAME), values.FARMER.sign(Kind.OFFER, b""))
    with pytest.raises(ValueError):
        encode_answer(1, huge)
    assert encode_answer(1, Done())
