"""Work that outlasts a database which cannot be read for a while, and mistakes of who is told of a commit."""

import logging
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from storjfs.store.database import StoreError

_LOG = logging.getLogger(__name__)

PAUSE: Final = 30.0
"""Seconds after which the work is begun anew."""


async def outlasting(work: Callable[[], Awaitable[object]]) -> None:
    """Run `work`, which by itself ends only when cancelled, and begin it anew after a StoreError.

    A part of a disk that cannot be read must not end the mount, and with it all that works without.
    """
    while True:
        try:
            await work()
        except StoreError as error:
            _LOG.error("%s; tried again in %.0f s", error, PAUSE)
            await trio.sleep(PAUSE)


def tell_committed(call: Callable[..., object], *args: object) -> None:
    """Call `call(*args)`, which is told that a commit is durable; what it raises is logged.

    The commit stays durable whatever goes wrong there, and the next one depends on nothing that is done then:
    memory only lets go of what the database knows now. So a mistake costs memory, or work that is done after
    the next mount, and must not end the mount, nor keep others from being told.
    """
    try:
        call(*args)
    except Exception:
        _LOG.exception(
            "a mistake in storjfs: something did not take in that a commit is durable; nothing is lost, "
            "what it would have begun then comes after the next mount"
        )
