"""The one transition table: complete, without dead ends, and the only way to move."""

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from storjfs.protocol.contracts import (
    ACCEPTS_SHARDS,
    RESERVES_CAPACITY,
    SERVES_SHARDS,
    TRANSITIONS,
    Event,
    State,
    events_of,
    next_state,
)
from storjfs.protocol.failures import IllegalTransition


@pytest.mark.parametrize("event", Event)
@pytest.mark.parametrize("state", State)
def test_every_pair_is_in_the_table_or_illegal(state: State, event: Event) -> None:
    if (state, event) in TRANSITIONS:
        assert next_state(state, event) is TRANSITIONS[state, event]
    else:
        with pytest.raises(IllegalTransition):
            next_state(state, event)


def reachable(start: State) -> set[State]:
    found, fresh = {start}, [start]
    while fresh:
        at = fresh.pop()
        for target in {next_state(at, event) for event in events_of(at)} - found:
            found.add(target)
            fresh.append(target)
    return found


def test_every_state_is_reached_from_an_offer() -> None:
    assert reachable(State.OFFERED) == set(State)


def test_every_state_leads_to_the_end() -> None:
    assert all(State.ENDED in reachable(state) for state in State)


def test_nothing_follows_the_end() -> None:
    assert not events_of(State.ENDED)


def test_every_event_has_a_use() -> None:
    assert {event for _, event in TRANSITIONS} == set(Event)


def test_no_shard_before_funds_and_none_after_the_end() -> None:
    before_funds = {State.OFFERED, State.PROPOSED, State.SIGNED, State.FUNDED}
    over = {State.ENDED, State.BREACHED}
    assert not (SERVES_SHARDS | RESERVES_CAPACITY) & (before_funds | over)
    assert ACCEPTS_SHARDS < SERVES_SHARDS


class ContractLife(RuleBasedStateMachine):
    """Whatever happens: capacity is never reserved unless both signed and the lane was funded before."""

    def __init__(self) -> None:
        super().__init__()
        self.state = State.OFFERED
        self.seen: set[Event] = set()

    @rule(event=st.sampled_from(Event))
    def happen(self, event: Event) -> None:
        try:
            self.state = next_state(self.state, event)
        except IllegalTransition:
            assert event not in events_of(self.state)
        else:
            self.seen.add(event)

    @invariant()
    def reserved_only_when_paid_for(self) -> None:
        if self.state in RESERVES_CAPACITY - {State.ENDING}:
            assert {Event.COUNTERSIGN, Event.FUND, Event.ACTIVATE} <= self.seen
        if self.state is State.ENDING:
            assert {Event.COUNTERSIGN, Event.FUND} <= self.seen


TestContractLife = ContractLife.TestCase
