"""Both sides speak the highest version they have in common, and notice where one is made to speak a lower."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storjfs.protocol.encoding import decode, encode
from storjfs.protocol.failures import ErrorCode, ProtocolViolation, RequestFailed
from storjfs.protocol.greeting import HIGHEST, LOWEST, check_version, choose_version
from storjfs.protocol.messages import Hello, HelloAnswer, Purpose, Role

versions = st.integers(0, 8)


def hello(low: int, high: int) -> Hello:
    return Hello(Purpose.CONTROL, Role.RENTER, low, high)


def answer(version: int, highest: int) -> HelloAnswer:
    return HelloAnswer(version, Role.FARMER, version_max=highest)


@given(versions, versions, versions, versions)
def test_the_highest_common_version_is_chosen_and_accepted(a: int, b: int, c: int, d: int) -> None:
    ours, theirs = range(a, b + 1), range(c, d + 1)
    common = set(ours) & set(theirs)
    offered = hello(a, b)
    if not common:
        with pytest.raises(RequestFailed) as caught:
            choose_version(offered, c, d)
        assert caught.value.code is ErrorCode.UNSUPPORTED
    else:
        version = choose_version(offered, c, d)
        assert version == max(common)
        assert check_version(offered, answer(version, d)) == version


@given(versions, versions, versions, versions)
def test_any_other_choice_is_refused(low: int, high: int, chosen: int, highest: int) -> None:
    best = min(high, highest)
    if low <= chosen <= high and (highest == 0 or chosen == best):
        assert check_version(hello(low, high), answer(chosen, highest)) == chosen
    else:
        with pytest.raises(ProtocolViolation):
            check_version(hello(low, high), answer(chosen, highest))


def test_a_lower_version_than_both_speak_is_refused() -> None:
    with pytest.raises(ProtocolViolation, match="both speak a higher"):
        check_version(hello(1, 3), answer(2, 3))


def test_an_answer_without_a_highest_version_is_understood() -> None:
    old = encode((HIGHEST, "farmer", (), "software", ()))
    assert check_version(hello(LOWEST, HIGHEST), decode(old, HelloAnswer)) == HIGHEST
