"""A volume's first mount: it waits for somebody to send data to, among farmers that are still being found."""

from collections.abc import Callable, Collection
from typing import Final

import trio

from storjfs.renter.renter import Renter

QUIET: Final = 30.0
"""Seconds in which nothing new is heard of farmers, after which those that are known are taken for all."""
LOOK: Final = 0.25
TELL_EVERY: Final = 5.0
"""Seconds between two lines for whoever waits, at least."""


def has_contract(renter: Renter) -> bool:
    """Whether there is anybody to send data to."""
    return any(entry.serves for entry in renter.book)


async def first_contract(renter: Renter, ways: Collection[str], note: Callable[[str], None]) -> bool:
    """Whether there is a contract: True as soon as there is one, False when nothing new was heard of farmers
    for QUIET seconds and each search that ends has ended.

    `ways`: in which farmers are looked for. `note` gets a line now and then, saying what is waited for.
    """
    now = trio.current_time()
    seen, since = _heard(renter), now
    told, tell_at = "", now + TELL_EVERY
    while not has_contract(renter):
        await trio.sleep(LOOK)
        now, heard, meeting = trio.current_time(), _heard(renter), renter.seeking.meeting
        if heard != seen or (meeting is not None and meeting.searching):
            seen, since = heard, now
        elif now - since >= QUIET:
            return False
        text = _waits_for(renter, ways)
        if text != told and now >= tell_at:
            note(text)
            told, tell_at = text, now + TELL_EVERY
    return True


def _heard(renter: Renter) -> tuple[object, ...]:
    """Changes with whatever is news on the way to a contract."""
    known = list(renter.seeking.directory)
    states = tuple((entry.number, entry.state) for entry in renter.book)
    answering = sum(one.answers for one in known)
    return len(known), answering, frozenset(renter.negotiation.refusals), states


def _waits_for(renter: Renter, ways: Collection[str]) -> str:
    known, fit = len(list(renter.seeking.directory)), len(renter.seeking.choice.chosen)
    return (
        f"Looking for farmers ({', '.join(ways)}): {known} known, {fit} of them fit; "
        "waiting for the first contract with one."
    )
