"""A clock that runs ten times as fast as ours: periods of ten seconds pass in one."""

import pytest
import trio.testing

from tests.idle_clock import idle_clock


@pytest.fixture
def fast_clock() -> trio.testing.MockClock:
    return trio.testing.MockClock(rate=10)


@pytest.fixture
def still_clock(monkeypatch: pytest.MonkeyPatch) -> trio.testing.MockClock:
    """One that goes on when there is nothing to do: where it matters how long an answer takes."""
    return idle_clock(monkeypatch)


@pytest.fixture(autouse=True)
def patient_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """On this clock 15 seconds are too short for six handshakes on a busy machine, and a minute too long."""
    monkeypatch.setattr("storjfs.renter.renter.FIRST_ROUND", 300.0)
    monkeypatch.setattr("storjfs.renter.renter.ROUND", 3.0)
