"""Several calls at once, one error out: what a group of exceptions would hide from whoever handles errors."""

from collections.abc import Awaitable, Callable
from types import TracebackType

import trio


class Together:
    """A nursery whose children's first error cancels the others and is raised as it is.

    Errors of the body go before those of the children. Cancellation is passed on as in any nursery.
    """

    def __init__(self) -> None:
        self._manager = trio.open_nursery()
        self._error: Exception | None = None

    async def __aenter__(self) -> "Together":
        self._nursery = await self._manager.__aenter__()
        return self

    def start(self, call: Callable[[], Awaitable[object]]) -> None:
        """Run `call` beside the body."""
        self._nursery.start_soon(self._one, call)

    def cancel(self) -> None:
        """Cancel what was started; the block then ends without an error."""
        self._nursery.cancel_scope.cancel()

    async def _one(self, call: Callable[[], Awaitable[object]]) -> None:
        try:
            await call()
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        if self._error is None:
            self._error = error
        self._nursery.cancel_scope.cancel()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, Exception):
            self._error = None
            self._fail(error)
            kind = error = trace = None
        await self._manager.__aexit__(kind, error, trace)
        if self._error is not None:
            raised, self._error = self._error, None
            try:
                raise raised
            finally:
                del raised  # it leads here, and would stay, with all on the way, until garbage is looked for


async def all_of(*calls: Callable[[], Awaitable[object]]) -> None:
    """Return when all have ended; raise the first error, the others cancelled."""
    async with Together() as together:
        for call in calls:
            together.start(call)
