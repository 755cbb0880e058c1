"""Background work that outlasts a database which cannot be read for a while."""

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
