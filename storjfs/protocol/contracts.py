"""The life of a contract: every state, every event and what follows, in one table that both sides use.

    offered -> proposed -> signed -> funded -> active <-> renewing
       ^          |                               |          |
       +-counter--+                               +-> ending <+-> ended

Any state from funded on can become breached; where the farmer is back and still keeps it, the renter takes
the contract up again. All ways lead to ended, from which nothing follows. What a state
allows is said by the three sets at the end. Pure: the clock is the caller's, who turns times into events.
"""

import enum
from typing import Final

from storjfs.protocol.failures import IllegalTransition


class State(enum.StrEnum):
    """Where a contract stands. The values are stored and sent."""

    OFFERED = "offered"
    """Terms are known that the other side would accept: the farmer's offer or its counter-offer."""
    PROPOSED = "proposed"
    """The renter has signed terms; the farmer has not answered."""
    SIGNED = "signed"
    """Both have signed; the lane is not funded, no capacity is reserved."""
    FUNDED = "funded"
    """The lane holds the deposit; the farmer has been told."""
    ACTIVE = "active"
    """The farmer has reserved the capacity: shards are put, audited and paid."""
    RENEWING = "renewing"
    """As active, while the next revision is being agreed upon."""
    ENDING = "ending"
    """No new shards; those there move elsewhere, are still served, audited and paid."""
    ENDED = "ended"
    """Nothing is owed; the farmer has deleted what it held."""
    BREACHED = "breached"
    """One side did not keep it: unpaid beyond the grace time, or gone for longer than agreed."""


class Event(enum.StrEnum):
    """What happens to a contract."""

    PROPOSE = "propose"
    """The renter signs terms."""
    COUNTER = "counter"
    """The farmer answers with terms of its own."""
    COUNTERSIGN = "countersign"
    """The farmer signs the same terms."""
    REFUSE = "refuse"
    """The farmer does not want these terms nor others."""
    LAPSE = "lapse"
    """accept-by has passed, or the lane was not funded in time."""
    FUND = "fund"
    """The lane holds the deposit."""
    ACTIVATE = "activate"
    """The farmer has checked the lane and reserved the capacity."""
    START_RENEWAL = "start renewal"
    """The term nears its end, or the capacity is to change: a successor is proposed."""
    RENEW = "renew"
    """Both have signed the next revision."""
    FAIL_RENEWAL = "fail renewal"
    """They could not agree upon a next revision."""
    GIVE_NOTICE = "give notice"
    """One side wants to leave."""
    EXPIRE = "expire"
    """The end and its grace time have passed."""
    EMPTY = "empty"
    """The last shard has left an ending contract."""
    BREACH = "breach"
    """Unpaid beyond the grace time, or the farmer gone beyond its own."""
    TAKE_UP = "take up"
    """The renter had given the farmer up; it is back, and says that the contract runs."""
    SETTLE = "settle"
    """The lane of a breached contract is closed."""


_S, _E = State, Event

TRANSITIONS: Final[dict[tuple[State, Event], State]] = {
    (_S.OFFERED, _E.PROPOSE): _S.PROPOSED,
    (_S.OFFERED, _E.LAPSE): _S.ENDED,
    (_S.PROPOSED, _E.COUNTER): _S.OFFERED,
    (_S.PROPOSED, _E.COUNTERSIGN): _S.SIGNED,
    (_S.PROPOSED, _E.REFUSE): _S.ENDED,
    (_S.PROPOSED, _E.LAPSE): _S.ENDED,
    (_S.SIGNED, _E.FUND): _S.FUNDED,
    (_S.SIGNED, _E.GIVE_NOTICE): _S.ENDED,
    (_S.SIGNED, _E.LAPSE): _S.ENDED,
    (_S.FUNDED, _E.ACTIVATE): _S.ACTIVE,
    (_S.FUNDED, _E.GIVE_NOTICE): _S.ENDING,
    (_S.FUNDED, _E.EXPIRE): _S.ENDED,
    (_S.FUNDED, _E.BREACH): _S.BREACHED,
    (_S.ACTIVE, _E.START_RENEWAL): _S.RENEWING,
    (_S.ACTIVE, _E.GIVE_NOTICE): _S.ENDING,
    (_S.ACTIVE, _E.EXPIRE): _S.ENDED,
    (_S.ACTIVE, _E.BREACH): _S.BREACHED,
    (_S.RENEWING, _E.RENEW): _S.ACTIVE,
    (_S.RENEWING, _E.FAIL_RENEWAL): _S.ENDING,
    (_S.RENEWING, _E.GIVE_NOTICE): _S.ENDING,
    (_S.RENEWING, _E.EXPIRE): _S.ENDED,
    (_S.RENEWING, _E.BREACH): _S.BREACHED,
    (_S.ENDING, _E.EMPTY): _S.ENDED,
    (_S.ENDING, _E.EXPIRE): _S.ENDED,
    (_S.ENDING, _E.BREACH): _S.BREACHED,
    (_S.BREACHED, _E.TAKE_UP): _S.FUNDED,
    (_S.BREACHED, _E.SETTLE): _S.ENDED,
    (_S.BREACHED, _E.EXPIRE): _S.ENDED,
}

ACCEPTS_SHARDS: Final = frozenset({State.ACTIVE, State.RENEWING})
"""New shards may be put."""
SERVES_SHARDS: Final = frozenset({State.ACTIVE, State.RENEWING, State.ENDING})
"""Shards are served, audited and paid."""
RESERVES_CAPACITY: Final = frozenset({State.ACTIVE, State.RENEWING, State.ENDING})
"""The farmer counts the contract's capacity as taken."""


def next_state(state: State, event: Event) -> State:
    """Where `event` leads from `state`. Raises IllegalTransition where the table has no entry."""
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise IllegalTransition(f"a contract that is {state} cannot take the event {event!s}") from None


def events_of(state: State) -> frozenset[Event]:
    """The events that `state` can take."""
    return frozenset(event for at, event in TRANSITIONS if at is state)
