"""Every request is answered once, withdrawn or not, and both sides agree on what is open."""

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from storjfs.protocol.conversation import (
    MOST_FORGOTTEN,
    Answered,
    Asked,
    Cancelled,
    Conversation,
    Event,
    Nothing,
    Refused,
    Unwanted,
    cancelled,
)
from storjfs.protocol.failures import ErrorCode, ProtocolViolation, RequestFailed
from storjfs.protocol.framing import (
    HEADER,
    MAX_FRAME,
    MAX_REQUEST,
    encode_answer,
    encode_cancel,
    encode_failure,
    encode_request,
    open_answer,
    parse_frame,
)
from storjfs.protocol.messages import Done, GetOffer, Hello, Ping, Purpose, Role


def take(side: Conversation, data: bytes) -> Event:
    return side.receive(parse_frame(data[HEADER:]))


def test_a_request_and_its_answer() -> None:
    renter, farmer = Conversation(), Conversation()
    number, request = renter.ask(Ping())
    assert take(farmer, request) == Asked(number, Ping(), 1)
    farmer.answered(number)
    event = take(renter, encode_answer(number, Done()))
    assert isinstance(event, Answered)
    assert open_answer(event.frame, Ping()) == Done()
    assert renter.asked == farmer.open == 0


def test_a_withdrawn_request_is_told_and_its_answer_dropped() -> None:
    renter, farmer = Conversation(), Conversation()
    number, request = renter.ask(GetOffer())
    take(farmer, request)
    assert take(farmer, renter.withdraw(number)) == Cancelled(number)
    assert renter.asked == farmer.open == 1
    farmer.answered(number)
    assert take(renter, cancelled(number)) == Unwanted(number)
    assert renter.asked == farmer.open == 0


def test_a_cancel_that_crosses_the_answer_means_nothing() -> None:
    renter, farmer = Conversation(), Conversation()
    number, request = renter.ask(Ping())
    take(farmer, request)
    farmer.answered(number)
    assert take(farmer, renter.withdraw(number)) == Nothing()
    assert take(renter, encode_answer(number, Done())) == Unwanted(number)
    assert renter.withdraw(number) == b""


def test_who_does_not_understand_cancels_gets_none() -> None:
    renter = Conversation(cancels=False)
    number, _ = renter.ask(Ping())
    assert renter.withdraw(number) == b""
    assert take(renter, encode_answer(number, Done())) == Unwanted(number)


def test_a_side_that_answers_nothing_is_given_up() -> None:
    renter = Conversation()
    for _ in range(MOST_FORGOTTEN):
        renter.withdraw(renter.ask(Ping())[0])
    with pytest.raises(ProtocolViolation, match="answers nothing"):
        renter.withdraw(renter.ask(Ping())[0])


@pytest.mark.parametrize(
    "data",
    [
        encode_answer(7, Done()),
        encode_failure(7, ErrorCode.BUSY),
        encode_answer(0, Done()),
        encode_request(5, Ping()),
        encode_request(6, Hello(Purpose.CONTROL, Role.RENTER)),
    ],
    ids=["never asked", "refusal of nothing", "answered twice", "number in use", "second hello"],
)
def test_frames_of_another_conversation_are_violations(data: bytes) -> None:
    side = Conversation()
    number, _ = side.ask(Ping())
    take(side, encode_answer(number, Done()))
    take(side, encode_request(5, Ping()))
    with pytest.raises(ProtocolViolation):
        take(side, data)


def test_an_unknown_request_is_refused_and_not_open() -> None:
    side = Conversation()
    strange = bytearray(encode_request(3, Ping()))
    strange[HEADER + 2] = 99
    event = take(side, bytes(strange))
    assert isinstance(event, Refused)
    with pytest.raises(RequestFailed) as caught:
        open_answer(parse_frame(event.frame[HEADER:]), Ping())
    assert caught.value.code is ErrorCode.UNSUPPORTED
    assert side.open == 0


def test_only_who_asked_takes_large_frames_in() -> None:
    side = Conversation()
    assert side.frame_limit == MAX_REQUEST
    number, _ = side.ask(GetOffer())
    assert side.frame_limit == MAX_FRAME
    with pytest.raises(ProtocolViolation):
        side.receive(
            parse_frame(b"\x93\x05\x03" + b"\xc6" + MAX_REQUEST.to_bytes(4, "big") + bytes(MAX_REQUEST))
        )
    take(side, encode_failure(number, ErrorCode.BUSY))
    assert side.frame_limit == MAX_REQUEST


def test_a_request_is_answered_once() -> None:
    side = Conversation()
    take(side, encode_request(5, Ping()))
    side.answered(5)
    with pytest.raises(ValueError):
        side.answered(5)
    assert take(side, encode_cancel(5)) == Nothing()


class TwoSides(RuleBasedStateMachine):
    """Requests, answers and cancels in any order over two lines of any delay."""

    def __init__(self) -> None:
        super().__init__()
        self.sides = (Conversation(), Conversation())
        self.lines: tuple[list[bytes], list[bytes]] = ([], [])
        self.wanted: tuple[list[int], list[int]] = ([], [])
        self.due: tuple[list[int], list[int]] = ([], [])

    @rule(side=st.integers(0, 1))
    def ask(self, side: int) -> None:
        number, data = self.sides[side].ask(GetOffer())
        self.wanted[side].append(number)
        self.lines[1 - side].append(data)

    @rule(side=st.integers(0, 1), which=st.integers(0, 50))
    def withdraw(self, side: int, which: int) -> None:
        if self.wanted[side]:
            number = self.wanted[side].pop(which % len(self.wanted[side]))
            self.lines[1 - side].append(self.sides[side].withdraw(number))

    @rule(side=st.integers(0, 1), which=st.integers(0, 50))
    def answer(self, side: int, which: int) -> None:
        if self.due[side]:
            number = self.due[side].pop(which % len(self.due[side]))
            self.sides[side].answered(number)
            self.lines[1 - side].append(encode_failure(number, ErrorCode.BUSY))

    @precondition(lambda self: any(self.lines))
    @rule(side=st.integers(0, 1))
    def deliver(self, side: int) -> None:
        if not self.lines[side]:
            return
        event = take(self.sides[side], self.lines[side].pop(0))
        if isinstance(event, Asked):
            self.due[side].append(event.number)
        elif isinstance(event, Answered):
            self.wanted[side].remove(event.number)
        elif isinstance(event, Cancelled):
            assert event.number in self.due[side]
        else:
            assert isinstance(event, Unwanted | Nothing)

    @invariant()
    def nothing_is_lost(self) -> None:
        for side in (0, 1):
            assert len(self.due[side]) == self.sides[side].open
            assert len(self.wanted[side]) <= self.sides[side].asked

    def teardown(self) -> None:
        for _ in range(3):
            for side in (0, 1):
                while self.lines[side]:
                    self.deliver(side)
                while self.due[side]:
                    self.answer(side, 0)
        assert all(side.asked == side.open == 0 for side in self.sides)


TestTwoSides = TwoSides.TestCase
